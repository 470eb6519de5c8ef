"""The score of every component by every method in one attribution record: heat maps of layer x head, with the MLPs beside."""

from __future__ import annotations

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from gcgap.importance.gap import Array
from gcgap.importance.protocol import Metric
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.describe import describe_run
from gcgap.report.panels import DIVERGING, grid

COLUMNS = 6  # panels in a row
SATURATED = 0.98  # share of the components whose colours differ; the few largest beyond it all have the darkest one
HEAD, LAYER = 0.17, 0.13  # inches of a cell


def scores_by_place(record: AttributionRecord) -> Figure:
    """The exact effects, then every method's scores, each in a scale of its own, which its title has.

    Where query heads share their values and a method scores them alike, each group of heads is one cell.
    """
    metric = record["protocol"]["attribution"]["metric"]
    effects = [one["exact"][metric]["value"] for one in record["components"]]
    found = {f"exact effect ({Metric(metric).unit})": np.array(effects)}
    for method in record["methods"]:
        found[method] = np.array([one["scores"][method]["value"] for one in record["components"]])
    places = _places(record)
    layers, columns = places.max(0) + 1
    size = max(1.9, HEAD * columns + 0.8), max(1.6, LAYER * layers + 0.9)
    figure, every = grid(len(found), COLUMNS, size)
    for panel, (name, values) in zip(every, found.items(), strict=True):
        scale = float(np.quantile(np.abs(values), SATURATED)) or float(np.abs(values).max()) or 1.0
        cells = np.full((layers, columns), np.nan)
        cells[tuple(places.T)] = values / scale
        panel.imshow(cells, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        heads = columns - 2
        group = _shared(record, places, values)
        ticks = range(0, heads, max(group, -(-heads // 6)))
        panel.set_xticks([*ticks, columns - 1], [*map(str, ticks), "MLP"])
        panel.set_yticks(range(0, layers, -(-layers // 10)))
        panel.tick_params(labelsize=6)
        together = f", one value for {group} heads" if group > 1 else ""
        panel.set_title(f"{name}\n±{scale:.2g}{together}", fontsize=7)
        for border in range(group, heads, group) if group > 1 else ():
            panel.axvline(border - 0.5, color="0.6", lw=0.4)
    figure.supxlabel("head", fontsize=8)
    figure.supylabel("layer", fontsize=8)
    bar = figure.colorbar(ScalarMappable(Normalize(-1, 1), DIVERGING), ax=every, extend="both", shrink=0.6, fraction=0.02)
    bar.set_label("share of the panel's scale", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    setup = record["setup"]
    figure.suptitle(f"{describe_run(record)}, {setup['baseline']}, {setup['direction']}", fontsize=10)
    return figure


def _places(record: AttributionRecord) -> Array:
    """Row and column of every component, (component, 2): heads from the left, then a gap, then the MLP."""
    seen: dict[int, int] = {}
    rows, mlps = [], []
    for one in record["components"]:
        mlps.append(one["kind"] == "mlp")
        place = 0 if mlps[-1] else seen.setdefault(one["layer"], 0)
        rows.append([one["layer"], place])
        if not mlps[-1]:
            seen[one["layer"]] += 1
    places = np.array(rows)
    places[mlps, 1] = max(seen.values(), default=0) + 1
    return places


def _shared(record: AttributionRecord, places: Array, values: Array) -> int:
    """How many neighbouring heads have one score because they share their values; 1 where each has its own."""
    group = record["model"].get("heads_per_value", 1)
    heads = [one["kind"] == "head" for one in record["components"]]
    first: dict[tuple[int, int], float] = {}
    alike = [
        first.setdefault((layer, head // group), x) == x for (layer, head), x in zip(places[heads], values[heads], strict=True)
    ]
    return group if all(alike) else 1
