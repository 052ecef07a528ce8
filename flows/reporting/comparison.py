"""Page of a comparison of guidance methods, with sortable tables and the images of all methods side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from flows.reporting.html import inline, render


@dataclass(frozen=True)
class Section:
    """Part of the page about one space.

    Attributes:
        title: Title of the section.
        note: Sentence about the number of runs and their cost.
        prompts: Prompts of the images.
        columns: Names of the metrics.
        rows: Method, guidance scale and one interval or None for each metric (`prolific_core.metrics.intervals`).
        reference: Name of the method with which the others are compared.
        differences: Method, metric, interval and verdict.
        pictures: Method and one PNG for each prompt; see `picture`.
    """

    title: str
    note: str
    prompts: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[tuple[str, float, Sequence[Any]]]
    reference: str
    differences: Sequence[tuple[str, str, Any, str]]
    pictures: Sequence[tuple[str, Sequence[bytes | None]]]


def page(facts: dict[str, str], note: str, sections: Sequence[Section]) -> str:
    """Return the page. `facts` has the date, the commit and the command."""
    shown = [
        [(method, [inline(data, ".png") if data else None for data in row]) for method, row in part.pictures]
        for part in sections
    ]
    return render(
        "compare.html",
        scripts=("compare.js",),
        title="Comparison of guidance methods",
        facts=facts,
        note=note,
        sections=list(zip(sections, shown, strict=True)),
    )


def picture(images: Tensor) -> bytes:
    """Return images (N, 3, S, S) in [0, 1] side by side as PNG."""
    row = np.concatenate([image.permute(1, 2, 0).numpy() for image in images], axis=1)
    file = BytesIO()
    Image.fromarray((row.clip(0, 1) * 255).round().astype(np.uint8)).save(file, "PNG", optimize=True)
    return file.getvalue()
