"""The score network: merged LoRA and peft's own, a user's own LoRA, the small U-Net, eps or v, warm-up."""

import copy
import gc
import math
import warnings

import pytest
import torch

from prolific_core import cameras
from prolific_core.config import ScoreConfig
from prolific_core.errors import InputError
from prolific_core.guidance.score_network.lora import ADAPTER
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tests.support import by_formula, tiny_pipeline
from tests.support.by_formula import PROMPT, draws, estimator


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    kinds = ("epsilon", "v_prediction")
    return {kind: tiny_pipeline.make(tmp_path_factory.mktemp("prior"), prediction=kind) for kind in kinds}


@pytest.fixture
def folder(folders):
    """The prior whose output needs a conversion."""
    return folders["v_prediction"]


@pytest.fixture
def prior(folder):
    return LatentDiffusion.load(str(folder))


def test_merged_weights_are_pefts_own_layers_in_value_and_gradient(folder):
    prior = by_formula.load(folder)
    latents, noise, t, views = draws()
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all", rank=2))
    for k in range(3):
        guide.train_step(latents, views.c2w.double(), generator(k, "train"))
    network, text = guide.score._network, prior.embed([PROMPT] * 2)
    assert network.unet is not network.adapted
    guide.score._shift = torch.zeros(2, 1).double()
    gradients = []
    for unet in (network.unet, network.adapted):
        guide.optimizer.zero_grad()
        out = unet(latents, t, encoder_hidden_states=text).sample
        out.square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in network.parameters.items()} | {"": out.detach()})
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], rtol=1e-9, atol=1e-9)


def test_factors_cast_once_are_pefts_own_layers_in_half_precision(folder):
    """peft computes with float32 factors, so that the two differ by the rounding of bfloat16 (a fraction of 2^-8)."""
    latents, noise, t, views = draws(2, torch.float32)
    prior = LatentDiffusion.load(str(folder), dtype="bfloat16")
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all", rank=2))
    for k in range(3):
        guide.train_step(latents, views.c2w, generator(k, "train"))
    network, text = guide.score._network, prior.embed([PROMPT] * 2)
    guide.score._shift = torch.zeros(2, 1)
    outputs, gradients = [], []
    for unet in (network.unet, network.adapted):
        guide.optimizer.zero_grad()
        outputs.append(unet(latents.bfloat16(), t, encoder_hidden_states=text).sample.float())
        (outputs[-1] * noise).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters.values()]))
    bare = prior.unet(latents.bfloat16(), t, encoder_hidden_states=text).sample.float()
    assert (outputs[0] - outputs[1]).norm() < 0.02 * outputs[1].norm() < 0.5 * (outputs[1] - bare).norm()
    assert torch.cosine_similarity(*gradients, dim=0) > 0.995
    assert gradients[0].dtype == torch.float32 and all(one.grad is None for one in network.merged)


def test_the_score_learns_and_gain_says_so(prior):
    latents, _, _, views = draws(2, torch.float32)
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all"))
    steps = [guide.train_step(latents, views.c2w, generator(7, "same"), measure=True) for _ in range(15)]
    assert steps[0]["score_gain"] == pytest.approx(1, abs=1e-5) and steps[-1]["score_gain"] < 0.9
    assert steps[-1]["score_loss"] < 0.9 * steps[0]["score_loss"]


