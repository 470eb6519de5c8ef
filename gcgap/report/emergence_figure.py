"""The emergence raster: every component's rank difference over training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from sys import intern

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from gcgap.records.record import Record
from gcgap.report.describe import what
from gcgap.report.style import COLOURS, DIVERGING, DPI, LABELS, MARKERS

TITLES = {"exact_match": "C by exact match", "log_prob": "C by log-probability"}
MOST = 40
"""Columns of a raster; of more checkpoints it shows every second, fourth, .. one and the last."""


@dataclass(frozen=True)
class Column:
    """One checkpoint of the raster, small enough to keep thousands in memory.

    Args:
        title: The run and the ablation.
        step: Optimiser step.
        names: Components.
        layers: Layer of each.
        inside: Accuracy in distribution.
        ood: Accuracy at the measured length.
        rho: Rank correlation by metric; NaN where there is none.
        delta: Rank difference of every component by metric; NaN where there are no ranks.
        roles: Role of every component by metric.
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
    def of(cls, record: Record, baseline: str | None = None) -> Column:
        """The column of a record that has components, by its first baseline if none is given."""
        baseline = baseline or record.baselines[0]
        rho = {metric: _gap(record, baseline, metric)["rho"] for metric in TITLES}
        found = {metric: deltas_and_roles([record], baseline, metric) for metric in TITLES}
        return cls(
            f"{what(record, step=False)}, {baseline} ablation",
            record["step"],
            tuple(intern(component["name"]) for component in record["components"]),
            tuple(component["layer"] for component in record["components"]),
            record["accuracy"]["in_distribution"],
            record["accuracy"]["by_length"][str(record["length"])],
            {metric: np.nan if value is None else value for metric, value in rho.items()},
            {metric: delta[:, 0] for metric, (delta, _) in found.items()},
            {metric: roles[:, 0].astype("U7") for metric, (_, roles) in found.items()},
        )


def is_due(checkpoints: int) -> bool:
    """Whether the raster gets a new column at a run's newest checkpoint: at most `MOST`, then half as many per doubling."""
    return (checkpoints - 1) % _stride(checkpoints) == 0


def emergence(checkpoints: Sequence[Record | Column], baseline: str | None = None) -> Figure:
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
    columns = [Column.of(one, baseline) if isinstance(one, Record) else one for one in _thinned(ordered)]
    names = columns[0].names
    figure = Figure(figsize=(max(9.0, 5 + 0.45 * len(columns)), 2.6 + 0.26 * len(names)), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=[1, 0.13 * len(names)], sharex=True)
    image = None
    for place, metric in enumerate(TITLES):
        _curves(axes[0, place], columns, metric)
        image = _raster(axes[1, place], columns, metric)
    axes[0, 1].tick_params(labelleft=False)
    axes[1, 1].tick_params(labelleft=False)
    assert image is not None
    figure.colorbar(image, ax=axes[1, :], shrink=0.8, label="rank difference Δ = rank(G) - rank(C)")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    curve_handles, curve_labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(curve_handles + handles, curve_labels + labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    thinned = f", {len(columns)} of {len(ordered)} checkpoints" if len(columns) < len(ordered) else ""
    figure.suptitle(columns[0].title + thinned, fontsize=11)
    return figure


def _stride(checkpoints: int) -> int:
    """The smallest power of two that leaves at most `MOST` of them."""
    return 1 << max(0, (-(-checkpoints // MOST) - 1).bit_length())


def _thinned(ordered: Sequence[Record | Column]) -> list[Record | Column]:
    """Evenly spread ones, and the last."""
    stride = _stride(len(ordered))
    return [*ordered[:-1:stride], ordered[-1]]


def _curves(axes: Axes, columns: Sequence[Column], metric: str) -> None:
    steps = range(len(columns))
    axes.plot(steps, [one.inside for one in columns], color="black", lw=1.2, label="accuracy in distribution")
    axes.plot(steps, [one.ood for one in columns], color="black", lw=1.2, ls="--", label="accuracy OOD")
    axes.plot(steps, [one.rho[metric] for one in columns], color="#e08214", lw=1.8, marker=".", label="ρ(G, C)")
    axes.axhline(0, color="grey", lw=0.5)
    axes.set(ylim=(-0.6, 1.05), title=TITLES[metric])
    axes.title.set_fontsize(10)
    axes.spines[["top", "right"]].set_visible(False)


def _gap(record: Record, baseline: str, metric: str) -> dict:
    gap = record["gap"][baseline]
    return gap if metric == "exact_match" else gap["by_metric"][metric]


def deltas_and_roles(records: Sequence[Record], baseline: str, metric: str = "exact_match") -> tuple[np.ndarray, np.ndarray]:
    """Rank differences (NaN where there are no ranks) and names of roles of every component and record, (component, record)."""

    def of(record: Record, key: str, what: str) -> list:
        entries = [component[key][baseline] for component in record["components"]]
        return [(entry if metric == "exact_match" else entry["by_metric"][metric])[what] for entry in entries]

    delta = np.array([[np.nan if d is None else d for d in of(record, "delta", "value")] for record in records]).T
    return delta, np.array([of(record, "role", "name") for record in records], dtype=object).T


def _raster(axes: Axes, columns: Sequence[Column], metric: str) -> AxesImage:
    names, layers = columns[0].names, columns[0].layers
    delta, roles = (np.stack([of[metric] for of in each], 1) for each in zip(*((c.delta, c.roles) for c in columns), strict=True))
    axes.set_facecolor("#eeeeee")
    image = axes.imshow(delta, aspect="auto", cmap=DIVERGING, vmin=-len(names), vmax=len(names), interpolation="nearest")
    for role in ("hero", "bloat"):
        rows, at = np.nonzero(roles == role)
        axes.plot(at, rows, MARKERS[role], color="white", mec=COLOURS[role], ms=6, ls="none", label=LABELS[role])
    blank = np.flatnonzero(np.isnan(delta).all(0))
    if len(blank):
        text = "C is constant: there are no ranks"
        runs = np.split(blank, np.flatnonzero(np.diff(blank) > 1) + 1)  # of neighbours
        axes.text(
            max(runs, key=len).mean(),
            len(names) / 2,
            text,
            rotation=90,
            ha="center",
            va="center",
            fontsize=8,
            color="#555555",
            backgroundcolor="#eeeeee",
        )
    for border in np.flatnonzero(np.diff(layers)):
        axes.axhline(border + 0.5, color="black", lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(columns)), [f"{one.step:,}" for one in columns], rotation=90, fontsize=8)
    axes.set_xlabel("optimiser step")
    return image
