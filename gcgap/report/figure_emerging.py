"""Emergence over seeds: a raster of every seed, and when each role settles and how long it lasts."""

from __future__ import annotations

from collections import Counter

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure

from gcgap.records.record import Record
from gcgap.report.emergence_figure import deltas_and_roles
from gcgap.report.figure_training import tracked
from gcgap.report.panels import grid
from gcgap.report.style import COLOURS, DIVERGING, DPI, LABELS, MARKERS
from gcgap.study.emergence import STABLE, courses
from gcgap.study.groups import Group


def rasters(group: Group, task: str) -> Figure:
    """Rank difference of every component over the training of every seed; dots mark Heroes and Bloats."""
    runs = [run for run in group.runs if run.task == task and tracked(run)]
    names = [component["name"] for component in tracked(runs[0])[0]["components"]]
    figure, panels = grid(len(runs), 5, (1.44, 0.55 + 0.075 * len(names)))
    image = None
    for place, (panel, run) in enumerate(zip(panels, runs, strict=True)):
        image = _raster(panel, tracked(run), group.baselines[0])
        panel.set_title(f"seed {run.seed}", fontsize=7)
        first = place % 5 == 0
        panel.set_yticks(range(len(names)), names if first else [""] * len(names), fontsize=4.5)
        panel.tick_params(length=2, labelsize=4.5 if first else 5.5)
        panel.tick_params(axis="x", labelsize=5.5)
    assert image is not None
    bar = figure.colorbar(image, ax=panels, shrink=0.6, aspect=40)
    bar.set_label("rank difference Δ = rank(G) - rank(C)", fontsize=8)
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
    layers = [component["layer"] for component in records[0]["components"]]
    for border in np.flatnonzero(np.diff(layers)):
        axes.axhline(border + 0.5, color="black", lw=0.5)
    axes.set_ylim(n - 0.5, -0.5)
    return image


def settling(group: Group, task: str) -> Figure:
    """For every component: when a role first holds for several checkpoints in a row, and how much of the rest it lasts."""
    runs = [run for run in group.runs if run.task == task and tracked(run)]
    names = [component["name"] for component in tracked(runs[0])[0]["components"]]
    found = [course for run in runs for course in courses(run, group.baselines[0])]
    figure = Figure(figsize=(7.2, 1.4 + 0.19 * len(names)), dpi=DPI, layout="constrained")
    when, share = figure.subplots(1, 2, sharey=True, width_ratios=[1.6, 1])
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
        for border in np.flatnonzero(np.diff(layers)):
            axes.axhline(border + 0.5, color="#bbbbbb", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    when.set_yticks(range(len(names)), names)
    when.set_ylim(len(names) - 0.5, -0.5)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure
