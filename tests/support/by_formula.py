"""Formulas of the guidance methods as in the papers, in float64, on the tiny random pipeline.

The formulas use nothing of prolific_core/guidance: the U-Net is called one row at a time, and that of the score
network is a whole copy with B A added to its weights.
"""

import copy

import torch

from prolific_core import cameras
from prolific_core.config import CameraConfig, GuidanceConfig
from prolific_core.guidance import base
from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.seeding import generator

PROMPT = "a red mug"


def load(folder) -> LatentDiffusion:
    return LatentDiffusion.load(str(folder)).double()


def estimator(prior, **options):
    return base.build_guidance(prior, GuidanceConfig(**options), PROMPT, generator=generator(0, "score"))


def draws(batch=2, dtype=torch.float64):
    """Return latents, noise, time steps and cameras, among which are front, side, back and overhead views."""
    g = generator(1, "draws")
    latents = torch.randn(batch, 4, 8, 8, generator=g, dtype=dtype)
    noise = torch.randn(latents.shape, generator=g, dtype=dtype)
    t = torch.tensor([100, 900, 20, 500])[:batch]
    return latents, noise, t, cameras.sample(batch, CameraConfig(), g)


def alpha_bar(prior, t):
    return prior.scheduler.alphas_cumprod.double()[t][:, None, None, None]


def noised(prior, latents, noise, t):
    a = alpha_bar(prior, t)
    return a.sqrt() * latents + (1 - a).sqrt() * noise


@torch.no_grad()
def eps(prior, noisy, t, text, unet=None, shift=None):
    """Predict eps with a U-Net, one row at a time; `shift` (B, W) is added to the time embedding."""
    unet = unet or prior.unet
    rows = []
    for i in range(len(noisy)):
        hook = unet.time_embedding.register_forward_hook(
            lambda m, a, out, i=i: out if shift is None else out + shift[i]
        )
        rows.append(unet(noisy[i : i + 1], t[i], encoder_hidden_states=text[i : i + 1]).sample)
        hook.remove()
    out = torch.cat(rows)
    if prior.scheduler.config.prediction_type == "v_prediction":
        out = alpha_bar(prior, t).sqrt() * out + (1 - alpha_bar(prior, t)).sqrt() * noisy
    return out


def guided(prior, noisy, t, views, scale):
    """Return uncond + s (cond - uncond), where cond has view-dependent prompting as in the paper."""
    texts = [f"{PROMPT}, {words}" for words in cameras.view_prompts(views)]
    cond = eps(prior, noisy, t, prior.embed(texts))
    uncond = eps(prior, noisy, t, prior.embed([""] * len(t)))
    return uncond + scale * (cond - uncond)


@torch.no_grad()
def score(prior, state, noisy, t, views):
    """Predict eps_q from a score network's saved state: W + B A, and the two layers of the camera embedding."""
    unet = copy.deepcopy(prior.unet)
    for name in {key.rsplit(".", 1)[0] for key in state if not key.startswith("camera.")}:
        weight = unet.get_submodule(name).weight
        up, down = state[f"{name}.up"], state[f"{name}.down"]
        weight += (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    c = {key: state[f"camera.{key}"] for key in ("first.weight", "first.bias", "last.weight", "last.bias")}
    hidden = views.c2w.double().flatten(1) @ c["first.weight"].T + c["first.bias"]
    shift = hidden * torch.sigmoid(hidden) @ c["last.weight"].T + c["last.bias"]
    return eps(prior, noisy, t, prior.embed([PROMPT] * len(t)), unet, shift)
