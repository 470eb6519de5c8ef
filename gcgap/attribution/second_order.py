"""Second-order attribution: the tangent corrected by curvature (arXiv:2606.09899; formulas are this project's reading).

With F_i(t) = D(t e_i), g the gradient and H the Hessian of D at xi = 0:

    HVP-corrected     F_i'(0) + 1/2 F_i''(0)
    joint HVP         g_i + 1/2 (H 1)_i            (the second-order Shapley value; sums to the second-order joint effect)
    multi-step, K     sum_k F_i'(k/K) / K + F_i''(k/K) / (2 K^2),  k = 0 .. K-1;  error max|F'''| / (6 K^2)

Curvature comes by double backward, which fused attention kernels lack (the plain attention path is taken), or by central
differences of gradients, which any kernel can do: error h^2 |F''''| / 6 plus the gradient's rounding over h. The
slope, the mean of the same two gradients, then errs by half of h^2 times the third derivative.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.attribution.drop import Drop

STEP = 0.02  # h of the central differences: the two errors balance near the cube root of the gradient's rounding, 1e-6 in float32


def own_curvature(drop: Drop, t: float = 0.0) -> tuple[Float[Tensor, "component sequence"], Float[Tensor, "component sequence"]]:
    """F_i'(t) and F_i''(t) by double backward."""
    return drop.own(t, curvature=True)


def own_curvature_by_differences(
    drop: Drop, t: float = 0.0, step: float = STEP
) -> tuple[Float[Tensor, "component sequence"], Float[Tensor, "component sequence"]]:
    """F_i'(t) and F_i''(t), both from first derivatives at t - h and t + h only."""
    (before, _), (after, _) = drop.own(t - step), drop.own(t + step)
    return (before + after) / 2, (after - before) / (2 * step)


def hvp(drop: Drop) -> Float[Tensor, "component sequence"]:
    """F_i'(0) + F_i''(0) / 2."""
    slope, curvature = own_curvature(drop)
    return slope + curvature / 2


def hvp_by_differences(drop: Drop, step: float = STEP) -> Float[Tensor, "component sequence"]:
    """As `hvp`, without a double backward."""
    slope, curvature = own_curvature_by_differences(drop, step=step)
    return slope + curvature / 2


def joint_hvp(drop: Drop) -> Float[Tensor, "component sequence"]:
    """g_i + (H 1)_i / 2."""
    g, h = drop.hessian_product(drop.closed(), drop.closed() + 1)
    return g + h / 2


def joint_hvp_by_differences(drop: Drop, step: float = STEP) -> Float[Tensor, "component sequence"]:
    """As `joint_hvp`, from the gradients at -h 1 and h 1."""
    before, after = (drop.gradient(drop.closed() + at) for at in (-step, step))
    return (before + after) / 2 + (after - before) / (4 * step)


def multi_step_hvp(drop: Drop, steps: int) -> Float[Tensor, "component sequence"]:
    """The second-order expansion of every one of `steps` equal pieces of each component's own path."""
    total = torch.zeros(drop.components, drop.sequences, dtype=torch.float64)
    for k in range(steps):
        slope, curvature = own_curvature(drop, k / steps)
        total += slope / steps + curvature / (2 * steps**2)
    return total
