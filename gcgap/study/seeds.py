"""Means and differences over seeds with intervals, in comparison with a bound and as text.

Means by Student's t, differences of two tasks by Welch's t, ratios of means by the bootstrap; all from scipy. A number that too
few seeds determine is None.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gcgap.importance.gap import rank, rank_correlation

CONFIDENCE = 0.95
RESAMPLES = 10_000
FEW = 5  # seeds below which resampling them, or finding nothing among them, says too little
TIED = 1e-12  # relative spread below which numbers differ by rounding alone

Interval = tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """A number over seeds.

    Args:
        n: Seeds.
        mean: Their mean, or the statistic itself; None without any seed.
        std: Standard deviation over seeds, with n in the denominator as in the paper's tables.
        ci: 95 % interval over seeds; None with fewer than three (five for a ratio), or where all are equal.
    """

    n: int
    mean: float | None
    std: float | None = None
    ci: Interval | None = None

    def above(self, bound: float) -> bool | None:
        """True if the whole interval lies above a bound, False if it lies below it; None if it holds the bound or is missing."""
        return None if self.ci is None or self.ci[0] <= bound < self.ci[1] else self.ci[0] > bound

    def below(self, bound: float) -> bool | None:
        """The same for below."""
        return None if (above := self.above(bound)) is None else not above

    def text(self, digits: int = 2) -> str:
        """The number and its interval."""
        return "–" if self.mean is None else f"{self.mean:.{digits}f}{self.brackets(1, digits)}"

    def points(self) -> str:
        """A share in percentage points, with its sign and interval."""
        return "–" if self.mean is None else f"{100 * self.mean:+.1f}{self.brackets(100, 1)}"

    def brackets(self, scale: float, digits: int) -> str:
        """The interval in brackets, or nothing."""
        return "" if self.ci is None else " [{:.{d}f}, {:.{d}f}]".format(*(scale * end for end in self.ci), d=digits)


def summary(values: Sequence[float]) -> Summary:
    """Mean, standard deviation and t-interval of one number per seed."""
    n = len(values)
    if n == 0:
        return Summary(0, None)
    mean, std = float(np.mean(values)), float(np.std(values))
    return Summary(n, mean, std, _t_interval(stats.ttest_1samp(values, 0)) if n > 2 and std > TIED * abs(mean) else None)


def difference(first: Sequence[float], second: Sequence[float]) -> Summary:
    """Mean of the first minus mean of the second, of different seeds or tasks: Welch's interval."""
    n = min(len(first), len(second))
    if n == 0:
        return Summary(0, None)
    value = float(np.mean(first) - np.mean(second))
    varies = max(np.std(first), np.std(second)) > TIED * max(abs(np.mean(first)), abs(np.mean(second)))
    return Summary(n, value, ci=_t_interval(stats.ttest_ind(first, second, equal_var=False)) if n > 2 and varies else None)


def _t_interval(test: object) -> Interval:
    low, high = test.confidence_interval(CONFIDENCE)  # pyright: ignore[reportAttributeAccessIssue]
    return float(low), float(high)


def ratio(numerators: Sequence[float], denominators: Sequence[float], rng: np.random.Generator) -> Summary:
    """Ratio of two means over the same seeds, with a percentile bootstrap interval over seeds.

    The interval is None with fewer than `FEW` seeds, or if a resample has a mean denominator that is not positive.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(below)
    if not n or below.mean() <= 0:
        return Summary(n, None)
    value = float(above.mean() / below.mean())
    if n < FEW:
        return Summary(n, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # of equal ratios
        drawn = stats.bootstrap((above, below), _ratio, paired=True, n_resamples=RESAMPLES, method="percentile", rng=rng)
    spread = drawn.bootstrap_distribution
    return Summary(n, value, ci=percentile_interval(spread) if np.isfinite(spread).all() else None)


def _ratio(above: np.ndarray, below: np.ndarray, axis: int) -> np.ndarray:
    mean = below.mean(axis)
    return above.mean(axis) / np.where(mean > 0, mean, np.nan)


def percentile_interval(drawn: ArrayLike) -> Interval:
    """The middle 95 % of resampled values."""
    low, high = np.percentile(np.asarray(drawn, float), [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    return float(low), float(high)


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rho, with average ranks for ties; None where one side does not vary."""
    value = float(rank_correlation(rank(np.asarray(first, float)), rank(np.asarray(second, float))))
    return value if np.isfinite(value) else None


def permutation_p(as_extreme: ArrayLike) -> float:
    """The p-value of a permutation test, which counts the data themselves, from which permutations are as extreme."""
    extreme = np.asarray(as_extreme)
    return float((1 + extreme.sum()) / (1 + len(extreme)))
