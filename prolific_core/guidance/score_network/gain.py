"""Warning for a score network that does not follow the particles."""

from collections import deque
from collections.abc import Mapping
from typing import SupportsFloat

ENOUGH = 0.9  # at 1 the score network still equals the prior, and VSD is only (scale - 1) (cond - uncond)
WINDOW = 10  # number of values in the running mean


class ScoreGainMonitor:
    """Running mean of `score_gain` that is compared with `ENOUGH` once, halfway through the run.

    Args:
        steps: Number of steps of the run.
    """

    def __init__(self, steps: int):
        self._half = steps / 2
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._checked = False

    def see(self, step: int, metrics: Mapping[str, SupportsFloat]) -> str | None:
        """Add the metrics of a step. After a resumption, only the steps since then count.

        Args:
            step: Number of the step, starting at 1.
            metrics: Metrics of the step; `score_gain` may be missing.

        Returns:
            A warning in one line, or None.
        """
        if "score_gain" in metrics:
            self._recent.append(float(metrics["score_gain"]))
        if self._checked or step < self._half or not self._recent:
            return None
        self._checked = True
        mean = sum(self._recent) / len(self._recent)
        if mean < ENOUGH:
            return None
        return (
            f"warning: score_gain is {mean:.2f} at half-way, not below {ENOUGH}: the score model does not follow "
            "the particles; raise guidance.score's learning_rate, rank, targets or steps"
        )
