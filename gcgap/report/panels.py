"""What the figures over seeds share: a panel for each task, and marks for the mean of a number over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.report.notes import title
from gcgap.report.style import DPI
from gcgap.report.wording import counted
from gcgap.study.groups import Group
from gcgap.study.seeds import CONFIDENCE, Summary, summary

WIDE, HIGH = 7.5, 3.0
"""Inches that legends, labels and colour bars need, however few panels there are."""
PAPER: dict[str, Any] = {"marker": "D", "mfc": "white", "mec": "#6a4a00", "ls": "none", "ms": 6}
"""How a published number is marked."""


def by_task(group: Group, size: tuple[float, float], rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a column of panels of a size (inches) for each task, reversal left and sorting right as in the paper."""
    columns = len(group.tasks)
    figure = Figure(figsize=(max(WIDE, size[0] * columns), size[1] * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for column, task in enumerate(group.tasks):
        axes[0, column].set_title(f"{title(task)}, {counted(len(group.measured(task)), 'seed')}", fontsize=10)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    return figure, axes


def pooled(entries: Sequence[Mapping[str, Any]]) -> Summary:
    """The mean of a number over seeds; of a single seed its value with the interval that its record has."""
    if len(entries) != 1:
        return summary([entry["value"] for entry in entries])
    low_high = entries[0].get("ci")
    return Summary(1, entries[0]["value"], ci=low_high and (low_high[0], low_high[1]))


def what_is_drawn(found: Iterable[Summary], confidence: float = CONFIDENCE) -> str:
    """Which means and which intervals the marks show: `mean over seeds, 95 % interval`.

    Args:
        found: What is drawn; no interval is named where none is.
        confidence: Of the intervals in records, which stand at a single seed.
    """
    marks = [one for one in found if one.mean is not None]
    told = []
    for name, level, of in (
        ("mean over seeds", CONFIDENCE, [one for one in marks if one.n > 1]),
        ("one seed", confidence, [one for one in marks if one.n == 1]),
    ):
        told += [name + f", {share(level)} interval" * any(one.ci for one in of)] * bool(of)
    return "; ".join(told)


def share(confidence: float) -> str:
    """`95 %`."""
    return f"{100 * confidence:g} %"


def whisker(axes: Axes, at: float, found: Summary, horizontal: bool = False, **style: Any) -> None:
    """The mean of a number over seeds with its interval."""
    if found.mean is None:
        return
    reach = found.ci and [[max(0.0, found.mean - found.ci[0])], [max(0.0, found.ci[1] - found.mean)]]
    style = {"fmt": "o", "ms": 5, "lw": 1.2, "capsize": 3} | style
    if horizontal:
        axes.errorbar([found.mean], [at], xerr=reach, **style)
    else:
        axes.errorbar([at], [found.mean], yerr=reach, **style)


def shifts(number: int, width: float = 0.6) -> Sequence[float]:
    """Offsets that spread so many points over a width around 0."""
    return np.linspace(-width / 2, width / 2, number).tolist() if number > 1 else [0.0]


def grid(number: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of a size (inches), and those panels; fewer than fill a row are wider."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(max(WIDE, size[0] * columns), max(HIGH, size[1] * rows)), dpi=DPI, layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in every[number:]:
        spare.remove()
    return figure, every[:number]
