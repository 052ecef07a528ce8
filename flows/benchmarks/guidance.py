"""Benchmark of a VSD iteration relative to the network calls that it cannot avoid (`prolific bench guidance`).

A timed iteration starts from latents, computes the gradient and performs the optimizer step of the score network. It
does not include rendering, VAE encoding or the metric score_gain, which is computed only at every tenth step of a run.
The time of an iteration is divided by the total time of three network calls, the baseline. The calls use the same
modules and batch size, and their inputs are prepared in advance:

- a forward pass of the prior's U-Net on two rows per image (for CFG), without gradients;
- a forward pass of the score network (the prior's U-Net, with the adapted weights as plain tensors) on one row per
  image, without gradients;
- a forward and backward pass of the score network on one row per image, with gradients of the adapted weights.

Two more ratios replace some of these calls. For `frozen_ratio`, the last call computes only the gradient of the prior's
U-Net with respect to its input. For `peft_ratio`, the last two calls use the prior's U-Net with peft's own layers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import cast

import torch

from flows.benchmarks import results
from prolific_core import cameras
from prolific_core.config import CameraConfig, GuidanceConfig
from prolific_core.guidance import base
from prolific_core.guidance.score_network.lora import Lora, copy_sharing_tensors
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator
from tasks.runtime.machine import set_up_torch
from tasks.runtime.project import Project

BATCHES = (1, 4)
PROMPT = "a red mug"
# Options that save network calls. The guidance interval is empty, so CFG is never applied and the saving is largest.
OPTIONS = {"share_pass": {"score": {"share_pass": True}}, "outside interval": {"interval": (0.0, 0.0)}}


@dataclass(frozen=True)
class Row:
    """Median time of one iteration, and its ratio to the median time of each baseline."""

    score: str
    batch: int
    milliseconds: float
    overhead_ratio: float
    frozen_ratio: float
    peft_ratio: float
    speed_up: dict[str, float]  # speed-up of each option in OPTIONS


def bench(project: Project, repetitions: int) -> list[Row]:
    """Benchmark the score networks of the paper and of the demo preset at batch sizes 1 and 4.

    The paper's score network uses LoRA of rank 4 on the attention layers.
    """
    demo = project.shared_config()
    device = set_up_torch(demo.system.threads, demo.system.device)
    # The texture stage uses CFG with two evaluations, like the baseline.
    scores = {"paper": GuidanceConfig(), "demo": demo.texture.guidance}
    return [_row(name, guidance, batch, device, repetitions) for name, guidance in scores.items() for batch in BATCHES]


def _row(name: str, config: GuidanceConfig, batch: int, device: torch.device, repetitions: int) -> Row:
    prior = LatentDiffusion.load("toybox", device=device)
    calls = {"iteration": _iteration(prior, config, batch)}
    for option, values in OPTIONS.items():
        merged = config.model_dump() | {key: value for key, value in values.items() if key != "score"}
        merged["score"] = merged["score"] | values.get("score", {})
        calls[option] = _iteration(prior, GuidanceConfig.model_validate(merged), batch)
    calls |= _bare(prior, config, batch)
    seconds = {key: median(times) for key, times in _interleaved(calls, repetitions, device).items()}
    pair = seconds["cfg"] + seconds["forward"]
    return Row(
        score=name,
        batch=batch,
        milliseconds=round(seconds["iteration"] * 1000, 1),
        overhead_ratio=round(seconds["iteration"] / (pair + seconds["backward"]), 3),
        frozen_ratio=round(seconds["iteration"] / (pair + seconds["frozen backward"]), 3),
        peft_ratio=round(
            seconds["iteration"] / (seconds["cfg"] + seconds["peft forward"] + seconds["peft backward"]), 3
        ),
        speed_up={option: round(seconds["iteration"] / seconds[option], 2) for option in OPTIONS},
    )


def _inputs(prior: LatentDiffusion, batch: int):
    shape = (batch, prior.unet.config.in_channels, prior.unet.config.sample_size, prior.unet.config.sample_size)
    draw = generator(0, "bench")
    latents, noise = (torch.randn(shape, generator=draw).to(prior.device) for _ in range(2))
    t = torch.randint(20, prior.schedule.length, (batch,), generator=draw).to(prior.device)
    return latents, noise, t, cameras.sample(batch, CameraConfig(), draw).to(prior.device)


def _iteration(prior: LatentDiffusion, config: GuidanceConfig, batch: int) -> Callable[[], None]:
    guide = base.build_guidance(prior, config, PROMPT, generator=generator(0, "score model"))
    latents, noise, t, views = _inputs(prior, batch)

    def iteration() -> None:
        guide.gradient(latents, views, t, noise)
        guide.train_score_network(latents, views, lambda purpose: generator(0, "nerf", 1, purpose))

    return iteration


def _bare(prior: LatentDiffusion, config: GuidanceConfig, batch: int) -> dict[str, Callable[[], None]]:
    """Return the network calls of the baselines, keyed by name. They use the same inputs as `_iteration`."""
    latents, _, t, _ = _inputs(prior, batch)
    text = prior.embed([PROMPT] * batch)
    one, two = (latents, t, text), (torch.cat([latents] * 2), torch.cat([t] * 2), torch.cat([text] * 2))
    lora = Lora(prior.unet, config.score, generator(0, "bare"))
    trained = copy_sharing_tensors(prior.unet)
    for name in lora.layers:  # plain parameters avoid the cost of LoRA's arithmetic
        layer = cast(torch.nn.Linear, trained.get_submodule(name))
        layer.weight = torch.nn.Parameter(layer.weight.detach().clone())

    def call(unet, inputs) -> torch.Tensor:
        return unet(inputs[0], inputs[1], encoder_hidden_states=inputs[2]).sample

    def forward(unet, inputs) -> None:
        with torch.no_grad():
            call(unet, inputs)

    def backward(unet, weights=(), through: bool = False) -> None:
        for weight in weights:
            weight.grad = None
        latents = one[0].clone().requires_grad_(through)
        call(unet, (latents, *one[1:])).square().mean().backward()

    weights = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    adapted = list(lora.parameters.values())
    return {
        "cfg": lambda: forward(prior.unet, two),
        "forward": lambda: forward(trained, one),
        "backward": lambda: backward(trained, weights),
        "frozen backward": lambda: backward(prior.unet, through=True),
        "peft forward": lambda: forward(lora.adapted, one),
        "peft backward": lambda: backward(lora.adapted, adapted),
    }


def _interleaved(
    calls: dict[str, Callable[[], None]], repetitions: int, device: torch.device
) -> dict[str, list[float]]:
    """Time the calls in turn and return the durations of all repetitions in seconds, keyed by the name of the call.

    The calls are interleaved so that other load on the machine affects all of them equally. On a single CPU thread, the
    CPU time of this process is measured instead of the wall-clock time.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(repetitions + 2):
        for name, call in calls.items():
            began = clock()
            call()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repetition >= 2:  # the first two repetitions are for warm-up
                seconds[name].append(clock() - began)
    return seconds


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    header = ["score network", "batch", "ms", "overhead_ratio", "over frozen", "over peft"]
    cells = (
        [row.score, row.batch, f"{row.milliseconds:.1f}", row.overhead_ratio, row.frozen_ratio, row.peft_ratio]
        + list(row.speed_up.values())
        for row in rows
    )
    return results.table([*header, *(f"{option}: speed-up" for option in rows[0].speed_up)], cells, ".2f")
