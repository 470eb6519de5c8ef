"""The tables of the paper's first and third version (v1, v3), each cell beside the published figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gcgap.importance.gap import is_role
from gcgap.report.blocks import Cell, Column, Table, beside, columns_of
from gcgap.report.describe import (
    OTHER_WEIGHTS,
    accuracy,
    known,
    missing_notes,
    of_task,
    paper_notes,
    pluralise,
    ranked,
    selection_notes,
    sorting_first,
    spread_notes,
    title,
)
from gcgap.report.named_roles import COUNTED, has_many, named_roles
from gcgap.study.claims import figure, of_paper, published, seeds, spread
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.roles import component_arrays
from gcgap.study.seeds import CORRELATION, POSITIVE, Summary, ratio, summary

LABELS = {"heroes": "hero", "bloats": "bloat"}
SHARES = (0.2, 0.3, 0.4)  # of the components, as thresholds of a role: 4, 6 and 8 of 20
MOST = 5  # most frequent components of a role that are listed
SETTINGS = {
    "layers L": "n_layers",
    "heads H": "n_heads",
    "d_model": "d_model",
    "d_ff": "d_ff",
    "positions": "positions",
    "batch size (examples)": "batch_size",
    "learning rate": "learning_rate",
    "optimiser": "optimizer",
    "maximum of training steps": "max_steps",
    "target accuracy (share of sequences)": "target_accuracy",
    "OOD accuracy window (share of sequences)": "window",
    "gradient batches B": "gradient_batches",
    "training lengths (integers)": "lengths",
    "OOD lengths (integers)": "ood_lengths",
}
"""The rows of v3's table of settings, and where a record has each."""
TRAINED = ("batch_size", "learning_rate", "optimizer", "max_steps", "target_accuracy")
INFERRED = "v1's numbering of its tables is inferred from their content."
NO_CLASS = "An empty cell of a measured run means that no component has the role."
RATIOS = (
    "An individual drop is the mean over the Bloats of a seed. The ratio is the paper's, mean joint drop / mean individual drop, "
    "with Fieller's interval: k Bloats that share nothing have a ratio of k. Only the ratio to the sum of the drops tests "
    "redundancy; it stands in the verdict and in the table of layouts and sites."
)


def paper_tables(group: Group) -> list[Table]:
    """All of them; those of one task once for each task, the paper's own under its number alone."""
    tasks = sorting_first(group)
    return [
        rho_table(group),
        settings_table(group),
        rho_by_seed_table(group),
        *(joint_table(group, task) for task in tasks),
        *(layer_table(group, task) for task in tasks),
        gradient_table(group),
        spread_table(group),
        *(by_seed_table(group, task) for task in tasks),
        *(frequent_table(group, task) for task in tasks),
        pruning_table(group),
        *([pruned_seeds_table(group)] if published_v1(group, "pruning_top2") else []),
    ]


def rho_table(group: Group) -> Table:
    """v3, Table 1: rank correlation by task and ablation baseline."""
    columns = [Column("task", [title(task) for task in group.tasks])]
    for baseline in group.baselines:
        rhos = ([_gap(run, baseline)["rho"] for run in ranked(group, task, baseline)] for task in group.tasks)
        found = [summary(of, CORRELATION) for of in rhos]
        theirs = [spread(group, "v3", "rho", task, f"{baseline}_ablation") for task in group.tasks]
        columns += beside(f"ρ, {baseline} ablation", found, theirs)
    notes = [*spread_notes(columns), *missing_notes(group, group.tasks, group.baselines)]
    text = f"Spearman's ρ between gradient magnitude and causal importance{of_paper(group, ' (v3, Table 1)')}"
    return Table("v3-table-1", text, group.name, columns, notes)


def settings_table(group: Group) -> Table:
    """v3, Table 2: the model and how it was trained and measured."""
    recorded = [run.final.data.get("training") or {} for run in group.runs]

    def own(key: str) -> Cell:
        if key not in TRAINED:
            return setting(group.settings[key])
        found = list(dict.fromkeys(setting(training.get(key, "not recorded")) for training in recorded))
        return " / ".join(map(str, found)) if len(found) > 1 else found[0]

    ours = [own(key) for key in SETTINGS.values()]
    theirs = [setting(figure(group, "v3", "configuration", key)) for key in SETTINGS.values()]
    their_seeds = setting(figure(group, "v3", "seeds"))
    columns = [
        Column("parameter", [*SETTINGS, "seeds"]),
        Column("gcgap", [*ours, setting(sorted({run.seed for run in group.runs}))], form="g"),
        Column("paper", [*theirs, their_seeds], form="g", paper=True),
    ]
    notes = ["The paper's text says that positions are learned; its table does not name them."] if their_seeds else []
    return Table("v3-table-2", f"Model and training configuration{of_paper(group, ' (v3, Table 2)')}", group.name, columns, notes)


