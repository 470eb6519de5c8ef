"""Numbers over seeds with intervals that cover, in comparison with a bound and as text.

Means by Student's t: on the logit scale of their range where they have one, so that no interval leaves it. Differences of two
tasks by Welch's t, ratios of means by Fieller's theorem, other statistics by the jackknife. How often each interval holds the
truth is measured in `tests/calibrate/seeds.py`. A number that too few seeds determine is None.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from gcgap.importance.gap import rank, rank_correlation

CONFIDENCE = 0.95
FEW = 5  # seeds below which finding nothing among them says too little, and ratios and jackknifed statistics have no interval
POINTS = 3  # seeds up to which a number is shown as its points: an interval in its range would say no more than the range
TIED = 1e-12  # relative spread below which numbers differ by rounding alone

Interval = tuple[float, float]

CORRELATION = DROP = (-1.0, 1.0)
SHARE = (0.0, 1.0)
PERCENT = (0.0, 100.0)
POSITIVE = (0.0, float("inf"))


@dataclass(frozen=True)
class Summary:
    """A number over seeds.

    Args:
        n: Seeds.
        mean: Their mean, or the statistic itself; None without any seed.
        std: Standard deviation over seeds, with n in the denominator as in the paper's tables.
        ci: 95 % interval over seeds; None with too few of them, or where all are equal.
        within: The range that the number cannot leave, if it has one.
        df: Degrees of freedom of the t distribution behind the interval, if there is one.
        each: The value of every seed, where they are too few for an interval.
    """

    n: int
    mean: float | None
    std: float | None = None
    ci: Interval | None = None
    within: Interval | None = None
    df: float | None = None
    each: tuple[float, ...] = ()

    def above(self, bound: float) -> bool | None:
        """True if the whole interval lies above a bound, False if it lies below it; None if it holds the bound or is missing."""
        return None if self.ci is None or self.ci[0] <= bound < self.ci[1] else self.ci[0] > bound

    def below(self, bound: float) -> bool | None:
        """The same for below."""
        return None if (above := self.above(bound)) is None else not above

    def p_above(self, bound: float) -> float | None:
        """The p-value of lying above a bound: below 0.05 just where the interval does, 1 where the number is not above it."""
        return self._p(bound, 1)

    def p_below(self, bound: float) -> float | None:
        """The same for below."""
        return self._p(bound, -1)

    def _p(self, bound: float, sign: int) -> float | None:
        if self.ci is None or self.df is None or self.mean is None:
            return None
        low, high, here, there = (_to_line(value, self.within) for value in (*self.ci, self.mean, bound))
        error = (high - low) / 2 / stats.t.ppf((1 + CONFIDENCE) / 2, self.df)
        return float(min(1.0, 2 * stats.t.sf(sign * (here - there) / error, self.df)))

    def text(self, digits: int = 2) -> str:
        """The number and its interval."""
        return "–" if self.mean is None else f"{self.mean:.{digits}f}{self.brackets(1, digits)}"

    def points(self) -> str:
        """A share in percentage points, with its sign and interval."""
        return "–" if self.mean is None else f"{100 * self.mean:+.1f}{self.brackets(100, 1)}"

    def brackets(self, scale: float, digits: int) -> str:
        """The interval in brackets, or nothing."""
        return "" if self.ci is None else " [{:.{d}f}, {:.{d}f}]".format(*(scale * end for end in self.ci), d=digits)


def summary(values: Sequence[float], within: Interval | None = None) -> Summary:
    """Mean, standard deviation and t-interval of one number per seed.

    Args:
        values: One for each seed.
        within: The range that they cannot leave, such as `SHARE`. The interval is then that of the mean on the logit scale of the
            range (on the log scale where it is open above), by the delta method, and needs more than `POINTS` seeds.
    """
    n = len(values)
    if n == 0:
        return Summary(0, None, within=within)
    mean, std = float(np.mean(values)), float(np.std(values))
    varies = std > TIED * abs(mean)
    if not varies or n <= (POINTS if within else 2):
        return Summary(n, mean, std, within=within, each=_points(values) if varies else ())
    error = float(std / np.sqrt(n - 1)) * _slope(mean, within)
    return Summary(n, mean, std, _t_interval(mean, error, n - 1, within), within, n - 1)


def _points(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values) if 1 < len(values) <= POINTS else ()


def _to_line(value: float, within: Interval | None) -> float:
    """A value of a range on the scale on which intervals are symmetric: logit, log, or the value itself."""
    if within is None:
        return value
    low, high = within
    return float(np.log(value - low) if np.isinf(high) else special.logit((value - low) / (high - low)))


def _from_line(value: float, within: Interval | None) -> float:
    if within is None:
        return value
    low, high = within
    return float(low + np.exp(value) if np.isinf(high) else low + (high - low) * special.expit(value))


def _slope(value: float, within: Interval | None) -> float:
    """The derivative of `_to_line`."""
    if within is None:
        return 1.0
    low, high = within
    return 1 / (value - low) if np.isinf(high) else 1 / (value - low) + 1 / (high - value)


def _t_interval(value: float, error: float, df: float, within: Interval | None = None) -> Interval:
    """Student's interval of a value whose standard error is that on the scale of its range."""
    here, reach = _to_line(value, within), error * float(stats.t.ppf((1 + CONFIDENCE) / 2, df))
    return float(_from_line(here - reach, within)), float(_from_line(here + reach, within))


