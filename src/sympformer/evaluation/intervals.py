"""Intervals of what is measured on a sample: the bootstrap of ratios, Wilson's of shares."""

from typing import NamedTuple

import numpy as np

RESAMPLES = 2000


class Estimate(NamedTuple):
    """A number and its 95 % interval; the interval is that of the sample alone."""

    value: float
    low: float
    high: float


def ratio(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Estimate:
    """`Σ above / Σ below` over units (documents), with the percentile bootstrap over these.

    Of a single unit there is no interval: both ends are NaN.
    """
    from scipy import stats

    value = float(above.sum() / below.sum())
    if len(above) < 2:
        return Estimate(value, float("nan"), float("nan"))

    def statistic(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        return a.sum(axis) / b.sum(axis)

    found = stats.bootstrap(
        (above, below),
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=RESAMPLES,
        batch=max(1, (1 << 22) // len(above)),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))


def share(right: int, of: int) -> Estimate:
    """A share of independent trials, with Wilson's interval."""
    from scipy import stats

    interval = stats.binomtest(right, of).proportion_ci(method="wilson")
    return Estimate(right / of, float(interval.low), float(interval.high))