def setting(value: Any) -> Cell:
    """A setting as a cell."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def rho_by_seed_table(group: Group) -> Table:
    """v3, Table 3: rank correlation of every seed."""
    baseline = group.baselines[0]
    own = sorted({run.seed for run in group.runs})
    columns = [Column("seed", own, foot=["mean", "std"])]
    for task in group.tasks:
        rhos = {run.seed: _gap(run, baseline)["rho"] for run in ranked(group, task)}
        skipped = {run.seed for run in group.skipped(task)}
        ours = [rhos.get(seed, "skipped" if seed in skipped else None) for seed in own]
        whole = summary(list(rhos.values()))
        known_rhos = figure(group, "v3", f"rho_by_seed_{baseline}_ablation", task) or {}
        known_rhos = {int(seed): "skipped" if rho is None else rho for seed, rho in known_rhos.items()}
        theirs = [known_rhos.get(seed) for seed in own]
        their_whole = spread(group, "v3", "rho", task, f"{baseline}_ablation")
        their_foot = [their_whole.mean, their_whole.std] if their_whole else []
        columns += beside(f"{title(task)} ρ", ours, theirs, foot=[whole.mean, whole.std], their_foot=their_foot)
    notes = [*missing_notes(group, group.tasks, [baseline]), *_lacking_seeds(group, own), *paper_notes(group, OTHER_WEIGHTS)]
    text = f"Spearman's ρ by seed, {baseline} ablation{of_paper(group, ' (v3, Table 3)')}"
    return Table("v3-table-3", text, group.name, columns, notes)


def _lacking_seeds(group: Group, own: Sequence[int]) -> list[str]:
    """Which seeds a task has no run of, and which published ones are not among these."""
    notes = []
    for task in group.tasks:
        if lacking := sorted(set(own) - {run.seed for run in group.runs if run.task == task}):
            notes.append(f"No run of {task}: seed {setting(lacking)}.")
    published_rhos = figure(group, "v3", f"rho_by_seed_{group.baselines[0]}_ablation")
    if published_rhos and (lacking := sorted(set(figure(group, "v3", "seeds")) - set(own))):
        notes.append(f"Published, but not run here: seed {setting(lacking)}; the paper's mean and std include them.")
    return notes


def joint_table(group: Group, task: str) -> Table:
    """v3, Table 4: what Bloats cost one by one, and together."""
    baseline = group.baselines[0]
    runs = ranked(group, task)
    found = [run.final["joint"][baseline]["bloats"] for run in runs]
    theirs = (figure(group, "v3", f"joint_bloats_{task}") if baseline == "mean" else None) or {}

    def published_drops(name: str) -> list[Cell]:
        return [theirs.get("by_seed", {}).get(str(run.seed), {}).get(name) for run in runs]

    def points(name: str) -> list[float | None]:
        return [None if one[name] is None else 100 * one[name] for one in found]

    single, joint = points("individual_mean"), points("joint")
    columns = [
        Column("seed", [run.seed for run in runs], foot=["mean", "joint / mean individual"]),
        *beside("OOD accuracy (%)", [accuracy(run) for run in runs], published_drops("baseline"), ".1f"),
        Column("Bloats", [len(one["members"]) for one in found]),
        *beside(
            "individual drop (points)",
            single,
            published_drops("individual"),
            ".1f",
            foot=[known(single).mean],
            their_foot=[theirs.get("mean_individual")],
        ),
        *beside(
            "joint drop (points)",
            joint,
            published_drops("joint"),
            ".1f",
            foot=[known(joint).mean, _ratio(joint, single)],
            their_foot=[theirs["mean_joint"], theirs["ratio"]] if theirs else [],
        ),
    ]
    reasons = [f"{task} seed {run.seed}: {one['reason']}." for run, one in zip(runs, found, strict=True) if one["reason"]]
    text = f"Individual and joint ablation of the Bloats of {title(task)}, {baseline} ablation"
    text += of_paper(group, " (v3, Table 4)", task)
    notes = [*missing_notes(group, [task], [baseline]), *reasons, RATIOS, *selection_notes(runs)]
    return Table(of_task("v3-table-4", task), text, group.name, columns, notes)


def _ratio(above: Sequence[float | None], below: Sequence[float | None]) -> Summary:
    both = [(a, b) for a, b in zip(above, below, strict=True) if a is not None and b is not None]
    return ratio([a for a, _ in both], [b for _, b in both])


def layer_table(group: Group, task: str) -> Table:
    """v3, Table 5: Heroes and Bloats among the heads of each layer at three thresholds, per seed."""
    layers = list(range(group.settings["n_layers"]))
    columns = [Column("layer", layers, foot=["all"])]
    for share in SHARES:
        for (label, ours), theirs in zip(
            head_counts(group, task, share).items(), published_counts(group, task, share).values(), strict=True
        ):
            name = f"±{role_threshold(group, share):g} {label[0].upper()}"
            their_foot = [sum(theirs)] if theirs else []
            none = [None] * len(layers)
            foot = [sum(ours) if ours else None]
            columns += beside(name, ours or none, theirs or none, foot=foot, their_foot=their_foot)
    sign = "beyond" if group.settings["strict"] else "at or beyond"
    with_theirs = any(column.paper and column.cells[0] is not None for column in columns)
    per_seed = f" (the paper: its sums over {seeds('v3', task)} seeds, divided by these)" * with_theirs
    own = pluralise(len(ranked(group, task)), "seed")
    notes = [
        f"Means over {own}{per_seed}, attention heads only; H: Heroes, B: Bloats, {sign} the threshold.",
        *missing_notes(group, [task], group.baselines[:1]),
    ]
    text = f"Hero and Bloat heads per layer and seed at three thresholds, {title(task)}, {group.baselines[0]} ablation"
    text += of_paper(group, " (v3, Table 5)", task)
    return Table(of_task("v3-table-5", task), text, group.name, columns, notes)


def role_threshold(group: Group, share: float) -> float:
    """The rank difference that a share of the components stands for."""
    return round(share * group.settings["n_layers"] * (group.settings["n_heads"] + 1), 9)


def published_counts(group: Group, task: str, share: float) -> dict[str, list[float] | None]:
    """The published Heroes and Bloats among the heads of each layer at a threshold, per seed; all are of mean ablation."""
    keys = ("v3", f"layer_counts_{task}_heads_only", f"{role_threshold(group, share):g}")
    found = {label: figure(group, *keys, label) if group.baselines[0] == "mean" else None for label in LABELS}
    return {label: counts and [count / seeds("v3", task) for count in counts] for label, counts in found.items()}


def head_counts(group: Group, task: str, share: float) -> dict[str, list[float]] | dict[str, None]:
    """Heroes and Bloats among the heads of each layer, as a mean over the runs of a task that have ranks; None without any."""
    baseline, runs = group.baselines[0], ranked(group, task)
    if not runs:
        return dict.fromkeys(LABELS)
    counts = {label: np.zeros(group.settings["n_layers"], dtype=int) for label in LABELS}
    for run in runs:
        arrays = component_arrays(run.final, baseline)
        delta = np.array([component["delta"][baseline]["value"] for component in run.final["components"]])
        roles = is_role(delta, role_threshold(group, share), group.settings["strict"])
        for label, role in LABELS.items():
            np.add.at(counts[label], arrays.layer[roles[role] & arrays.is_head], 1)
    return {label: (total / len(runs)).tolist() for label, total in counts.items()}


def gradient_table(group: Group) -> Table:
    """v3, Figure 4, as a table: mean gradient norm per layer."""
    layers = list(range(group.settings["n_layers"]))
    columns = [Column("layer", layers)]
    for task in group.tasks:
        theirs = figure(group, "v3", f"mean_gradient_norm_by_layer_{task}") or [None] * len(layers)
        columns += beside(title(task), layer_gradients(group, task), theirs, ".3f")
    notes = [*spread_notes(columns), "Frobenius norms of the gradient of each head's W_V slice, not divided by √N."]
    text = f"Mean gradient norm of the heads by layer{of_paper(group, ' (v3, Figure 4)')}"
    return Table("v3-figure-4", text, group.name, columns, [*notes, *missing_notes(group, group.tasks, [])])


def layer_gradients(group: Group, task: str) -> list[Summary]:
    """Mean gradient norm of the heads' W_V slices in each layer, not divided by sqrt(N), over the runs of a task."""

    def of_layer(run: MeasuredRun, layer: int) -> float:
        heads = [one for one in run.final["components"] if (one["kind"], one["layer"]) == ("head", layer)]
        return float(np.mean([head["gradient"]["raw"] for head in heads]))

    runs = group.measured(task)
    return [summary([of_layer(run, layer) for run in runs], POSITIVE) for layer in range(group.settings["n_layers"])]


