"""Stage 6: render the exported GLB files and compute metrics from the renders."""

import statistics
import sys

import torch

from prolific_core import cameras
from prolific_core.mesh.compare import Solid
from prolific_core.mesh.export import load_glb
from prolific_core.mesh.textured_view import TexturedView
from prolific_core.metrics.alignment import alignment
from prolific_core.prior.scorer import Scorer
from prolific_core.render.mesh.lights import studio
from prolific_core.seeding import generator
from prolific_core.toybox.evaluation.agreement import agreement
from prolific_core.toybox.evaluation.ground_truth import (
    Views,
    against_truth,
    fronts,
    own_distance,
    true_views,
)
from prolific_core.toybox.evaluation.shape import shape_metrics
from prolific_core.visualisation import contact_sheet, write_video
from tasks.runtime.job import save_png
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, text = stage.config.evaluate, stage.prompt.text
    scorer = Scorer.load(config.scorer, stage.config.prior.path)
    if scorer is None:
        print("skipping the alignment metric: the prior has no scorer; set one in evaluate.scorer", file=sys.stderr)
    place = {"elevation": config.elevation, "distance": config.distance, "fov": config.fov}
    orbit, turntable = (cameras.orbit(count, **place) for count in (config.views, config.turntable_frames))
    truth = true_views(text, orbit)
    own = None if truth is None else own_distance(text, orbit, truth)
    paths = sorted(stage.input("export").glob("mesh*.glb"), key=lambda path: (len(path.stem), path.stem))
    lighting = studio(generator(stage.prompt.seed, "light"))  # that of the stage `texture`
    results = []
    for index, path in enumerate(paths):
        mesh = load_glb(path, device=stage.device, backend=stage.config.system.backend, lighting=lighting)
        made = _render(stage, mesh, orbit)
        fit = {} if scorer is None else {"alignment": alignment(scorer, made.rgb, text)}
        compared = {} if truth is None else against_truth(made, truth, own)
        shape = shape_metrics(text, Solid(mesh.welded_vertices.cpu(), mesh.welded_faces.cpu()))
        results.append(fit | agreement(made.rgb, text) | fronts(text, made.rgb) | compared | shape)
        suffix = "" if index == 0 else f"_{index}"
        sheet = contact_sheet(made.rgb)
        save_png(stage.output / f"contact{suffix}.png", sheet)
        stage.image(f"contact{suffix}", sheet)
        write_video(stage.output / f"turntable{suffix}.mp4", _render(stage, mesh, turntable).rgb)
        stage.progress(index + 1, len(paths))
    return _means(results)


def _means(results: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the particles that have it, such as a volume."""
    names = dict.fromkeys(name for result in results for name in result)
    return {name: statistics.mean(result[name] for result in results if name in result) for name in names}


def _render(stage: Stage, mesh: TexturedView, views: cameras.Cameras) -> Views:
    """Render the views on a white background, one at a time to save memory."""
    side = stage.config.evaluate.resolution
    with torch.no_grad():
        renders = [mesh.render(views[i].to(stage.device), side, 1.0, supersampling=2) for i in range(len(views))]
    return Views(*(torch.cat([getattr(render, name) for render in renders]).cpu() for name in ("rgb", "opacity")))
