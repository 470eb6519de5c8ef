"""A record's components as arrays, which the statistics over seeds work on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcgap.importance.gap import Array, Judgement, is_role, rank
from gcgap.records.record import Record
from gcgap.study.groups import Run

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Measured:
    """What one record says of every component, under one baseline, by exact match.

    Args:
        names: Component names.
        layer: Layer of each.
        is_head: Whether each is a head.
        G: Gradient magnitudes.
        C: Causal importances (share of sequences).
        judgement: How the record turns ranks into roles.
    """

    names: tuple[str, ...]
    layer: NDArray[np.int64]
    is_head: Mask
    G: Array
    C: Array
    judgement: Judgement

    def roles(self, score: Array | None = None, causal: Array | None = None) -> dict[str, Mask]:
        """Which components are Heroes and Bloats, by G and C or by the arrays given in their place (..., component)."""
        kind = self.judgement.ranks
        delta = rank(self.G if score is None else score, kind) - rank(self.C if causal is None else causal, kind)
        return is_role(delta, self.judgement.role_threshold(len(self.names)), self.judgement.strict)


def measured(record: Record, baseline: str) -> Measured:
    """The arrays of a record that was not skipped."""
    of, protocol = record["components"], record["protocol"]
    return Measured(
        tuple(component["name"] for component in of),
        np.array([component["layer"] for component in of]),
        np.array([component["kind"] == "head" for component in of]),
        np.array([component["gradient"]["value"] for component in of]),
        np.array([component["causal"][baseline]["exact_match"]["value"] for component in of]),
        Judgement(protocol["threshold"], protocol["strict"], protocol["ranks"], protocol["confidence"], protocol["resamples"]),
    )


def with_roles(runs: Sequence[Run], baseline: str) -> list[Run]:
    """The runs whose components have roles: those with a rank correlation."""
    return [run for run in runs if run.final["gap"][baseline]["rho"] is not None]