def spread_table(group: Group) -> Table:
    """v1, Table 1: spread of the rank correlation, and numbers of Heroes and Bloats by task."""
    baseline, tasks = group.baselines[0], group.tasks
    gaps = {task: [_gap(run, baseline) for run in ranked(group, task)] for task in tasks}
    statistics = {"mean": lambda v: summary(v).mean, "std": lambda v: summary(v).std, "min": min, "max": max}
    columns = [Column("task", [title(task) for task in tasks]), Column("seeds", [len(gaps[task]) for task in tasks])]
    for name, of in statistics.items():
        ours = [of([gap["rho"] for gap in gaps[task]]) if gaps[task] else None for task in tasks]
        columns += beside(f"ρ {name}", ours, [published_v1(group, "rho", task, name) for task in tasks], source="v1")
    for label in LABELS:
        counts = [summary([gap[label] for gap in gaps[task]]).mean for task in tasks]
        theirs = [_per_seed(published_v1(group, "counts", task, label), task) for task in tasks]
        columns += beside(f"{label} per seed", counts, theirs, ".1f", source="v1")
    per_seed = "Heroes and Bloats of v1 are its sums, divided by its number of seeds (10)."
    notes = [*missing_notes(group, tasks, [baseline]), *paper_notes(group, per_seed, INFERRED)]
    text = f"ρ, Heroes and Bloats by task, {baseline} ablation{of_paper(group, ' (v1, Table 1)')}"
    return Table("v1-table-1", text, group.name, columns, notes)


