"""Tables 1, 4, 5 and 6 of the paper's first version, each cell beside the published figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gcgap.report.notes import OTHER_WEIGHTS, accuracy, left_out, of_paper_notes, of_task, ranked, title
from gcgap.report.table_parts import Cell, Column, Table
from gcgap.report.wording import counted
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.published import figure, of_paper, seeds
from gcgap.study.seeds import summary

INFERRED = "v1's numbering of its tables is inferred from their content."
LABELS = {"heroes": "hero", "bloats": "bloat"}
MOST = 5  # most frequent components of a role that are listed


def tables(group: Group) -> list[Table]:
    """All of them; those of one task once for each task."""
    sorting_first = sorted(group.tasks, key=lambda task: task != "sort")
    return [table_1(group), *(make(group, task) for make in (by_seed_table, frequent_table) for task in sorting_first)]


def table_1(group: Group) -> Table:
    """Rank correlation and numbers of Heroes and Bloats by task."""
    baseline, tasks = group.baselines[0], group.tasks
    runs = {task: ranked(group, task, baseline) for task in tasks}
    rhos = {task: [_gap(run, baseline)["rho"] for run in runs[task]] for task in tasks}
    statistics = {"mean": lambda v: summary(v).mean, "std": lambda v: summary(v).std, "min": min, "max": max}
    columns = [Column("task", [title(task) for task in tasks]), Column("seeds", [len(runs[task]) for task in tasks])]
    for name, of in statistics.items():
        ours: list[Cell] = [of(rhos[task]) if rhos[task] else None for task in tasks]
        theirs = [published_v1(group, "rho", task, name) for task in tasks]
        columns += [Column(f"ρ {name}: gcgap", ours), Column(f"ρ {name}: v1", theirs, paper=True)]
    for label in LABELS:
        counts: list[Cell] = [_mean([_gap(run, baseline)[label] for run in runs[task]]) for task in tasks]
        theirs = [_per_seed(published_v1(group, "counts", task, label), task) for task in tasks]
        columns += [Column(f"{label} per seed: gcgap", counts, ".1f"), Column(f"{label} per seed: v1", theirs, ".1f", paper=True)]
    per_seed = "Heroes and Bloats of v1 are its sums, divided by its number of seeds (10)."
    notes = [*left_out(group, tasks, [baseline]), *of_paper_notes(group, per_seed, INFERRED)]
    text = f"ρ, Heroes and Bloats by task, {baseline} ablation{of_paper(group, ' (v1, Table 1)')}"
    return Table("v1-table-1", text, group.name, columns, notes)


def _per_seed(count: int | None, task: str) -> float | None:
    return None if count is None else count / seeds("v1", task)


def by_seed_table(group: Group, task: str) -> Table:
    """Length, accuracy, rank correlation and roles of every seed."""
    baseline = group.baselines[0]
    runs = [run for run in group.runs if run.task == task]
    measured = [run for run in runs if run.final.skipped is None]
    ours: dict[str, list[Cell]] = {
        "OOD length (integers)": [run.final["length"] or "skipped" for run in runs],
        "OOD accuracy (%)": [accuracy(run) if run in measured else None for run in runs],
    }
    ours |= {name: [_gap(run, baseline)[name] for run in runs] for name in ("rho", "heroes", "bloats")}
    names = dict(zip(ours, ("ood_length", "ood_accuracy", "rho", "heroes", "bloats"), strict=True))
    columns = [Column("seed", [run.seed for run in runs], foot=["mean"])]
    for name, place in names.items():
        theirs = [published_v1(group, "by_seed", task, str(run.seed), place) for run in runs]
        form = ".1f" if place == "ood_accuracy" else ".2f"
        heading = "ρ" if name == "rho" else name
        columns.append(Column(f"{heading}: gcgap", ours[name], form, foot=[_mean(ours[name])]))
        columns.append(Column(f"{heading}: v1", theirs, form, foot=[_mean(theirs)], paper=True))
    number = {"sort": "4", "reverse": "5"}.get(task, f"4-{task}")
    text = f"Results by seed, {title(task)}, {baseline} ablation{of_paper(group, f' (v1, Table {number})', task)}"
    of_v1 = ("v1's means are over the seeds listed here.", OTHER_WEIGHTS, INFERRED)
    notes = [*left_out(group, [task], [baseline]), *of_paper_notes(group, *of_v1, task=task)]
    return Table(f"v1-table-{number}", text, group.name, columns, notes)


def _mean(cells: Sequence[Cell]) -> float | None:
    return summary([cell for cell in cells if isinstance(cell, int | float)]).mean


def frequent_table(group: Group, task: str) -> Table:
    """The components that most often are Heroes, and Bloats."""
    baseline = group.baselines[0]
    runs = ranked(group, task, baseline)
    rows: list[tuple[str, str, float | None, float | None]] = []
    for label, role in LABELS.items():
        counts = Counter(name for run in runs for name in run.final.roles(baseline)[role])
        theirs = published_v1(group, f"frequent_{task}", label) or {}
        names = list(dict.fromkeys([*(name for name, _ in counts.most_common(MOST)), *theirs]))
        names.sort(key=lambda one: (-counts[one], one))
        ours = {name: counts[name] / len(runs) if runs else None for name in names}
        rows += [(label, name, ours[name], _per_seed(theirs.get(name), task)) for name in names]
    roles, names, ours, theirs = zip(*rows, strict=True) if rows else ((), (), (), ())
    columns = [
        Column("role", roles),
        Column("component", names),
        Column("share of seeds: gcgap", ours),
        Column("share of seeds: v1", theirs, paper=True),
    ]
    of_v1 = (f"v1: of {seeds('v1', task)} seeds; those that it lists are here too.", INFERRED)
    notes = [f"Of {counted(len(runs), 'seed')}; the {MOST} most frequent.", *of_paper_notes(group, *of_v1, task=task)]
    text = f"Most frequent Heroes and Bloats of {title(task)}, {baseline} ablation{of_paper(group, ' (v1, Table 6)', task)}"
    return Table(of_task("v1-table-6", task), text, group.name, columns, [*notes, *left_out(group, [task], [baseline])])


def _gap(run: MeasuredRun, baseline: str) -> dict[str, Any]:
    return run.final["gap"][baseline]


def published_v1(group: Group, *keys: str) -> Any:
    """A figure of v1, all of which are of mean ablation."""
    return figure(group, "v1", *keys) if group.baselines[0] == "mean" else None
