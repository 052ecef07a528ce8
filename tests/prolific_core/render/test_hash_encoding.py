"""Layout, values and gradients of the hash encoding, compared between the backends and the reference."""

import pytest
import torch

from prolific_core.errors import InputError
from prolific_core.render import backends
from prolific_core.render.hash_grid.encoding import HashEncoding, encode_reference
from prolific_core.render.hash_grid.levels import layout

COMPARED = [
    pytest.param("warp", marks=pytest.mark.skipif(not backends.importable("warp"), reason="warp is not installed")),
    pytest.param(
        "tinycudann",
        marks=pytest.mark.skipif(
            "tinycudann" not in backends.available("hash_encoding", "cuda") or not torch.cuda.is_available(),
            reason="tinycudann needs a GPU and its own build",
        ),
    ),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def encoding(interpolation="smoothstep", features=2, backend="warp", levels=4):
    """Build an encoding with dense and hashed levels: from 5^3 = 125 corners to 40^3 in tables of 1024 rows."""
    made = HashEncoding(levels, features, 10, 5, 40, interpolation, backend, generator())
    made.table.data.normal_(generator=generator(1))
    return made


def points(kind):
    if kind == "random":
        return torch.rand(500, 3, generator=generator(2))
    if (
        kind == "borders"
    ):  # corners of the box, and points on the cell borders of level 0, where x * 4 + 0.5 is an integer
        side = torch.tensor([0.0, 0.125, 0.375, 0.625, 0.875, 1.0])
        return torch.cartesian_prod(side, side, side)
    return torch.tensor([[-0.5, 0.5, 1.5], [2.0, -1.0, 0.25], [1e9, -1e9, 0.5]])  # outside


def test_layout_matches_the_published_size_of_the_paper_s_grid():
    levels = layout(16, 19, 16, 2048)
    assert [level.dense for level in levels] == [True] * 5 + [False] * 11
    # Resolutions of tiny-cuda-nn's grid: ceil(16 * 1.38191^l - 1) + 1.
    assert [level.resolution for level in levels[:6]] == [16, 23, 31, 43, 59, 81]
    assert levels[-1].resolution == 2048
    # tiny-cuda-nn's checkpoints contain 12196240 numbers (printed in nerfstudio's issue 2241).
    assert (levels[-1].offset + levels[-1].entries) * 2 == 12196240


@pytest.mark.parametrize("backend", COMPARED)
@pytest.mark.parametrize("kind", ["random", "borders", "outside"])
@pytest.mark.parametrize("interpolation", ["smoothstep", "linear"])
def test_values_and_gradients_equal_the_reference(backend, kind, interpolation):
    made, x = encoding(interpolation, backend=backend), points(kind)
    out_gradient = torch.randn(len(x), made.width, generator=generator(3))
    results = []
    for name in (backend, "torch"):
        made.backend, made.table.grad = name, None
        inputs = x.clone().requires_grad_()
        out = made(inputs)
        out.backward(out_gradient)
        results.append((out.detach(), made.table.grad, inputs.grad))
    (value, table_gradient, x_gradient), (value_reference, table_reference, x_reference) = results
    assert torch.allclose(value, value_reference, atol=1e-5)
    assert torch.allclose(table_gradient, table_reference, atol=1e-4)
    if interpolation == "smoothstep" or kind == "random":  # linear has kinks at the borders
        assert torch.allclose(x_gradient, x_reference, rtol=1e-4, atol=2e-3)
    assert table_reference.abs().max() > 0.1


@pytest.mark.parametrize("features", [1, 4])
def test_other_row_widths(features):
    made, x = encoding(features=features, levels=2), points("random")
    features_by_warp = made(x)
    assert features_by_warp.shape == (500, 2 * features)
    assert torch.allclose(features_by_warp, encode_reference(x, made.table, made.levels, True), atol=1e-5)


def test_a_linear_dense_level_reproduces_a_linear_function():
    """Check that a linear function stored at the corners is reproduced between them."""
    made = HashEncoding(1, 1, 12, 9, 9, "linear", "warp", generator())
    (level,) = made.levels
    corner = torch.cartesian_prod(*[torch.arange(9.0)] * 3).flip(-1)  # x runs fastest in the table
    where = (corner - 0.5) / level.scale
    made.table.data[: len(where)] = (where @ torch.tensor([1.0, -2.0, 0.5]) + 3)[:, None]
    x = torch.rand(200, 3, generator=generator(4)) * 0.9
    expected = x @ torch.tensor([1.0, -2.0, 0.5]) + 3
    assert torch.allclose(made(x)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("smooth", [True, False])
def test_gradcheck_of_the_reference(smooth):
    levels = layout(2, 5, 3, 6)  # a dense level with 27 corners, then one with 32 hashed rows
    rows = levels[-1].offset + levels[-1].entries
    assert [level.dense for level in levels] == [True, False]
    table = torch.randn(rows, 2, dtype=torch.float64, generator=generator()).requires_grad_()
    x = (torch.rand(3, 3, dtype=torch.float64, generator=generator(1)) * 0.8 + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: encode_reference(a, b, levels, smooth), (x, table))


def test_no_points():
    made = encoding()
    out = made(torch.zeros(0, 3))
    out.sum().backward()
    assert out.shape == (0, 8) and made.table.grad.abs().sum() == 0


def test_nan_does_not_read_outside_the_table():
    assert torch.isfinite(encoding()(torch.full((4, 3), float("nan")))).all()


def test_results_do_not_depend_on_the_number_of_threads():
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            made = encoding()
            x = torch.rand(3000, 3, generator=generator(5)).requires_grad_()
            out = made(x)
            (out * torch.linspace(-1, 1, made.width)).sum().backward()
            results.append([t.detach().numpy().tobytes() for t in (out, made.table.grad, x.grad)])
    finally:
        torch.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_the_initial_table_is_small_and_depends_only_on_the_generator():
    torch.manual_seed(0)
    first = HashEncoding(2, 2, 8, 4, 8, generator=generator(7)).table
    torch.manual_seed(1)
    again = HashEncoding(2, 2, 8, 4, 8, generator=generator(7)).table
    other = HashEncoding(2, 2, 8, 4, 8, generator=generator(8)).table
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0.9e-4 < first.abs().max() <= 1e-4


def test_errors_name_the_invalid_value():
    with pytest.raises(InputError, match="max_resolution"):
        HashEncoding(2, 2, 8, 16, 8, generator=generator())
    with pytest.raises(InputError, match="cubic"):
        HashEncoding(2, 2, 8, 4, 8, "cubic", generator=generator())
    with pytest.raises(InputError, match="float32"):
        encoding()(torch.zeros(1, 3, dtype=torch.float64))


def test_choice_of_backends_and_errors_for_missing_ones(monkeypatch):
    present = {"warp"}
    monkeypatch.setattr(backends, "importable", lambda name: name in present)
    assert backends.choose("hash_encoding", "auto", "cpu").name == "warp"
    assert backends.choose("hash_encoding", "auto", "cuda").name == "warp"
    present.add("tinycudann")
    assert backends.choose("hash_encoding", "auto", "cuda").name == "tinycudann"
    assert backends.choose("hash_encoding", "auto", "cpu").name == "warp"  # installed, but no GPU
    with pytest.raises(backends.BackendMissing, match="needs a CUDA device; available here: auto, warp, torch"):
        backends.choose("hash_encoding", "cuda", "cpu")
    present.add("nerfacc")  # used only by name, because its Python half installs everywhere
    assert backends.choose("compositing", "auto", "cuda").name == "warp"
    assert backends.choose("compositing", "nerfacc", "cuda").name == "nerfacc"
    present.clear()
    assert backends.choose("compositing", "auto", "cpu").name == "torch"
    with pytest.raises(ValueError, match="warp is not installed"):
        backends.choose("compositing", "warp", "cpu")
    with pytest.raises(ValueError, match="no such backend"):
        backends.choose("compositing", "slang", "cpu")
    with pytest.raises(ValueError, match="unknown kernel"):
        backends.choose("teleport")
