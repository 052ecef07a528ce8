"""Monitoring of `score_gain`, with a warning if the score network does not adapt to the particles."""

import math
from collections import deque
from collections.abc import Mapping
from typing import SupportsFloat

#: A warning is given if the running mean of score_gain is at least this. At 1, the score network equals the prior,
#: and the gradient is only (scale - 1) (cond - uncond). Good models of the demo preset have means of 0.90 to 0.97.
ENOUGH = 0.98
WINDOW = 10  # number of values in the running mean


class ScoreGainMonitor:
    """Monitor that compares the running mean of `score_gain` with `ENOUGH` once, halfway through the run.

    Args:
        steps: Number of steps of the run.
    """

    def __init__(self, steps: int):
        self._half = steps / 2
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._checked = False

    def see(self, step: int, metrics: Mapping[str, SupportsFloat]) -> str | None:
        """Add the metrics of a step and, halfway through the run, check the running mean.

        In a resumed run, the mean includes only the steps since the run was resumed.

        Args:
            step: Number of the step, starting at 1.
            metrics: Metrics of the step; `score_gain` may be missing.

        Returns:
            A one-line warning if the mean is checked in this step and is at least `ENOUGH`, and None otherwise.
        """
        if math.isfinite(float(metrics.get("score_gain", math.nan))):
            self._recent.append(float(metrics["score_gain"]))
        if self._checked or step < self._half or not self._recent:
            return None
        self._checked = True
        mean = sum(self._recent) / len(self._recent)
        if mean < ENOUGH:
            return None
        return (
            f"warning: score_gain is {mean:.2f} halfway through the run but should be below {ENOUGH}: the score "
            "network does not adapt to the particles; raise learning_rate, rank, targets or steps in guidance.score"
        )
