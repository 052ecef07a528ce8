"""Stage 6: metrics and pictures of the exported GLB itself, not of the field it came from."""

import sys

import torch

from prolific_core import cameras
from prolific_core.mesh.export import load_glb
from prolific_core.metrics.alignment import alignment
from prolific_core.prior.scorer import Scorer
from prolific_core.toybox.evaluation.agreement import agreement
from prolific_core.toybox.evaluation.ground_truth import (
    Views,
    against_truth,
    fronts,
    true_views,
)
from prolific_core.visualisation import contact_sheet, write_video
from tasks.runtime.job import save_png
from tasks.runtime.stage import Stage


def run(stage: Stage) -> dict:
    config, system = stage.config.evaluate, stage.config.system
    scorer = Scorer.load(config.scorer, stage.config.prior.path)
    if scorer is None:
        print("no alignment: the prior has no scorer beside it; name one in evaluate.scorer", file=sys.stderr)
    place = dict(elevation=config.elevation, distance=config.distance, fov=config.fov)
    orbit, text = cameras.orbit(config.views, **place), stage.prompt.text
    truth = true_views(text, orbit)
    paths = sorted(stage.input("export").glob("mesh*.glb"), key=lambda path: (len(path.stem), path.stem))
    results = []
    for index, path in enumerate(paths):
        mesh = load_glb(path, device=stage.device, backend=system.backend)

        def look(views: cameras.Cameras) -> Views:
            with torch.no_grad():
                frames = [
                    mesh.render(views[i].to(stage.device), config.resolution, 1.0, supersampling=2)
                    for i in range(len(views))
                ]
            return Views(*(torch.cat([getattr(frame, name) for frame in frames]).cpu() for name in ("rgb", "opacity")))

        made = look(orbit)
        views = made.rgb
        fit = {} if scorer is None else {"alignment": alignment(scorer, views, text)}
        results.append(
            fit | agreement(views, text) | fronts(text, views) | ({} if truth is None else against_truth(made, truth))
        )
        suffix = "" if index == 0 else f"_{index}"
        sheet = contact_sheet(views)
        save_png(stage.output / f"contact{suffix}.png", sheet)
        stage.picture(f"contact{suffix}", sheet)
        write_video(stage.output / f"turntable{suffix}.mp4", look(cameras.orbit(config.turntable_frames, **place)).rgb)
        stage.progress(index + 1, len(paths))
    return {name: sum(result[name] for result in results) / len(results) for name in results[0]}
