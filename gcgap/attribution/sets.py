"""Sets of components off together: their drops, pairwise interactions, and the smallest sets that only together are needed.

    I_ij = D(e_i + e_j) - D(e_i) - D(e_j)      positive: redundant, the pair costs more than its parts
                                               negative: the two need each other, the first one off takes the second's worth

(For denoising, where D is what is restored, the signs mean the reverse.) A jointly critical set is made of components that are
each dispensable by themselves, yet costs much when all are off, and no part of it does: the paper's redundancy, found instead of
guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.importance.ablation import Intervention, ablated_scores
from gcgap.importance.scores import Scores

Set = frozenset[int]


def set_drops(drop: Drop, sets: Sequence[Set]) -> Scores:
    """D(1_S) of every set by every metric, shape (set, sequence); what the sets share below is computed once."""
    interventions = [Intervention(members, drop.replacement) for members in sets]
    base, ablated = ablated_scores(drop.model, drop.wiring, drop.batch, interventions, drop.site, drop.where)
    drop.passes.forward += 1 + len(sets)
    return Scores(*(drop.sign * (before - after) for before, after in zip(base, ablated, strict=True)))


def single_drops(drop: Drop) -> Scores:
    """The exact effect D(e_i) of every component, shape (component, sequence): computed once for each drop."""
    if not drop.singles:
        drop.singles.update(set_drops(drop, [frozenset([i]) for i in range(drop.components)])._asdict())
    return Scores(**drop.singles)


def standard_error(scores: Float[Tensor, "component sequence"]) -> Float[Tensor, " component"]:
    """Standard error of the mean over sequences."""
    return scores.std(-1) / scores.shape[-1] ** 0.5


@dataclass(frozen=True)
class Interactions:
    """Single effects and pairwise interactions by one metric: means over sequences, and standard errors of the interactions.

    Components are those that were asked for, in that order. The matrices are symmetric, with zeros on the diagonal.
    """

    single: Float[Tensor, " component"]
    mean: Float[Tensor, "component component"]
    error: Float[Tensor, "component component"]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": self.mean.tolist(), "error": self.error.tolist(), "single": self.single.tolist()}


def interactions(drop: Drop, metrics: Sequence[str], members: Sequence[int] | None = None) -> dict[str, Interactions]:
    """I_ij of every pair, of some components or of all: one forward pass per pair."""
    members = range(drop.components) if members is None else members
    n = len(members)
    pairs = list(combinations(range(n), 2))
    chosen = list(members)
    single = Scores(*(effect[chosen] for effect in single_drops(drop)))
    double = set_drops(drop, [frozenset([members[i], members[j]]) for i, j in pairs])
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))
    found = {}
    for metric in metrics:
        alone, both = getattr(single, metric), getattr(double, metric)
        each = both - alone[first] - alone[second]
        mean, error = torch.zeros(n, n, dtype=each.dtype), torch.zeros(n, n, dtype=each.dtype)
        mean[first, second] = mean[second, first] = each.mean(-1)
        error[first, second] = error[second, first] = standard_error(each)
        found[metric] = Interactions(alone.mean(-1), mean, error)
    return found


@dataclass(frozen=True)
class CriticalSets:
    """What a search for the smallest jointly critical sets found.

    Args:
        dispensable: Components whose own effect is at most the tolerance.
        sets: The critical sets of the smallest size, with their joint effects, the largest first; none if `size` is None.
        size: Their size.
        searched: Every set up to this size was tried; a smaller critical set does not exist on these sequences.
        greedy: One critical set no member of which can be left out, from taking members away; None if all together are not
            critical, or if a smaller one was found by trying every set.
        evaluated: Sets whose joint effect was computed.
        tolerance: Largest |effect| of a dispensable component.
        critical: Smallest effect of a critical set.
    """

    dispensable: Set
    sets: tuple[tuple[Set, float], ...]
    size: int | None
    searched: int
    greedy: tuple[Set, float] | None
    evaluated: int
    tolerance: float
    critical: float

    def to_dict(self, names: Sequence[str], again: Drop) -> dict[str, Any]:
        """Plain values, with the effect of every critical set, and its error, on sequences `again` that did not choose it."""
        found, entries = [*self.sets, *([self.greedy] if self.greedy else [])], []
        if found:
            drops = set_drops(again, [members for members, _ in found]).exact_match
            effects = zip(drops.mean(-1).tolist(), standard_error(drops).tolist(), strict=True)
            entries = [
                {"members": [names[i] for i in sorted(members)], "effect": effect, "effect_again": other, "error_again": error}
                for (members, effect), (other, error) in zip(found, effects, strict=True)
            ]
        return {
            "dispensable": [names[i] for i in sorted(self.dispensable)],
            "tolerance": self.tolerance,
            "critical": self.critical,
            "size": self.size,
            "sets": entries[: len(self.sets)],
            "searched": self.searched,
            "greedy": entries[-1] if self.greedy else None,
            "evaluated": self.evaluated,
        }


def critical_sets(
    drop: Drop, metric: str, tolerance: float, critical: float, most: int = 1500, shrink: bool = True
) -> CriticalSets:
    """Search the dispensable components for the smallest sets that cost at least `critical` together.

    Sets are tried size by size, all of a size, while no more than `most` have been; beyond, members are taken away from the set
    of all dispensable ones as long as it stays critical, which gives a set that is minimal but maybe not smallest.

    Args:
        drop: The drop.
        metric: Field of `Scores` of the effects.
        tolerance: Largest |effect| of a component that counts as dispensable.
        critical: Smallest joint effect that counts as critical.
        most: Sets to try exhaustively.
        shrink: Whether to take members away beyond, which costs about half the square of their number in forward passes.
    """
    alone = getattr(single_drops(drop), metric).mean(-1)
    members = [i for i, effect in enumerate(alone.tolist()) if abs(effect) <= tolerance]

    def effects(sets: list[Set]) -> list[float]:
        return getattr(set_drops(drop, sets), metric).mean(-1).tolist() if sets else []

    tried = searched = 0
    for size in range(2, len(members) + 1):
        sets = [frozenset(chosen) for chosen in combinations(members, size)]
        if tried + len(sets) > most:
            break
        found = sorted(zip(sets, effects(sets), strict=True), key=lambda one: -one[1])
        tried, searched = tried + len(sets), size
        if hits := tuple(one for one in found if one[1] >= critical):
            return CriticalSets(frozenset(members), hits, size, searched, None, tried, tolerance, critical)
    greedy, more = _shrunk(members, effects, critical) if shrink and searched < len(members) else (None, 0)
    return CriticalSets(frozenset(members), (), None, searched, greedy, tried + more, tolerance, critical)


def _shrunk(
    members: list[int], effects: Callable[[list[Set]], list[float]], critical: float
) -> tuple[tuple[Set, float] | None, int]:
    """Take away, one by one, the member without which the set stays the most critical; the set left, and sets evaluated."""
    left, tried = frozenset(members), 1
    if len(left) < 2:
        return None, 0
    if (effect := effects([left])[0]) < critical:
        return None, tried
    while len(left) > 2:
        smaller = [left - {member} for member in sorted(left)]
        best, largest = max(zip(smaller, effects(smaller), strict=True), key=lambda one: one[1])
        tried += len(smaller)
        if largest < critical:
            break
        left, effect = best, largest
    return (left, effect), tried
