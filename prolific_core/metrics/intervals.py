"""Confidence intervals of means over prompts and seeds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.stats import bootstrap

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """Mean with its confidence interval.

    Attributes:
        mean: The mean over prompts of the means over seeds.
        low: Lower end of the interval; equal to the mean if there is a single value.
        high: Upper end of the interval.
    """

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval does not contain 0, so that a difference can be called one."""
        return self.low > 0 or self.high < 0


def interval(values: Float[np.ndarray, "prompts seeds"], confidence: float = 0.95, seed: int = 0) -> Interval:
    """Compute a bootstrap interval of the mean (Efron & Tibshirani 1993, percentile method).

    Prompts are resampled with replacement, and then the seeds of each of them, because runs of the same prompt are
    alike. With few prompts or seeds, the intervals of this method are too narrow, so a result of three prompts should
    be read with care.

    Args:
        values: A metric of every run.
        confidence: Probability that the interval shall contain the mean.
        seed: Seed of the resampling.

    Returns:
        The mean and its interval.
    """
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, mean, mean)
    random, (prompts, seeds) = np.random.default_rng(seed), values.shape

    def statistic(chosen: np.ndarray) -> float:
        columns = random.integers(seeds, size=(prompts, seeds))
        return float(np.take_along_axis(values[chosen[:prompts]], columns, axis=1).mean())

    rows = np.arange(prompts)
    if prompts == 1:  # scipy needs two observations; only the seeds are resampled
        rows = np.zeros(2, dtype=int)
    found = bootstrap(
        (rows,),
        statistic,
        vectorized=False,
        method="percentile",
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        rng=random,
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))
