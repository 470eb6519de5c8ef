"""The paper's rho for every attribution method that was run beside G and C, over the final models of a group."""

from __future__ import annotations

from collections.abc import Sequence

from gcgap.report.notes import spread_note, title
from gcgap.report.table_parts import Column, Table
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import Summary, summary


def tracked_methods(group: Group) -> list[str]:
    """Names of the methods that all measured runs of a group have."""
    runs = [run for task in group.tasks for run in group.measured(task)]
    first = runs[0].final.attribution if runs else {}
    return [name for name in first if all(name in run.final.attribution for run in runs)]


def tracked_table(group: Group) -> Table:
    """Rank correlation of every method with C, by task and metric."""
    names = tracked_methods(group)
    columns = [Column("method", names)]
    for task in group.tasks:
        runs = group.measured(task)
        for effect, label in (("exact_match", "exact match"), ("log_prob", "log-prob")):
            columns.append(Column(f"ρ, {title(task)}, {label}", [_over(runs, name, effect, "rho") for name in names]))
            ceilings = [_over(runs, name, effect, "ceiling").mean for name in names]
            columns.append(Column(f"noise ceiling, {title(task)}, {label}", ceilings))
    text = f"Rank correlation of attribution methods with C, {group.baselines[0]}"
    return Table("tracked-methods", text, group.name, columns, [*spread_note(columns)])


def _over(runs: Sequence[MeasuredRun], method: str, effect: str, key: str) -> Summary:
    found = [run.final.attribution[method]["agreement"][effect]["all"][key] for run in runs]
    return summary([value for value in found if value is not None])
