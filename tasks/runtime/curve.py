"""Curve of a stage's metrics over its steps, in the output folder, so that `dvc plots` can show and compare it.

The points depend only on the number of steps. Those of the console and of MLflow, in contrast, depend on
`logging.metrics_every`, which must not change an output.
"""

import itertools
from pathlib import Path

from prolific_core.files import write_json
from tasks.runtime import records

FILE = "curve.json"
POINTS = 60  # maximum number of points, apart from the first and the last step


def is_point(step: int, steps: int) -> bool:
    """Return whether a step is a point of the curve of a run with this number of steps.

    The points are the first step, the last one, and the multiples of 1, 2, 5, 10, 20, 50, ...
    """
    strides = (digit * 10**power for power in itertools.count() for digit in (1, 2, 5))
    stride = next(stride for stride in strides if steps / stride <= POINTS)
    return step % stride == 0 or step in (1, steps)


def write(folder: Path, recorded: Path) -> None:
    """Write the curve to `folder` from the `curve` records in the file `recorded`, if there are any.

    A resumed run repeats some steps. Only the last record of each step counts.
    """
    points = {record["step"]: record["values"] for record in records.read(recorded)[0] if record["kind"] == "curve"}
    if points:
        write_json(folder / FILE, [{"step": step, **points[step]} for step in sorted(points)])
