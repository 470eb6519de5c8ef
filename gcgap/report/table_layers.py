"""Heroes and Bloats by layer at three thresholds: Table 5 of the paper's third version."""

from __future__ import annotations

import numpy as np

from gcgap.importance.gap import is_role
from gcgap.report.notes import left_out, of_task, ranked, title
from gcgap.report.table_parts import Column, Table
from gcgap.report.wording import counted
from gcgap.study.groups import Group
from gcgap.study.published import figure, of_paper, seeds
from gcgap.study.roles import component_arrays

SHARES = (0.2, 0.3, 0.4)  # of the components: 4, 6 and 8 of 20


def layer_table(group: Group, task: str) -> Table:
    """Heroes and Bloats among the heads of each layer at three thresholds, per seed."""
    baseline, layers = group.baselines[0], range(group.settings["n_layers"])
    columns = [Column("layer", list(layers))]
    for share in SHARES:
        at = cut(group, share)
        ours = head_counts(group, task, baseline, share)
        for label, role in (("heroes", "hero"), ("bloats", "bloat")):
            theirs = published_counts(group, task, at, label) if baseline == "mean" else None
            name = f"±{at:g} {label[0].upper()}"
            columns.append(Column(f"{name}: gcgap", ours[role], foot=[sum(ours[role])]))
            foot = [sum(theirs)] if theirs else []
            columns.append(Column(f"{name}: paper", theirs or [None] * len(layers), foot=foot, paper=True))
    columns[0] = Column("layer", list(layers), foot=["all"])
    runs = len(ranked(group, task, baseline))
    sign = "beyond" if group.settings["strict"] else "at or beyond"
    published = any(column.paper and column.cells[0] is not None for column in columns)
    theirs = f" (the paper: its sums over {seeds('v3', task)} seeds, divided by these)" * published
    notes = [
        f"Means over {counted(runs, 'seed')}{theirs}, attention heads only; H: Heroes, B: Bloats, {sign} the threshold.",
        *left_out(group, [task], [baseline]),
    ]
    text = f"Hero and Bloat heads per layer and seed at three thresholds, {title(task)}, {baseline} ablation"
    text += of_paper(group, " (v3, Table 5)", task)
    return Table(of_task("v3-table-5", task), text, group.name, columns, notes)


def cut(group: Group, share: float) -> float:
    """The rank difference that a share of the components stands for."""
    return round(share * group.settings["n_layers"] * (group.settings["n_heads"] + 1), 9)


def published_counts(group: Group, task: str, at: float, label: str) -> list[float] | None:
    """The published Heroes or Bloats among the heads of each layer at a threshold, per seed."""
    found = figure(group, "v3", f"layer_counts_{task}_heads_only", f"{at:g}", label)
    return found and [count / seeds("v3", task) for count in found]


def head_counts(group: Group, task: str, baseline: str, share: float) -> dict[str, list[float]]:
    """Heroes and Bloats among the heads of each layer, as a mean over the runs of a task that have ranks."""
    runs = ranked(group, task, baseline)
    counts = {role: np.zeros(group.settings["n_layers"], dtype=int) for role in ("hero", "bloat")}
    for run in runs:
        arrays = component_arrays(run.final, baseline)
        delta = np.array([component["delta"][baseline]["value"] for component in run.final["components"]])
        roles = is_role(delta, cut(group, share), group.settings["strict"])
        for role, total in counts.items():
            np.add.at(total, arrays.layer[roles[role] & arrays.is_head], 1)
    return {role: (total / max(len(runs), 1)).tolist() for role, total in counts.items()}