def test_camera_reaches_the_score_once_trained(prior):
    latents, noise, t, views = draws(2, torch.float32)
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, camera_dropout=0.0))
    turned = cameras.orbit(2, elevation=-20, distance=1.0, fov=50)
    assert torch.equal(guide.predict_eps_q(latents, t, noise, views), guide.predict_eps_q(latents, t, noise, turned))
    for k in range(5):
        guide.train_step(latents, views.c2w, generator(k, "train"))
    assert not torch.equal(
        guide.predict_eps_q(latents, t, noise, views), guide.predict_eps_q(latents, t, noise, turned)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_users_own_lora_stays_on_in_the_prior_and_in_q(prior, dtype):
    from peft import LoraConfig, inject_adapter_in_model

    prior = prior.to(dtype)
    latents, noise, t, views = draws(2, torch.float32)
    text = prior.embed([PROMPT] * 2)
    bare = prior.predict_noise(latents, t, text)
    # Some of the layers that q adapts, and some that it does not.
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q", "conv1"]), prior.unet, adapter_name="user")
    for name, parameter in prior.unet.named_parameters():
        if "lora_B.user" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    prior.requires_grad_(False)
    with_user = prior.predict_noise(latents, t, text)
    assert (with_user - bare).abs().max() > 1e-2
    before = {name: p.clone() for name, p in prior.state_dict().items()}

    guide = estimator(prior, scale=1.0, view_prompts=False, score=ScoreConfig(learning_rate=1e-2))
    assert not guide.gradient(latents, views, t, noise).any()  # q starts as the prior with the user's LoRA on
    first = guide.train_step(latents, views.c2w, generator(0, "train"), measure=True)
    assert first["score_gain"] == pytest.approx(1, abs=1e-5)
    assert torch.equal(prior.predict_noise(latents, t, text), with_user)
    assert torch.equal(guide.score.frozen(latents, t, text), guide.score.schedule.output_from(with_user, latents, t))
    assert (guide.predict_eps_q(latents, t, noise, views) - bare).abs().max() > 1e-3
    # Our adapter is trained in full precision, and the user's adapter is unchanged.
    layer = next(m for m in guide.score._network.adapted.modules() if hasattr(m, "lora_A") and len(m.lora_A) == 2)
    assert list(layer.active_adapters) == ["user", ADAPTER] and layer.lora_A[ADAPTER].weight.dtype == torch.float32
    assert not any("user" in name for name in guide.score.trainable_state())
    after = prior.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_half_precision_trains_in_full(folder):
    prior = LatentDiffusion.load(str(folder), dtype="bfloat16")
    latents, noise, t, views = draws(2, torch.float32)
    guide = estimator(prior, score=ScoreConfig(learning_rate=1e-2, targets="all"))
    assert {p.dtype for p in guide.score.trainable()} == {torch.float32}
    steps = [guide.train_step(latents, views.c2w, generator(7, "same"), measure=True) for _ in range(8)]
    assert steps[-1]["score_gain"] < 0.95 and guide.gradient(latents, views, t, noise).dtype == torch.float32


@pytest.mark.parametrize(
    ("targets", "count"), [("attention", 32), (["to_q"], 8), (["conv_in", "mid_block.resnets.0.conv1"], 2)]
)
def test_targets_choose_layers_by_the_ends_of_their_names(prior, targets, count):
    guide = estimator(prior, score=ScoreConfig(targets=targets))
    names = {name.rsplit(".", 1)[0] for name in guide.score.trainable_state() if not name.startswith("camera.")}
    assert len(names) == count
    ends = ("to_q", "to_k", "to_v", "to_out.0") if targets == "attention" else tuple(targets)
    assert all(name.endswith(ends) for name in names)


def test_targets_that_are_not_there_are_refused_by_name(prior):
    with pytest.raises(InputError, match="must contain endings of the U-Net's layer names.*to_q"):
        estimator(prior, score=ScoreConfig(targets=["to_z"]))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("of_prior", ["epsilon", "v_prediction"])
def test_q_predicts_eps_or_v_independently_of_the_prior(folders, of_prior, prediction):
    prior = by_formula.load(folders[of_prior])
    latents, noise, t, views = draws()
    noisy = by_formula.noised(prior, latents, noise, t)
    guide = estimator(prior, score=ScoreConfig(prediction=prediction))
    text = prior.embed([PROMPT] * 2)
    eps = by_formula.eps(prior, noisy, t, text)
    torch.testing.assert_close(guide.predict_eps_q(noisy, t, noise, views), eps, rtol=1e-9, atol=1e-9)
    a = by_formula.alpha_bar(prior, t)
    v = a.sqrt() * eps - (1 - a).sqrt() * (noisy - (1 - a).sqrt() * eps) / a.sqrt()
    expected = eps if prediction == "epsilon" else v
    torch.testing.assert_close(guide.score(noisy, t, text, views.c2w), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(guide.score.frozen(noisy, t, text), expected, rtol=1e-9, atol=1e-9)
    aim = noise if prediction == "epsilon" else a.sqrt() * noise - (1 - a).sqrt() * latents
    torch.testing.assert_close(guide.score.target(latents, noise, t), aim, rtol=1e-9, atol=1e-9)


def test_a_unet_of_its_own_starts_as_a_unit_gaussian_and_learns(prior):
    latents, noise, t, views = draws(2, torch.float32)
    config = ScoreConfig(kind="unet", channels=[16, 32], learning_rate=3e-3, camera_dropout=0.0)
    guide = estimator(prior, score=config)
    noisy = prior.schedule.add_noise(latents, noise, t)
    sigma = (1 - prior.schedule.alphas_cumprod[t]).sqrt()[:, None, None, None]
    torch.testing.assert_close(guide.predict_eps_q(noisy, t, noise, views), sigma * noisy)
    steps = [guide.train_step(latents, views.c2w, generator(7, "same")) for _ in range(30)]
    assert steps[-1]["score_loss"] < 0.8 * steps[0]["score_loss"]
    turned = cameras.orbit(2, elevation=-20, distance=1.0, fov=50)
    assert not torch.equal(guide.predict_eps_q(noisy, t, noise, views), guide.predict_eps_q(noisy, t, noise, turned))
    again = estimator(prior, score=config)
    again.load_state_dict(copy.deepcopy(guide.state_dict()))
    assert torch.equal(again.predict_eps_q(noisy, t, noise, views), guide.predict_eps_q(noisy, t, noise, views))


def test_the_rate_climbs_to_its_value(prior):
    latents, _, _, views = draws(1, torch.float32)
    guide = estimator(prior, score=ScoreConfig(learning_rate=0.4, warmup=4, betas=(0.5, 0.9)))
    rates = []
    for k in range(6):
        guide.train_step(latents, views.c2w, generator(k, "train"))
        rates.append(guide.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4, 0.4]) and guide.optimizer.param_groups[0]["betas"] == (
        0.5,
        0.9,
    )


def test_as_many_score_steps_as_asked_for_each_with_its_own_draws(prior):
    latents, _, _, views = draws(1, torch.float32)
    guide = estimator(prior, score=ScoreConfig(steps=3))
    purposes = []
    guide.train_score_network(latents, views, lambda purpose: purposes.append(purpose) or generator(0, purpose))
    assert purposes == ["score 0", "score 1", "score 2"] and guide.trained == 3


def test_a_shared_pass_changes_no_gradient_and_trains_as_its_formula(folder):
    prior = by_formula.load(folder)
    latents, noise, t, views = draws()
    shared, plain = (
        estimator(prior, score=ScoreConfig(learning_rate=1e-2, share_pass=share)) for share in (True, False)
    )
    start = generator(5, "start")
    for guide in (shared, plain):
        guide.train_step(latents, views.c2w.double(), generator(5, "start"))
    assert torch.equal(shared.gradient(latents, views, t, noise), plain.gradient(latents, views, t, noise))
    # The training step uses the denoising loss at the gradient's t and noise, without camera dropout.
    drawn = []
    shared.train_score_network(latents, views, lambda purpose: drawn.append(purpose) or start)
    assert drawn == []
    noisy = by_formula.noised(prior, latents, noise, t)
    out = plain.score(noisy, t, prior.embed([PROMPT] * 2), views.c2w)
    plain.optimizer.zero_grad()
    (out - plain.score.target(latents, noise, t)).square().mean().backward()
    plain.optimizer.step()
    for name, value in plain.score.trainable_state().items():
        torch.testing.assert_close(shared.score.trainable_state()[name], value, rtol=1e-9, atol=1e-12)
    shared.train_score_network(
        latents, views, lambda purpose: drawn.append(purpose) or start
    )  # without a pass to share, it draws its own t and noise
    assert drawn == ["score 0"]


@pytest.mark.parametrize("kind", ["lora", "unet"])
def test_gradient_checkpointing_changes_memory_and_no_number(folder, kind):
    def run(checkpointing):
        prior = LatentDiffusion.load(str(folder), gradient_checkpointing=checkpointing, vae_slicing=checkpointing)
        guide = estimator(prior, score=ScoreConfig(kind=kind, channels=[16, 32], targets="all", learning_rate=1e-2))
        latents, _, _, views = draws(2, torch.float32)
        for k in range(2):
            guide.train_step(latents, views.c2w, generator(k, "train"))
        images = torch.rand(2, 3, 32, 32, generator=generator(0, "i")).requires_grad_(True)
        prior.encode(images).square().sum().backward()
        return guide.score.trainable_state() | {"images": images.grad}

    plain, saving = run(False), run(True)
    for name, value in plain.items():
        torch.testing.assert_close(saving[name], value, rtol=1e-4, atol=1e-5)


def test_state_resumes_to_the_same_bytes(folder):
    def run(steps, state=None, start=0):
        guide = estimator(LatentDiffusion.load(str(folder)), score=ScoreConfig(learning_rate=1e-2, warmup=5))
        latents, _, _, views = draws(2, torch.float32)
        if state:
            guide.load_state_dict(state)
        for k in range(start, steps):
            guide.train_step(latents, views.c2w, generator(k, "train"))
        return guide.state_dict()

    whole, half = run(6), copy.deepcopy(run(3))
    resumed = run(6, half, 3)
    assert all(torch.equal(whole["score"][name], resumed["score"][name]) for name in whole["score"])


def test_attaching_a_score_warns_of_nothing_and_draws_nothing(prior):
    state = torch.random.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        estimator(prior)
        estimator(prior, score=ScoreConfig(kind="unet", channels=[16, 32]))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_down_projections_start_as_in_peft_or_as_in_the_release(prior):
    for initialisation in ("kaiming", "gaussian"):
        guide = estimator(prior, score=ScoreConfig(targets="all", rank=8, initialisation=initialisation))
        layers = [(down.detach(), up) for down, up in guide.score._network.layers.values()]
        assert not any(up.any() for _, up in layers)
        scale = [8.0 if initialisation == "gaussian" else math.sqrt(down[0].numel()) for down, _ in layers]
        drawn = torch.cat([(down * factor).flatten() for (down, _), factor in zip(layers, scale, strict=True)])
        deviation, largest = (1.0, 3.5) if initialisation == "gaussian" else (3**-0.5, 1.0)
        assert drawn.std().item() == pytest.approx(deviation, rel=0.02)
        assert (drawn.abs().max().item() > largest) == (initialisation == "gaussian")


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_is_decoupled_and_zero_leaves_adam(prior, decay):
    latents, _, _, views = draws(2, torch.float32)
    config = ScoreConfig(learning_rate=1e-2, weight_decay=decay)
    guide, plain = estimator(prior, score=config), estimator(prior, score=ScoreConfig(learning_rate=1e-2))
    plain.optimizer = torch.optim.Adam(plain.score.trainable(), lr=1e-2, fused=True)
    before = [p.detach().clone() for p in guide.score.trainable()]
    for one in (guide, plain):
        one.train_step(latents, views.c2w, generator(0, "train"))
    for first, a, b in zip(before, guide.score.trainable(), plain.score.trainable(), strict=True):
        if decay:
            torch.testing.assert_close(a, b - 1e-2 * decay * first, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("kind", ["lora", "unet"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_score_network_that_nothing_uses_is_freed(folder, kind, dtype):
    """A study makes many in one process. Python's garbage collector cannot follow autograd's hooks."""
    latents, _, _, views = draws(2, torch.float32)
    prior = LatentDiffusion.load(str(folder), dtype=dtype)

    def tensors() -> int:
        gc.collect()
        return sum(torch.is_tensor(found) for found in gc.get_objects())

    def train() -> None:
        guide = estimator(prior, score=ScoreConfig(kind=kind, targets="all", channels=[8, 8]))
        guide.train_step(latents, views.c2w, generator(0, "train"))

    train()  # what is made once and kept
    before = tensors()
    train()
    assert tensors() == before