def _per_seed(count: int | None, task: str) -> float | None:
    return None if count is None else count / seeds("v1", task)


def by_seed_table(group: Group, task: str) -> Table:
    """v1, Tables 4 and 5: length, accuracy, rank correlation and roles of every seed."""
    baseline = group.baselines[0]
    runs, measured = [run for run in group.runs if run.task == task], group.measured(task)
    quantities: list[tuple[str, str, list[Cell]]] = [
        ("OOD length (integers)", "ood_length", [run.final["length"] or "skipped" for run in runs]),
        ("OOD accuracy (%)", "ood_accuracy", [None if run.final.skipped else accuracy(run) for run in runs]),
        ("ρ", "rho", [_gap(run, baseline)["rho"] for run in runs]),
        *((label, label, [_gap(run, baseline)[label] for run in runs]) for label in LABELS),
    ]
    columns = [Column("seed", [run.seed for run in runs], foot=["mean"])]
    for name, key, ours in quantities:
        theirs = [published_v1(group, "by_seed", task, str(run.seed), key) for run in runs]
        form = ".1f" if key == "ood_accuracy" else ".2f"
        columns += beside(name, ours, theirs, form, foot=[_mean(ours)], their_foot=[_mean(theirs)], source="v1")
    number = {"sort": "4", "reverse": "5"}.get(task, f"4-{task}")
    text = f"Results by seed, {title(task)}, {baseline} ablation{of_paper(group, f' (v1, Table {number})', task)}"
    of_v1 = ("v1's means are over the seeds listed here.", OTHER_WEIGHTS, INFERRED)
    notes = [*missing_notes(group, [task], [baseline]), *paper_notes(group, *of_v1, task=task), *selection_notes(measured)]
    return Table(f"v1-table-{number}", text, group.name, columns, notes)


def _mean(cells: Sequence[Cell]) -> float | None:
    return summary([cell for cell in cells if isinstance(cell, int | float)]).mean


def frequent_table(group: Group, task: str) -> Table:
    """v1, Table 6: the components that most often are Heroes, and Bloats."""
    baseline, runs = group.baselines[0], ranked(group, task)
    rows: list[tuple[Cell, ...]] = []
    for label, role in LABELS.items():
        counts = Counter(name for run in runs for name in named_roles(run.final, baseline)[role])
        theirs = published_v1(group, f"frequent_{task}", label) or {}
        names = {name for name, _ in counts.most_common(MOST)} | theirs.keys()
        for name in sorted(names, key=lambda one: (-counts[one], one)):
            rows.append((label, name, counts[name] / len(runs) if runs else None, _per_seed(theirs.get(name), task)))
    columns = [
        *columns_of(rows, ("role", "component")),
        *beside("share of seeds", [row[2] for row in rows], [row[3] for row in rows], source="v1"),
    ]
    of_v1 = (f"v1: of {seeds('v1', task)} seeds; those that it lists are here too.", INFERRED)
    many = [COUNTED] * any(has_many(run.final) for run in runs)
    notes = [f"Of {pluralise(len(runs), 'seed')}; the {MOST} most frequent.", *many, *paper_notes(group, *of_v1, task=task)]
    text = f"Most frequent Heroes and Bloats of {title(task)}, {baseline} ablation{of_paper(group, ' (v1, Table 6)', task)}"
    return Table(of_task("v1-table-6", task), text, group.name, columns, [*notes, *missing_notes(group, [task], [baseline])])


