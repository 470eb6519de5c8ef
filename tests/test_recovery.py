"""Recovery of a known circuit: worked by hand, and against loops over pairs and pieces."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gcgap.attribution.recovery import area_under_roc, cmd, cpr, faithfulness

scored_components = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=12).filter(
    lambda pairs: 0 < sum(true for _, true in pairs) < len(pairs)
)


def area(scores: list[float], true: list[int]) -> float:
    return area_under_roc(np.array(scores, dtype=float), np.array(true, dtype=bool))


@pytest.mark.parametrize(
    ("scores", "true", "expected"),
    [
        ([3, 2, 1, 0], [1, 1, 0, 0], 1.0),
        ([3, 2, 1, 0], [0, 0, 1, 1], 0.0),
        ([3, 2, 1, 0], [1, 0, 1, 0], 0.75),  # of the pairs 3>2, 3>0, 1<2, 1>0 three are right
        ([1, 1, 1, 1, 1], [0, 1, 0, 0, 0], 0.5),
        ([2, 1, 1, 0], [0, 1, 0, 0], 0.5),  # 1<2, 1=1, 1>0
        ([-np.inf, 0.5, np.inf], [0, 0, 1], 1.0),
    ],
)
def test_the_area_under_the_roc_curve_worked_by_hand(scores: list[float], true: list[int], expected: float) -> None:
    assert area(scores, true) == pytest.approx(expected, abs=1e-15)


@given(scored_components)
def test_the_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    won = [(a > b) + 0.5 * (a == b) for a, yes in pairs for b, no in pairs if yes and not no]
    scores, true = [float(score) for score, _ in pairs], [int(yes) for _, yes in pairs]
    assert area(scores, true) == pytest.approx(sum(won) / len(won), abs=1e-12)
    assert area([-score for score in scores], true) == pytest.approx(1 - sum(won) / len(won), abs=1e-12)
    assert area([score**3 - 7 for score in scores], true) == area(scores, true)


@pytest.mark.parametrize(
    ("scores", "true", "text"),
    [
        ([1, 2], [1], "each of the 2 scores"),
        ([1, np.nan], [1, 0], "number 1 is NaN"),
        ([1, 2], [0, 0], "holds 0 of 2"),
        ([1, 2], [1, 1], "holds 2 of 2"),
    ],
)
def test_what_has_no_area_is_an_error(scores: list[float], true: list[int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        area(scores, true)


def test_faithfulness_worked_by_hand() -> None:
    f = faithfulness(np.array([-4.0, -3.0, 1.0, -5.0, 0.0]))
    assert f.tolist() == [0, 0.25, 1.25, -0.25, 1]
    assert cpr(f) == pytest.approx((0.125 + 0.75 + 0.5 + 0.375) / 4)
    assert cmd(f) == pytest.approx((0.875 + 0.5 + 0.75 + 0.625) / 4)


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_a_circuit_of_one_component_that_is_put_first_leaves_half_a_component(n: int) -> None:
    f = faithfulness(np.array([2.0] + [8.0] * n))
    assert cpr(f) == pytest.approx(1 - 1 / (2 * n))
    assert cmd(f) == pytest.approx(1 / (2 * n))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=12).filter(lambda values: abs(values[-1] - values[0]) > 0.1))
def test_cpr_and_cmd_are_sums_over_trapezoids(values: list[float]) -> None:
    f = [(value - values[0]) / (values[-1] - values[0]) for value in values]
    ratio = distance = 0.0
    for left, right in pairwise(f):
        ratio += (left + right) / 2 / (len(f) - 1)
        distance += (abs(1 - left) + abs(1 - right)) / 2 / (len(f) - 1)
    found = faithfulness(np.array(values))
    np.testing.assert_allclose(found, f, atol=1e-12)
    assert cpr(found) == pytest.approx(ratio, abs=1e-10)
    assert cmd(found) == pytest.approx(distance, abs=1e-10)
    scaled = faithfulness(3 - 2 * np.array(values))  # the units and the sign of a metric do not matter
    np.testing.assert_allclose(scaled, f, atol=1e-9)


def test_no_performance_to_keep_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"both are -2\. Take another metric"):
        faithfulness(np.array([-2.0, 0.0, -2.0]))


def test_a_value_that_is_no_number_is_an_error_that_names_its_size() -> None:
    with pytest.raises(ValueError, match="that of size 2 is not"):
        faithfulness(np.array([0.0, 0.5, np.nan, 1.0]))


def test_recovery_needs_no_torch() -> None:
    code = "import sys, gcgap.attribution.recovery; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
