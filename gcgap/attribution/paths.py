"""Integrated gradients: the slope averaged over a path from the untouched to the ablated model.

    own path      int_0^1 F_i'(t) dt = D(e_i), F_i(t) = D(t e_i): exact for every component by itself
    joint path    int_0^1 dD/dxi_i(t 1) dt: all gates open together (Aumann-Shapley); its sum over i is D(1) (completeness)

An integral is a sum over nodes t_k with weights w_k. Only the running sum is held, so memory does not depend on the number of
nodes. Errors with K nodes: midpoint max|F'''| / (24 K^2), trapezoid twice that, left and right max|F''| / (2 K), Gauss-Legendre
falls faster than any power where F is smooth. Left and right are there to compare: they are the usual mistake.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from gcgap.attribution.drop import Drop

Rule = Callable[[int], tuple[list[float], list[float]]]
"""Number of steps to nodes in [0, 1] and weights that sum to 1."""


def midpoint(steps: int) -> tuple[list[float], list[float]]:
    """The middle of each of `steps` equal pieces."""
    return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps


def left(steps: int) -> tuple[list[float], list[float]]:
    """The beginning of each piece."""
    return [k / steps for k in range(steps)], [1 / steps] * steps


def right(steps: int) -> tuple[list[float], list[float]]:
    """The end of each piece."""
    return [(k + 1) / steps for k in range(steps)], [1 / steps] * steps


def trapezoid(steps: int) -> tuple[list[float], list[float]]:
    """Both ends of each piece: one node more than pieces."""
    return [k / steps for k in range(steps + 1)], [0.5 / steps, *[1 / steps] * (steps - 1), 0.5 / steps]


def gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    """The nodes at which polynomials up to degree 2 `steps` - 1 are integrated exactly."""
    nodes, weights = leggauss(steps)
    return list((np.asarray(nodes) + 1) / 2), list(np.asarray(weights) / 2)


RULES: dict[str, Rule] = {
    "midpoint": midpoint,
    "gauss_legendre": gauss_legendre,
    "trapezoid": trapezoid,
    "left": left,
    "right": right,
}


def integrated_gradients(drop: Drop, rule: Rule, steps: int) -> Float[Tensor, "component sequence"]:
    """Along every component's own path."""
    return _integral(lambda t: drop.own(t)[0], rule, steps)


def joint_integrated_gradients(drop: Drop, rule: Rule, steps: int) -> Float[Tensor, "component sequence"]:
    """Along the path on which all gates open together: one backward pass per node for all components."""
    return _integral(lambda t: drop.gradient(drop.closed() + t), rule, steps)


def completeness_residual(drop: Drop, scores: Float[Tensor, "component sequence"]) -> float:
    """|sum_i IG_i - D(1)| of the means over sequences: the exact error of a joint path's quadrature, in the metric's units."""
    return float((scores.sum(0) - drop.value(drop.closed() + 1)).mean().abs())


def _integral(slope: Callable[[float], Tensor], rule: Rule, steps: int) -> Tensor:
    nodes, weights = rule(steps)
    total = weights[0] * slope(nodes[0])
    for node, weight in zip(nodes[1:], weights[1:], strict=True):
        total += weight * slope(node)
    return total
