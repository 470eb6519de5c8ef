"""The emergence raster: every component's rank difference over training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from gcgap.records import Record
from gcgap.report.style import COLOURS, DIVERGING, DPI, LABELS, MARKERS
from gcgap.report.what import what

TITLES = {"exact_match": "C by exact match", "log_prob": "C by log-probability"}


def emergence(records: Sequence[Record], baseline: str | None = None) -> Figure:
    """Component x step, coloured by the rank difference, with Heroes and Bloats marked; accuracies and rho above it.

    Left by exact match, which is constant (blank) while the model gets no sequence right; right by log-probability.

    Args:
        records: Records of one run that have components, in any order.
        baseline: Ablation baseline; the first one of the records by default.

    Raises:
        ValueError: There is no record.
    """
    records = sorted(records, key=lambda record: record["step"])
    if not records:
        raise ValueError("`records` must hold at least one measured checkpoint.")
    baseline = baseline or records[0].baselines[0]
    names = [component["name"] for component in records[0]["components"]]
    figure = Figure(figsize=(max(9.0, 5 + 0.45 * len(records)), 2.6 + 0.26 * len(names)), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=[1, 0.13 * len(names)], sharex=True)
    image = None
    for column, metric in enumerate(TITLES):
        _curves(axes[0, column], records, baseline, metric)
        image = _raster(axes[1, column], records, baseline, metric, names)
    axes[0, 1].tick_params(labelleft=False)
    axes[1, 1].tick_params(labelleft=False)
    assert image is not None
    figure.colorbar(image, ax=axes[1, :], shrink=0.8, label="rank difference Δ = rank(G) - rank(C)")
    handles, labels = axes[1, 0].get_legend_handles_labels()
    curve_handles, curve_labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(curve_handles + handles, curve_labels + labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(f"{what(records[0], step=False)}, {baseline} ablation", fontsize=11)
    return figure


def _curves(axes: Axes, records: Sequence[Record], baseline: str, metric: str) -> None:
    steps = range(len(records))
    ood = [record["accuracy"]["by_length"][str(record["length"])] for record in records]
    rho = [_gap(record, baseline, metric)["rho"] for record in records]
    axes.plot(
        steps,
        [record["accuracy"]["in_distribution"] for record in records],
        color="black",
        lw=1.2,
        label="accuracy in distribution",
    )
    axes.plot(steps, ood, color="black", lw=1.2, ls="--", label="accuracy OOD")
    axes.plot(steps, [np.nan if value is None else value for value in rho], color="#e08214", lw=1.8, marker=".", label="ρ(G, C)")
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


def _raster(axes: Axes, records: Sequence[Record], baseline: str, metric: str, names: list[str]) -> AxesImage:
    delta, roles = deltas_and_roles(records, baseline, metric)
    axes.set_facecolor("#eeeeee")
    image = axes.imshow(delta, aspect="auto", cmap=DIVERGING, vmin=-len(names), vmax=len(names), interpolation="nearest")
    for role in ("hero", "bloat"):
        rows, columns = np.nonzero(roles == role)
        axes.plot(columns, rows, MARKERS[role], color="white", mec=COLOURS[role], ms=6, ls="none", label=LABELS[role])
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
    layers = [component["layer"] for component in records[0]["components"]]
    for border in np.flatnonzero(np.diff(layers)):
        axes.axhline(border + 0.5, color="black", lw=0.8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_xticks(range(len(records)), [f"{record['step']:,}" for record in records], rotation=90, fontsize=8)
    axes.set_xlabel("optimiser step")
    return image
