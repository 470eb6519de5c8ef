"""Rank of G against rank of C for all seeds (v3, Figure 6)."""

from __future__ import annotations

from matplotlib.figure import Figure

from gcgap.report.notes import ranked
from gcgap.report.panels import grid
from gcgap.report.scatter import rank_panel
from gcgap.study.groups import Group


def scatters(group: Group, task: str) -> Figure:
    """One panel for each seed, shaded where Heroes (above) and Bloats (below) lie."""
    baseline = group.baselines[0]
    runs = ranked(group, task, baseline)
    figure, panels = grid(len(runs), 5, (1.44, 1.6))
    for panel, run in zip(panels, runs, strict=True):
        rank_panel(panel, run.final, baseline)
        panel.set_title(f"{run.seed}: ρ = {run.final['gap'][baseline]['rho']:.2f}", fontsize=7)
        panel.tick_params(labelsize=5.5, length=2)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("rank of the gradient magnitude G", fontsize=9)
    figure.supylabel("rank of the causal importance C", fontsize=9)
    return figure
