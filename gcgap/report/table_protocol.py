"""The protocol of every number, and the mean gradient norm per layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gcgap.report.notes import left_out, spread_note, title
from gcgap.report.table_parts import Column, Table
from gcgap.report.table_v3 import plain
from gcgap.study.groups import Group, default_settings
from gcgap.study.published import figure, of_paper
from gcgap.study.seeds import Summary, summary


def protocol_table(group: Group) -> Table:
    """Every setting that shaped the numbers of a group, beside the default."""
    default = default_settings()
    names = list(default | group.settings)
    columns = [
        Column("setting", names),
        Column("this group", [plain(group.settings.get(name, "not recorded")) for name in names], form="g"),
        Column("default", [plain(default.get(name, "none")) for name in names], form="g"),
    ]
    versions = sorted({f"gcgap {version}" for run in group.runs if (version := run.final["versions"].get("gcgap"))})
    notes = [f"Measured by {', '.join(versions)}."] if versions else []
    return Table("protocol", "Protocol and model: every setting behind the numbers of this group", group.name, columns, notes)


def layer_gradients(group: Group, task: str) -> list[Summary]:
    """Mean gradient norm of the heads' W_V slices in each layer, not divided by sqrt(N), over the runs of a task."""
    by_run = [_of_layers(run.final["components"]) for run in group.measured(task)]
    return [summary([values[layer] for values in by_run]) for layer in range(group.settings["n_layers"])]


def _of_layers(components: Sequence[dict]) -> dict[int, float]:
    heads = [component for component in components if component["kind"] == "head"]
    layers = sorted({head["layer"] for head in heads})
    return {layer: float(np.mean([head["gradient"]["raw"] for head in heads if head["layer"] == layer])) for layer in layers}


def gradient_table(group: Group) -> Table:
    """Mean gradient norm per layer, which the paper shows as its Figure 4."""
    layers = range(group.settings["n_layers"])
    columns = [Column("layer", list(layers))]
    for task in group.tasks:
        theirs = figure(group, "v3", f"mean_gradient_norm_by_layer_{task}") or [None] * len(layers)
        columns.append(Column(f"{title(task)}: gcgap", layer_gradients(group, task), ".3f"))
        columns.append(Column(f"{title(task)}: paper", theirs, ".3f", paper=True))
    notes = [*spread_note(columns), "Frobenius norms of the gradient of each head's W_V slice, not divided by √N."]
    text = f"Mean gradient norm of the heads by layer{of_paper(group, ' (v3, Figure 4)')}"
    return Table("v3-figure-4", text, group.name, columns, [*notes, *left_out(group, group.tasks, [])])
