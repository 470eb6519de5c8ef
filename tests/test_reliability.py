"""Reliability, bounds and coverage by hand, on polynomials whose derivatives are known and on paths that hide between nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.polynomial import Polynomial

from gcgap.attribution.agreement import EDGES, calibration, coverage, reliability_ratio, remainders
from gcgap.attribution.trust import NODES, error_split
from gcgap.importance.gap import Array

coefficients = st.floats(-4, 4, allow_nan=False).map(lambda x: round(x, 3))


def array(*values: float) -> Array:
    return np.array(values, dtype=np.float64)


def on_grid(path: Callable[[Array], Any], nodes: int = NODES) -> tuple[Array, Array]:
    """F' and F'' of one component on an even grid, by high-order differences where it is no polynomial."""
    at = np.linspace(0, 1, nodes)
    if isinstance(path, Polynomial):
        return path.deriv(1)(at)[:, None], path.deriv(2)(at)[:, None]
    h = 1e-4
    slopes = (path(at + h) - path(at - h)) / (2 * h)
    return slopes[:, None], ((path(at + h) - 2 * path(at) + path(at - h)) / h**2)[:, None]


def errors(path: Callable[[Any], Any]) -> dict[str, float]:
    """Errors of the tangent and of its correction, from the path itself."""
    slopes, curvatures = on_grid(path)
    whole = path(1.0) - path(0.0)
    return {"ap": abs(whole - slopes[0, 0]), "hvp": abs(whole - slopes[0, 0] - curvatures[0, 0] / 2)}


def test_the_ratio_by_hand() -> None:
    slope, curvature = array(1, -1, 2, 0.5, 0, 0, 3), array(0.5, 0.5, -8, 1, 0.1, 0, 0)
    assert reliability_ratio(slope, curvature).tolist() == [0.25, 0.25, 2.0, 1.0, np.inf, 0.0, 0.0]


@given(coefficients.filter(bool), coefficients)
def test_below_one_the_correction_cannot_turn_the_sign(slope: float, curvature: float) -> None:
    ratio = float(reliability_ratio(array(slope), array(curvature))[0])
    if ratio < 1:
        assert np.sign(slope + curvature / 2) == np.sign(slope)
    assert reliability_ratio(array(-7 * slope), array(7 * curvature))[0] == pytest.approx(ratio)  # it has no units and no sign


def test_a_gradient_of_zero_is_never_reliable_unless_all_is_zero() -> None:
    ratio = reliability_ratio(array(0.0, -0.0, 0.0, -0.0), array(1e-300, -1.0, 0.0, -0.0))
    assert ratio.tolist() == [np.inf, np.inf, 0.0, 0.0]


def test_calibration_bins_worked_by_hand() -> None:
    #         R:  0     0.05  0.05   0.1   0.5   2     inf   zero effect
    slope = array(1.00, 1.00, -1.0, 1.00, 1.00, 1.00, 0.00, 1.00)
    bend = array(0.00, 0.10, -0.10, 0.20, -1.0, -4.0, 1.00, 0.10)
    exact = array(2.00, 1.05, -2.0, 1.10, -0.5, -2.0, 0.25, 0.00)
    rows = calibration(slope, bend, exact)
    assert [(row["low"], row["high"]) for row in rows] == [(0.0, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, 3.0), (3.0, None)]
    assert [row["components"] for row in rows] == [3, 1, 1, 1, 1]
    assert rows[0]["ap_error"] == pytest.approx(0.5)  # the median of 1/2, 0.05/1.05, 1/2
    assert rows[0]["hvp_error"] == pytest.approx(0.475)  # of 1/2, 0, 0.95/2
    assert rows[1] | {"low": 0, "high": 0} == pytest.approx(
        {"low": 0, "high": 0, "components": 1, "ap_error": 0.1 / 1.1, "hvp_error": 0.0, "wrong_sign": 0.0}
    )
    assert (rows[2]["ap_error"], rows[2]["hvp_error"], rows[2]["wrong_sign"]) == (3.0, 2.0, 1.0)
    assert (rows[3]["ap_error"], rows[3]["hvp_error"], rows[3]["wrong_sign"]) == (1.5, 0.5, 1.0)
    assert (rows[4]["ap_error"], rows[4]["hvp_error"], rows[4]["wrong_sign"]) == (1.0, 1.0, 1.0)  # a gradient of zero


