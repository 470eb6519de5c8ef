"""The paper's figures by layer: Hero and Bloat heads (v3, Figures 2 and 3) and gradient norms (Figure 4)."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.report.panels import PAPER, by_task, what_is_drawn, whisker
from gcgap.report.style import COLOURS
from gcgap.report.table_layers import SHARES, cut, head_counts, published_counts
from gcgap.report.table_protocol import layer_gradients
from gcgap.study.groups import Group
from gcgap.study.published import figure as published_figure
from gcgap.study.published import seeds

PLURAL = {"hero": "heroes", "bloat": "bloats"}


def counts(group: Group) -> Figure:
    """Hero and Bloat heads per layer and seed at the protocol's threshold."""
    figure, axes = by_task(group, (3.4, 3), sharey=True)
    for panel, task in zip(axes[0], group.tasks, strict=True):
        _counts(panel, group, task, group.settings["threshold"])
        panel.set_xlabel("layer", fontsize=9)
    axes[0, 0].set_ylabel("heads per seed", fontsize=9)
    _legend(figure, axes[0])
    return figure


def thresholds(group: Group) -> Figure:
    """Hero and Bloat heads per layer and seed at three thresholds."""
    figure, axes = by_task(group, (3.4, 1.9), rows=len(SHARES), sharex=True, sharey=True)
    for row, share in zip(axes, SHARES, strict=True):
        row[0].set_ylabel(f"heads at ±{cut(group, share):g},\nper seed", fontsize=9)
        for panel, task in zip(row, group.tasks, strict=True):
            _counts(panel, group, task, share)
    for panel in axes[-1]:
        panel.set_xlabel("layer", fontsize=9)
    _legend(figure, axes.ravel())
    return figure


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
        panel.set_xlabel("layer", fontsize=9)
    axes[0, 0].set_ylabel("gradient norm of a head's $W_V$\n(not divided by √N)", fontsize=9)
    _legend(figure, axes[0])
    return figure


def _counts(panel: Axes, group: Group, task: str, share: float) -> None:
    baseline = group.baselines[0]
    ours = head_counts(group, task, baseline, share)
    layers = np.arange(group.settings["n_layers"])
    for (role, values), shift in zip(ours.items(), (-0.2, 0.2), strict=True):
        panel.bar(layers + shift, values, width=0.38, color=COLOURS[role], label=f"{PLURAL[role].capitalize()}, gcgap")
        theirs = published_counts(group, task, cut(group, share), PLURAL[role]) if baseline == "mean" else None
        if theirs:
            panel.plot(layers + shift, theirs, label=f"paper: mean over {seeds('v3', task)} seeds", clip_on=False, **PAPER)
    panel.set_xticks(layers)
    panel.margins(y=0.1)


def _legend(figure: Figure, panels: np.ndarray) -> None:
    found = {label: handle for panel in panels for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
