"""Fit a radiance field to images of a Toybox object.

python examples/fit_field.py --out field.png
"""

import argparse

import torch

from prolific_core import FieldConfig, RadianceField, orbit, save_image
from prolific_core.toybox.world import draw as world

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("prompt", nargs="?", default="a red mug")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--out", default="fit_field.png")
arguments = parser.parse_args()

cameras = orbit(24, elevation=20, distance=1.6, fov=45)
images = torch.from_numpy(world.render(world.sample(arguments.prompt, 1)[0], cameras.c2w, float(cameras.fov[0])))

random = torch.Generator().manual_seed(0)
shape = FieldConfig(levels=8, max_resolution=128, log2_entries=15, samples_per_ray=96, density_noise=0)
field = RadianceField(shape, random)
optimizer = torch.optim.Adam(field.parameter_groups(), eps=1e-15)
for step in range(arguments.steps):
    field.before_step(step, random)
    chosen = torch.randperm(len(cameras), generator=random)[:2]
    render = field.render_rays(*cameras[chosen].rays(64), generator=random, background="white")
    loss = (render.rgb - images[chosen]).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    fitted = field.render(cameras[::6], 64, background="white").rgb
print(f"PSNR {-10 * (fitted - images[::6]).square().mean().log10():.1f} dB")
save_image(arguments.out, torch.cat([images[::6], fitted]))