@given(st.lists(st.tuples(coefficients, coefficients, coefficients), min_size=1, max_size=12))
def test_every_component_that_has_an_effect_is_in_one_bin(of_each: list[tuple[float, float, float]]) -> None:
    slope, curvature, exact = (array(*values) for values in zip(*of_each, strict=True))
    rows = calibration(slope, curvature, exact)
    assert sum(row["components"] for row in rows) == np.count_nonzero(exact)
    json.dumps(rows, allow_nan=False)
    for row, low in zip(rows, EDGES, strict=False):
        high = np.inf if row["high"] is None else row["high"]
        inside = [
            (s, c, e)
            for s, c, e in of_each
            if e and (low <= (abs(c) / (2 * abs(s)) if s else np.inf if c else 0.0) < high or (not s and c and high == np.inf))
        ]
        assert row["components"] == len(inside)
        if inside:
            assert row["ap_error"] == pytest.approx(float(np.median([abs(s - e) / abs(e) for s, _, e in inside])))
            assert row["wrong_sign"] == pytest.approx(np.mean([np.sign(s) != np.sign(e) for s, _, e in inside]))


def test_an_empty_bin_has_no_errors() -> None:
    row = calibration(array(1), array(0), array(1))[2]
    assert row == {"low": 0.3, "high": 1.0, "components": 0, "ap_error": None, "hvp_error": None, "wrong_sign": None}


@given(coefficients, coefficients)
def test_for_a_quadratic_the_bound_on_the_tangent_is_its_error(slope: float, bend: float) -> None:
    path = Polynomial([0, slope, bend])
    bounds = remainders(*on_grid(path))
    assert bounds["ap"][0] == pytest.approx(abs(bend), abs=1e-12) == errors(path)["ap"]
    assert bounds["hvp"][0] == pytest.approx(0, abs=1e-12)
    assert errors(path)["hvp"] == pytest.approx(0, abs=1e-12)


@given(coefficients, coefficients, coefficients)
def test_for_a_cubic_the_bound_on_the_correction_is_its_error_and_that_on_the_tangent_covers(
    slope: float, bend: float, third: float
) -> None:
    path = Polynomial([0, slope, bend, third])
    bounds, wrong = remainders(*on_grid(path)), errors(path)
    assert bounds["hvp"][0] == pytest.approx(abs(third), abs=1e-11)  # max|F'''| / 6, the same at every node
    assert wrong["hvp"] == pytest.approx(bounds["hvp"][0], abs=1e-11)
    assert bounds["ap"][0] == pytest.approx(max(abs(2 * bend), abs(2 * bend + 6 * third)) / 2, abs=1e-11)
    assert wrong["ap"] <= bounds["ap"][0] + 1e-12


def test_for_a_quartic_the_grid_sees_nearly_the_largest_third_derivative() -> None:
    path = Polynomial([0, 1, 0.5, 0.25, 0.75])
    largest = 6 * 0.25 + 24 * 0.75  # F''' at the end of the path
    found = [float(remainders(*on_grid(path, nodes))["hvp"][0]) for nodes in (3, 5, 9, 17, 201)]
    assert found == sorted(found)
    assert found[1] == pytest.approx((6 * 0.25 + 24 * 0.75 * 0.875) / 6)  # the middle of the last of four pieces
    assert found[-1] == pytest.approx(largest / 6, rel=0.005)
    assert found[1] < largest / 6
    assert found[1] >= errors(path)["hvp"]


def test_each_bound_takes_the_steepest_place_of_its_own_component() -> None:
    two = [on_grid(Polynomial(p)) for p in ([0, 1, 2, -1], [0, -3, 0.5, 2])]
    slopes, curvatures = (np.hstack([one[order] for one in two]) for order in (0, 1))
    together, alone = remainders(slopes, curvatures), [remainders(*one) for one in two]
    for name in ("ap", "hvp"):
        assert together[name].tolist() == [one[name][0] for one in alone]
    assert together["ap"][0] != together["ap"][1]


