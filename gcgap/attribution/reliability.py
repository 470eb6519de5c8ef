"""Whether an estimate can be trusted without its exact effect: the reliability ratio R, bounds, and how far each holds.

    R_i = |F_i''(0)| / (2 |F_i'(0)|)      the correction over the estimate; R < 1: the correction cannot flip the sign

A low R is no certificate, since it knows nothing of what comes further along the path; so it ships with its calibration. The
bounds are Taylor remainders with the largest derivative *on a grid* of the path: estimates of bounds, with measured coverage.
This project's reading of the abstract of arXiv:2606.09899. Pure numpy.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from gcgap.importance.gap import Array

EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, np.inf)


def reliability_ratio(slope: Float[Array, " component"], curvature: Float[Array, " component"]) -> Float[Array, " component"]:
    """Reliability ratio R = |F''(0)| / (2 |F'(0)|) of each component.

    Infinite where the gradient is exactly zero and the curvature is not, zero where both are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(curvature == 0, 0.0, np.abs(curvature) / (2 * np.abs(slope)))


def calibration(
    slope: Float[Array, " component"],
    curvature: Float[Array, " component"],
    exact: Float[Array, " component"],
) -> list[dict[str, Any]]:
    """For each bin of R: components, median relative error of AP and of HVP-corrected AP, and share of wrong signs of AP."""
    ratio = reliability_ratio(slope, curvature)
    size = np.abs(exact)
    rows = []
    for low, high in pairwise(EDGES):
        inside = (ratio >= low) & ((ratio < high) | np.isinf(high)) & (size > 0)  # the last bin holds infinite ratios too
        row: dict[str, Any] = {"low": low, "high": high if np.isfinite(high) else None, "components": int(inside.sum())}
        errors = {"ap_error": slope, "hvp_error": slope + curvature / 2}
        relative = {name: np.abs(of - exact)[inside] / size[inside] for name, of in errors.items()}
        row |= {name: float(np.median(of)) if inside.any() else None for name, of in relative.items()}
        row["wrong_sign"] = float((np.sign(slope) != np.sign(exact))[inside].mean()) if inside.any() else None
        rows.append(row)
    return rows


def remainders(
    slopes: Float[Array, "node component"], curvatures: Float[Array, "node component"]
) -> dict[str, Float[Array, " component"]]:
    """Estimated bounds on the errors of AP and of HVP-corrected AP, from F' and F'' on an even grid of [0, 1].

        |D - F'(0)| <= max|F''| / 2          |D - F'(0) - F''(0)/2| <= max|F'''| / 6

    F''' is the difference of F'' between neighbouring nodes. The maxima are over the grid only.
    """
    step = 1 / (len(curvatures) - 1)
    third = np.abs(np.diff(curvatures, axis=0)).max(0) / step
    steepest = np.abs(np.diff(slopes, axis=0)).max(0) / step
    return {"ap": np.maximum(np.abs(curvatures).max(0), steepest) / 2, "hvp": third / 6}


def coverage(bounds: dict[str, Array], slope: Array, curvature: Array, exact: Array) -> dict[str, dict[str, float | None]]:
    """Share of components whose error keeps below its bound, and the median of bound over error where there is an error."""
    errors = {"ap": np.abs(exact - slope), "hvp": np.abs(exact - slope - curvature / 2)}
    found: dict[str, dict[str, float | None]] = {}
    for name, bound in bounds.items():
        wrong = errors[name] > 0
        median = float(np.median(bound[wrong] / errors[name][wrong])) if wrong.any() else None
        found[name] = {"covered": float((errors[name] <= bound).mean()), "bound_over_error": median}
    return found
