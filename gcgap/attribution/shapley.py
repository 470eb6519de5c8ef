"""Shapley values of the components: what each adds to the drop, averaged over every order in which they could be ablated.

    phi_i = E_pi [ D(1_{before i in pi} + e_i) - D(1_{before i in pi}) ]        sum_i phi_i = D(1)

Orders are sampled, a fresh one for every sequence, and each order is used forwards and backwards (antithetic pairs): what a
component adds first in one it adds last in the other, which takes the first-order noise out. Gates are per row, so the orders of
a whole batch run together.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gcgap.attribution.drop import Drop


def shapley_values(
    drop: Drop, pairs: int, random: np.random.Generator, antithetic: bool = True
) -> Float[Tensor, "component sequence"]:
    """Mean marginal drop of every component over sampled orders.

    The orders of different sequences are independent, so the standard error of a component's mean is the spread of its row over
    sequences, by `standard_error`: it covers the sampling of orders and of sequences alike.

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
    """What each component adds to the drop when the components of every sequence are ablated in its own order."""
    gates = drop.closed().repeat(drop.sequences, 1)
    before = drop.level(gates)
    added = torch.empty(drop.components, drop.sequences, dtype=torch.float64)
    for column in order.T:
        gates.scatter_(1, column[:, None], 1.0)
        after = drop.level(gates)
        added.scatter_(0, column[None], drop.sign * (before - after)[None])
        before = after
    return added


def standard_error(scores: Float[Tensor, "component sequence"]) -> Float[Tensor, " component"]:
    """Standard error of the mean over sequences."""
    return scores.std(-1) / scores.shape[-1] ** 0.5
