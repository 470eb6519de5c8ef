"""Rank correlation of attribution methods with C over training."""

from __future__ import annotations

from functools import partial

from matplotlib.figure import Figure

from gcgap.records.record import Record
from gcgap.report.figure_training import draw_curves
from gcgap.report.panels import by_task
from gcgap.report.table_tracked import tracked_methods
from gcgap.study.groups import Group


def methods_over_training(group: Group) -> Figure:
    """A curve for each method, by exact match (above) and by log-probability; thin: a seed, thick: the mean."""
    figure, axes = by_task(group, (4.2, 2.6), rows=2, sharex="col", sharey=True)
    for row, effect in zip(axes, ("exact_match", "log_prob"), strict=True):
        row[0].set_ylabel(f"ρ, C by {effect.replace('_', ' ')}", fontsize=9)
        for panel, task in zip(row, group.tasks, strict=True):
            runs = [run for run in group.runs if run.task == task]
            for number, name in enumerate(tracked_methods(group)):
                draw_curves(panel, runs, partial(_rho, name, effect), f"C{number % 10}", name)
            panel.axhline(0, color="grey", lw=0.5)
    for panel in axes[-1]:
        panel.set_xlabel("optimiser step", fontsize=9)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def _rho(method: str, effect: str, record: Record) -> float | None:
    entry = record.attribution.get(method)
    return None if entry is None else entry["agreement"][effect]["all"]["rho"]
