"""Figures of attribution methods: agreement, scores, interactions and reliability in one record, and ρ of each over runs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gcgap.importance.protocol import Metric
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.describe import describe_run, pluralise, title
from gcgap.report.figures_grid import scores_by_place
from gcgap.report.panels import DIVERGING, panels, pooled, what_is_drawn, whisker
from gcgap.study.methods_over_seeds import MethodGroup
from gcgap.study.seeds import CORRELATION, Summary

FAMILIES = {
    "exact": "#000000",
    "weights": "#b2182b",
    "gates": "#ef8a62",
    "curvature": "#2166ac",
    "path": "#67a9cf",
    "sets": "#1b7837",
    "workflow": "#762a83",
    "control": "#999999",
}
SHOWN = ("attribution_patching", "hvp", "ig_midpoint", "gradient", "joint_hvp", "shapley_value")


def agreement_and_cost(record: AttributionRecord) -> Figure:
    """ρ with the exact effects against the cost in forward passes, for effects by the metric of the scores and by exact match."""
    figure, row = panels((12, 5.5), 1, 2, sharey=True)
    for axes, effect in zip(row[0], (record["protocol"]["attribution"]["metric"], "exact_match"), strict=True):
        points = {
            name: (entry["cost"]["forward_equivalents"], entry["agreement"][effect]["all"]["rho"], entry["family"])
            for name, entry in record["methods"].items()
            if entry["agreement"][effect]["all"]["rho"] is not None
        }
        for number, (name, (cost, rho, family)) in enumerate(points.items(), 1):
            axes.plot(cost, rho, "o", color=FAMILIES[family], label=f"{number} {name}")
            axes.annotate(str(number), (cost, rho), xytext=(4, 3), textcoords="offset points", fontsize=8)
        axes.set(xscale="symlog", xlabel="cost (forward passes, by time)", title=f"exact effect by {effect.replace('_', ' ')}")
        axes.axhline(0, color="0.8", zorder=0)
    figure.axes[0].set_ylabel("Spearman's ρ with the exact effects")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=7, frameon=False)
    figure.suptitle(_title(record), fontsize=11)
    return figure


def scores_and_effects(record: AttributionRecord) -> Figure:
    """Scores of some methods against the exact effects, component by component; the diagonal where they estimate them."""
    names = [name for name in SHOWN if name in record["methods"]] or list(record["methods"])[:6]
    units = record["protocol"]["attribution"]["metric"]
    figure, every = panels((12, 7), 2, 3)
    for axes, name in zip(every.flat, names, strict=False):
        _scores(axes, record, name, units)
    for spare in every.flat[len(names) :]:
        spare.remove()
    figure.suptitle(_title(record), fontsize=11)
    return figure


def _scores(axes: Axes, record: AttributionRecord, name: str, units: str) -> None:
    effects = np.array([component["exact"][units]["value"] for component in record["components"]])
    values = np.array([component["scores"][name]["value"] for component in record["components"]])
    for component, effect, value in zip(record["components"], effects, values, strict=True):
        axes.plot(effect, value, "s" if component["kind"] == "mlp" else "o", color=f"C{component['layer']}", markersize=5)
    for i in np.argsort(-np.abs(effects))[:3]:
        label = record["components"][i]["name"]
        axes.annotate(label, (effects[i], values[i]), xytext=(4, 3), textcoords="offset points", fontsize=8)
    scale = float(np.median(np.abs(effects))) or 1.0
    axes.set_xscale("symlog", linthresh=scale)
    if record["methods"][name]["estimates"] == "drop":
        axes.set_yscale("symlog", linthresh=scale)
        low, high = min(effects.min(), values.min()), max(effects.max(), values.max())
        axes.plot([low, high], [low, high], color="0.8", zorder=0)
    rho = record["methods"][name]["agreement"][units]["all"]["rho"]
    axes.set_title(f"{name}: ρ = {rho:.2f}" if rho is not None else f"{name}: no ρ", fontsize=9)
    axes.set_xlabel(f"exact drop ({Metric(units).unit})", fontsize=8)
    axes.set_ylabel("score", fontsize=8)
    axes.tick_params(labelsize=8)


def interaction_matrix(record: AttributionRecord) -> Figure:
    """Pairwise interactions of all components, or of those with the largest effects where there are many.

    Noising: red pairs are redundant, blue ones need each other. Denoising, where D is what is restored, the other way round.
    """
    figure, row = panels((13, 6), 1, 2)
    names = record["sets"].get("among") or [component["name"] for component in record["components"]]
    for axes, effect in zip(row[0], ("exact_match", "log_prob"), strict=True):
        matrix = np.array(record["sets"]["interactions"][effect]["mean"])
        most = np.abs(matrix).max() or 1.0
        axes.spines[:].set_visible(True)
        image = axes.imshow(matrix, cmap=DIVERGING, vmin=-most, vmax=most)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_title(f"by {effect.replace('_', ' ')}", fontsize=10)
        figure.colorbar(image, ax=axes, shrink=0.8, label=f"D(both) - D(one) - D(other), {Metric(effect).unit}")
    meaning = ("redundant", "in need of each other")
    red, blue = meaning if record["setup"]["direction"] == "noising" else reversed(meaning)
    figure.suptitle(f"Interactions (red: {red}, blue: {blue}). {_title(record)}", fontsize=11)
    return figure


def reliability(record: AttributionRecord) -> Figure:
    """Error of attribution patching and of its correction against R, and the parts of the error, component by component."""
    figure, ((left, right),) = panels((12, 5), 1, 2)
    trust = [component["trust"] for component in record["components"]]
    known = [one for one in trust if one["reliability"] and one["effects"]["exact"]]
    ratio = [one["reliability"] for one in known]
    exact = np.array([one["effects"]["exact"] for one in known])
    tangent = np.array([one["slope"] for one in known])
    corrected = tangent + np.array([one["curvature"] for one in known]) / 2
    errors = {"attribution patching": tangent, "HVP-corrected": corrected}
    for (label, values), marker in zip(errors.items(), "o^", strict=True):
        left.plot(ratio, np.abs(values - exact) / np.abs(exact), marker, label=label, markersize=5)
    left.axvline(1, color="0.8", zorder=0)
    if any((values != exact).any() for values in errors.values()):  # a log scale needs something to show
        left.set(xscale="log", yscale="log")
    left.set(xlabel="R = |F''(0)| / 2|F'(0)|", ylabel="|score - effect| / |effect|")
    left.legend(frameon=False, fontsize=8)
    _parts(right, [component["name"] for component in record["components"]], trust)
    figure.suptitle(_title(record), fontsize=11)
    return figure


def _parts(axes: Axes, names: list[str], trust: list[dict]) -> None:
    effects = [one["effects"] for one in trust]
    places = np.arange(len(names))
    downstream = np.array([one["exact"] - one["linear"] for one in effects])
    metric = np.array([one["linear"] - one["tangent"] for one in effects])
    axes.bar(places - 0.2, downstream, 0.4, label="downstream network")
    axes.bar(places + 0.2, metric, 0.4, label="metric")
    axes.set_xticks(places, names, rotation=90, fontsize=7)
    axes.set_ylabel("part of exact - tangent")
    axes.legend(frameon=False, fontsize=8)


def _title(record: AttributionRecord) -> str:
    return f"{describe_run(record)}, {record['setup']['baseline']}, {record['setup']['direction']}"


FIGURES: dict[str, Callable[[AttributionRecord], Figure]] = {
    "agreement": agreement_and_cost,
    "scores": scores_and_effects,
    "interactions": interaction_matrix,
    "reliability": reliability,
    "grid": scores_by_place,
}


NEEDS = {"interactions": "sets", "reliability": "trust"}
"""Parts of a record that an attribution may leave out, by the figure that draws them."""


def caption(group: MethodGroup) -> str:
    """What the figure shows."""
    found = [_mean(group, task, method, effect) for task in group.tasks for method in group.methods for effect in group.effects]
    drawn = what_is_drawn(found, group.settings["protocol"]["confidence"])
    return "Spearman's ρ of every attribution method with the exact effects; " + (
        f"points: seeds; mark: {drawn}." if any(one.n > 1 for one in found) else f"mark: {drawn or 'none, there are no ranks'}."
    )


def _mean(group: MethodGroup, task: str, method: str, effect: str) -> Summary:
    entries = [record["methods"][method]["agreement"][effect]["all"] for record in group.of_task(task)]
    return pooled([{"value": one["rho"], "ci": one["ci"]} for one in entries if one["rho"] is not None], CORRELATION)


def rhos(group: MethodGroup) -> Figure:
    """ρ of every method for every task (columns) and exact effect (rows): points are seeds, the mark mean and interval."""
    columns = len(group.tasks)
    size = (3.2 + 3.6 * columns, 0.5 * len(group.methods) + 1.2)
    figure, axes = panels(size, len(group.effects), columns, sharex=True, sharey=True)
    for row, effect in enumerate(group.effects):
        for column, task in enumerate(group.tasks):
            panel, seeds, drawn = axes[row, column], pluralise(len(group.of_task(task)), "seed"), 0
            for at, method in enumerate(group.methods):
                colour = FAMILIES[group.records[0]["methods"][method]["family"]]
                found = [record["methods"][method]["agreement"][effect]["all"]["rho"] for record in group.of_task(task)]
                known = [value for value in found if value is not None]
                drawn += len(known)
                panel.plot(known, [at] * len(known), "o", color=colour, ms=3, alpha=0.45)
                whisker(panel, at, _mean(group, task, method, effect), horizontal=True, color=colour)
            if not drawn:
                panel.text(0.5, 0.5, "no ranks", transform=panel.transAxes, ha="center", fontsize=8, backgroundcolor="white")
            panel.set_yticks(range(len(group.methods)), group.methods, fontsize=7)
            panel.set_title(f"{title(task)}, {effect.replace('_', ' ')}, {seeds}", fontsize=9)
            panel.axvline(0, color="0.8", zorder=0)
            panel.tick_params(labelsize=7)
    axes[0, 0].invert_yaxis()
    for panel in axes[-1]:
        panel.set_xlabel("Spearman's ρ with the exact effects", fontsize=8)
    return figure
