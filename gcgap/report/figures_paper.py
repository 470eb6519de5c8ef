"""The paper's figures: rank differences (v3, Figure 1), roles and gradients by layer (2 to 4), ranks (6); the four cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gcgap.importance.gap import ROLES, is_role
from gcgap.report.describe import ranked, title
from gcgap.report.figures_run import rank_panel
from gcgap.report.panels import (
    COLOURS,
    DELTA,
    LABELS,
    PAPER,
    by_task,
    grid,
    layer_borders,
    legend_below,
    panels,
    percent,
    pooled,
    what_is_drawn,
    whisker,
)
from gcgap.report.tables_groups import cell_tasks, places
from gcgap.report.tables_paper import SHARES, head_counts, layer_gradients, published_counts, role_threshold
from gcgap.study.claims import figure as published_figure
from gcgap.study.claims import seeds
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import CORRELATION, Summary, summary


def mean_ranks(group: Group) -> Figure:
    """Mean rank difference per component with the lines beyond which roles begin."""
    figure, axes = by_task(group, (3.6, 3.6), sharey=True)
    limit, drawn = role_threshold(group, group.settings["threshold"]), list[Summary]()
    for panel, task in zip(axes[0], group.tasks, strict=True):
        deltas = _deltas(ranked(group, task), group.baselines[0])
        for at, values in enumerate(deltas.values()):
            drawn.append(found := pooled(values))
            roles = is_role(np.array([found.mean]), limit, group.settings["strict"])
            colour = COLOURS[next(role for role in ROLES if roles[role][0])]
            panel.bar(at, found.mean, width=0.75, color=colour, alpha=0.55)
            whisker(panel, at, found, color=colour, ms=3)
        for line in (-limit, limit):
            panel.axhline(line, color="black", lw=0.8, ls="--")
        panel.axhline(0, color="black", lw=0.8)
        panel.set_xticks(range(len(deltas)), list(deltas), rotation=90, fontsize=7)
    axes[0, 0].set_ylabel(f"{DELTA}\n({what_is_drawn(drawn, group.settings['confidence'])})", fontsize=9)
    _role_legend(figure)
    return figure


def intervals(group: Group, task: str) -> Figure:
    """Rank difference of every component in every seed with its bootstrap interval, and the mean over seeds with its own."""
    found = _deltas(ranked(group, task), group.baselines[0])
    figure, ((axes,),) = panels((6.5, 1.4 + 0.33 * max(len(found), 3)))
    limit = role_threshold(group, group.settings["threshold"])
    means = [summary([entry["value"] for entry in values]) for values in found.values()]
    for row, (values, mean) in enumerate(zip(found.values(), means, strict=True)):
        spread = np.linspace(-0.275, 0.275, len(values)) if len(values) > 1 else [0.0]
        for entry, shift in zip(values, spread, strict=True):
            colour = COLOURS[entry["role"]]
            axes.plot(entry["ci"] or (), [row + shift] * 2 * bool(entry["ci"]), color=colour, lw=0.7, alpha=0.6)
            axes.plot(entry["value"], row + shift, "o", color=colour, ms=2.5)
        if mean.n > 1:
            whisker(axes, row, mean, horizontal=True, color="black", fmt="|", ms=9, lw=1.6, capsize=0)
    for line in (-limit, 0, limit):
        axes.axvline(line, color="black", lw=0.8, ls="--" if line else "-", zorder=0)
    layer_borders(axes, [values[0]["layer"] for values in found.values()], color="#bbbbbb", lw=0.6)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)
    own = any(entry["ci"] for values in found.values() for entry in values)
    marks = "points: one seed" + f", {percent(group.settings['confidence'])} bootstrap interval" * own
    if several := [mean for mean in means if mean.n > 1]:
        marks += f"; black: {what_is_drawn(several)}"
    axes.set_xlabel(f"{DELTA}\n{marks}", fontsize=9)
    axes.tick_params(axis="x", labelsize=8)
    _role_legend(figure)
    return figure


def _deltas(runs: list[MeasuredRun], baseline: str) -> dict[str, list[dict[str, Any]]]:
    """Rank difference, its interval and role in every run, by component."""
    found: dict[str, list[dict[str, Any]]] = {}
    for one in (one for run in runs for one in run.final["components"]):
        entry = one["delta"][baseline] | {"role": one["role"][baseline]["name"], "layer": one["layer"]}
        found.setdefault(one["name"], []).append(entry)
    return found


def _role_legend(figure: Figure) -> None:
    handles = [Patch(color=COLOURS[role], label=LABELS[role]) for role in ROLES]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def counts(group: Group) -> Figure:
    """Hero and Bloat heads per layer and seed at the protocol's threshold."""
    figure, axes = by_task(group, (3.4, 3), sharey=True)
    axes[0, 0].set_ylabel("heads per seed", fontsize=9)
    for panel, task in zip(axes[0], group.tasks, strict=True):
        _counts(panel, group, task, group.settings["threshold"])
    return _of_layers(figure, axes)


