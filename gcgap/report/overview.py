"""Every group of runs at a glance, one row for each task: models and protocols side by side, never averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gcgap.report.notes import accuracy, left_out, ranked, spread_note, title
from gcgap.report.render import ALL
from gcgap.report.table_parts import Column, Table
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import Summary, summary


def overview_table(groups: Sequence[Group]) -> Table:
    """Steps, accuracy, rank correlation and roles of every group and task, under each group's first baseline."""
    rows = [(group, task) for group in groups for task in group.tasks]
    columns = [
        Column("group", [group.name for group, _ in rows]),
        Column("task", [title(task) for _, task in rows]),
        Column("components", [_components(group, task) for group, task in rows], ".0f"),
        Column("optimiser steps", [_over(group, task, lambda run: run.final["step"]) for group, task in rows], ".0f"),
        Column("OOD exact match (%)", [summary([accuracy(run) for run in group.measured(task)]) for group, task in rows], ".1f"),
        *(Column(name, [_gap(group, task, key) for group, task in rows], form) for name, key, form in GAPS),
        Column("skipped", [len(group.skipped(task)) for group, task in rows]),
    ]
    left = [f"{group.name}: {note}" for group in groups for note in left_out(group, group.tasks, group.baselines[:1])]
    return Table("groups", "Every group at a glance", ALL, columns, [*spread_note(columns), *left])


GAPS = (
    ("ρ", "rho", ".2f"),
    ("noise ceiling", "ceiling", ".2f"),
    ("Heroes per run", "heroes", ".1f"),
    ("Bloats per run", "bloats", ".1f"),
)


def _components(group: Group, task: str) -> int | None:
    return next((len(run.final["components"]) for run in group.measured(task)), None)


def _over(group: Group, task: str, of: Callable[[MeasuredRun], float | None]) -> Summary:
    values = [of(run) for run in group.measured(task)]
    return summary([value for value in values if value is not None])


def _gap(group: Group, task: str, key: str) -> Summary:
    baseline = group.baselines[0]
    found = [run.final["gap"][baseline][key] for run in ranked(group, task, baseline)]
    return summary([value for value in found if value is not None])
