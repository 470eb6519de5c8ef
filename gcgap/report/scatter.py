"""The scatter: gradient magnitude against causal importance of one record, in values and in ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.gap import rank
from gcgap.records import Record
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
    step = "" if record["step"] is None else f", step {record['step']:,}"
    return f"{record['task']}, seed {record['seed']}{step}, length {record['length']}, {baseline} ablation: {rho}"


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


def _ranks(axes: Axes, points: list[dict[str, Any]], protocol: dict[str, Any]) -> None:
    n = len(points)
    rank_g, rank_c = (rank(np.array([point[key] for point in points]), protocol.get("ranks", "average")) for key in ("G", "C"))
    ends, cut = np.array([0.5, n + 0.5]), protocol["threshold"] * n
    axes.fill_between(ends, ends + cut, n + 0.5, color=COLOURS["hero"], alpha=0.08, lw=0)
    axes.fill_between([0.5 + cut, n + 0.5], 0.5, [0.5, n + 0.5 - cut], color=COLOURS["bloat"], alpha=0.08, lw=0)
    axes.plot(ends, ends, color="black", lw=0.6)
    for point, x, y in zip(points, rank_g, rank_c, strict=True):
        axes.plot(x, y, MARKERS[point["role"]], color=COLOURS[point["role"]], ms=7)
        axes.annotate(point["name"], (x, y), xytext=(6, -3), textcoords="offset points", fontsize=7)
    axes.set(xlim=ends, ylim=ends, xlabel="rank of G", ylabel="rank of C", aspect="equal")
    axes.set(xticks=range(1, n + 1, max(1, n // 10)), yticks=range(1, n + 1, max(1, n // 10)))
