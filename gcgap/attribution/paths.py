"""Averages over paths from the untouched to the ablated model: integrated gradients (IG) and Shapley values.

    IG, own path    int_0^1 F_i'(t) dt = D(e_i), F_i(t) = D(t e_i): exact for every component by itself
    joint IG        int_0^1 dD/dxi_i(t 1) dt: all gates open together (Aumann-Shapley); its sum over i is D(1) (completeness)
    Shapley value   E_pi [ D(1_{before i in pi} + e_i) - D(1_{before i in pi}) ], pi an order of the components; its sum is D(1)

An integral is a sum over nodes t_k with weights w_k. Only the running sum is held, so memory does not depend on the number of
nodes. Errors with K nodes: midpoint max|F'''| / (24 K^2), trapezoid twice that, left and right max|F''| / (2 K), Gauss-Legendre
falls faster than any power where F is smooth. Left and right are there to compare: they are the usual mistake.

Orders are sampled, a fresh one for every sequence, and each is used forwards and backwards (antithetic pairs): what a component
adds first in one it adds last in the other, which takes the first-order noise out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
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


RULES: dict[str, Rule] = {rule.__name__: rule for rule in (midpoint, gauss_legendre, trapezoid, left, right)}


def integrated_gradients(drop: Drop, rule: Rule, steps: int) -> Float[Tensor, "component sequence"]:
    """IG, int_0^1 F_i'(t) dt, along every component's own path."""
    return _integral(lambda t: drop.path_derivatives(t)[0], rule, steps)


def joint_integrated_gradients(drop: Drop, rule: Rule, steps: int) -> Float[Tensor, "component sequence"]:
    """Joint IG, int_0^1 dD/dxi_i(t 1) dt: one backward pass per node for all components."""
    return _integral(lambda t: drop.gradient(drop.zero_gates() + t), rule, steps)


def completeness_residual(drop: Drop, scores: Float[Tensor, "component sequence"]) -> float:
    """|sum_i IG_i - D(1)| of the means over sequences: the exact error of a joint path's quadrature, in the metric's units."""
    return float((scores.sum(0) - drop.value(drop.zero_gates() + 1)).mean().abs())


def _integral(slope: Callable[[float], Tensor], rule: Rule, steps: int) -> Tensor:
    nodes, weights = rule(steps)
    total = weights[0] * slope(nodes[0])
    for node, weight in zip(nodes[1:], weights[1:], strict=True):
        total += weight * slope(node)
    return total


def shapley_values(
    drop: Drop, pairs: int, random: np.random.Generator, antithetic: bool = True
) -> Float[Tensor, "component sequence"]:
    """Shapley value: the mean marginal drop of every component over sampled orders.

    The orders of different sequences are independent, so the standard error of a component's mean is the spread of its row over
    sequences, by `gcgap.attribution.sets.standard_error`: it covers the sampling of orders and of sequences alike.

    Args:
        drop: The game.
        pairs: Antithetic pairs per sequence.
        random: Draws the orders.
        antithetic: Use each order backwards too; otherwise another independent one.
    """
    n, total = drop.components, torch.zeros(drop.components, drop.sequences, dtype=torch.float64)
    for _ in range(pairs):
        order = random.permuted(np.tile(np.arange(n), (drop.sequences, 1)), axis=1)
        other = order[:, ::-1] if antithetic else random.permuted(order, axis=1)
        for one in (order, other):
            total += marginals(drop, torch.from_numpy(one.copy()))
    return total / (2 * pairs)


def marginals(drop: Drop, order: Int[Tensor, "sequence component"]) -> Float[Tensor, "component sequence"]:
    """What each component adds to the drop when the components of every sequence are ablated in its own order.

    Gates are per row, so the orders of a whole batch run together.
    """
    gates = drop.zero_gates().repeat(drop.sequences, 1)
    before = drop.level(gates)
    added = torch.empty(drop.components, drop.sequences, dtype=torch.float64)
    for column in order.T:
        gates.scatter_(1, column[:, None], 1.0)
        after = drop.level(gates)
        added.scatter_(0, column[None], drop.sign * (before - after)[None])
        before = after
    return added
