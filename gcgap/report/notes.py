"""Which runs a number over seeds is made of, and the sentences that name those it leaves out."""

from __future__ import annotations

from collections.abc import Sequence

from gcgap.report.table_parts import Column
from gcgap.study.evidence import NAMES
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.published import of_paper
from gcgap.study.seeds import Summary

SPREAD = (
    "± is the standard deviation over seeds (n in the denominator, as in the paper), brackets the 95 % t-interval of the mean."
)

OTHER_WEIGHTS = "A seed gives other weights in another program: compare the columns, not the rows."


def of_paper_notes(group: Group, *notes: str, task: str | None = None) -> list[str]:
    """Notes that speak of the paper, for runs that are the paper's."""
    return [note for note in notes if of_paper(group, note, task)]


def spread_note(columns: Sequence[Column]) -> list[str]:
    """What ± and brackets mean, where a table has them."""
    cells = (cell for column in columns for cell in column.cells)
    return [SPREAD] if any(isinstance(cell, Summary) and (cell.n > 1 or cell.ci) for cell in cells) else []


def title(task: str) -> str:
    """A task as the paper calls it."""
    return NAMES.get(task, task)


def of_task(key: str, task: str) -> str:
    """Key of a table of one task; sorting, the paper's own, needs no name."""
    return key + ("" if task == "sort" else f"-{task}")


def ranked(group: Group, task: str, baseline: str) -> list[MeasuredRun]:
    """The runs of a task whose components have ranks, and so roles and a rank correlation."""
    return group.ranked(task, baseline)


def left_out(group: Group, tasks: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """One sentence for each run that has no number: those skipped, and those without a rank correlation."""
    skipped = [f"Skipped: {task} seed {run.seed}: {run.final.skipped}." for task in tasks for run in group.skipped(task)]
    return skipped + [
        f"No ranks, left out: {task} seed {run.seed}, {baseline} ablation: {run.final['gap'][baseline]['reason']}."
        for task in tasks
        for baseline in baselines
        for run in group.measured(task)
        if run.final["gap"][baseline]["rho"] is None
    ]


def accuracy(run: MeasuredRun) -> float:
    """Exact match at the measured length, in percent of sequences."""
    return 100 * run.final["accuracy"]["by_length"][str(run.final["length"])]
