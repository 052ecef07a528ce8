"""What a GPU has to launch for the score network, and whether torch.compile captures the U-Nets whole."""

from functools import partialmethod

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode

from prolific_core.config import ScoreConfig
from prolific_core.guidance.score_network.lora import Lora
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tests.support import tiny_pipeline, true_shapes
from tests.support.by_formula import draws, estimator

#: Operations that start no kernel, because they only make a new view or reserve memory.
WITHOUT_KERNEL = {
    *("view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias"),
    *("split", "split_with_sizes", "chunk", "unbind", "as_strided", "_unsafe_view", "_reshape_alias"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}


class CountKernels(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket.__name__ not in WITHOUT_KERNEL
        return func(*args, **(kwargs or {}))


def kernels(work) -> int:
    with CountKernels() as counted:
        work()
    return counted.count


def test_lora_adds_two_kernels_per_layer_in_half_precision():
    """In the true shapes of Stable Diffusion 2.1. peft's own layers add six."""
    with true_shapes.without_values(), torch.no_grad():
        prior = true_shapes.build("sd21", torch.bfloat16)
        network = Lora(prior.unet, ScoreConfig(), torch.Generator())
        noisy = torch.empty(1, 4, 64, 64, device="meta", dtype=torch.bfloat16)
        t, text = torch.zeros(1, device="meta", dtype=torch.long), noisy.new_empty(1, 77, 1024)
        bare, ours, pefts = (
            kernels(lambda unet=unet: unet(noisy, t, encoder_hidden_states=text))
            for unet in (prior.unet, network.unet, network.adapted)
        )
        refresh = kernels(network.refresh)
    assert len(network.layers) == 128 and bare == 744
    assert (ours - bare, pefts - bare, refresh) == (2 * 128, 6 * 128, 1)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_compiled_unets_have_no_graph_break_and_the_same_results(tmp_path, monkeypatch, dtype):
    """dynamo raises an error at a graph break, because the whole graph is asked for. Nothing is compiled to code."""
    folder = str(tiny_pipeline.make(tmp_path / "prior", prediction="v_prediction"))
    latents, noise, t, views = draws(2, torch.float32)
    score = ScoreConfig(learning_rate=1e-2, targets="all", rank=2)
    results = []
    for compiled in (False, True):
        with monkeypatch.context() as patch:
            if compiled:
                torch._dynamo.reset()
                counters.clear()
                patch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager", fullgraph=True))
            guide = estimator(LatentDiffusion.load(folder, dtype=dtype, torch_compile=compiled), score=score)
            for step in range(2):
                guide.train_step(latents, views.c2w, generator(step, "train"))
            results.append([guide.gradient(latents, views, t, noise), *guide.score.trainable()])
    assert counters["stats"]["unique_graphs"] >= 3 and not counters["graph_break"]
    for eager, captured in zip(*results, strict=True):
        torch.testing.assert_close(captured, eager)
