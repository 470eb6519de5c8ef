"""Rank correlation in the four cells {layout} x {site} and under the whole released protocol."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.figure import Figure

from gcgap.report.notes import title
from gcgap.report.panels import what_is_drawn, whisker
from gcgap.report.style import DPI
from gcgap.report.table_cells import cell_tasks, places
from gcgap.study.groups import Group
from gcgap.study.seeds import Summary, summary


def cells(groups: Sequence[Group]) -> Figure:
    """ρ of every seed in every cell, seeds joined by lines within a layout, and the mean with its interval."""
    found = places(groups)
    tasks, drawn = cell_tasks(found), list[Summary]()
    figure = Figure(figsize=(3.7 * len(tasks), 3.5), dpi=DPI, layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0]
    for panel, task in zip(axes, tasks, strict=True):
        rhos = [place.rhos(task) for place in found]
        for at, values in enumerate(rhos):
            panel.plot([at] * len(values), list(values.values()), "o", color="#7f7f7f", ms=3.5, alpha=0.7)
            if len(values) > 1:
                drawn.append(mean := summary(list(values.values())))
                whisker(panel, at + 0.18, mean, color="black")
            if not values:
                panel.annotate("no runs", (at, 0), ha="center", va="bottom", fontsize=8, rotation=90, color="#555555")
        for at, (left, right) in enumerate(pairwise(rhos)):
            if found[at].layout == found[at + 1].layout:
                for seed in left.keys() & right.keys():
                    panel.plot([at, at + 1], [left[seed], right[seed]], color="#7f7f7f", lw=0.5, alpha=0.6, zorder=0)
        panel.axhline(0, color="black", lw=0.6)
        panel.set_title(title(task), fontsize=10)
        panel.tick_params(labelsize=8)
        labels = [f"{one.layout}\n{one.site}".replace(", ", ",\n") for one in found]
        panel.set_xticks(range(len(found)), labels, fontsize=6.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("layout of training (above), site of ablation (below)", fontsize=8)
    marks = f"; black: {what_is_drawn(drawn)}" * bool(drawn)
    axes[0].set_ylabel(f"Spearman's ρ of G and C\n(points: seeds{marks})", fontsize=8)
    return figure
