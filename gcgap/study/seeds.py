"""Means and differences over seeds, with intervals.

Means by Student's t, differences of two tasks by Welch's t, ratios of means by the bootstrap; all from scipy. What too few seeds
cannot tell is None.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEW = 5  # seeds below which resampling them, or finding nothing among them, says too little
TIED = 1e-12  # relative spread below which numbers differ by rounding alone


@dataclass(frozen=True)
class Summary:
    """A number over seeds.

    Args:
        n: Seeds.
        mean: Their mean, or the statistic itself; None without any seed.
        std: Standard deviation over seeds, with n in the denominator as in the paper's tables.
        ci: 95 % interval over seeds; None with fewer than three (five for a ratio), or where all are equal: they do not tell
            their own spread.
    """

    n: int
    mean: float | None
    std: float | None = None
    ci: tuple[float, float] | None = None


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and t-interval of one number per seed."""
    n = len(values)
    if n == 0:
        return Summary(0, None)
    mean, std = float(np.mean(values)), float(np.std(values))
    return Summary(n, mean, std, _ends(stats.ttest_1samp(values, 0)) if n > 2 and std > TIED * abs(mean) else None)


def difference(first: Sequence[float], second: Sequence[float]) -> Summary:
    """Mean of the first minus mean of the second, of different seeds or tasks: Welch's interval."""
    if not len(first) or not len(second):
        return Summary(0, None)
    value = float(np.mean(first) - np.mean(second))
    n = min(len(first), len(second))
    if n < 3:
        return Summary(n, value)
    spread = max(float(np.std(first)), float(np.std(second))) > TIED * max(
        abs(float(np.mean(first))), abs(float(np.mean(second)))
    )
    return Summary(n, value, ci=_ends(stats.ttest_ind(first, second, equal_var=False)) if spread else None)


def ratio(numerators: Sequence[float], denominators: Sequence[float], rng: np.random.Generator) -> Summary:
    """Ratio of two means over the same seeds, with a percentile bootstrap interval over seeds.

    The interval is None with fewer than `FEW` seeds, or if a resample has a mean denominator that is not positive.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    if not len(below) or below.mean() <= 0:
        return Summary(len(below), None)
    value = float(above.mean() / below.mean())
    if len(below) < FEW:
        return Summary(len(below), value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # equal ratios, or none: told apart below
        drawn = stats.bootstrap((above, below), _ratio, paired=True, n_resamples=RESAMPLES, method="percentile", rng=rng)
    spread = drawn.bootstrap_distribution
    if not np.isfinite(spread).all():
        return Summary(len(below), value)
    low, high = np.percentile(spread, [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    return Summary(len(below), value, ci=(float(low), float(high)))


def _ratio(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
    mean = below.mean(axis)
    return above.mean(axis) / np.where(mean > 0, mean, np.nan)


def _ends(test: object) -> tuple[float, float]:
    low, high = test.confidence_interval(CONFIDENCE)  # pyright: ignore[reportAttributeAccessIssue]
    return float(low), float(high)