def difference(first: Sequence[float], second: Sequence[float]) -> Summary:
    """Mean of the first minus mean of the second, of different seeds or tasks: Welch's interval."""
    n = min(len(first), len(second))
    if n == 0:
        return Summary(0, None)
    value = float(np.mean(first) - np.mean(second))
    varies = max(np.std(first), np.std(second)) > TIED * max(abs(np.mean(first)), abs(np.mean(second)))
    if n <= 2 or not varies:
        return Summary(n, value)
    test = stats.ttest_ind(first, second, equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)  # pyright: ignore[reportAttributeAccessIssue]
    return Summary(n, value, ci=(float(low), float(high)), df=float(test.df))  # pyright: ignore[reportAttributeAccessIssue]


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Summary:
    """Ratio of two means over the same seeds, with Fieller's interval.

    The interval is None with fewer than `FEW` seeds, or where the mean denominator is not surely above 0: the ratio
    is then unbounded.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)
    n = len(below)
    if not n or below.mean() <= 0:
        return Summary(n, None)
    value = float(above.mean() / below.mean())
    if n < FEW:
        return Summary(n, value)
    top, bottom = above.mean(), below.mean()
    errors = np.cov(above, below) / n * stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) ** 2
    square, cross, rest = bottom**2 - errors[1, 1], top * bottom - errors[0, 1], top**2 - errors[0, 0]
    if square <= 0:
        return Summary(n, value)
    reach = np.sqrt(max(0.0, cross**2 - square * rest))
    return Summary(n, value, ci=(float((cross - reach) / square), float((cross + reach) / square)))


def jackknife(
    statistic: Callable[[NDArray[np.int64]], float], n: int, used: int | None = None, within: Interval | None = None
) -> Summary:
    """A statistic of runs with its jackknife t-interval.

    Args:
        statistic: Its value from the runs with these indices; NaN where they have none.
        n: Runs.
        used: Runs that determine it, such as those that have a Hero; all of them by default. Its degrees of freedom are one less.
        within: Its range, on whose logit scale the interval is made.

    The interval is None where fewer than `FEW` runs determine it, or where leaving one out leaves nothing or an end of the range.
    """
    used, everyone = n if used is None else used, np.arange(n)
    value = float(statistic(everyone)) if n else np.nan
    if not np.isfinite(value):
        return Summary(used, None, within=within)
    if used < FEW:
        return Summary(used, value, within=within)
    with np.errstate(divide="ignore"):
        others = np.array([_to_line(float(statistic(np.delete(everyone, i))), within) for i in range(n)])
    if not np.isfinite(others).all() or not np.isfinite(_to_line(value, within)) or np.ptp(others) <= TIED:
        return Summary(used, value, within=within)
    error = float(np.sqrt((n - 1) * others.var()))
    return Summary(used, value, ci=_t_interval(value, error, used - 1, within), within=within, df=used - 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction: the p-values times the number of those still in question, never falling; None stays None."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    found: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for at, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - at)))
        found[i] = largest
    return found


def spearman(first: ArrayLike, second: ArrayLike) -> float | None:
    """Spearman's rho, with average ranks for ties; None where one side does not vary."""
    value = float(rank_correlation(rank(np.asarray(first, float)), rank(np.asarray(second, float))))
    return value if np.isfinite(value) else None


def permutation_p(as_extreme: ArrayLike) -> float:
    """The p-value of a permutation test, which counts the data themselves, from which permutations are as extreme."""
    extreme = np.asarray(as_extreme)
    return float((1 + extreme.sum()) / (1 + len(extreme)))
