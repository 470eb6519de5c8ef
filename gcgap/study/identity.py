"""Do the same components take the same roles under every seed? Agreement over seeds, against labels permuted by chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcgap.importance.gap import Array
from gcgap.study.arrays import Measured

PERMUTATIONS = 2000


@dataclass(frozen=True)
class Stability:
    """How stable the members of a role are over seeds.

    Args:
        counts: For each component the number of seeds in which it has the role.
        agreement: Mean number of members that two seeds share.
        by_chance: The same when labels are permuted within each type (heads among heads, MLPs among MLPs).
        p_value: Share of such permutations that agree as much or more.
        most: The largest count.
        most_p_value: Share of such permutations with as large a count.
        within_layer_p_value: As `p_value`, but heads are permuted only within their layer, where no seed tells them apart.
    """

    counts: dict[str, int]
    agreement: float
    by_chance: float
    p_value: float
    most: int
    most_p_value: float
    within_layer_p_value: float


def stability(runs: Sequence[Measured], role: str, rng: np.random.Generator) -> Stability | None:
    """How stable a role's members are over runs of one task; None with fewer than two runs."""
    if len(runs) < 2:
        return None
    first = runs[0]
    has = np.array([one.roles()[role] for one in runs])
    counts = has.sum(0)
    by_type = _permuted(has, first.is_head.astype(int), rng)
    by_layer = _permuted(has, 2 * first.layer + first.is_head, rng)
    found, chance, inside = (_agreement(one, len(runs)) for one in (counts, by_type, by_layer))
    return Stability(
        dict(zip(first.names, counts.tolist(), strict=True)),
        float(found),
        float(chance.mean()),
        _share(chance >= found - 1e-12),
        int(counts.max()),
        _share(by_type.max(-1) >= counts.max()),
        _share(inside >= found - 1e-12),
    )


def _permuted(has: NDArray[np.bool_], kind: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Counts by component after permuting each run's labels within each kind, shape (permutation, component)."""
    total = np.zeros((PERMUTATIONS, has.shape[1]), dtype=np.int64)
    for labels in has:
        shuffled = np.tile(labels, (PERMUTATIONS, 1))
        for one in np.unique(kind):
            shuffled[:, kind == one] = rng.permuted(shuffled[:, kind == one], axis=1)
        total += shuffled
    return total


def _agreement(counts: NDArray[np.int64], runs: int) -> Array:
    """Members shared by two runs, on average over all pairs of runs: a component of c runs is shared by c (c - 1) / 2 pairs."""
    return np.asarray((counts * (counts - 1)).sum(-1) / (runs * (runs - 1)))


def _share(extreme: NDArray[np.bool_]) -> float:
    """A permutation p-value, which counts the data themselves."""
    return float((1 + extreme.sum()) / (1 + len(extreme)))
