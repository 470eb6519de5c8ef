"""What selection alone does to the cost of a role: a Hero is chosen by its large C, so it is costly even if G says nothing."""

from __future__ import annotations

import numpy as np

from gcgap.importance.gap import Array, rank
from gcgap.study.arrays import Measured

SHUFFLES = 200


def single_costs(one: Measured, role: str) -> float | None:
    """Sum of the single drops of a role's top two, as pruning chooses them; None if it has fewer than two members."""
    return _cost(one, one.G, role)


def single_costs_by_selection(one: Measured, role: str, rng: np.random.Generator) -> float | None:
    """The same on average over gradients in random order, which know nothing of C; None if those never make two members."""
    drawn = [_cost(one, rng.permutation(one.G), role) for _ in range(SHUFFLES)]
    known = [cost for cost in drawn if cost is not None]
    return float(np.mean(known)) if known else None


def _cost(one: Measured, G: Array, role: str) -> float | None:
    kind = one.judgement.ranks
    delta, tie = rank(G, kind) - rank(one.C, kind), G if role == "bloat" else one.C
    members = np.flatnonzero(one.roles(score=G)[role])
    if len(members) < 2:
        return None
    order = sorted(members, key=lambda i: (-abs(delta[i]), -tie[i], one.names[i]))
    return float(one.C[order[:2]].sum())
