"""Training: rho, its ceiling and the accuracies over the optimiser steps of every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.records.record import Record
from gcgap.report.panels import by_task
from gcgap.study.groups import Group, MeasuredRun

RHO, CEILING, OOD, INSIDE = "#e08214", "#542788", "#1b7837", "#000000"
Value = Callable[[Record], float | None]


def training(group: Group) -> Figure:
    """Rank correlation by exact match and by log-probability with its noise ceiling, and accuracy, over training."""
    figure, axes = by_task(group, (3.6, 1.8), rows=3, sharex="col", sharey="row")
    baseline = group.baselines[0]
    rows: tuple[tuple[str, dict[str, tuple[str, Value]]], ...] = (
        ("ρ, C by exact match", {"ρ": (RHO, _gap(baseline, "rho")), "its noise ceiling": (CEILING, _gap(baseline, "ceiling"))}),
        (
            "ρ, C by log-probability",
            {
                "ρ": (RHO, _gap(baseline, "rho", "log_prob")),
                "its noise ceiling": (CEILING, _gap(baseline, "ceiling", "log_prob")),
            },
        ),
        ("exact match\n(share of sequences)", {"in distribution": (INSIDE, inside), "OOD": (OOD, ood)}),
    )
    for row, (label, curves) in zip(axes, rows, strict=True):
        row[0].set_ylabel(label, fontsize=9)
        for panel, task in zip(row, group.tasks, strict=True):
            runs = [run for run in group.runs if run.task == task]
            for name, (colour, value) in curves.items():
                draw_curves(panel, runs, value, colour, name)
            panel.axhline(0, color="grey", lw=0.5)
    for panel in axes[-1]:
        panel.set_xlabel("optimiser step", fontsize=9)
    found = {label: handle for panel in axes[1:, 0] for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


def tracked(run: MeasuredRun) -> list[Record]:
    """The checkpoints of a run that have components."""
    return [record for record in run.tracked if record["components"]]


def inside(record: Record) -> float:
    """Exact match in distribution."""
    return record["accuracy"]["in_distribution"]


def ood(record: Record) -> float:
    """Exact match at the tracked length."""
    return record["accuracy"]["by_length"][str(record["length"])]


def _gap(baseline: str, what: str, metric: str | None = None) -> Value:
    def value(record: Record) -> float | None:
        gap: dict[str, Any] = record["gap"][baseline]
        return (gap if metric is None else gap["by_metric"][metric])[what]

    return value


def draw_curves(panel: Axes, runs: Sequence[MeasuredRun], value: Value, colour: str, label: str) -> None:
    """A thin line for each seed; a thick one through the means of at least two seeds, where half of them or more have a value."""
    by_step: dict[int, list[float]] = {}
    for run in runs:
        points = [(record["step"], found) for record in tracked(run) if (found := value(record)) is not None]
        panel.plot([step for step, _ in points], [found for _, found in points], color=colour, lw=0.6, alpha=0.45)
        for step, found in points:
            by_step.setdefault(step, []).append(found)
    enough = max(2, len(runs) / 2)
    mean = {step: np.mean(values) for step, values in sorted(by_step.items()) if len(values) >= enough or len(runs) == 1}
    panel.plot(list(mean), list(mean.values()), color=colour, lw=2, label=label)
