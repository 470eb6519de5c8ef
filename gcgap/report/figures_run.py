"""Figures of one run: G against C of one record, and the emergence of every component's rank difference over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from gcgap.importance.gap import rank
from gcgap.records.record import Record
from gcgap.report.describe import describe_run
from gcgap.report.named_roles import FEW, named_roles
from gcgap.report.panels import COLOURS, DELTA, DIVERGING, LABELS, MARKERS, layer_borders, legend_below, panels

TITLES = {"exact_match": "C by exact match", "log_prob": "C by log-probability"}
MOST = 40
"""Columns of a raster; of more checkpoints it shows every second, fourth, .. one and the last."""


def scatter(record: Record, baseline: str | None = None) -> Figure:
    """G against C with their intervals (left), and rank against rank with the bands beyond which roles begin (right).

    The ablation baseline is the record's first by default.
    """
    baseline = baseline or record.baselines[0]
    figure, ((values, ranks),) = panels((11, 5), 1, 2)
    gap = record["gap"][baseline]
    rho = f"ρ = {gap['rho']:.2f}" if gap["rho"] is not None else f"no ρ: {gap['reason']}"
    figure.suptitle(f"{describe_run(record)}, {baseline} ablation: {rho}", fontsize=11)
    points = _points(record, baseline)
    if points:
        _values(values, points, record["protocol"]["confidence"])
        _ranks(ranks, points, record["protocol"])
        legend_below(figure, [values], size=9)
    return figure


def _points(record: Record, baseline: str) -> list[dict[str, Any]]:
    """What is drawn of each component; of many only the largest Heroes and Bloats, beyond chance, get their name."""
    named = {name for names in named_roles(record, baseline).values() for name in names}
    return [_point(one, baseline) | {"named": one["name"] in named} for one in record["components"]]


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
        if point["named"]:
            axes.annotate(point["name"], (point["G"], point["C"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.axhline(0, color="black", lw=0.6)
    axes.set_xlabel(f"gradient magnitude G ({confidence:.0%} interval)")
    axes.set_ylabel("causal importance C:\nexact-match drop when ablated (points)")


def rank_panel(axes: Axes, record: Record, baseline: str) -> None:
    """Rank against rank of one record that has components, small enough for a grid of many: only Heroes and Bloats are named."""
    _ranks(axes, _points(record, baseline), record["protocol"], small=True)
    axes.set(xlabel="", ylabel="")


def _ranks(axes: Axes, points: list[dict[str, Any]], protocol: dict[str, Any], small: bool = False) -> None:
    n = len(points)
    rank_g, rank_c = (rank(np.array([point[key] for point in points]), protocol.get("ranks", "average")) for key in ("G", "C"))
    ends, threshold = np.array([0.5, n + 0.5]), protocol["threshold"] * n
    axes.fill_between(ends, ends + threshold, n + 0.5, color=COLOURS["hero"], alpha=0.08, lw=0)
    axes.fill_between([0.5 + threshold, n + 0.5], 0.5, [0.5, n + 0.5 - threshold], color=COLOURS["bloat"], alpha=0.08, lw=0)
    axes.plot(ends, ends, color="black", lw=0.6)
    axes.set(xlim=ends, ylim=ends, xlabel="rank of G", ylabel="rank of C", aspect="equal")
    places = list(zip(points, rank_g, rank_c, strict=True))
    for point, x, y in places:
        axes.plot(x, y, MARKERS[point["role"]], color=COLOURS[point["role"]], ms=3 if small else 7)
        if not small and (n <= FEW or point["named"]):
            axes.annotate(point["name"], (x, y), xytext=(6, -3), textcoords="offset points", fontsize=7)
    if small:
        _name_roles(axes, [(point["name"], x, y) for point, x, y in places if point["named"]])
    ticks = [1, n // 2, n] if small else range(1, n + 1, max(1, n // 10))
    axes.set(xticks=ticks, yticks=ticks)


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


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of the raster, small enough to keep thousands in memory.

    `inside` and `ood` are accuracies. `rho`, and `delta` and `roles` with a value for each component, are by metric, and NaN
    where there are no ranks.
    """

    title: str
    step: int
    names: tuple[str, ...]
    layers: tuple[int, ...]
    inside: float
    ood: float
    rho: Mapping[str, float]
    delta: Mapping[str, np.ndarray]
    roles: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, record: Record, baseline: str | None = None) -> Checkpoint:
        """The column of a record that has components, by its first baseline if none is given."""
        baseline = baseline or record.baselines[0]
        rho = {metric: metric_gap(record, baseline, metric)["rho"] for metric in TITLES}
        found = {metric: deltas_and_roles([record], baseline, metric) for metric in TITLES}
        return cls(
            f"{describe_run(record, step=False)}, {baseline} ablation",
            record["step"],
            tuple(intern(component["name"]) for component in record["components"]),
            tuple(component["layer"] for component in record["components"]),
            record["accuracy"]["in_distribution"],
            record.ood_accuracy,
            {metric: np.nan if value is None else value for metric, value in rho.items()},
            {metric: delta[:, 0] for metric, (delta, _) in found.items()},
            {metric: roles[:, 0].astype("U7") for metric, (_, roles) in found.items()},
        )


