"""Attribution methods over runs: rank correlation with the exact effects, seed by seed."""

from __future__ import annotations

from matplotlib.figure import Figure

from gcgap.report.methods_figures import FAMILIES
from gcgap.report.notes import title
from gcgap.report.panels import pooled, what_is_drawn, whisker
from gcgap.report.style import DPI
from gcgap.report.wording import counted
from gcgap.study.methods_over_seeds import MethodGroup
from gcgap.study.seeds import Summary


def caption(group: MethodGroup) -> str:
    """What the figure shows."""
    found = [_mean(group, task, method, effect) for task in group.tasks for method in group.methods for effect in group.effects]
    drawn = what_is_drawn(found, group.settings["protocol"]["confidence"])
    return "Spearman's ρ of every attribution method with the exact effects; " + (
        f"points: seeds; mark: {drawn}." if any(one.n > 1 for one in found) else f"mark: {drawn or 'none, there are no ranks'}."
    )


def _mean(group: MethodGroup, task: str, method: str, effect: str) -> Summary:
    entries = [record["methods"][method]["agreement"][effect]["all"] for record in group.of_task(task)]
    return pooled([{"value": one["rho"], "ci": one["ci"]} for one in entries if one["rho"] is not None])


def rhos(group: MethodGroup) -> Figure:
    """ρ of every method for every task (columns) and exact effect (rows): points are seeds, the mark mean and interval."""
    columns = len(group.tasks)
    figure = Figure(figsize=(3.2 + 3.6 * columns, 0.5 * len(group.methods) + 1.2), dpi=DPI, layout="constrained")
    axes = figure.subplots(len(group.effects), columns, squeeze=False, sharex=True, sharey=True)
    for row, effect in enumerate(group.effects):
        for column, task in enumerate(group.tasks):
            panel, seeds, drawn = axes[row, column], counted(len(group.of_task(task)), "seed"), 0
            for at, method in enumerate(group.methods):
                colour = FAMILIES[group.records[0]["methods"][method]["family"]]
                found = [record["methods"][method]["agreement"][effect]["all"]["rho"] for record in group.of_task(task)]
                known = [value for value in found if value is not None]
                drawn += len(known)
                panel.plot(known, [at] * len(known), "o", color=colour, ms=3, alpha=0.45)
                whisker(panel, at, _mean(group, task, method, effect), horizontal=True, color=colour)
            if not drawn:
                panel.text(0.5, 0.5, "no ranks", transform=panel.transAxes, ha="center", fontsize=8, backgroundcolor="white")
            panel.set_yticks(range(len(group.methods)), group.methods, fontsize=7)
            panel.set_title(f"{title(task)}, {effect.replace('_', ' ')}, {seeds}", fontsize=9)
            panel.axvline(0, color="0.8", zorder=0)
            panel.tick_params(labelsize=7)
            panel.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    for panel in axes[-1]:
        panel.set_xlabel("Spearman's ρ with the exact effects", fontsize=8)
    return figure
