"""Monitoring of `score_gain`, with a warning if the score network does not adapt to the particles."""

import math
import statistics
from collections import deque
from collections.abc import Mapping
from typing import SupportsFloat

#: A warning is given if the running mean of score_gain is at least this. At 1, the score network equals the prior,
#: and the gradient is only (scale - 1) (cond - uncond). Good models of the demo preset have means of 0.80 to 0.97.
ENOUGH = 0.98
#: Number of values in the running mean. A value of a network that adapts varies by about 0.07, hence a mean by 0.02.
WINDOW = 10


class ScoreGainMonitor:
    """Monitor that compares the running mean of `score_gain` with `ENOUGH` once.

    This is done halfway through the run or, if there are fewer than `WINDOW` values by then, as soon as there are. A
    mean that exceeds `ENOUGH` by less than twice its standard error is accepted, because it may be due to chance.

    Args:
        steps: Number of steps of the run.
    """

    def __init__(self, steps: int):
        self._steps = steps
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._checked = False

    def see(self, step: int, metrics: Mapping[str, SupportsFloat]) -> str | None:
        """Add the metrics of a step, and check the running mean if it is due.

        In a resumed run, the mean includes only the steps since the run was resumed.

        Args:
            step: Number of the step, starting at 1.
            metrics: Metrics of the step; `score_gain` may be missing.

        Returns:
            A one-line warning if the mean is checked in this step and is too large, and None otherwise.
        """
        if math.isfinite(float(metrics.get("score_gain", math.nan))):
            self._recent.append(float(metrics["score_gain"]))
        if self._checked or step < self._steps / 2 or len(self._recent) < WINDOW:
            return None
        self._checked = True
        mean = statistics.fmean(self._recent)
        error = statistics.stdev(self._recent) / math.sqrt(WINDOW)
        if mean - 2 * error < ENOUGH:
            return None
        return (
            f"warning: score_gain is {mean:.2f} after {step} of {self._steps} steps but should be below {ENOUGH}: the "
            "score network does not adapt to the particles; raise learning_rate, rank, targets or steps in "
            "guidance.score"
        )
