"""Sample images from the 2D prior.

python examples/sample_prior.py "a red mug" --out samples.png
"""

import argparse

import torch

from prolific_core import LatentDiffusion, Scorer, save_image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red mug")
parser.add_argument("--steps", type=int, default=30, help="denoising steps")
parser.add_argument("--count", type=int, default=8, help="number of images")
parser.add_argument("--out", default="sample_prior.png")
arguments = parser.parse_args()

prior = LatentDiffusion.load("toybox")
random = torch.Generator().manual_seed(0)
images = prior.sample([arguments.prompt] * arguments.count, scale=3.0, steps=arguments.steps, generator=random)
save_image(arguments.out, images)

scorer = Scorer.load(None, "toybox")
if scorer:
    similarity = scorer.similarity(images, [arguments.prompt])
    print(f"mean cosine similarity of images and prompt: {similarity.mean():.3f}")
