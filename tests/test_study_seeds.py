"""Numbers over seeds, against textbook formulas, and with a coverage check on cases whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from gcgap.study.seeds import Summary, difference, ratio, summary

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
    assert summary([0.25, 0.75]) == Summary(2, 0.5, 0.25)  # two seeds would give an interval of +-1.3
    assert difference([2.0], [1.0, 3.0]) == Summary(1, 0.0)
    assert difference([2.0, 2.0], [1.0, 1.0]) == Summary(2, 1.0)
    assert ratio([1.0], [2.0], np.random.default_rng(0)) == Summary(1, 0.5)
    assert ratio([1.0, 2.0], [0.0, -1.0], np.random.default_rng(0)).mean is None


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
    assert ratio(below[:4], below[:4], np.random.default_rng(0)) == Summary(4, 1.0)  # too few to resample
    found = ratio([3 * value for value in below], below, np.random.default_rng(0))
    assert found.mean == pytest.approx(3.0)
    assert found.ci == pytest.approx((3.0, 3.0))  # unpaired seeds would spread it
    assert (
        ratio([1.0, 2.0, 3.0, 1.0, 1.0], [1.0, 1.5, -1.0, -1.0, 1.0], np.random.default_rng(0)).ci is None
    )  # some resamples have no ratio


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
