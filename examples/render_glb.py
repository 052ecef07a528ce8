"""Render an exported mesh from views around it.

python examples/render_glb.py runs/a-red-mug/export/mesh.glb
"""

import argparse

from prolific_core import load_glb, orbit, save_image

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("glb", help="a GLB file exported by Prolific")
parser.add_argument("--views", type=int, default=8)
parser.add_argument("--side", type=int, default=256, help="height and width of each view in pixels")
parser.add_argument("--out", default="render_glb.png")
arguments = parser.parse_args()

mesh = load_glb(arguments.glb)
cameras = orbit(arguments.views, elevation=15, distance=1.6, fov=45)
save_image(arguments.out, mesh.render(cameras, arguments.side).rgb)
