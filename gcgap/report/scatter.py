"""The scatter: gradient magnitude against causal importance of one record, in values and in ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.importance.gap import rank
from gcgap.records.record import Record
from gcgap.report.describe import what
from gcgap.report.style import COLOURS, DPI, LABELS, MARKERS


def scatter(record: Record, baseline: str | None = None) -> Figure:
    """G against C with their intervals (left), and rank against rank with the bands beyond which roles begin (right).

    Args:
        record: A record.
        baseline: Ablation baseline; the record's first by default.
    """
    baseline = baseline or record.baselines[0]
    figure = Figure(figsize=(11, 5), dpi=DPI, layout="constrained")
    values, ranks = figure.subplots(1, 2)
    figure.suptitle(_title(record, baseline), fontsize=11)
    points = [_point(component, baseline) for component in record["components"]]
    if points:
        _values(values, points, record["protocol"]["confidence"])
        _ranks(ranks, points, record["protocol"])
        handles, labels = values.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    for axes in (values, ranks):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _title(record: Record, baseline: str) -> str:
    gap = record["gap"][baseline]
    rho = f"ρ = {gap['rho']:.2f}" if gap["rho"] is not None else f"no ρ: {gap['reason']}"
    return f"{what(record)}, {baseline} ablation: {rho}"


def _point(component: dict[str, Any], baseline: str) -> dict[str, Any]:
    causal = component["causal"][baseline]["exact_match"]
    role = component["role"][baseline]["name"] or "aligned"
    return {
        "name": component["name"],
        "role": role,
        "G": component["gradient"]["value"],
        "G_ci": component["gradient"]["ci"],
        "C": 100 * causal["value"],
        "C_ci": [100 * end for end in causal["ci"]],
    }


def _values(axes: Axes, points: list[dict[str, Any]], confidence: float) -> None:
    for role, label in LABELS.items():
        chosen = [point for point in points if point["role"] == role]
        G, C = (np.array([point[key] for point in chosen]) for key in ("G", "C"))
        errors = [
            np.abs(np.array([point[f"{key}_ci"] for point in chosen]).reshape(-1, 2).T - value)
            for key, value in (("G", G), ("C", C))
        ]
        axes.errorbar(
            G, C, yerr=errors[1], xerr=errors[0], fmt=MARKERS[role], color=COLOURS[role], ms=7, lw=1, alpha=0.9, label=label
        )
    for point in points:
        if point["role"] != "aligned":
            axes.annotate(point["name"], (point["G"], point["C"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlabel(f"gradient magnitude G ({confidence:.0%} interval)")
    axes.set_ylabel("causal importance C:\nexact-match drop when ablated (points)")


def rank_panel(axes: Axes, record: Record, baseline: str) -> None:
    """Rank against rank of one record, small enough for a grid of many: only Heroes and Bloats are named.

    Args:
        axes: Where to draw.
        record: A record that has components.
        baseline: Ablation baseline.
    """
    _ranks(axes, [_point(component, baseline) for component in record["components"]], record["protocol"], small=True)
    axes.set(xlabel="", ylabel="")


def _ranks(axes: Axes, points: list[dict[str, Any]], protocol: dict[str, Any], small: bool = False) -> None:
    n = len(points)
    rank_g, rank_c = (rank(np.array([point[key] for point in points]), protocol.get("ranks", "average")) for key in ("G", "C"))
    ends, cut = np.array([0.5, n + 0.5]), protocol["threshold"] * n
    axes.fill_between(ends, ends + cut, n + 0.5, color=COLOURS["hero"], alpha=0.08, lw=0)
    axes.fill_between([0.5 + cut, n + 0.5], 0.5, [0.5, n + 0.5 - cut], color=COLOURS["bloat"], alpha=0.08, lw=0)
    axes.plot(ends, ends, color="black", lw=0.6)
    axes.set(xlim=ends, ylim=ends, xlabel="rank of G", ylabel="rank of C", aspect="equal")
    for point, x, y in zip(points, rank_g, rank_c, strict=True):
        axes.plot(x, y, MARKERS[point["role"]], color=COLOURS[point["role"]], ms=3 if small else 7)
        if not small:
            axes.annotate(point["name"], (x, y), xytext=(6, -3), textcoords="offset points", fontsize=7)
    if small:
        _name_roles(
            axes,
            [(point["name"], x, y) for point, x, y in zip(points, rank_g, rank_c, strict=True) if point["role"] != "aligned"],
        )
    axes.set(xticks=range(1, n + 1, max(1, n // 10)), yticks=range(1, n + 1, max(1, n // 10)))
    if small:
        axes.set(xticks=[1, n // 2, n], yticks=[1, n // 2, n])


def _name_roles(axes: Axes, named: list[tuple[str, float, float]]) -> None:
    """Names of the points beside them, each at the first place where no other name or named point is."""
    taken = [(x, y) for _, x, y in named]
    last = axes.get_xlim()[1]
    for name, x, y in named:
        places = [(x + 3.3, y, "left"), (x - 3.3, y, "right"), (x, y + 1.3, "center"), (x, y - 1.3, "center")]
        free = [
            place for place in places if all(abs(place[0] - a) > 3 or abs(place[1] - b) > 1 for a, b in taken if (a, b) != (x, y))
        ]
        inside = [place for place in free or places if place[0] < last - 2] or places[1:2]
        at_x, at_y, side = inside[0]
        taken.append((at_x, at_y))
        start = {"left": x + 0.7, "right": x - 0.7, "center": x}[side]
        axes.annotate(name, (start, at_y), ha=side, va="center", fontsize=4.5)
