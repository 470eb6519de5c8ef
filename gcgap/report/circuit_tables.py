"""Methods on circuits that are known: the table for a terminal, and the section of a report with its heat map.

Takes the plain values of `gcgap.attribution.truth`; imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from rich import box
from rich.console import Group
from rich.markup import escape

from gcgap.attribution.recovery import KIND, SCHEMA, cells, failures
from gcgap.data.strict_text import parsed
from gcgap.records.attribution_record import KNOWN
from gcgap.records.record_file import check_checksum
from gcgap.report.blocks import ALL, Column, Drawing, Section, Table
from gcgap.report.describe import without_ticks
from gcgap.report.panels import DIVERGING, panels
from gcgap.report.whole_table import WholeTable

Truth = Mapping[str, Any]
AREA = "AUC: area under the ROC curve of a method's scores against the true components, 1 is perfect, 0.5 chance."
CLEAR = (
    "Clear AUC: the same if a lead of less than {:.0%} of what ablating everything costs (of the largest score, for weights and "
    "controls) counts as a tie."
)
KEPT = (
    "CPR (larger is better) and CMD (0 is best): the share of the log-probability that the highest-scoring components keep when "
    "all others are ablated together, integrated over the share of components kept; CPR takes them by score, CMD by its size."
)
COST = "Cost: median time, in forward passes."


def known_sections(paths: Iterable[Path]) -> list[Section]:
    """A section for each known.json at or below the paths.

    Raises:
        ValueError: A file of that name holds something else.
    """
    return [_section(read_truth(path)) for path in known_files(paths)]


def known_files(paths: Iterable[Path]) -> list[Path]:
    """Every known.json at or below the paths."""
    below = (sorted(path.rglob(KNOWN)) if path.is_dir() else [path] for path in paths)
    return [path for found in below for path in found if path.name == KNOWN]


def read_truth(path: Path) -> dict[str, Any]:
    """The plain values of a file that `gcgap attribute --known` wrote.

    Raises:
        ValueError: It holds something else, or was changed after it was written.
    """
    try:
        truth = parsed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`{path}` is not a record of known circuits: {error}. Run `gcgap attribute --known` again.") from error
    if not isinstance(truth, dict) or (truth.get("kind"), truth.get("schema")) != (KIND, SCHEMA):
        raise ValueError(f"`{path}` is not a record of known circuits of schema {SCHEMA}. Run `gcgap attribute --known` again.")
    check_checksum(truth, str(path))
    try:
        _section(truth)
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"`{path}` is not a whole record of known circuits ({reason}). Copy it again.") from error
    return truth


def _section(truth: Truth) -> Section:
    caption = "Area under the ROC curve of every method on every known circuit."
    drawing = Drawing("known-auc", caption, ALL, partial(auc_figure, truth))
    return Section("Models whose circuit is known", [truth["verdict"], drawing, summary_table(truth), auc_table(truth)])


def known_table(truth: Truth) -> Group:
    """One row per method, what the columns are, and the sentence."""
    grid = WholeTable(title=_title(truth), box=box.SIMPLE_HEAD, padding=0)
    for heading in ("method", "family"):
        grid.add_column(heading, no_wrap=True)
    for heading in ("AUC", "worst", "clear", "CPR", "CMD", "cost"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("worst on", min_width=14, overflow="fold")
    for name, entry in truth["methods"].items():
        numbers = [entry[key] for key in ("mean_auc", "worst_auc", "worst_clear_auc", "mean_cpr", "mean_cmd")]
        texts = [*(f"{number:.2f}" for number in numbers), f"{entry['forward_equivalents']:.1f}"]
        grid.add_row(escape(name), escape(entry["family"]), *texts, escape(worst(truth, name)))
    which = (
        "AUC, CPR and CMD are means over models and baselines; worst and clear are the smallest AUC and the smallest clear AUC."
    )
    return Group(grid, *map(escape, map(without_ticks, [*_meaning(truth), which, "", truth["verdict"]])))


def summary_table(truth: Truth) -> Table:
    """Mean and worst of every number, and the cost, of each method."""
    methods = truth["methods"]
    names = {"auc": "AUC", "clear_auc": "clear AUC", "cpr": "CPR", "cmd": "CMD"}
    names |= {"cpr_exact_match": "CPR, exact match", "cmd_exact_match": "CMD, exact match"}
    columns = [
        Column("method", list(methods)),
        Column("family", [entry["family"] for entry in methods.values()]),
        *(
            Column(f"{label}, {kind}", [entry[f"{kind}_{key}"] for entry in methods.values()])
            for key, label in names.items()
            for kind in ("mean", "worst")
        ),
        Column("worst AUC on", [worst(truth, name) for name in methods]),
        Column("cost (forward passes)", [entry["forward_equivalents"] for entry in methods.values()], ".1f"),
    ]
    return Table("known-summary", f"{_title(truth)}: in short", ALL, columns, [truth["verdict"], *_meaning(truth)])


def auc_table(truth: Truth) -> Table:
    """The area under the ROC curve of each method on each model under each baseline."""
    methods, places = list(truth["methods"]), _places(truth)
    areas = _areas(truth)
    columns = [Column(f"{name}, {baseline}", areas[:, i].tolist()) for i, (name, baseline) in enumerate(places)]
    notes = [f"{name} ({', '.join(model['circuit'])}): {model['note']}" for name, model in truth["models"].items()]
    title = f"{_title(truth)}: area under the ROC curve"
    return Table("known-auc", title, ALL, [Column("method", methods), *columns], [AREA, *notes])


def auc_figure(truth: Truth) -> Figure:
    """Heat map of the area under the ROC curve, methods against models and baselines: white is chance, deep blue perfect.

    A star marks an area that owes to a lead by a hair.
    """
    methods, places, areas = list(truth["methods"]), _places(truth), _areas(truth)
    stars = areas > _areas(truth, "clear_auc")
    figure, ((axes,),) = panels((3.2 + 0.8 * len(places), 2 + 0.26 * len(methods)))
    image = axes.imshow(areas, cmap=colormaps[DIVERGING].reversed(), vmin=0, vmax=1, aspect="auto")
    for (row, column), area in np.ndenumerate(areas):
        colour = "white" if abs(area - 0.5) > 0.35 else "black"
        axes.text(column, row, f"{area:.2f}{'*' * int(stars[row, column])}", ha="center", va="center", fontsize=8, color=colour)
    labels = ["\n".join((*name.split("_"), baseline)) for name, baseline in places]
    axes.set_xticks(range(len(places)), labels, fontsize=8)
    axes.set_yticks(range(len(methods)), methods, fontsize=8)
    axes.set_xlabel("* smaller if a lead of less than {:.0%} counts as a tie".format(truth["settings"]["hair"]), fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    baselines = len(places) // len(truth["models"])
    for edge in range(baselines, len(places), baselines):
        axes.axvline(edge - 0.5, color="white", lw=3)
    figure.colorbar(image, ax=axes, shrink=0.6, label="area under the ROC curve (0.5 is chance)")
    figure.suptitle(_title(truth), fontsize=11)
    return figure


def worst(truth: Truth, method: str) -> str:
    """The models and baselines on which a method's area is the smallest, or nothing if it is 1 everywhere."""
    lowest = truth["methods"][method]["worst_auc"]
    below = failures(truth["models"], method)
    found = {name: [baseline for baseline, area in areas.items() if area == lowest] for name, areas in below.items()}
    return "; ".join(f"{name} ({', '.join(baselines)})" for name, baselines in found.items() if baselines)


def _places(truth: Truth) -> list[tuple[str, str]]:
    return [(name, baseline) for name, model in truth["models"].items() for baseline in model["baselines"]]


def _areas(truth: Truth, key: str = "auc") -> np.ndarray:
    """Shape (method, place)."""
    return np.array([[one[key] for one in cells(truth["models"], name).values()] for name in truth["methods"]])


def _title(truth: Truth) -> str:
    return f"Methods on {len(truth['models'])} known circuits, {truth['settings']['sequences']} sequences"


def _meaning(truth: Truth) -> list[str]:
    return [AREA, CLEAR.format(truth["settings"]["hair"]), KEPT, COST]
