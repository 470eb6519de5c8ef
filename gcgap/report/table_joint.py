"""What Bloats cost one by one and together: Table 4 of the paper's third version."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcgap.report.notes import accuracy, left_out, of_task, ranked, title
from gcgap.report.table_parts import Cell, Column, Table
from gcgap.study.groups import Group
from gcgap.study.published import figure, of_paper
from gcgap.study.seeds import Summary, ratio, summary


def joint_table(group: Group, task: str) -> Table:
    """What Bloats cost one by one, and together."""
    baseline = group.baselines[0]
    runs = ranked(group, task, baseline)
    found = [run.final["joint"][baseline]["bloats"] for run in runs]
    theirs = figure(group, "v3", f"joint_bloats_{task}") if baseline == "mean" else None

    def by_seed(name: str) -> list[Cell]:
        return [(theirs or {}).get("by_seed", {}).get(str(run.seed), {}).get(name) for run in runs]

    def points(name: str) -> list[float | None]:
        return [None if one[name] is None else 100 * one[name] for one in found]

    single, joint, total = (points(name) for name in ("individual_mean", "joint", "individual_sum"))
    means = [summary([value for value in values if value is not None]).mean for values in (single, joint)]
    to_mean, to_sum = (_ratio(joint, below) for below in (single, total))
    columns = [
        Column("seed", [run.seed for run in runs], foot=["mean", "joint / mean individual", "joint / sum of individual"]),
        Column("OOD accuracy (%): gcgap", [accuracy(run) for run in runs], ".1f"),
        Column("OOD accuracy (%): paper", by_seed("baseline"), ".1f", paper=True),
        Column("Bloats", [len(one["members"]) for one in found]),
        Column("individual drop (points): gcgap", single, ".1f", foot=[means[0]]),
        Column(
            "individual drop (points): paper", by_seed("individual"), ".1f", [theirs and theirs["mean_individual"]], paper=True
        ),
        Column("joint drop (points): gcgap", joint, ".1f", foot=[means[1], to_mean, to_sum]),
        Column("joint drop (points): paper", by_seed("joint"), ".1f", _foot(theirs), paper=True),
        Column("joint / sum of individual: gcgap", [one["ratio_to_sum"] for one in found]),
    ]
    reasons = [f"{task} seed {run.seed}: {one['reason']}." for run, one in zip(runs, found, strict=True) if one["reason"]]
    notes = [*left_out(group, [task], [baseline]), *reasons, RATIOS]
    text = f"Individual and joint ablation of the Bloats of {title(task)}, {baseline} ablation"
    text += of_paper(group, " (v3, Table 4)", task)
    return Table(of_task("v3-table-4", task), text, group.name, columns, notes)


RATIOS = (
    "An individual drop is the mean over the Bloats of a seed. The first ratio is the paper's, mean joint drop / mean individual "
    "drop: k Bloats that share nothing have a ratio of k. The second, to the sum, is 1 for them, and only it tests redundancy; "
    "intervals are bootstraps over seeds."
)


def _foot(theirs: dict[str, Any] | None) -> list[Cell]:
    return [theirs["mean_joint"], theirs["ratio"]] if theirs else []


def _ratio(above: Sequence[float | None], below: Sequence[float | None]) -> Summary:
    both = [(a, b) for a, b in zip(above, below, strict=True) if a is not None and b is not None]
    return ratio([a for a, _ in both], [b for _, b in both], np.random.default_rng(0))
