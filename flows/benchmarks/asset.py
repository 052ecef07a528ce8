"""Benchmark of the stages from the radiance field to the exported mesh (`prolific bench asset`).

For each prompt, a field is fitted to true renders of one object (supervised_field.py) and taken through geometry, the
start of texture, and export, with the guidance off. After each step, renders are compared with true renders from the
cameras of the stage `evaluate`, and shapes with the true shape:

    field_psnr, start_psnr, glb_psnr               PSNR in dB over all views, on white
    field_features, start_features, glb_features   mean squared distance of the classifier's features, each in units of
                                                   its deviation over true renders
    mesh_iou, glb_iou                              volume intersection over union
    mesh_chamfer, glb_chamfer                      Chamfer distance over the longest side of the true object
    psnr_loss                                      field_psnr - glb_psnr
    seconds                                        processor time of geometry, texture's start and export
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from flows.benchmarks import results
from flows.benchmarks.quality import PROMPTS
from flows.benchmarks.results import Goal
from flows.benchmarks.supervised_field import TrueObject, supervised
from prolific_core import cameras
from prolific_core.config import Config
from prolific_core.mesh.asset import finish
from prolific_core.mesh.compare import Solid, chamfer_distance, volume_iou
from prolific_core.mesh.export import load_glb, write_glb
from prolific_core.scenes.colour_field import ColourField
from prolific_core.scenes.colour_fit import fit_colours
from prolific_core.scenes.extraction import extract_surface
from prolific_core.scenes.radiance_field import RadianceField
from prolific_core.scenes.textured_mesh import TexturedMesh
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation.ground_truth import features

__all__ = ["PROMPTS", "Row", "bench", "table"]


@dataclass(frozen=True)
class Row:
    """Results of one prompt; see the module's docstring."""

    prompt: str
    field_psnr: float
    start_psnr: float
    glb_psnr: float
    psnr_loss: float
    field_features: float
    start_features: float
    glb_features: float
    mesh_iou: float
    glb_iou: float
    mesh_chamfer: float
    glb_chamfer: float
    faces: int
    seconds: float


GOALS = {
    "mesh_iou": Goal(0.9, None, "IoU with the true shape, after extraction"),
    "glb_iou": Goal(0.88, None, "IoU with the true shape, exported"),
    "mesh_chamfer": Goal(None, 0.02, "Chamfer distance / size, after extraction"),
    "glb_chamfer": Goal(None, 0.02, "Chamfer distance / size, exported"),
    "psnr_loss": Goal(None, 1.5, "PSNR of the field minus that of the GLB (dB)"),
}


class Truth:
    """Renders and shape of a true object, with which the steps are compared."""

    def __init__(self, target: TrueObject, views: cameras.Cameras, side: int, seed: int):
        self.views, self.side, self.seed = views, side, seed
        self.images = target.render(views, side, torch.ones(len(views), 3))
        self.features = features(self.images)
        mesh = target.scene
        self.solid = Solid(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces).long())
        self.surface = self.solid.surface(POINTS, generator(seed, "bench", "true surface"))

    def of_image(self, name: str, images: Tensor) -> dict[str, float]:
        """Return the PSNR and the distance of the classifier's features of renders (B, 3, S, S)."""
        error = (images - self.images).square().mean()
        distance = (features(images) - self.features).square().mean()
        return {f"{name}_psnr": float(-10 * error.log10()), f"{name}_features": float(distance)}

    def of_shape(self, name: str, vertices: Tensor, faces: Tensor) -> dict[str, float]:
        """Return the IoU and the Chamfer distance of a mesh."""
        mesh = Solid(vertices, faces)
        points = mesh.surface(POINTS, generator(self.seed, "bench", name, "surface"))
        return {
            f"{name}_iou": volume_iou(mesh, self.solid, generator=generator(self.seed, "bench", name, "iou")),
            f"{name}_chamfer": chamfer_distance(points, self.surface) / self.solid.size(),
        }


#: Points on each surface for the Chamfer distance. Two samples of one surface have about .003 of its size.
POINTS = 40_000


def bench(config: Config, prompts: list[str], seed: int = 0, folder: Path | None = None) -> list[Row]:
    """Run the benchmark and return one row per prompt.

    Args:
        config: Configuration of a run.
        prompts: Prompts that describe one object of the Toybox world.
        seed: Seed of the objects and of all random numbers.
        folder: Folder to which the GLB files are written; None keeps none.
    """
    rows = []
    for text in prompts:
        target = TrueObject.of(text, seed)
        rows.append(measure(text, supervised(target, config, seed), target, config, seed, folder))
    return rows


@torch.no_grad()
def measure(
    text: str, field: RadianceField, target: TrueObject, config: Config, seed: int = 0, folder: Path | None = None
) -> Row:
    """Take a field through the stages and compare every step with the true object."""
    look = config.evaluate
    views = cameras.orbit(look.views, elevation=look.elevation, distance=look.distance, fov=look.fov)
    truth = Truth(target, views, look.resolution, seed)
    found = truth.of_image("field", field.render(views, look.resolution, background="white").rgb)

    began = time.process_time()
    vertices, faces = extract_surface(field, config.geometry).extract()
    start = TexturedMesh(vertices, faces, ColourField(field), train_config=config.texture)
    with torch.enable_grad():
        fit_colours(field, start, config.texture, generator(seed, "bench", "fit"))
    made = finish(vertices, faces, start.colour, config.export)
    seconds = time.process_time() - began

    found |= truth.of_shape("mesh", vertices, faces)
    found |= truth.of_image("start", start.render(views, look.resolution, supersampling=2).rgb)
    with tempfile.TemporaryDirectory() as temporary:
        path = (folder or Path(temporary)) / f"{text.replace(' ', '-')}.glb"
        glb = load_glb(write_glb(path, made.mesh, made.texture))
    found |= truth.of_shape("glb", glb.welded_vertices, glb.welded_faces)
    images = [glb.render(views[i], look.resolution).rgb for i in range(len(views))]
    found |= truth.of_image("glb", torch.cat(images))
    loss = found["field_psnr"] - found["glb_psnr"]
    return Row(prompt=text, **found, psnr_loss=loss, faces=len(made.faces), seconds=seconds)


COLUMNS = {
    "field_psnr": "field dB",
    "start_psnr": "start",
    "glb_psnr": "GLB",
    "field_features": "features: field",
    "start_features": "start",
    "glb_features": "GLB",
    "mesh_iou": "IoU",
    "glb_iou": "GLB",
    "mesh_chamfer": "Chamfer",
    "glb_chamfer": "GLB",
    "seconds": "s",
}


def medians(rows: list[Row]) -> dict[str, float]:
    """Return the median over the prompts of every number."""
    return {name: median(getattr(row, name) for row in rows) for name in Row.__dataclass_fields__ if name != "prompt"}


def table(rows: list[Row]) -> str:
    """Format the rows, their medians and the goals."""
    middle = medians(rows)
    cells = [(row.prompt, *(getattr(row, name) for name in COLUMNS)) for row in rows]
    cells.append(("median", *(middle[name] for name in COLUMNS)))
    return "\n\n".join([results.table(["prompt", *COLUMNS.values()], cells), results.goal_table(middle, GOALS)])
