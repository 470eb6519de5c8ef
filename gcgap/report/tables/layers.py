"""Heroes and Bloats by layer at three thresholds: Table 5 of the paper's third version."""

from __future__ import annotations

import numpy as np

from gcgap.gap import is_role
from gcgap.report.parts import Column, Table
from gcgap.report.tables.left_out import left_out, of_task, ranked, title
from gcgap.study.arrays import measured
from gcgap.study.groups import Group
from gcgap.study.published import figure

SHARES = (0.2, 0.3, 0.4)  # of the components: 4, 6 and 8 of 20


def layer_table(group: Group, task: str) -> Table:
    """Heroes and Bloats among the heads of each layer at three thresholds, summed over seeds."""
    baseline, layers = group.baselines[0], range(group.settings["n_layers"])
    columns = [Column("layer", list(layers))]
    for share in SHARES:
        at = cut(group, share)
        ours = head_counts(group, task, baseline, share)
        for label, role in (("heroes", "hero"), ("bloats", "bloat")):
            theirs = figure(group, "v3", f"layer_counts_{task}_heads_only", f"{at:g}", label) if baseline == "mean" else None
            name = f"±{at:g} {label[0].upper()}"
            columns.append(Column(f"{name}: gcgap", ours[role], foot=[sum(ours[role])]))
            columns.append(Column(f"{name}: paper", theirs or [None] * len(layers), foot=[sum(theirs or [])], paper=True))
    columns[0] = Column("layer", list(layers), foot=["all"])
    runs = len(ranked(group, task, baseline))
    sign = "beyond" if group.settings["strict"] else "at or beyond"
    notes = [
        f"Summed over {runs} seeds (the paper: 10), attention heads only; H: Heroes, B: Bloats, {sign} the threshold.",
        *left_out(group, [task], [baseline]),
    ]
    text = f"Hero and Bloat heads per layer at three thresholds, {title(task)}, {baseline} ablation (v3, Table 5)"
    return Table(of_task("v3-table-5", task), text, group.name, columns, notes)


def cut(group: Group, share: float) -> float:
    """The rank difference that a share of the components stands for."""
    return round(share * group.settings["n_layers"] * (group.settings["n_heads"] + 1), 9)


def head_counts(group: Group, task: str, baseline: str, share: float) -> dict[str, list[int]]:
    """Heroes and Bloats among the heads of each layer, summed over the runs of a task."""
    counts = {role: np.zeros(group.settings["n_layers"], dtype=int) for role in ("hero", "bloat")}
    for run in ranked(group, task, baseline):
        arrays = measured(run.final, baseline)
        delta = np.array([component["delta"][baseline]["value"] for component in run.final["components"]])
        roles = is_role(delta, cut(group, share), group.settings["strict"])
        for role, total in counts.items():
            np.add.at(total, arrays.layer[roles[role] & arrays.is_head], 1)
    return {role: total.tolist() for role, total in counts.items()}
