"""The same weights measured twice: what of the ranks and roles is the network's, and what the measurement's.

Pairs records of one checkpoint that differ in how they were made, such as the site of an ablation or the length of the sequences.
Within one run one checkpoint is one step, and whatever says otherwise is reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcgap.importance.gap import Array
from gcgap.records.read_records import named_step
from gcgap.records.record import Record
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import Summary, spearman, summary


@dataclass(frozen=True)
class Agreement:
    """How far two measurements of the same weights agree, over runs.

    Args:
        task: The task.
        first: Name of the group that one measurement of each belongs to.
        second: Name of the other's.
        causes: Rank correlation of the two C, by exact match.
        causes_by_log_prob: The same by log-probability, which has no floor.
        gaps: Rank correlation of the two rank differences.
        heroes: Share of the first's Heroes that are Heroes in the second.
        bloats: Share of the first's Bloats that are Bloats in the second.
    """

    task: str
    first: str
    second: str
    causes: Summary
    causes_by_log_prob: Summary
    gaps: Summary
    heroes: Summary
    bloats: Summary


def agreements(groups: Sequence[Group]) -> list[Agreement]:
    """Every pair of groups that share checkpoints, task by task; the earlier group is the first."""
    found = []
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            for task in first.tasks:
                shared = [name for name in first.baselines if name in second.baselines]
                if shared and (pairs := _pairs(first, second, task)):
                    found.append(_agreement(task, first, second, shared[0], pairs))
    return found


def doubts(run: MeasuredRun) -> list[str]:
    """What cannot be in a run: two steps with the bytes of one checkpoint, and a record of another step than its file's name."""
    found, first = [], dict[str, Record]()
    for record in (*run.tracked, run.final):
        if record.path and named_step(record.path) not in (None, record["step"]):
            found.append(f"`{record.path}` is a record of step {record['step']}, and not of the one that its name says")
        other = first.setdefault(record["checkpoint_sha256"] or str(record.path), record)
        known = record is run.final and any(record["step"] == one["step"] for one in run.tracked)  # reported already
        if other["step"] != record["step"] and not known:
            steps = f"steps {other['step']} and {record['step']}"
            what = "weights" if "name" in record["model"] else "checkpoint, byte for byte"
            found.append(f"`{other.path}` and `{record.path}` are of {steps} but of the same {what}")
    return found


def _pairs(first: Group, second: Group, task: str) -> list[tuple[Record, Record]]:
    known = {run.final["checkpoint_sha256"]: run.final for run in second.measured(task)}
    own = [run.final for run in first.measured(task) if run.final["checkpoint_sha256"] is not None]
    return [(record, known[record["checkpoint_sha256"]]) for record in own if record["checkpoint_sha256"] in known]


def _agreement(task: str, first: Group, second: Group, baseline: str, pairs: Sequence[tuple[Record, Record]]) -> Agreement:
    def over(one: str) -> Summary:
        columns = [[_column(record, baseline, one) for record in pair] for pair in pairs]
        values = [spearman(before, after) for before, after in columns if before is not None and after is not None]
        return summary([value for value in values if value is not None])

    def kept(role: str) -> Summary:
        members = [[set(record.roles(baseline)[role]) for record in pair] for pair in pairs]
        return summary([len(before & after) / len(before) for before, after in members if before])

    return Agreement(
        task, first.name, second.name, over("exact_match"), over("log_prob"), over("delta"), kept("hero"), kept("bloat")
    )


def _column(record: Record, baseline: str, what: str) -> Array | None:
    """One number per component: its drop by a metric, or its rank difference; None where there is no rank difference."""
    if what == "delta":
        found = [component["delta"][baseline]["value"] for component in record["components"]]
        return None if None in found else np.array(found)
    return np.array([component["causal"][baseline][what]["value"] for component in record["components"]])