def pruning_table(group: Group) -> Table:
    """v3, section 3.3: cost of ablating the top two of a class, two random components, or a class, OOD and in distribution."""
    baseline = group.baselines[0]
    rows: list[tuple[Cell, ...]] = []
    for task in group.tasks:
        for what, entries in _removals(group, task).items():
            key = ("v3", "pruning_top2_ood_accuracy_change_percent", task, what.removeprefix("top two "))
            v3 = spread(group, *key, scale=-1) if baseline == "mean" and what.startswith("top two") else None
            v1 = spread(group, "v1", f"id_drop_after_pruning_bloats_{task}") if baseline == "mean" and "bloats" in what else None
            rows.append((title(task), what, _points(entries, "ood_drop"), v3, _points(entries, "in_distribution_drop"), v1))
    columns = columns_of(rows, ("task", "removed together"))
    columns += beside("OOD drop (points)", [row[2] for row in rows], [row[3] for row in rows], ".1f", source="v3")
    inside = [row[4] for row in rows]
    if any(isinstance(drops, Summary) and drops.n for drops in inside):  # prompts have none
        columns += beside("in-distribution drop (points)", inside, [row[5] for row in rows], ".1f", source="v1")
    notes = [
        *spread_notes(columns),
        "Runs whose class has no member are left out of its row; random: the mean over random pairs of components of each run.",
        *paper_notes(group, "v1 does not say whether its in-distribution drop is of the top two Bloats or of all."),
        *selection_notes([run for task in group.tasks for run in ranked(group, task)]),
        *missing_notes(group, group.tasks, [baseline]),
    ]
    text = f"What removing components costs, {baseline} ablation{of_paper(group, ' (v3, section 3.3)')}"
    return Table("pruning", text, group.name, columns, notes)


def _removals(group: Group, task: str) -> dict[str, list[dict[str, Any]]]:
    """The pruning entries of all runs by what was removed."""
    baseline = group.baselines[0]
    runs = [run.final for run in ranked(group, task)]
    found = {
        f"{text} {label}": [one for record in runs if (one := record["pruning"][baseline][label][which])["members"]]
        for which, text in (("top2", "top two"), ("all", "all"))
        for label in LABELS
    }
    pairs = [record.data.get("random_pairs", {}).get(baseline) for record in runs]
    return found | {"two random components": [one for one in pairs if one]}


def _points(entries: Sequence[dict[str, Any]], place: str) -> Summary:
    return known((100 * value for entry in entries if (value := entry[place]["value"]) is not None), (-100.0, 100.0))


def pruned_seeds_table(group: Group) -> Table:
    """v1: accuracy before and after pruning the top two, for the seeds of which it says so."""
    baseline = group.baselines[0]
    known_runs = {f"{run.task}_{run.seed}": run for task in group.tasks for run in ranked(group, task)}
    names = list(published()["v1"]["pruning_top2"])
    runs = [known_runs.get(name) for name in names]
    columns = [Column("run", [name.replace("_", " seed ") for name in names])]
    for what in ("baseline", *LABELS):
        ours = [run and (accuracy(run) if what == "baseline" else _after_pruning(run, baseline, what)) for run in runs]
        theirs = [published_v1(group, "pruning_top2", name, what) for name in names]
        heading = "OOD accuracy (%)" if what == "baseline" else f"after pruning the top two {what} (%)"
        columns += beside(heading, ours, theirs, ".1f", source="v1")
    absent = [name.replace("_", " seed ") for name in names if name not in known_runs]
    notes = [f"No measured run here: {', '.join(absent)}."] if absent else []
    text = f"Accuracy after pruning, {baseline} ablation (v1)"
    notes += [NO_CLASS, OTHER_WEIGHTS, *selection_notes([run for run in runs if run])]
    return Table("v1-pruning", text, group.name, columns, notes)


def _after_pruning(run: MeasuredRun, baseline: str, label: str) -> float | None:
    drop = run.final["pruning"][baseline][label]["top2"]["ood_drop"]["value"]
    return None if drop is None else accuracy(run) - 100 * drop


def _gap(run: MeasuredRun, baseline: str) -> dict[str, Any]:
    return run.final["gap"][baseline]


def published_v1(group: Group, *keys: str) -> Any:
    """A figure of v1, all of which are of mean ablation."""
    return figure(group, "v1", *keys) if group.baselines[0] == "mean" else None
