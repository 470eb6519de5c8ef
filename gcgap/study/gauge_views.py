"""The claims in other gauges: records seen with G, the gap and the roles of a gauge in place of those as trained.

Every claim is then decided by its own rule from what it sees. Runs whose records have no gauges are left out and counted.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gcgap.importance.gap import rank_difference
from gcgap.records.record import Record
from gcgap.study.claims import CLAIMS, PROTOCOLS, Verdict, verdicts
from gcgap.study.groups import Group, MeasuredRun

GAUGES = ("balanced", "orthonormal_output")
"""Gauges in which the claims are asked."""
TRAINED = "as trained"


def gauge_name(gauge: str) -> str:
    """A gauge in words."""
    return gauge.replace("_", " ")


def has_gauges(record: Record) -> bool:
    """Whether a record has numbers in other gauges; older ones have none, nor those of models without such a symmetry."""
    return "by_gauge" in record.data.get("gauges", {})


def verdicts_by_gauge(groups: Sequence[Group]) -> dict[str, list[Verdict]]:
    """The answers that runs with gauges give, as trained and then in `GAUGES`; empty where none of the default protocol has any.

    In a gauge only claims are answered that need no costs of sets: those were measured for the roles as trained.
    """
    named = [with_gauges(group) for group in groups if group.name in PROTOCOLS]
    named = [group for group in named if any(map(group.measured, group.tasks))]
    if not any(group.name == "default" for group in named):
        return {}
    single = [claim for claim in CLAIMS if not claim.removes_sets]
    seen = {gauge: verdicts([in_gauge(group, gauge) for group in named], single) for gauge in GAUGES}
    return {TRAINED: verdicts(named)} | seen


def with_gauges(group: Group) -> Group:
    """A group without measured runs that have no gauges, and without the checkpoints of runs where one of those has none.

    Nor has it matched heads, whose roles are those as trained, of all runs.
    """
    kept = [run for run in group.runs if run.final.skipped is not None or has_gauges(run.final)]
    whole = [all(has_gauges(record) for record in run.tracked if record["components"]) for run in kept]
    runs = tuple(run if all_ else replace(run, tracked=()) for run, all_ in zip(kept, whole, strict=True))
    return replace(group, runs=runs, matchings=())


def in_gauge(group: Group, gauge: str) -> Group:
    """A group whose measured runs all have gauges, seen in one of them."""

    def seen(run: MeasuredRun) -> MeasuredRun:
        return MeasuredRun(_seen(run.final, gauge), tuple(_seen(record, gauge) for record in run.tracked))

    return replace(group, runs=tuple(map(seen, group.runs)))


def _seen(record: Record, gauge: str) -> Record:
    """A record with the numbers of a gauge; what has none in it is taken out."""
    if not has_gauges(record):  # skipped
        return record
    found, kind = record["gauges"]["by_gauge"][gauge], record["protocol"]["ranks"]
    deltas = {}
    for baseline, roles in found["role"].items():
        C = [one["causal"][baseline]["exact_match"]["value"] for one in record["components"]]
        deltas[baseline] = None if roles is None else rank_difference(np.array(found["gradient"]), np.array(C), kind).tolist()
    components = []
    for i, one in enumerate(record["components"]):
        delta = {baseline: {"value": values and values[i], "ci": None} for baseline, values in deltas.items()}
        role = {baseline: {"name": names and names[i], "probability": None} for baseline, names in found["role"].items()}
        components.append(one | {"gradient": {"value": found["gradient"][i], "ci": None}, "delta": delta, "role": role})
    data: dict[str, Any] = record.data | {"components": components, "gap": found["gap"]}
    view = copy.copy(record)  # not checked again: of G in a gauge no interval was measured
    object.__setattr__(view, "data", {key: value for key, value in data.items() if key not in OF_TRAINED})
    return view


OF_TRAINED = ("gauges", "layers", "pruning", "joint", "attribution")
"""What of a record speaks of the roles or of G as trained."""
