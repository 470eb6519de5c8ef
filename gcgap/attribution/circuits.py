"""Scores held against one known circuit: do they find it, and do the circuits that they pick work?

    f_k = (M(C_k) - M(empty)) / (M(full) - M(empty)),   C_k the k highest-scoring components, all others ablated at once

Scores that are exactly equal are not told apart: f_k is then the mean over all choices of k that the scores allow, every one of
them measured. Breaking ties by the order of components would give early layers, or late ones, a circuit that nobody found. This
is for models of about ten components, since a ranking of n ties allows 2^n circuits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from gcgap.attribution.drop import Drop
from gcgap.attribution.recovery import area_under_roc, cmd, cpr, faithfulness
from gcgap.attribution.sets import Set, set_drops

PERFORMANCE = ("log_prob", "exact_match")  # the metrics M by which circuits are judged


def circuits(scores: Float[ndarray, " component"]) -> list[list[Set]]:
    """For every size 0 .. n, each choice of so many components of which none left out scores higher."""
    order, found = np.sort(scores)[::-1], [[frozenset[int]()]]
    for size, lowest in enumerate(order, 1):
        above = np.flatnonzero(scores > lowest).tolist()
        tied = np.flatnonzero(scores == lowest).tolist()
        found.append([frozenset([*above, *chosen]) for chosen in combinations(tied, size - len(above))])
    return found


class Circuits:
    """What circuits of one model keep when all else is ablated; each is run once, whichever methods ask for it.

    Args:
        drop: Model, sequences and replacement; its metric plays no part.
    """

    def __init__(self, drop: Drop) -> None:
        self.drop = drop
        self._all = frozenset(range(drop.components))
        self._lost = {self._all: (0.0,) * len(PERFORMANCE)}  # the untouched model loses nothing

    def curves(self, scores: Float[ndarray, " component"]) -> dict[str, Float[ndarray, " size"]]:
        """f_0 .. f_n of the highest-scoring components by each metric."""
        by_size = circuits(scores)
        self._run([circuit for choices in by_size for circuit in choices])
        kept = -np.array([np.mean([self._lost[circuit] for circuit in choices], axis=0) for choices in by_size])
        return {metric: faithfulness(kept[:, column]) for column, metric in enumerate(PERFORMANCE)}

    def _run(self, asked: Sequence[Set]) -> None:
        """Measure what each circuit loses, unless that is known."""
        missing = [circuit for circuit in dict.fromkeys(asked) if circuit not in self._lost]
        if missing:
            found = set_drops(self.drop, [self._all - circuit for circuit in missing])
            means = zip(*(getattr(found, metric).mean(-1).tolist() for metric in PERFORMANCE), strict=True)
            self._lost |= dict(zip(missing, means, strict=True))


def clear_area(scores: Float[ndarray, " component"], true: Bool[ndarray, " component"], hair: float) -> float:
    """Area under the ROC curve in which scores that differ by no more than `hair` tie, and so count half.

    It tells a circuit that is found from one that happens to lie first among scores that are all next to nothing.
    """
    ahead = scores[true][:, None] - scores[~true]
    return float(np.mean((ahead > hair) + 0.5 * (np.abs(ahead) <= hair)))


def recovered(
    scores: Float[ndarray, " component"], true: Bool[ndarray, " component"], measured: Circuits, hair: float
) -> dict[str, float]:
    """How well scores recover a circuit. As in MIB, CPR takes the order of the scores, CMD that of their sizes."""
    helpful, large = measured.curves(scores), measured.curves(np.abs(scores))
    return {
        "auc": area_under_roc(scores, true),
        "clear_auc": clear_area(scores, true, hair),
        "cpr": cpr(helpful["log_prob"]),
        "cmd": cmd(large["log_prob"]),
        "cpr_exact_match": cpr(helpful["exact_match"]),
        "cmd_exact_match": cmd(large["exact_match"]),
    }
