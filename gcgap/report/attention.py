"""Attention patterns of the heads nearest to Heroes and Bloats in one model (v3, Figure 5). Only this needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from gcgap.data.batches import Purpose
from gcgap.data.tasks import Sentences, find_task
from gcgap.importance.activity import mean_patterns
from gcgap.models.checkpoints import last_checkpoint, load, run_directory
from gcgap.records.record import Record
from gcgap.report.blocks import Drawing, Section
from gcgap.report.describe import title
from gcgap.report.panels import COLOURS
from gcgap.report.tables_groups import protocol_table
from gcgap.study.claims import of_paper
from gcgap.study.groups import Group, MeasuredRun, gather

SEQUENCES = 20  # over which a pattern is averaged, as in the paper
EACH = 2  # heads at either end


def attention_section(where: Path) -> Section:
    """The patterns of the model of a run directory or checkpoint, whose roles are those of its final record.

    Raises:
        ValueError: There is no record gap/final.json beside the checkpoint, or it is of other weights or ranks no heads.
    """
    model = load(where)
    path = run_directory(last_checkpoint(where)) / "gap" / "final.json"
    if not path.exists():
        raise ValueError(f"`{path}` does not exist; measure the run with `gcgap measure` first.")
    record = Record.read(path)
    if record["checkpoint_sha256"] != model.origin.checkpoint_sha256:
        raise ValueError(f"`{path}` is a record of other weights than those of `{where}`; give the run's last checkpoint.")
    heads = strongest(record)
    batch = model.origin.source.batch(Purpose.EVALUATION, record["length"], SEQUENCES)
    found = mean_patterns(model, batch).numpy()
    rows = [
        [(f"{head.name}, {head.role}, Δ {head.delta:+.1f}", head.role, found[head.layer, head.place]) for head in row]
        for row in heads
    ]
    of = f"{title(record['task'])}, seed {record['seed']}, OOD length {record['length']}, mean of {SEQUENCES} sequences"
    caption = (
        of_paper(gather([path])[0], "v3, Figure 5. ")
        + "Attention patterns of the heads with the lowest Δ (above: Heroes, where heads are) and the highest "
        f"(below: Bloats): {of}."
    )
    group = f"attention of {record['run'] or record['task']}"
    drawing = Drawing("v3-figure-5", caption, group, lambda: patterns_figure(rows, token_names(record)))
    own = protocol_table(Group(record["protocol"] | record.data.get("model", {}), (MeasuredRun(record),)))
    return Section("Attention patterns", [drawing, replace(own, group=group)])


@dataclass(frozen=True)
class Head:
    """A head with its role and rank difference in a record, and its place in its layer."""

    name: str
    role: str
    delta: float
    layer: int
    place: int


def strongest(record: Record) -> list[list[Head]]:
    """The two heads with the lowest rank difference, then the two with the highest, the most extreme first.

    Raises:
        ValueError: The record has no ranks.
    """
    baseline = record.baselines[0]
    heads, seen = [], dict[int, int]()
    for component in record["components"]:
        if component["kind"] == "head" and component["delta"][baseline]["value"] is not None:
            layer = component["layer"]
            place = seen[layer] = seen.get(layer, -1) + 1
            delta, role = component["delta"][baseline]["value"], component["role"][baseline]["name"]
            heads.append(Head(component["name"], role, delta, layer, place))
    if not heads:
        raise ValueError(f"`{record.path}` ranks no heads, so there is no pattern to show.")
    heads.sort(key=lambda head: head.delta)
    return [heads[:EACH], heads[: -EACH - 1 : -1]]


Panel = tuple[str, str, np.ndarray]
"""A label, a role, and an attention pattern (query, key)."""


def token_names(record: Record) -> list[str]:
    """What stands where in an example; in a sentence other words each time, so that their numbers must do."""
    task, length = find_task(record["task"]), record["length"]
    if isinstance(task, Sentences):
        return [str(i) for i in range(task.input_tokens(length))]
    x, y = ([f"{side}{i}" for i in range(1, number + 1)] for side, number in (("x", length), ("y", task.outputs(length))))
    return ["START", *x, "SEP", *y, "END"]


def patterns_figure(rows: Sequence[Sequence[Panel]], tokens: Sequence[str]) -> Figure:
    """Attention patterns with the tokens on the axes."""
    columns = max(map(len, rows))
    figure = Figure(figsize=(3.6 * columns, 3.4 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    most = max(pattern[1:].max() for row in rows for _, _, pattern in row)  # the first token can only look at itself
    image = None
    for panels, row in zip(axes, rows, strict=True):
        for panel, (label, role, pattern) in zip(panels, row, strict=False):
            image = panel.imshow(pattern, cmap="cividis", vmin=0, vmax=most, interpolation="nearest")
            panel.set_title(label, fontsize=9, color=COLOURS[role])
            shown = tokens[: len(pattern)]
            panel.set_xticks(range(len(shown)), shown, rotation=90, fontsize=6)
            panel.set_yticks(range(len(shown)), shown, fontsize=6)
        for spare in panels[len(row) :]:
            spare.set_axis_off()
    figure.supxlabel("key: the token that is looked at", fontsize=9)
    figure.supylabel("query: the token that looks", fontsize=9)
    assert image is not None
    bar = figure.colorbar(image, ax=axes, shrink=0.6, extend="max")
    bar.set_label("attention weight (share)", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    return figure
