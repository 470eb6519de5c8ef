"""Tables 1 to 5 of the paper's third version, each cell beside the published figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gcgap.report.notes import OTHER_WEIGHTS, left_out, of_paper_notes, ranked, spread_note, title
from gcgap.report.table_joint import joint_table
from gcgap.report.table_layers import layer_table
from gcgap.report.table_parts import Cell, Column, Table
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.published import figure, of_paper, spread
from gcgap.study.seeds import summary


def tables(group: Group) -> list[Table]:
    """All five; those of one task once for each task, the paper's own under its number alone."""
    of_tasks = [
        make(group, task) for make in (joint_table, layer_table) for task in sorted(group.tasks, key=lambda task: task != "sort")
    ]
    return [table_1(group), table_2(group), table_3(group), *of_tasks]


def table_1(group: Group) -> Table:
    """Rank correlation by task and ablation baseline."""
    columns = [Column("task", [title(task) for task in group.tasks])]
    for baseline in group.baselines:
        found = [summary([_rho(run, baseline) for run in ranked(group, task, baseline)]) for task in group.tasks]
        theirs = [spread(group, "v3", "rho", task, f"{baseline}_ablation") for task in group.tasks]
        columns += [
            Column(f"ρ, {baseline} ablation: gcgap", found),
            Column(f"ρ, {baseline} ablation: paper", theirs, paper=True),
        ]
    notes = [*spread_note(columns), *left_out(group, group.tasks, group.baselines)]
    text = f"Spearman's ρ between gradient magnitude and causal importance{of_paper(group, ' (v3, Table 1)')}"
    return Table("v3-table-1", text, group.name, columns, notes)


def table_2(group: Group) -> Table:
    """The model and how it was trained and measured."""
    settings, recorded = group.settings, [run.final.data.get("training") or {} for run in group.runs]

    def trained(name: str) -> Cell:
        found = list(dict.fromkeys(plain(training.get(name, "not recorded")) for training in recorded))
        return " / ".join(map(str, found)) if len(found) > 1 else found[0]

    rows: dict[str, tuple[str, Cell]] = {
        "layers L": ("n_layers", settings["n_layers"]),
        "heads H": ("n_heads", settings["n_heads"]),
        "d_model": ("d_model", settings["d_model"]),
        "d_ff": ("d_ff", settings["d_ff"]),
        "positions": ("positions", settings["positions"]),
        "batch size (examples)": ("batch_size", trained("batch_size")),
        "learning rate": ("learning_rate", trained("learning_rate")),
        "optimiser": ("optimizer", trained("optimizer")),
        "maximum of training steps": ("max_steps", trained("max_steps")),
        "target accuracy (share of sequences)": ("target_accuracy", trained("target_accuracy")),
        "OOD accuracy window (share of sequences)": ("window", plain(settings["window"])),
        "gradient batches B": ("gradient_batches", settings["gradient_batches"]),
        "training lengths (integers)": ("lengths", plain(settings["lengths"])),
        "OOD lengths (integers)": ("ood_lengths", plain(settings["ood_lengths"])),
    }
    ours = [value for _, value in rows.values()] + [", ".join(map(str, sorted({run.seed for run in group.runs})))]
    theirs = [plain(figure(group, "v3", "configuration", name)) for name, _ in rows.values()]
    seeds = ", ".join(map(str, figure(group, "v3", "seeds") or ())) or None
    columns = [
        Column("parameter", [*rows, "seeds"]),
        Column("gcgap", ours, form="g"),
        Column("paper", [*theirs, seeds], form="g", paper=True),
    ]
    notes = ["The paper's text says that positions are learned; its table does not name them."] if seeds else []
    return Table("v3-table-2", f"Model and training configuration{of_paper(group, ' (v3, Table 2)')}", group.name, columns, notes)


def plain(value: Any) -> Cell:
    """A setting as a cell."""
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def table_3(group: Group) -> Table:
    """Rank correlation of every seed."""
    baseline = group.baselines[0]
    seeds = sorted({run.seed for run in group.runs})
    columns = [Column("seed", seeds, foot=["mean", "std"])]
    for task in group.tasks:
        rhos = {run.seed: _rho(run, baseline) for run in ranked(group, task, baseline)}
        skipped = {run.seed for run in group.skipped(task)}
        ours = [rhos.get(seed, "skipped" if seed in skipped else None) for seed in seeds]
        whole = summary(list(rhos.values()))
        columns.append(Column(f"{title(task)} ρ: gcgap", ours, foot=[whole.mean, whole.std]))
        columns.append(_published_rhos(group, task, baseline, seeds))
    notes = [*left_out(group, group.tasks, [baseline]), *_missing(group, seeds, baseline), *of_paper_notes(group, OTHER_WEIGHTS)]
    text = f"Spearman's ρ by seed, {baseline} ablation{of_paper(group, ' (v3, Table 3)')}"
    return Table("v3-table-3", text, group.name, columns, notes)


def _published_rhos(group: Group, task: str, baseline: str, seeds: Sequence[int]) -> Column:
    known = figure(group, "v3", f"rho_by_seed_{baseline}_ablation", task) or {}
    cells = ["skipped" if str(seed) in known and known[str(seed)] is None else known.get(str(seed)) for seed in seeds]
    whole = spread(group, "v3", "rho", task, f"{baseline}_ablation")
    return Column(f"{title(task)} ρ: paper", cells, foot=[whole and whole.mean, whole and whole.std], paper=True)


def _missing(group: Group, seeds: Sequence[int], baseline: str) -> list[str]:
    """Which seeds a task has no run of."""
    notes = []
    for task in group.tasks:
        lacking = sorted(set(seeds) - {run.seed for run in group.runs if run.task == task})
        if lacking:
            notes.append(f"No run of {task}: seed {', '.join(map(str, lacking))}.")
    published = figure(group, "v3", f"rho_by_seed_{baseline}_ablation")
    lacking = sorted(set(figure(group, "v3", "seeds") or ()) - set(seeds)) if published else []
    if lacking:
        notes.append(f"Published, but not run here: seed {', '.join(map(str, lacking))}; the paper's mean and std include them.")
    return notes


def _rho(run: MeasuredRun, baseline: str) -> float:
    return run.final["gap"][baseline]["rho"]
