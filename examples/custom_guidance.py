"""Latent residual of HiFA (Zhu et al., 2305.18766): a guidance method of your own in one file.

python examples/custom_guidance.py --out hifa.png
"""

import argparse

import torch

from prolific_core import Guidance, LatentDiffusion, LatentScene, config, distil, save_image


class HiFA(Guidance):
    """Distance between the latents and their denoised estimate x0_hat, which is kept constant in the backward pass.

    x - x0_hat = sigma / alpha (eps_pretrained - eps),   x0_hat = (x_t - sigma eps_pretrained) / alpha
    """

    def score_difference(self, noisy, t, noise, cameras):
        alpha, sigma = self.prior.schedule.coefficients(t)
        return sigma / alpha * (self.pretrained(noisy, t, cameras) - noise)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red mushroom")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", default="custom_guidance.png")
arguments = parser.parse_args()

random = torch.Generator().manual_seed(0)
prior = LatentDiffusion.load("toybox")
images = LatentScene(prior.latent_shape, count=4, generator=random)
method = config.GuidanceConfig(scale=30.0, view_prompts=False, time=config.TimeConfig(anneal="sqrt", final=0.1))
guidance = HiFA(prior, method, arguments.prompt, generator=random)
distil([images], guidance, config.StageConfig(steps=arguments.steps, views=4, learning_rate_final=0.05))
save_image(arguments.out, prior.decode(images.latents))
