"""Rank differences over seeds: their mean per component (v3, Figure 1), and every seed with its interval."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from gcgap.importance.gap import ROLES, is_role
from gcgap.report.notes import ranked
from gcgap.report.panels import by_task, pooled, share, shifts, what_is_drawn, whisker
from gcgap.report.style import COLOURS, LABELS
from gcgap.report.table_layers import cut
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import Summary, summary

LABEL = "rank difference Δ = rank(G) - rank(C)"


def mean_ranks(group: Group) -> Figure:
    """Mean rank difference per component with the lines beyond which roles begin."""
    figure, axes = by_task(group, (3.6, 3.6), sharey=True)
    limit, drawn = cut(group, group.settings["threshold"]), list[Summary]()
    for panel, task in zip(axes[0], group.tasks, strict=True):
        runs = ranked(group, task, group.baselines[0])
        deltas = _deltas(runs, group.baselines[0])
        for at, values in enumerate(deltas.values()):
            drawn.append(found := pooled(values))
            colour = COLOURS[_role(found, limit, group.settings["strict"])]
            panel.bar(at, found.mean, width=0.75, color=colour, alpha=0.55)
            whisker(panel, at, found, color=colour, ms=3)
        _lines(panel, limit)
        panel.set_xticks(range(len(deltas)), list(deltas), rotation=90, fontsize=7)
    axes[0, 0].set_ylabel(f"{LABEL}\n({what_is_drawn(drawn, group.settings['confidence'])})", fontsize=9)
    _legend(figure)
    return figure


def intervals(group: Group, task: str) -> Figure:
    """Rank difference of every component in every seed with its bootstrap interval, and the mean over seeds with its own."""
    baseline = group.baselines[0]
    found = _deltas(ranked(group, task, baseline), baseline)
    figure = Figure(figsize=(6.5, 1.4 + 0.33 * max(len(found), 3)), layout="constrained")
    axes = figure.subplots()
    limit = cut(group, group.settings["threshold"])
    for row, values in enumerate(found.values()):
        whole = summary([entry["value"] for entry in values])
        for entry, shift in zip(values, shifts(len(values), 0.55), strict=True):
            colour = COLOURS[entry["role"]]
            axes.plot(entry["ci"] or (), [row + shift] * 2 * bool(entry["ci"]), color=colour, lw=0.7, alpha=0.6)
            axes.plot(entry["value"], row + shift, "o", color=colour, ms=2.5)
        if whole.n > 1:
            whisker(axes, row, whole, horizontal=True, color="black", fmt="|", ms=9, lw=1.6, capsize=0)
    for line in (-limit, 0, limit):
        axes.axvline(line, color="black", lw=0.8, ls="--" if line else "-", zorder=0)
    for border in np.flatnonzero(np.diff([values[0]["layer"] for values in found.values()])):
        axes.axhline(border + 0.5, color="#bbbbbb", lw=0.6)
    axes.set_yticks(range(len(found)), list(found), fontsize=8)
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.set_xlabel(f"{LABEL}\n{_marks(group, list(found.values()))}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="x", labelsize=8)
    _legend(figure)
    return figure


def _marks(group: Group, entries: list[list[dict[str, Any]]]) -> str:
    """What points and black marks are, with the intervals that there are."""
    own = f", {share(group.settings['confidence'])} bootstrap interval" * any(one["ci"] for values in entries for one in values)
    whole = [found for values in entries if (found := summary([one["value"] for one in values])).n > 1]
    return f"points: one seed{own}" + f"; black: {what_is_drawn(whole)}" * bool(whole)


def _deltas(runs: list[MeasuredRun], baseline: str) -> dict[str, list[dict[str, Any]]]:
    """Rank difference, its interval and role in every run, by component."""
    names = [component["name"] for component in runs[0].final["components"]] if runs else []
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for run in runs:
        for one in run.final["components"]:
            entry = one["delta"][baseline] | {"role": one["role"][baseline]["name"], "layer": one["layer"]}
            found[one["name"]].append(entry)
    return found


def _role(found: Summary, limit: float, strict: bool) -> str:
    roles = is_role(np.array([found.mean]), limit, strict)
    return next(role for role in ROLES if roles[role][0])


def _lines(panel: Any, limit: float) -> None:
    for line in (-limit, limit):
        panel.axhline(line, color="black", lw=0.8, ls="--")
    panel.axhline(0, color="black", lw=0.8)


def _legend(figure: Figure) -> None:
    handles = [Patch(color=COLOURS[role], label=LABELS[role]) for role in ROLES]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