def jump(place: float, width: float = 0.004) -> Callable[[Any], Any]:
    """A slope of 1, and between two nodes a rise of 5 that no derivative at a node tells of."""
    return lambda t: t + 2.5 * (1 + np.tanh((np.asarray(t) - place) / width))


def test_a_slope_that_changes_between_nodes_is_seen_by_the_differences_of_slopes() -> None:
    def kink(t: Any) -> Any:  # slope 0 before, 4 after
        return 4 * 0.01 * np.log1p(np.exp((np.asarray(t) - 0.375) / 0.01))

    slopes, curvatures = on_grid(kink)
    assert np.abs(curvatures).max() < 0.01  # no node tells of it
    assert remainders(slopes, curvatures)["ap"][0] == pytest.approx(4 / 0.25 / 2, rel=1e-3)
    assert errors(kink)["ap"] == pytest.approx(4 * 0.625, rel=1e-2)


def test_a_low_ratio_and_a_small_bound_are_no_certificate() -> None:
    path = jump(0.375)
    slopes, curvatures = on_grid(path)
    assert float(reliability_ratio(slopes[0], curvatures[0])[0]) < 1e-3
    bounds, wrong = remainders(slopes, curvatures), errors(path)
    assert bounds["ap"][0] < 0.01
    assert wrong["ap"] == pytest.approx(5, abs=0.01)  # of an effect of 6
    assert wrong["hvp"] == pytest.approx(5, abs=0.01)
    found = coverage(bounds, slopes[0], curvatures[0], array(float(path(1.0) - path(0.0))))
    assert [found[name]["covered"] for name in ("ap", "hvp")] == [0.0, 0.0]  # bounds on a grid are estimates


def test_coverage_tells_the_share_of_paths_that_keep_their_word() -> None:
    paths: list[Any] = [Polynomial([0, 1, 0.5, 0.25, 0.125]), jump(0.375), Polynomial([0, -1, 1, 1, 1]), jump(0.625)]
    slopes, curvatures = (np.hstack([on_grid(path)[order] for path in paths]) for order in (0, 1))
    exact = array(*(float(path(1.0) - path(0.0)) for path in paths))
    found = coverage(remainders(slopes, curvatures), slopes[0], curvatures[0], exact)
    assert [found[name]["covered"] for name in ("ap", "hvp")] == [0.5, 0.5]


def test_coverage_by_hand() -> None:
    slope, curvature, exact = array(1, 1, 1, 1), array(0, 2, -2, 4), array(1.5, 1.5, 1.5, 1.5)
    # errors of the tangent 0.5 each; of its correction 0.5, 0.5, 1.5, 1.5
    bounds = {"ap": array(0.5, 0.25, 1, 2), "hvp": array(1, 0.25, 3, 0.75)}
    found = coverage(bounds, slope, curvature, exact)
    assert found == {
        "ap": {"covered": 0.75, "bound_over_error": 1.5},  # the median of 1, 0.5, 2, 4
        "hvp": {"covered": 0.5, "bound_over_error": 1.25},  # of 2, 0.5, 2, 0.5
    }


def test_an_estimate_without_an_error_has_no_ratio_to_it() -> None:
    bounds = {"ap": array(7, 2), "hvp": array(7, 0)}
    found = coverage(bounds, array(1, 1), array(0, 1), array(1, 1.5))
    assert found["ap"] == {"covered": 1.0, "bound_over_error": 4.0}  # of the second alone
    assert found["hvp"] == {"covered": 1.0, "bound_over_error": None}
    json.dumps(found, allow_nan=False)


def test_the_parts_of_the_error_by_hand() -> None:
    effects = {"tangent": array(1, -1), "linear": array(2, -1), "exact": array(4, -4), "frozen": array(4, -2), "local": None}
    assert error_split(effects) == {"total": 3.0, "downstream": 2.5, "metric": 0.5, "local": None, "frozen": 1.0}
