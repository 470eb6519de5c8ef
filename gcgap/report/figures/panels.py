"""What the figures over seeds share: a panel for each task, and marks for the mean of a number over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.report.plain import counted
from gcgap.report.style import DPI
from gcgap.report.tables.left_out import title
from gcgap.study.groups import Group
from gcgap.study.seeds import Summary

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