def is_due(checkpoints: int) -> bool:
    """Whether the raster gets a new column at a run's newest checkpoint: at most `MOST`, then half as many per doubling."""
    return (checkpoints - 1) % _stride(checkpoints) == 0


def emergence(checkpoints: Sequence[Record | Checkpoint], baseline: str | None = None) -> Figure:
    """Component x step, coloured by the rank difference, with Heroes and Bloats marked; accuracies and rho above it.

    Left by exact match, which is constant (blank) while the model gets no sequence right; right by log-probability. Of more
    than `MOST` checkpoints some are shown, evenly spread, and the last; the title says how many.

    Args:
        checkpoints: Records of one run that have components, or their columns, in any order.
        baseline: Ablation baseline of records; the first one of each by default.

    Raises:
        ValueError: There is no record.
    """
    if not checkpoints:
        raise ValueError("`records` must hold at least one measured checkpoint.")
    ordered = sorted(checkpoints, key=lambda one: one["step"] if isinstance(one, Record) else one.step)
    columns = [Checkpoint.of(one, baseline) if isinstance(one, Record) else one for one in _thinned(ordered)]
    names = columns[0].names
    size = max(9.0, 5 + 0.45 * len(columns)), 2.6 + 0.26 * len(names)
    figure, axes = panels(size, 2, 2, height_ratios=[1, 0.13 * len(names)], sharex=True)
    image = None
    for place, metric in enumerate(TITLES):
        _curves(axes[0, place], columns, metric)
        image = _raster(axes[1, place], columns, metric)
    axes[0, 1].tick_params(labelleft=False)
    axes[1, 1].tick_params(labelleft=False)
    assert image is not None
    figure.colorbar(image, ax=axes[1, :], shrink=0.8, label=DELTA)
    legend_below(figure, axes[:, 0])
    thinned = f", {len(columns)} of {len(ordered)} checkpoints" if len(columns) < len(ordered) else ""
    figure.suptitle(columns[0].title + thinned, fontsize=11)
    return figure


def _stride(checkpoints: int) -> int:
    """The smallest power of two that leaves at most `MOST` of them."""
    return 1 << max(0, (-(-checkpoints // MOST) - 1).bit_length())


def _thinned(ordered: Sequence[Record | Checkpoint]) -> list[Record | Checkpoint]:
    """Evenly spread ones, and the last."""
    stride = _stride(len(ordered))
    return [*ordered[:-1:stride], ordered[-1]]


def _curves(axes: Axes, columns: Sequence[Checkpoint], metric: str) -> None:
    steps = range(len(columns))
    axes.plot(steps, [one.inside for one in columns], color="black", lw=1.2, label="accuracy in distribution")
    axes.plot(steps, [one.ood for one in columns], color="black", lw=1.2, ls="--", label="accuracy OOD")
    axes.plot(steps, [one.rho[metric] for one in columns], color="#e08214", lw=1.8, marker=".", label="ρ(G, C)")
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(ylim=(-0.6, 1.05), title=TITLES[metric])
    axes.title.set_fontsize(10)


def metric_gap(record: Record, baseline: str, metric: str) -> dict[str, Any]:
    """The gap of a record by one metric; by exact match, the paper's, under its own name."""
    gap = record["gap"][baseline]
    return gap if metric == "exact_match" else gap["by_metric"][metric]


def deltas_and_roles(records: Sequence[Record], baseline: str, metric: str = "exact_match") -> tuple[np.ndarray, np.ndarray]:
    """Rank differences (NaN where there are no ranks) and names of roles of every component and record, (component, record)."""

    def of(record: Record, key: str, what: str) -> list:
        entries = [component[key][baseline] for component in record["components"]]
        return [(entry if metric == "exact_match" else entry["by_metric"][metric])[what] for entry in entries]

    delta = np.array([[np.nan if d is None else d for d in of(record, "delta", "value")] for record in records]).T
    return delta, np.array([of(record, "role", "name") for record in records], dtype=object).T


def _raster(axes: Axes, columns: Sequence[Checkpoint], metric: str) -> AxesImage:
    names, layers = columns[0].names, columns[0].layers
    delta, roles = (np.stack([of[metric] for of in each], 1) for each in zip(*((c.delta, c.roles) for c in columns), strict=True))
    axes.set_facecolor("#eeeeee")
    axes.spines[:].set_visible(True)
    image = axes.imshow(delta, aspect="auto", cmap=DIVERGING, vmin=-len(names), vmax=len(names), interpolation="nearest")
    for role in ("hero", "bloat"):
        rows, at = np.nonzero(roles == role)
        axes.plot(at, rows, MARKERS[role], color="white", mec=COLOURS[role], ms=6, ls="none", label=LABELS[role])
    blank = np.flatnonzero(np.isnan(delta).all(0))
    if len(blank):
        stretches = np.split(blank, np.flatnonzero(np.diff(blank) > 1) + 1)  # of neighbours
        middle = max(stretches, key=len).mean(), len(names) / 2
        style = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 8, "color": "#555555", "backgroundcolor": "#eeeeee"}
        axes.text(*middle, "C is constant: there are no ranks", **style)
    layer_borders(axes, layers, color="black", lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(columns)), [f"{one.step:,}" for one in columns], rotation=90, fontsize=8)
    axes.set_xlabel("optimiser step")
    return image
