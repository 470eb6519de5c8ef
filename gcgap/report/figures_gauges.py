"""What other gauges of the heads make of every run: rho, and the share of Heroes and Bloats that keep their role."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.report.describe import ranked, title
from gcgap.report.panels import by_task, what_is_drawn, whisker
from gcgap.study.gauge_views import TRAINED, gauge_name, has_gauges
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import CORRELATION, SHARE, Interval, Summary, summary

GREY = "#7f7f7f"
WIDTH = 0.5  # of the place in which the ranges of runs stand side by side; the places of gauges are 1 apart
SCALES = "random\nhead scales"


def gauges(group: Group) -> Figure:
    """rho of every run in every gauge and by random head scales (above), and the share of its roles that stay (below)."""
    figure, axes = by_task(group, (3.7, 2.6), rows=2, sharex=True, sharey="row")
    drawn: list[Summary] = []
    for column, task in enumerate(group.tasks):
        baseline, runs = group.baselines[0], [run for run in ranked(group, task) if has_gauges(run.final)]
        axes[0, column].set_title(f"{title(task)}, {len(runs)} of {len(group.measured(task))} runs", fontsize=10)
        if runs:
            drawn += _rhos(axes[0, column], runs, baseline) + _kept(axes[1, column], runs, baseline)
            names = [TRAINED, *map(gauge_name, runs[0].final["gauges"]["by_gauge"]), SCALES]
            axes[1, column].set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names], fontsize=7)
    axes[0, 0].set_ylabel("Spearman's ρ of G and C", fontsize=9)
    axes[1, 0].set_ylabel("share of Heroes and Bloats\nthat keep their role", fontsize=9)
    axes[1, 0].set_ylim(-0.05, 1.05)
    marks = f"; black: {what_is_drawn(drawn)}" * bool(drawn)
    figure.supxlabel(f"points: runs{marks}; bars: 95 % of the draws of head scales, one bar a run", fontsize=8)
    return figure


def _rhos(panel: Axes, runs: Sequence[MeasuredRun], baseline: str) -> list[Summary]:
    rhos = [[gap[baseline]["rho"] for gap in (run.final["gap"], *(one["gap"] for one in _by_gauge(run)))] for run in runs]
    for at, run in zip(np.linspace(-WIDTH / 2, WIDTH / 2, len(runs)) * (len(runs) > 1), runs, strict=True):
        ends = run.final["gauges"]["random_scales"]["rho"][baseline]
        panel.plot([len(rhos[0]) + at] * 2, ends, color=GREY, lw=1.4)
    panel.axhline(0, color="black", lw=0.6)
    return _points(panel, rhos, 0, CORRELATION)


def _kept(panel: Axes, runs: Sequence[MeasuredRun], baseline: str) -> list[Summary]:
    shares = []
    for run in runs:
        was = [one["role"][baseline]["name"] for one in run.final["components"]]
        named = [i for i, role in enumerate(was) if role != "aligned"]
        if named:
            kept = [[one["role"][baseline][i] == was[i] for i in named] for one in _by_gauge(run)]
            shares.append([*map(float, np.mean(kept, axis=1)), run.final["gauges"]["random_scales"]["roles_kept"][baseline]])
    return _points(panel, shares, 1, SHARE)


def _by_gauge(run: MeasuredRun) -> list[dict[str, Any]]:
    return list(run.final["gauges"]["by_gauge"].values())


def _points(panel: Axes, of_runs: Sequence[Sequence[float]], first: int, within: Interval) -> list[Summary]:
    """Numbers of every run, (run, gauge), joined from gauge to gauge, and their means with intervals beside them."""
    for values in of_runs:
        panel.plot(range(first, first + len(values)), values, "o-", color=GREY, ms=3, lw=0.5, alpha=0.7)
    means = [summary(values, within) for values in zip(*of_runs, strict=True)] if len(of_runs) > 1 else []
    for at, mean in enumerate(means, first):
        whisker(panel, at + 0.2, mean, color="black", ms=4)
    return means
