"""Records in experiment loggers: scalars in any, pictures, charts and text in TensorBoard."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.image import imread

from gcgap.records.record import Record
from gcgap.report.figures_run import scatter
from gcgap.report.page import plain_text
from gcgap.report.panels import plain_figure
from gcgap.report.terminal import sentence


def scalars(record: Record) -> dict[str, float]:
    """Every number of a record that is a curve over training, by its tag; missing numbers are left out.

    Importance, rank difference and roles are those of the record's first baseline, by exact match.
    """
    first = record.baselines[0]
    found: dict[str, float | None] = {
        "accuracy/in_distribution": record["accuracy"]["in_distribution"],
        "accuracy/ood": record.ood_accuracy,
        "role/heroes": record["gap"][first]["heroes"],
        "role/bloats": record["gap"][first]["bloats"],
    }
    for baseline in record.baselines:
        gap = record["gap"][baseline]
        found |= {f"gap/rho/{baseline}": gap["rho"], f"gap/ceiling/{baseline}": gap["ceiling"]}
        found[f"gap/rho_log_prob/{baseline}"] = gap["by_metric"]["log_prob"]["rho"]
    for method, entry in record.attribution.items():
        for effect, tag in (("exact_match", "rho"), ("log_prob", "rho_log_prob")):
            found[f"attribution/{tag}/{method}"] = entry["agreement"][effect]["all"]["rho"]
    for component in record["components"]:
        name = component["name"]
        found[f"gap/delta/{name}"] = component["delta"][first]["value"]
        found[f"importance/gradient/{name}"] = component["gradient"]["value"]
        found[f"importance/causal/{name}"] = component["causal"][first]["exact_match"]["value"]
        found[f"importance/causal_log_prob/{name}"] = component["causal"][first]["log_prob"]["value"]
    for layer in record["layers"]:
        counts = layer["all"][first] or {}
        found |= {f"role/{role}_layer{layer['layer']}": counts.get(role) for role in ("heroes", "bloats")}
    return {tag: float(value) for tag, value in found.items() if value is not None}


def layout(record: Record) -> dict[str, dict[str, list[Any]]]:
    """Custom-scalars layout for TensorBoard: one chart per layer for each quantity of its components, and one for rho."""
    by_layer: dict[int, list[str]] = {}
    for component in record["components"]:
        by_layer.setdefault(component["layer"], []).append(component["name"])
    quantities = {
        "rank difference": "gap/delta",
        "gradient magnitude": "importance/gradient",
        "causal importance": "importance/causal",
    }
    charts: dict[str, dict[str, list[Any]]] = {
        title: {f"layer {layer}": ["Multiline", [f"^{tag}/{name}$" for name in names]] for layer, names in by_layer.items()}
        for title, tag in quantities.items()
    }
    charts["gap"] = {
        "rho and its ceiling": ["Multiline", [f"^gap/{what}/{b}$" for b in record.baselines for what in ("rho", "ceiling")]],
        "roles": ["Multiline", ["^role/heroes$", "^role/bloats$"]],
    }
    if record.attribution:
        charts["attribution"] = {
            "rho of each method": ["Multiline", [f"^attribution/rho/{name}$" for name in record.attribution]]
        }
    return charts


def png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    buffer = BytesIO()
    plain_figure(figure).savefig(buffer, format="png")
    return buffer.getvalue()


def pixels(picture: bytes) -> np.ndarray:
    """A PNG file as an image, shape (height, width, 3), values in [0, 1]."""
    return imread(BytesIO(picture), format="png")[..., :3]


def role_table(record: Record) -> str:
    """Markdown table of the roles under every baseline, and the sentence; for TensorBoard's text view."""
    baselines = record.baselines
    lines = [f"| component | {' | '.join(map(plain_text, baselines))} |", "|---" * (1 + len(baselines)) + "|"]
    for component in record["components"]:
        cells = (_cell(component, baseline) for baseline in baselines)
        lines.append(f"| {plain_text(component['name'])} | {' | '.join(cells)} |")
    return "\n".join([plain_text(sentence(record)), "", *lines])


def _cell(component: dict[str, Any], baseline: str) -> str:
    role, delta = component["role"][baseline], component["delta"][baseline]["value"]
    return "-" if role["name"] is None else f"{role['name']} (Δ {delta:+.1f}, P {role['probability']:.2f})"


def write_pictures(writer: Any, record: Record, raster: bytes) -> None:
    """Scatter, emergence raster (a PNG, up to this step) and role table into TensorBoard's SummaryWriter at the record's step."""
    step = record["step"]
    writer.add_image("gap/scatter", pixels(png(scatter(record))), step, dataformats="HWC")
    writer.add_image("gap/emergence", pixels(raster), step, dataformats="HWC")
    writer.add_text("role/table", role_table(record), step)
