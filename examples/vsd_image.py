"""Generate images by variational score distillation, without a 3D scene.

python examples/vsd_image.py --out vsd.png
"""

import argparse

import torch

from prolific_core import LatentDiffusion, LatentScene, build_guidance, config, distil, save_image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red mushroom")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", default="vsd_image.png")
arguments = parser.parse_args()

random = torch.Generator().manual_seed(0)
prior = LatentDiffusion.load("toybox")  # or the path of a Stable Diffusion pipeline
images = LatentScene(prior.latent_shape, count=4, generator=random)

score = config.ScoreConfig(rank=8, targets="all", learning_rate=1e-3)  # LoRA on the prior's U-Net
method = config.GuidanceConfig(method="vsd", scale=7.5, view_prompts=False, score=score)
guidance = build_guidance(prior, method, arguments.prompt, generator=random)

distil([images], guidance, config.StageConfig(steps=arguments.steps, views=4, learning_rate_final=0.05))
save_image(arguments.out, prior.decode(images.latents))
