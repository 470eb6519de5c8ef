"""Figures over training: curves of the gap, of the accuracies and of attribution methods; emergence in every seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from gcgap.records.record import Record
from gcgap.report.figures_run import deltas_and_roles, metric_gap
from gcgap.report.panels import COLOURS, DELTA, DIVERGING, LABELS, MARKERS, by_task, grid, layer_borders, legend_below, panels
from gcgap.report.tables_methods import tracked_methods
from gcgap.study.emergence import STABLE, courses
from gcgap.study.groups import Group, MeasuredRun

Value = Callable[[Record], float | None]
Curve = tuple[str, str, Value]
"""Label, colour, and the number at a checkpoint."""


def training(group: Group) -> Figure:
    """Rank correlation by exact match and by log-probability with its noise ceiling, and accuracy, over training."""

    def of_gap(metric: str) -> list[Curve]:
        def value(key: str, record: Record) -> float | None:
            return metric_gap(record, group.baselines[0], metric)[key]

        return [("ρ", "#e08214", partial(value, "rho")), ("its noise ceiling", "#542788", partial(value, "ceiling"))]

    rows: dict[str, list[Curve]] = {
        "ρ, C by exact match": of_gap("exact_match"),
        "ρ, C by log-probability": of_gap("log_prob"),
        "exact match\n(share of sequences)": [
            ("in distribution", "#000000", lambda record: record["accuracy"]["in_distribution"]),
            ("OOD", "#1b7837", lambda record: record.ood_accuracy),
        ],
    }
    return _curves(group, rows, (3.6, 1.8), columns=4, sharey="row")


def methods_over_training(group: Group) -> Figure:
    """Rank correlation of attribution methods with C, by exact match (above) and by log-probability."""

    def rho(method: str, effect: str, record: Record) -> float | None:
        entry = record.attribution.get(method)
        return None if entry is None else entry["agreement"][effect]["all"]["rho"]

    rows = {
        f"ρ, C by {effect.replace('_', ' ')}": [
            (name, f"C{number % 10}", partial(rho, name, effect)) for number, name in enumerate(tracked_methods(group))
        ]
        for effect in ("exact_match", "log_prob")
    }
    return _curves(group, rows, (4.2, 2.6), columns=3, sharey=True)


def _curves(group: Group, rows: dict[str, list[Curve]], size: tuple[float, float], columns: int, sharey: str | bool) -> Figure:
    """A row of panels for each label, a column for each task; thin: a seed, thick: the mean."""
    figure, axes = by_task(group, size, rows=len(rows), sharex="col", sharey=sharey)
    for row, (label, curves) in zip(axes, rows.items(), strict=True):
        row[0].set_ylabel(label, fontsize=9)
        for panel, task in zip(row, group.tasks, strict=True):
            runs = [run for run in group.runs if run.task == task]
            for name, colour, value in curves:
                _draw_curve(panel, runs, value, colour, name)
            panel.axhline(0, color="grey", lw=0.5)
    for panel in axes[-1]:
        panel.set_xlabel("optimiser step", fontsize=9)
    legend_below(figure, axes[:, 0], columns)
    return figure


def _draw_curve(panel: Axes, runs: Sequence[MeasuredRun], value: Value, colour: str, label: str) -> None:
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


def tracked(run: MeasuredRun) -> list[Record]:
    """The checkpoints of a run that have components."""
    return [record for record in run.tracked if record["components"]]


def rasters(group: Group, task: str) -> Figure:
    """Rank difference of every component over the training of every seed; dots mark Heroes and Bloats."""
    runs = [run for run in group.runs if run.task == task and tracked(run)]
    names = [component["name"] for component in tracked(runs[0])[0]["components"]]
    figure, axes = grid(len(runs), 5, (1.44, 0.55 + 0.075 * len(names)))
    image = None
    for place, (panel, run) in enumerate(zip(axes, runs, strict=True)):
        image = _raster(panel, tracked(run), group.baselines[0])
        panel.spines[:].set_visible(True)
        panel.set_title(f"seed {run.seed}", fontsize=7)
        first = place % 5 == 0
        panel.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=4.5)
        panel.tick_params(length=2, labelsize=4.5 if first else 5.5)
        panel.tick_params(axis="x", labelsize=5.5)
    assert image is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=40)
    bar.set_label(DELTA, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.supxlabel(
        "optimiser step (to scale); dot: Hero where blue, Bloat where red; grey: C is constant, no ranks", fontsize=7
    )
    return figure


def _raster(axes: Axes, records: list[Record], baseline: str) -> QuadMesh:
    delta, roles = deltas_and_roles(records, baseline)
    steps = np.array([record["step"] for record in records], dtype=float)
    middles = (steps[1:] + steps[:-1]) / 2
    half = (steps[-1] - steps[-2]) / 2 if len(steps) > 1 else 0.5
    edges = np.concatenate([[steps[0]], middles, [steps[-1] + half]])
    edges[0] -= half if len(steps) == 1 else 0
    n = len(delta)
    axes.set_facecolor("#dddddd")
    image = axes.pcolormesh(
        edges, np.arange(n + 1) - 0.5, np.ma.masked_invalid(delta), cmap=DIVERGING, vmin=-n, vmax=n, rasterized=True
    )
    centres = (edges[1:] + edges[:-1]) / 2
    rows, columns = np.nonzero((roles == "hero") | (roles == "bloat"))
    axes.plot(centres[columns], rows, ".", color="black", mew=0, ms=2, ls="none")
    layer_borders(axes, [component["layer"] for component in records[0]["components"]], color="black", lw=0.5)
    axes.set_ylim(n - 0.5, -0.5)
    return image


def settling(group: Group, task: str) -> Figure:
    """For every component: when a role first holds for several checkpoints in a row, and how much of the rest it lasts."""
    runs = [run for run in group.runs if run.task == task and tracked(run)]
    names = [component["name"] for component in tracked(runs[0])[0]["components"]]
    found = [course for run in runs for course in courses(run, group.baselines[0])]
    figure, ((when, share),) = panels((7.2, 1.4 + 0.19 * len(names)), 1, 2, sharey=True, width_ratios=[1.6, 1])
    for role, shift in (("hero", -0.2), ("bloat", 0.2)):
        chosen = [course for course in found if course.role == role and course.stable is not None]
        together = Counter((course.stable, names.index(course.name) + shift) for course in chosen)
        style = {"marker": MARKERS[role], "color": COLOURS[role], "linewidths": 0}
        steps, rows = [[key[at] for key in together] for at in (0, 1)]
        when.scatter(steps, rows, s=[16 * count for count in together.values()], label=LABELS[role], **style)
        rows = [names.index(course.name) + shift for course in chosen]
        share.scatter([100 * course.persistence for course in chosen], rows, s=16, alpha=0.6, **style)
    when.set_xlabel(f"first of {STABLE} checkpoints in a row with the role (optimiser step)", fontsize=8)
    share.set_xlabel("checkpoints with the role\nfrom its first on (%)", fontsize=8)
    share.set_xlim(0, 104)
    layers = [component["layer"] for component in tracked(runs[0])[0]["components"]]
    for axes in (when, share):
        layer_borders(axes, layers, color="#bbbbbb", lw=0.6)
        axes.tick_params(labelsize=7)
    when.set_yticks(range(len(names)), names)
    when.set_ylim(len(names) - 0.5, -0.5)
    legend_below(figure, [when], columns=2)
    return figure
