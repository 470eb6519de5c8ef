"""What removing components costs: the pruning of v3's section 3.3, and the seeds that v1 tells of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gcgap.report.notes import OTHER_WEIGHTS, accuracy, left_out, of_paper_notes, ranked, spread_note, title
from gcgap.report.table_parts import Column, Table
from gcgap.report.table_v1 import LABELS, published_v1
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.published import of_paper, published, spread
from gcgap.study.seeds import Summary, summary


def tables(group: Group) -> list[Table]:
    """What pruning costs on average, and for the seeds that v1 tells of."""
    return [pruning_table(group), *[pruned_seeds(group)] * bool(published_v1(group, "pruning_top2"))]


def pruning_table(group: Group) -> Table:
    """What ablating the top two of a class, two random components, or a whole class costs, OOD and in distribution."""
    baseline = group.baselines[0]
    labels, ood, inside, ood_paper, inside_paper = [], [], [], [], []
    for task in group.tasks:
        for what, entries in _removals(group, task).items():
            labels.append((title(task), what))
            ood.append(_drops(entries, "ood_drop"))
            inside.append(_drops(entries, "in_distribution_drop"))
            label = what.removeprefix("top two ") if what.startswith("top two") else ""
            theirs = spread(group, "v3", "pruning_top2_ood_accuracy_change_percent", task, label, scale=-1)
            ood_paper.append(theirs if baseline == "mean" else None)
            of_bloats = "bloats" in what and baseline == "mean"
            inside_paper.append(spread(group, "v1", f"id_drop_after_pruning_bloats_{task}") if of_bloats else None)
    columns = [
        Column("task", [task for task, _ in labels]),
        Column("removed together", [what for _, what in labels]),
        Column("OOD drop (points): gcgap", ood, ".1f"),
        Column("OOD drop (points): v3", ood_paper, ".1f", paper=True),
    ]
    if any(drops.n for drops in inside):  # prompts have none
        columns += [
            Column("in-distribution drop (points): gcgap", inside, ".1f"),
            Column("in-distribution drop (points): v1", inside_paper, ".1f", paper=True),
        ]
    notes = [
        *spread_note(columns),
        "Runs whose class has no member are left out of its row; random: the mean over random pairs of components of each run.",
        *of_paper_notes(group, "v1 does not say whether its in-distribution drop is of the top two Bloats or of all."),
        *left_out(group, group.tasks, [baseline]),
    ]
    text = f"What removing components costs, {baseline} ablation{of_paper(group, ' (v3, section 3.3)')}"
    return Table("pruning", text, group.name, columns, notes)


def _removals(group: Group, task: str) -> dict[str, list[dict[str, Any]]]:
    """The pruning entries of all runs by what was removed."""
    baseline = group.baselines[0]
    runs = [run.final for run in ranked(group, task, baseline)]
    found = {
        f"{text} {label}": [one for record in runs if (one := record["pruning"][baseline][label][which])["members"]]
        for which, text in (("top2", "top two"), ("all", "all"))
        for label in LABELS
    }
    pairs = [record.data.get("random_pairs", {}).get(baseline) for record in runs]
    return found | {"two random components": [one for one in pairs if one]}


def _drops(entries: Sequence[dict[str, Any]], place: str) -> Summary:
    return summary([100 * entry[place]["value"] for entry in entries if entry[place]["value"] is not None])


def pruned_seeds(group: Group) -> Table:
    """Accuracy before and after pruning the top two, for the seeds that v1 tells it of."""
    baseline = group.baselines[0]
    names = list(published()["v1"]["pruning_top2"])
    runs = {(run.task, str(run.seed)): run for task in group.tasks for run in ranked(group, task, baseline)}
    columns = [Column("run", [name.replace("_", " seed ") for name in names])]
    for what in ("baseline", *LABELS):
        ours = [_after(runs.get((name.split("_")[0], name.split("_")[1])), baseline, what) for name in names]
        theirs = [published_v1(group, "pruning_top2", name, what) for name in names]
        heading = "OOD accuracy (%)" if what == "baseline" else f"after pruning the top two {what} (%)"
        columns += [Column(f"{heading}: gcgap", ours, ".1f"), Column(f"{heading}: v1", theirs, ".1f", paper=True)]
    absent = [name.replace("_", " seed ") for name in names if tuple(name.split("_")) not in runs]
    notes = [f"No measured run here: {', '.join(absent)}."] if absent else []
    return Table(
        "v1-pruning", f"Accuracy after pruning, {baseline} ablation (v1)", group.name, columns, [*notes, NO_CLASS, OTHER_WEIGHTS]
    )


NO_CLASS = "An empty cell of a measured run means that no component has the role."


def _after(run: MeasuredRun | None, baseline: str, what: str) -> float | None:
    if run is None or what == "baseline":
        return run and accuracy(run)
    drop = run.final["pruning"][baseline][what]["top2"]["ood_drop"]["value"]
    return None if drop is None else accuracy(run) - 100 * drop
