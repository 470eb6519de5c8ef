"""When roles emerge, over the seeds of a group."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from gcgap.report.notes import title
from gcgap.report.table_parts import Column, Table
from gcgap.study.emergence import STABLE, Course, courses
from gcgap.study.groups import Group
from gcgap.study.seeds import summary


def emergence_table(group: Group, task: str) -> Table:
    """For every component and role: in how many seeds it appears, when it settles, how long it lasts."""
    runs = [run for run in group.runs if run.task == task and run.tracked]
    found: dict[tuple[str, str], list[Course]] = {}
    for run in runs:
        for one in courses(run, group.baselines[0]):
            found.setdefault((one.name, one.role), []).append(one)
    keys = sorted(found)
    stable = [[one.stable for one in found[key] if one.stable is not None] for key in keys]
    columns = [
        Column("component", [name for name, _ in keys]),
        Column("role", [role for _, role in keys]),
        Column("seeds with it ever", [len(found[key]) for key in keys]),
        Column(f"seeds with it {STABLE} checkpoints in a row", [len(steps) for steps in stable]),
        Column("seeds with it at the last checkpoint", [sum(one.final for one in found[key]) for key in keys]),
        Column("first step, median", [_median([one.first for one in found[key]]) for key in keys], ".0f"),
        Column(f"first of {STABLE} in a row (step), median", [_median(steps) for steps in stable], ".0f"),
        Column(
            "checkpoints with it from then on (%)",
            [summary([100 * one.persistence for one in found[key]]) for key in keys],
            ".0f",
        ),
    ]
    notes = [
        f"Over the measured checkpoints of {len(runs)} seeds, {group.baselines[0]} ablation, exact match at the tracked "
        "length, with the smaller sizes of tracking; a step that is missing: it never holds that long.",
    ]
    return Table(f"emergence-{task}", f"When roles appear and how long they last, {title(task)}", group.name, columns, notes)


def _median(steps: Sequence[int]) -> float | None:
    return float(median(steps)) if steps else None
