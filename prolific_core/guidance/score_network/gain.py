"""Whether the score model follows the particles: the running mean of score_gain, told once, half-way."""

from collections import deque

ENOUGH = 0.9  # at 1 q is still the prior, and VSD only (scale - 1) (cond - uncond)
WINDOW = 10  # metrics


class ScoreGainMonitor:
    """Sees every step's measures; `see` returns one line of warning at half-way, where one is due."""

    def __init__(self, steps: int):
        self._half = steps / 2
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._told = False

    def see(self, step: int, metrics: dict) -> str | None:
        """`step` counts from 1. A run that went on from a checkpoint knows of what came after it."""
        if "score_gain" in metrics:
            self._recent.append(float(metrics["score_gain"]))
        if self._told or step < self._half or not self._recent:
            return None
        self._told = True
        mean = sum(self._recent) / len(self._recent)
        if mean < ENOUGH:
            return None
        return (
            f"warning: score_gain is {mean:.2f} at half-way, not below {ENOUGH}: the score model does not follow the particles; "
            "raise guidance.score's learning_rate, rank, targets or steps"
        )
