"""The look that all figures share: colours and markers, panels, legends, and marks for the mean of a number over seeds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

from gcgap.report.describe import pluralise, title, without_ticks
from gcgap.study.groups import Group
from gcgap.study.seeds import CONFIDENCE, Interval, Summary, summary

COLOURS = {"hero": "#2166ac", "bloat": "#b2182b", "aligned": "#7f7f7f"}
MARKERS = {"hero": "^", "bloat": "v", "aligned": "o"}
LABELS = {
    "hero": "Hidden Hero (low gradient, essential)",
    "bloat": "Gradient Bloat (high gradient, dispensable)",
    "aligned": "aligned",
}
DIVERGING = "RdBu_r"  # blue where the rank difference is negative (Heroes), red where it is positive (Bloats)
DELTA = "rank difference Δ = rank(G) - rank(C)"
DPI = 110
WIDE, HIGH = 7.5, 3.0
"""Inches that legends, labels and colour bars need, however few panels there are."""
PAPER: dict[str, Any] = {"marker": "D", "mfc": "white", "mec": "#6a4a00", "ls": "none", "ms": 6}
"""How a published number is marked."""
TRUSTED = re.compile(r"\$\\mathdefault\{[^$]*\}\$|[^$]*\$W_V\$[^$]*")  # ticks of logarithmic axes, and a label of this project


def panels(size: tuple[float, float], rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure of a size (inches) and its axes, shape (rows, columns), open to the top and the right."""
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, axes


def by_task(group: Group, size: tuple[float, float], rows: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """A figure with a column of panels of a size (inches) for each task, reversal left and sorting right as in the paper."""
    columns = len(group.tasks)
    figure, axes = panels((max(WIDE, size[0] * columns), size[1] * rows), rows, columns, **options)
    for column, task in enumerate(group.tasks):
        axes[0, column].set_title(f"{title(task)}, {pluralise(len(group.measured(task)), 'seed')}", fontsize=10)
    for panel in axes.flat:
        panel.tick_params(labelsize=8)
    return figure, axes


def grid(number: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with so many panels of a size (inches), and those panels; fewer than fill a row are wider."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure, axes = panels((max(WIDE, size[0] * columns), max(HIGH, size[1] * rows)), rows, columns)
    for spare in axes.flat[number:]:
        spare.remove()
    return figure, axes.ravel().tolist()[:number]


def legend_below(figure: Figure, axes: Iterable[Axes], columns: int = 3, size: int = 8) -> None:
    """One legend for all of these axes, each label once."""
    found = {label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=size, frameon=False)


def layer_borders(axes: Axes, layers: Sequence[int], **style: Any) -> None:
    """Lines between the rows of different layers."""
    for border in np.flatnonzero(np.diff(layers)):
        axes.axhline(border + 0.5, **style)


def pooled(entries: Sequence[Mapping[str, Any]], within: Interval | None = None) -> Summary:
    """The mean of a number over seeds, in its range; of a single seed its value with the interval that its record has."""
    if len(entries) != 1:
        return summary([entry["value"] for entry in entries], within)
    low_high = entries[0].get("ci")
    return Summary(1, entries[0]["value"], ci=low_high and (low_high[0], low_high[1]))


def what_is_drawn(found: Iterable[Summary], confidence: float = CONFIDENCE) -> str:
    """Which means the marks show, and which intervals where there are any: `mean over seeds, 95 % interval`.

    `confidence` is that of the intervals in records, which are drawn at a single seed.
    """
    marks = [one for one in found if one.mean is not None]
    many, single = [one for one in marks if one.n > 1], [one for one in marks if one.n == 1]
    texts = []
    for name, level, of in (("mean over seeds", CONFIDENCE, many), ("one seed", confidence, single)):
        if of:
            texts.append(name + f", {percent(level)} interval" * any(one.ci for one in of))
    return "; ".join(texts)


def percent(confidence: float) -> str:
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


def plain_figure(figure: Figure) -> Figure:
    """The figure, in which a dollar sign is no mathematics and a backtick no sign: names that others wrote are text."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), FixedLocator):
            names = [text.get_text() for text in axis.get_ticklabels()]
            if any("`" in name for name in names):  # such labels are set anew at every draw
                axis.set_ticklabels([without_ticks(name) for name in names])
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "`" in text.get_text():
            text.set_text(without_ticks(text.get_text()))
        if isinstance(text, Text) and text.get_text() and not TRUSTED.fullmatch(text.get_text()):  # ticks get theirs when drawn
            text.set_parse_math(False)
    return figure
