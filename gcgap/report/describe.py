"""What records and numbers are of, in words: a run, its data, the runs that a mean is made of and those that it leaves out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import comb
from typing import Any

from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record
from gcgap.report.blocks import Column
from gcgap.study.claims import of_paper
from gcgap.study.evidence import NAMES, selection_note
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.seeds import Interval, Summary, summary

SPREAD = (
    "± is the standard deviation over seeds (n in the denominator, as in the paper), brackets the 95 % t-interval of the mean, "
    "on a scale on which it cannot leave the range of the number. Of two or three seeds each value is shown instead."
)
OTHER_WEIGHTS = "A seed gives other weights in another program: compare the columns, not the rows."
EFFECTS = {
    "log_prob": "log-prob",
    "logit_difference": "logit difference",
    "probability_difference": "probability difference",
    "exact_match": "exact match",
}


def describe_run(record: Record | AttributionRecord, step: bool = True) -> str:
    """`sort, seed 42, step 1,000, length 9`; of a pretrained model `gpt2 on ioi prompts, seed 42`."""
    at = f", step {record['step']:,}" if step and record["step"] is not None else ""
    if (name := _pretrained(record)) is None:
        return f"{record['task']}, seed {record['seed']}{at}, length {record['length']}"
    return f"{name} on {describe_data(record)}, seed {record['seed']}{at}"


def describe_data(record: Record | AttributionRecord) -> str:
    """`sort at length 9`, `ioi prompts`."""
    if _pretrained(record) is None:
        return f"{record['task']} at length {record['length']}"
    return f"{record['task']} prompts" + (f" at length {record['length']}" if record["length"] else "")


def _pretrained(record: Record | AttributionRecord) -> str | None:
    return record.to_dict().get("model", {}).get("name")


def shared_values(record: Record | AttributionRecord) -> list[str]:
    """A warning where query heads share their values, which G cannot tell apart; nothing elsewhere."""
    group = record.to_dict().get("model", {}).get("heads_per_value", 1)
    if group == 1:
        return []
    return [
        f"Groups of {group} heads share their values: G of each is that of the group's slice of W_V. "
        "The method gradient_output, of each head's own slice of W_O, tells them apart (in `gcgap measure`: "
        "--protocol.attribution.methods '[gradient_output]')."
    ]


def said_above(record: Record) -> set[str]:
    """Names of the heads that share the values of the head before them, and so its G."""
    group = record.to_dict().get("model", {}).get("heads_per_value", 1)
    heads = [one for one in record["components"] if one["kind"] == "head"]
    pairs = [(heads[i - 1], heads[i]) for i in range(len(heads)) if i % group]
    return {one["name"] for before, one in pairs if one["gradient"] == before["gradient"]}


def title(task: str) -> str:
    """A task as the paper calls it."""
    return NAMES.get(task, task)


def of_task(key: str, task: str) -> str:
    """Key of a table of one task; sorting, the paper's own, needs no name."""
    return key + ("" if task == "sort" else f"-{task}")


def sorting_first(group: Group) -> list[str]:
    """The tasks of a group in the order of tables that have one of each."""
    return sorted(group.tasks, key=lambda task: task != "sort")


def pluralise(number: int, noun: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {noun}" + "s" * (number != 1)


def without_ticks(text: str) -> str:
    """Text for a terminal, a figure or an attribute, where there is no code to mark."""
    return re.sub(r"`([^`]+)`", r"\1", text)


def ranked(group: Group, task: str, baseline: str | None = None) -> list[MeasuredRun]:
    """The runs of a task whose components have ranks, and so roles and a rank correlation; by the first baseline by default."""
    return group.ranked(task, baseline or group.baselines[0])


def known(values: Iterable[float | None], within: Interval | None = None) -> Summary:
    """A number over the runs that have it, in its range."""
    return summary([value for value in values if value is not None], within)


def accuracy(run: MeasuredRun) -> float:
    """Exact match at the measured length, in percent of sequences."""
    return 100 * run.final.ood_accuracy


def missing_notes(group: Group, tasks: Sequence[str], baselines: Sequence[str]) -> list[str]:
    """The runs that have no number and why: a sentence of those skipped, and one of those without a rank correlation."""
    skipped = [f"{task} seed {run.seed}: {run.final.skipped}" for task in tasks for run in group.skipped(task)]
    unranked = [
        f"{task} seed {run.seed}, {baseline} ablation: {run.final['gap'][baseline]['reason']}"
        for task in tasks
        for baseline in baselines
        for run in group.measured(task)
        if run.final["gap"][baseline]["rho"] is None
    ]
    found = {"Skipped": skipped, "No ranks, left out": unranked}
    return [f"{what}: {'; '.join(runs)}." for what, runs in found.items() if runs]


def selection_notes(runs: Sequence[MeasuredRun]) -> list[str]:
    """That older records say what sets cost on the sequences that chose them, where there are any."""
    return [note.strip()] if (note := selection_note(runs)) else []


def paper_notes(group: Group, *notes: str, task: str | None = None) -> list[str]:
    """Notes on the paper, for runs that are the paper's."""
    return [note for note in notes if of_paper(group, note, task)]


def spread_notes(columns: Sequence[Column]) -> list[str]:
    """What ± and brackets mean, where a table has them."""
    cells = (cell for column in columns for cell in column.cells)
    return [SPREAD] if any(isinstance(cell, Summary) and (cell.n > 1 or cell.ci) for cell in cells) else []


def searched(critical: Mapping[str, Any]) -> tuple[int, bool]:
    """Up to which size every set of dispensable components was tried, 0 if none was, and whether all of them together were."""
    members, size = len(critical["dispensable"]), critical["searched"]
    smaller = sum(comb(members, some) for some in range(2, size + 1))
    return size, size >= members or critical["evaluated"] > smaller
