"""Noise-free score distillation (Katzir et al., 2310.17590): a guidance method of your own in one file.

python examples/custom_guidance.py --out nfsd.png
"""

import argparse

import torch

from prolific_core import Guidance, LatentDiffusion, LatentScene, config, distil, save_image


class NFSD(Guidance):
    """Noise-free score distillation, whose gradient is domain correction + scale * condition direction."""

    def score_difference(self, noisy, t, noise, cameras):
        empty = self.prior.embed([""] * len(noisy))
        unconditional, conditional, negative = self.predict(
            noisy, t, [empty, self.embed_views(cameras), self.negative(len(noisy))]
        )
        early = (t >= 0.2 * self.prior.schedule.length)[:, None, None, None]
        domain = torch.where(early, unconditional - negative, unconditional)
        return domain + self.config.scale * (conditional - unconditional)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red mushroom")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", default="custom_guidance.png")
arguments = parser.parse_args()

random = torch.Generator().manual_seed(0)
prior = LatentDiffusion.load("toybox")
images = LatentScene(prior.latent_shape, count=4, generator=random)
method = config.GuidanceConfig(scale=7.5, view_prompts=False, negative_prompt="two objects, blurry")
guidance = NFSD(prior, method, arguments.prompt, generator=random)
distil([images], guidance, config.StageConfig(steps=arguments.steps, views=4, learning_rate_final=0.05))
save_image(arguments.out, prior.decode(images.latents))