def thresholds(group: Group) -> Figure:
    """Hero and Bloat heads per layer and seed at three thresholds."""
    figure, axes = by_task(group, (3.4, 1.9), rows=len(SHARES), sharex=True, sharey=True)
    for row, share in zip(axes, SHARES, strict=True):
        row[0].set_ylabel(f"heads at ±{role_threshold(group, share):g},\nper seed", fontsize=9)
        for panel, task in zip(row, group.tasks, strict=True):
            _counts(panel, group, task, share)
    return _of_layers(figure, axes)


def gradients(group: Group) -> Figure:
    """Mean gradient norm of the heads per layer, with every seed."""
    figure, axes = by_task(group, (3.4, 3))
    layers = range(group.settings["n_layers"])
    for panel, task in zip(axes[0], group.tasks, strict=True):
        ours = layer_gradients(group, task)
        for layer, found in zip(layers, ours, strict=True):
            whisker(panel, layer, found, color="black", label=None if layer else f"gcgap: {what_is_drawn(ours)}")
        theirs = published_figure(group, "v3", f"mean_gradient_norm_by_layer_{task}")
        if theirs:
            panel.plot([layer + 0.15 for layer in layers], theirs, label="paper", **PAPER)
        panel.set(xticks=layers, ylim=(0, None))
    axes[0, 0].set_ylabel("gradient norm of a head's $W_V$\n(not divided by √N)", fontsize=9)
    return _of_layers(figure, axes)


def _counts(panel: Axes, group: Group, task: str, share: float) -> None:
    layers, published = np.arange(group.settings["n_layers"]), published_counts(group, task, share)
    ours = head_counts(group, task, share)
    for label, role, shift in (("heroes", "hero", -0.2), ("bloats", "bloat", 0.2)):
        heights = ours[label] or [0] * len(layers)  # no run, no bars
        panel.bar(layers + shift, heights, width=0.38, color=COLOURS[role], label=f"{label.capitalize()}, gcgap")
        if theirs := published[label]:
            panel.plot(layers + shift, theirs, label=f"paper: mean over {seeds('v3', task)} seeds", clip_on=False, **PAPER)
    panel.set_xticks(layers)
    panel.margins(y=0.1)


def _of_layers(figure: Figure, axes: np.ndarray) -> Figure:
    for panel in axes[-1]:
        panel.set_xlabel("layer", fontsize=9)
    legend_below(figure, axes.flat)
    return figure


def scatters(group: Group, task: str) -> Figure:
    """Rank of G against rank of C: one panel for each seed, shaded where Heroes (above) and Bloats (below) lie."""
    baseline, runs = group.baselines[0], ranked(group, task)
    figure, axes = grid(len(runs), 5, (1.44, 1.6))
    for panel, run in zip(axes, runs, strict=True):
        rank_panel(panel, run.final, baseline)
        panel.set_title(f"{run.seed}: ρ = {run.final['gap'][baseline]['rho']:.2f}", fontsize=7)
        panel.tick_params(labelsize=5.5, length=2)
    figure.supxlabel("rank of the gradient magnitude G", fontsize=9)
    figure.supylabel("rank of the causal importance C", fontsize=9)
    return figure


def cells(groups: Sequence[Group]) -> Figure:
    """ρ of every seed in every cell {layout} x {site}, seeds joined within a layout, and the mean with its interval."""
    found = places(groups)
    tasks, drawn = cell_tasks(found), list[Summary]()
    figure, axes = panels((3.7 * len(tasks), 3.5), 1, len(tasks), sharey=True)
    for panel, task in zip(axes[0], tasks, strict=True):
        rhos = [place.rhos(task) for place in found]
        for at, values in enumerate(rhos):
            panel.plot([at] * len(values), list(values.values()), "o", color="#7f7f7f", ms=3.5, alpha=0.7)
            if len(values) > 1:
                drawn.append(mean := summary(list(values.values()), CORRELATION))
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
        panel.set_xlabel("layout of training (above), site of ablation (below)", fontsize=8)
    marks = f"; black: {what_is_drawn(drawn)}" * bool(drawn)
    axes[0, 0].set_ylabel(f"Spearman's ρ of G and C\n(points: seeds{marks})", fontsize=8)
    return figure
