"""Models are loaded from safetensors files only, so that no file of a model can run code."""

import pickle

import pytest
import torch
from safetensors.torch import load_file

from prolific_core.errors import InputError
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.scorer import Scorer
from prolific_core.toybox.params import WEIGHTS
from tests.support import tiny_pipeline


class Payload:
    """Object that runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("PAYLOAD",))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickled_part_is_refused(tmp_path, capsys, part):
    folder = tiny_pipeline.make(tmp_path / "prior")
    (weights,) = (folder / part).glob("*.safetensors")
    name = "pytorch_model.bin" if part == "text_encoder" else "diffusion_pytorch_model.bin"
    torch.save(load_file(weights), folder / part / name)
    weights.unlink()
    with pytest.raises(InputError, match=f"prior.path: cannot load {part} of "):
        LatentDiffusion.load(str(folder))
    (folder / part / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match=f"prior.path: cannot load {part} of "):
        LatentDiffusion.load(str(folder))
    assert "PAYLOAD" not in capsys.readouterr().out


def test_a_pickled_scorer_is_refused(tmp_path, capsys):
    for path in (WEIGHTS / "scorer").iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match="evaluate.scorer: cannot load"):
        Scorer.load(str(tmp_path), "toybox")
    assert "PAYLOAD" not in capsys.readouterr().out
