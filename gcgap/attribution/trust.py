"""How far the tangent can be trusted in one model: reliability, bounds, and where the error comes from, beside exact effects."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.linearised import frozen_effects, linear_effects, local_effects
from gcgap.attribution.paths import completeness_residual, joint_integrated_gradients, midpoint
from gcgap.attribution.reliability import calibration, coverage, reliability_ratio, remainders
from gcgap.attribution.sets import single_drops
from gcgap.importance.gap import Array
from gcgap.importance.protocol import Attribution, Site
from gcgap.models.transformer import Transformer

NODES = 5  # of the even grid on [0, 1] on which derivatives are maximised


def trust(
    drop: Drop, settings: Attribution, other: Int[Tensor, "sequence pos"] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Numbers of every component, and of all together.

    Args:
        drop: The drop, of sequences enough for means (curvature on a grid is what costs).
        settings: The metric's name, and the steps of the joint path whose completeness is checked.
        other: For activation patching, what each sequence is corrupted to (or cleaned to).

    `frozen` and `local` are known for gcgap's own transformer only.

    Returns:
        For each component reliability, bounds and effects, and for all together calibration, coverage and shares of the error.
    """
    metric, own = settings.metric, isinstance(drop.model, Transformer)
    grid = [drop.own(k / (NODES - 1), curvature=True) for k in range(NODES)]
    slopes, curvatures = (np.stack([one[order].mean(-1).numpy() for one in grid]) for order in (0, 1))
    effects: dict[str, Array | None] = {
        "tangent": slopes[0],
        "linear": linear_effects(drop).mean(-1).numpy(),
        "frozen": frozen_effects(drop).mean(-1).numpy() if own and drop.site == Site.COMPONENT else None,
        "exact": getattr(single_drops(drop), metric).mean(-1).numpy(),
        "local": None if other is None or not own else local_effects(drop, other, metric).mean(-1).numpy(),
    }
    exact = effects["exact"]
    assert exact is not None
    bounds = remainders(slopes, curvatures)
    entries = [
        {
            "reliability": _finite(reliability_ratio(slopes[0], curvatures[0])[i]),
            "slope": float(slopes[0, i]),
            "curvature": float(curvatures[0, i]),
            "slope_at_end": float(slopes[-1, i]),
            "bound": {name: float(bound[i]) for name, bound in bounds.items()},
            "effects": {name: None if of is None else float(of[i]) for name, of in effects.items()},
        }
        for i in range(drop.components)
    ]
    summary = {
        "sequences": drop.sequences,
        "calibration": calibration(slopes[0], curvatures[0], exact),
        "bounds": coverage(bounds, slopes[0], curvatures[0], exact),
        "completeness": completeness(drop, settings.steps),
        "error": error_split(effects),
    }
    return entries, summary


def completeness(drop: Drop, steps: int) -> dict[str, float]:
    """How far joint integrated gradients by the midpoint rule are from summing to D(1), which they should: their exact error."""
    scores = joint_integrated_gradients(drop, midpoint, steps)
    return {
        "steps": steps,
        "joint_effect": float(drop.value(drop.closed() + 1).mean()),
        "residual": completeness_residual(drop, scores),
    }


def error_split(effects: dict[str, Array | None]) -> dict[str, float | None]:
    """Mean absolute errors: of the tangent, and of its parts; in the metric's units.

    `downstream` is exact - linear, `metric` is linear - tangent, `local` is local - exact, `frozen` is frozen - exact.
    """

    def between(first: str, second: str) -> float | None:
        one, other = effects[first], effects[second]
        return None if one is None or other is None else float(np.abs(one - other).mean())

    pairs = {
        "total": ("exact", "tangent"),
        "downstream": ("exact", "linear"),
        "metric": ("linear", "tangent"),
        "local": ("local", "exact"),
        "frozen": ("frozen", "exact"),
    }
    return {name: between(*pair) for name, pair in pairs.items()}


def _finite(value: float) -> float | None:
    """None stands for infinite: a gradient that is exactly zero under a curvature that is not."""
    return float(value) if np.isfinite(value) else None
