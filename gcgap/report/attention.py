"""Attention patterns of the strongest Hero and Bloat heads of one model (v3, Figure 5). Only this needs torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from gcgap.batches import Purpose
from gcgap.checkpoints import last_checkpoint, load, run_directory
from gcgap.importance.activity import mean_patterns
from gcgap.records import Record
from gcgap.report.parts import Drawing, Section
from gcgap.report.style import COLOURS, LABELS
from gcgap.report.tables.left_out import title
from gcgap.report.tables.protocol import protocol_table
from gcgap.study.groups import Group, Run

SEQUENCES = 20  # over which a pattern is averaged, as in the paper
EACH = 2  # heads of each role


def attention_section(where: Path) -> Section:
    """The patterns of the model of a run directory or checkpoint, whose roles are those of its final record.

    Raises:
        ValueError: There is no record gap/final.json beside the checkpoint, or it is of other weights or has no such heads.
    """
    model = load(where)
    path = run_directory(last_checkpoint(where)) / "gap" / "final.json"
    if not path.exists():
        raise ValueError(f"`{path}` does not exist; measure the run with `gcgap measure` first.")
    record = Record.read(path)
    if record["checkpoint_sha256"] != model.origin.checkpoint_sha256:
        raise ValueError(f"`{path}` is a record of other weights than those of `{where}`; give the run's last checkpoint.")
    heads = strongest(record)
    if not heads:
        raise ValueError(f"`{path}` names no head as a Hero or Bloat, so there is no pattern to show.")
    batch = model.origin.source.batch(Purpose.EVALUATION, record["length"], SEQUENCES)
    found = mean_patterns(model, batch).numpy()
    patterns = {name: found[layer, head] for name, _, _, layer, head in heads}
    labels = {name: f"{name}, {role}, Δ {delta:+.1f}" for name, role, delta, _, _ in heads}
    roles = {name: role for name, role, _, _, _ in heads}
    caption = (
        f"v3, Figure 5. Attention patterns of the Hero and Bloat heads with the largest |Δ|: {title(record['task'])}, seed "
        f"{record['seed']}, OOD length {record['length']}, mean of {SEQUENCES} sequences."
    )
    group = f"attention of {record['run'] or record['task']}"
    drawing = Drawing("v3-figure-5", caption, group, lambda: patterns_figure(patterns, labels, roles, record["length"]))
    lacking = [
        f"No other head is a {LABELS[role].split(' (')[0]}."
        for role in ("hero", "bloat")
        if list(roles.values()).count(role) < EACH
    ]
    own = protocol_table(Group(record["protocol"] | record.data.get("model", {}), (Run(record),)))
    return Section("Attention patterns", [drawing, *lacking, replace(own, group=group)])


def strongest(record: Record) -> list[tuple[str, str, float, int, int]]:
    """Name, role, rank difference, layer and place of the two Hero and the two Bloat heads with the largest |Delta|."""
    baseline = record.baselines[0]
    seen: dict[int, int] = {}
    found: dict[str, list[Any]] = {"hero": [], "bloat": []}
    for component in record["components"]:
        if component["kind"] == "head":
            place = seen[component["layer"]] = seen.get(component["layer"], -1) + 1
            role = component["role"][baseline]["name"]
            if role in found:
                found[role].append((component["name"], role, component["delta"][baseline]["value"], component["layer"], place))
    return [one for heads in found.values() for one in sorted(heads, key=lambda one: -abs(one[2]))[:EACH]]


def patterns_figure(patterns: dict[str, np.ndarray], labels: dict[str, str], roles: dict[str, str], length: int) -> Figure:
    """Attention patterns, each (query, key), with the tokens on the axes; a row of panels for each role."""
    tokens = ["START", *(f"x{i}" for i in range(1, length + 1)), "SEP", *(f"y{i}" for i in range(1, length + 1)), "END"]
    rows = [[name for name, one in roles.items() if one == role] for role in dict.fromkeys(roles.values())]
    columns = max(map(len, rows))
    figure = Figure(figsize=(3.6 * columns, 3.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    most = max(pattern[1:].max() for pattern in patterns.values())  # the first token can only look at itself
    image = None
    for panels, names in zip(axes, rows, strict=True):
        for panel, name in zip(panels, names, strict=False):
            image = panel.imshow(patterns[name], cmap="cividis", vmin=0, vmax=most, interpolation="nearest")
            panel.set_title(labels[name], fontsize=9, color=COLOURS[roles[name]])
            shown = tokens[: len(patterns[name])]
            panel.set_xticks(range(len(shown)), shown, rotation=90, fontsize=6)
            panel.set_yticks(range(len(shown)), shown, fontsize=6)
        for spare in panels[len(names) :]:
            spare.set_axis_off()
    figure.supxlabel("key: the token that is looked at", fontsize=9)
    figure.supylabel("query: the token that looks", fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.6, extend="max")
    bar.set_label("attention weight (share)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
