"""Numbers over seeds, against textbook formulas, and with a coverage check on cases whose truth is known."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import pytest
from calibrate import seeds as calibrate
from scipy import stats

from gcgap.study.seeds import CORRELATION, POSITIVE, SHARE, Summary, difference, holm, jackknife, ratio, summary

T_975 = {2: 4.302653, 4: 2.776445}  # quantiles of Student's t, from a printed table


def test_a_mean_has_the_standard_deviation_of_the_paper_and_the_interval_of_student() -> None:
    published = [0.75, 0.72, 0.81, 0.71, 0.82, 0.59, 0.82, 0.64, 0.62]  # v3, Table 3: 0.72 and 0.08
    found = summary(published)
    assert (round(found.mean or 0, 2), round(found.std or 0, 2), found.n) == (0.72, 0.08, 9)
    few = summary([1.0, 2.0, 6.0])
    half = T_975[2] * math.sqrt(7.0) / math.sqrt(3)  # of the sample variance 7
    assert few.ci == pytest.approx((3 - half, 3 + half), rel=1e-6)
    assert few.std == pytest.approx(math.sqrt(14 / 3))


def test_what_too_few_seeds_cannot_tell_is_none() -> None:
    assert summary([]) == Summary(0, None)
    assert summary([0.5]) == Summary(1, 0.5, 0.0)
    assert summary([0.5, 0.5]) == Summary(2, 0.5, 0.0)  # equal seeds do not tell their spread
    assert summary([0.4, 0.4, 0.4]).ci is None  # whose mean is not 0.4 in floating point
    assert difference([0.4] * 3, [0.1] * 3).ci is None
    assert difference([], [1.0]) == Summary(0, None)
    assert summary([0.25, 0.75]) == Summary(2, 0.5, 0.25, each=(0.25, 0.75))  # two seeds would give an interval of +-1.3
    assert difference([2.0], [1.0, 3.0]) == Summary(1, 0.0)
    assert difference([2.0, 2.0], [1.0, 1.0]) == Summary(2, 1.0)
    assert ratio([1.0], [2.0]) == Summary(1, 0.5)
    assert ratio([1.0, 2.0], [0.0, -1.0]).mean is None


def test_a_difference_has_welchs_interval() -> None:
    first, second = [1.0, 2.0, 3.0], [0.0, 4.0, 2.0]
    found = difference(first, second)
    va, vb = 1.0 / 3, 4.0 / 3  # variances of the means
    df = (va + vb) ** 2 / (va**2 / 2 + vb**2 / 2)
    assert found.mean == pytest.approx(0.0)
    half = stats.t.ppf(0.975, df) * math.sqrt(va + vb)
    assert found.ci == pytest.approx((-half, half))


def test_a_ratio_is_of_means_and_its_interval_takes_seeds_together() -> None:
    below = [0.1, 0.2, 0.4, 0.3, 0.5]
    assert ratio(below[:4], below[:4]) == Summary(4, 1.0)  # too few
    found = ratio([3 * value for value in below], below)
    assert found.mean == pytest.approx(3.0)
    assert found.ci == pytest.approx((3.0, 3.0))  # unpaired seeds would spread it
    assert ratio([1.0, 2.0, 3.0, 1.0, 1.0], [1.0, 1.5, -1.0, -1.0, 1.0]).ci is None  # the mean below could be 0


def test_a_ratio_lies_beyond_a_bound_where_the_paired_difference_does() -> None:
    """Fieller: r is in the interval just where the mean of above - r * below is not surely another than 0."""
    above, below = np.array([0.3, 0.5, 0.4, 0.9, 0.6]), np.array([0.2, 0.3, 0.5, 0.4, 0.3])
    for end in ratio(above.tolist(), below.tolist()).ci or ():
        assert stats.ttest_1samp(above - end * below, 0).pvalue == pytest.approx(0.05)  # pyright: ignore[reportAttributeAccessIssue]


def test_an_interval_in_a_range_stays_there_and_three_seeds_are_points() -> None:
    assert summary([-0.5, 0.1, 0.4], CORRELATION) == Summary(
        3, 0.0, cast("float", pytest.approx(0.37416574)), None, CORRELATION, None, (-0.5, 0.1, 0.4)
    )
    values = [1.0, 1.0, 1.0, 0.9, 0.2]
    low, high = summary(values, SHARE).ci or (0, 2)
    assert 0 < low < 0.82 < high < 1
    assert (summary(values).ci or (0, 0))[1] > 1  # Student's own leaves the range
    mean = 0.82  # by hand: logit, and its derivative times the standard error
    error = np.std(values, ddof=1) / math.sqrt(5) / (mean * (1 - mean))
    ends = [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + sign * T_975[4] * error))) for sign in (-1, 1)]
    assert (low, high) == pytest.approx(tuple(ends), rel=1e-5)
    assert (summary([0.0, 0.0, 0.0, 9.0], POSITIVE).ci or (-1, 0))[0] > 0
    assert summary([1.0] * 5, CORRELATION).ci is None


@pytest.mark.parametrize("within", [None, SHARE])
def test_a_p_value_is_below_five_per_cent_just_where_the_interval_lies_beyond(within: tuple[float, float] | None) -> None:
    found = summary([0.5, 0.6, 0.4, 0.7, 0.55, 0.5], within)
    low, high = found.ci or (0, 0)
    assert found.p_above(low) == pytest.approx(0.05)
    assert found.p_below(high) == pytest.approx(0.05)
    assert (found.p_above(low - 0.01) or 1) < 0.05 < (found.p_above(low + 0.01) or 0)
    assert found.p_above(0.9) == 1
    if within is None:
        wanted = stats.ttest_1samp([0.5, 0.6, 0.4, 0.7, 0.55, 0.5], 0.45)
        assert found.p_above(0.45) == pytest.approx(wanted.pvalue)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_jackknifed_mean_is_students_and_what_one_seed_alone_determines_has_no_interval() -> None:
    values = np.array([0.3, 0.1, 0.4, 0.1, 0.5])
    assert jackknife(lambda rows: float(values[rows].mean()), 5).ci == pytest.approx(summary(values.tolist()).ci)
    assert jackknife(lambda rows: float(values[rows].mean()), 5, used=4) == Summary(4, cast("float", pytest.approx(0.28)))
    assert jackknife(lambda rows: 1.0 if 3 in rows else float("nan"), 5) == Summary(5, 1.0)


def test_holm_multiplies_by_the_tests_still_in_question() -> None:
    assert holm([0.01, None, 0.04, 0.03]) == pytest.approx([0.03, None, 0.06, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]


CALIBRATED = {"mean of correlations near 0", "exact match near 0.02", "joint / sum of random pairs", "layer gap"}


def test_intervals_of_every_kind_cover_where_those_before_did_not() -> None:
    rng = np.random.default_rng(7)
    rows = [calibrate.coverage(case, 5, rng, 600) for case in calibrate.cases() if case.name in CALIBRATED]
    assert len(rows) == len(CALIBRATED)
    for row in rows:
        assert 0.92 <= row.now <= 0.98, row
    assert min(row.before for row in rows) < 0.87  # a percentile bootstrap of five seeds


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(5)
    means = differences = 0
    for _ in range(400):
        a, b = rng.normal(0.3, 0.2, 10), rng.normal(0.7, 0.05, 6)
        low, high = summary(a.tolist()).ci or (1, 0)
        means += low <= 0.3 <= high
        low, high = difference(b.tolist(), a.tolist()).ci or (1, 0)
        differences += low <= 0.4 <= high
    assert 365 <= means <= 395  # 380 expected, binomial sd 4.4
    assert 365 <= differences <= 395
