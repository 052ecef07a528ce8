"""Page of a comparison of guidance methods, with sortable tables and the images of all methods side by side."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from flows.benchmarks.comparison import summary
from flows.reporting.html import inline, render


def page(facts: dict[str, str], note: str, spaces: Sequence[Any]) -> str:
    """Return the page of the given results (`flows.benchmarks.comparison.compare.Space`)."""
    return render(
        "compare.html",
        scripts=("compare.js",),
        title="Comparison of guidance methods",
        facts=facts,
        note=note,
        spaces=[_space(space) for space in spaces],
    )


def _space(space: Any) -> dict[str, Any]:
    means = space.means
    names = [name for name in summary.COLUMNS if any(name in row for row in means.values())]
    prompts = list(dict.fromkeys(run.prompt for run in space.found))
    first = min(run.seed for run in space.found)
    images = {(run.method, run.prompt): image for run, image in space.images.items() if run.seed == first}
    return {
        "name": space.name,
        "size": space.size,
        "prompts": prompts,
        "columns": [summary.COLUMNS[name] for name in names],
        "rows": [
            {"method": method, "scale": space.scales[method], "cells": [row.get(name) for name in names]}
            for method, row in means.items()
        ],
        "differences": [
            {
                "method": row.method,
                "metric": summary.COLUMNS[row.metric][0],
                "value": row.interval,
                "verdict": row.verdict,
            }
            for row in space.differences
        ],
        "images": [(method, [_picture(images[method, prompt]) for prompt in prompts]) for method in space.scales],
    }


def _picture(images: Tensor) -> str:
    """Return images (N, 3, S, S) side by side as a data URL."""
    row = np.concatenate([image.permute(1, 2, 0).numpy() for image in images], axis=1)
    file = BytesIO()
    Image.fromarray((row.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return inline(file.getvalue(), ".png")
