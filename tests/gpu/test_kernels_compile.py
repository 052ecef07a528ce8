"""Every Warp kernel of the renderer compiles as CUDA code, by the NVRTC inside Warp's wheel, which needs no GPU.

This proves that GPUs of these architectures accept the code, and not that it runs there.
"""

from pathlib import Path

import pytest

from prolific_core.render.hash_grid import warp as hash_grid
from prolific_core.render.volume import compositing, marching
from prolific_core.render.warp_launch import warp
from tests.conftest import ROOT

#: Compute capabilities of Turing, Ampere (A100, RTX 30), Hopper and Blackwell.
ARCHITECTURES = (75, 80, 86, 90, 120)
USUAL = 86
NAMES = ("marching", "compositing", "hash_1", "hash_2", "hash_4", "hash_8", "raster")


def module(name: str):
    """Return a Warp module by name; the hash encoding has one for each number of features."""
    from prolific_core.render.mesh.kernels import first_hit

    if name.startswith("hash"):
        return hash_grid._kernels(int(name[-1])).forward.module
    return {"marching": marching._kernels().count, "compositing": compositing._kernels().forward, "raster": first_hit}[
        name
    ].module


def compiled(module, architecture: int, folder: Path) -> list[str]:
    """Compile a module to PTX and to machine code, and return the suffixes of the files that are not empty."""
    for ptx in (True, False):
        warp().compile_aot_module(module, arch=architecture, module_dir=str(folder), use_ptx=ptx)
    kinds = (".ptx", ".cubin")
    return sorted(path.suffix for path in folder.rglob("*") if path.suffix in kinds and path.stat().st_size > 1000)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_compiles_for_a_usual_gpu(name, tmp_path):
    assert compiled(module(name), USUAL, tmp_path) == [".cubin", ".ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_compiles_for_every_architecture(name, architecture, tmp_path):
    assert architecture in warp().get_cuda_supported_archs()
    assert compiled(module(name), architecture, tmp_path) == [".cubin", ".ptx"]


def test_no_kernel_is_left_out():
    """The modules above hold all kernels of the renderer's files."""
    kernels = sum(
        source.read_text().count("@wp.kernel") for source in (ROOT / "prolific_core" / "render").rglob("*.py")
    )
    once = [name for name in NAMES if name not in ("hash_1", "hash_2", "hash_4")]
    assert sum(len(module(name).kernels) for name in once) == kernels


def test_code_that_is_no_cuda_is_rejected(tmp_path):
    wp = warp()

    @wp.func_native("total[0] = no_such_function(total[0]);")
    def broken(total: wp.array(dtype=wp.float32)): ...

    @wp.kernel(enable_backward=False, module="unique")
    def kernel(total: wp.array(dtype=wp.float32)):
        broken(total)

    with pytest.raises(Exception, match="CUDA|nvrtc|NVRTC|build"):
        compiled(kernel.module, USUAL, tmp_path)
