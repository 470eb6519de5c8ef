"""Groups of runs that may be averaged: the same model under the same protocol, and nothing else.

Owns which record belongs to which run and which runs belong together. Two protocols are two groups; nothing merges them. Groups
that measured the same weights are compared: what of the ranks and roles is the network's, and what the measurement's? Within one
run one checkpoint is one step, and whatever says otherwise is reported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcgap.importance.gap import Array
from gcgap.importance.protocol import PROMPTED, Protocol
from gcgap.records.matching_record import MatchingRecord
from gcgap.records.read_records import find_records, named_step
from gcgap.records.record import Record
from gcgap.study.seeds import CORRELATION, SHARE, Summary, spearman, summary

MODEL = {"n_layers": 4, "n_heads": 4, "d_model": 128, "d_ff": 512, "positions": "none"}
DATA = {"layout": "contiguous", "lengths": [3, 7], "ood_lengths": [8, 9, 10, 11]}
TRAINING = {"optimizer": "Adam", "learning_rate": 1e-3, "batch_size": 64, "max_steps": 15_000, "target_accuracy": 0.9}
RELEASED = {
    "layout": "released",
    "site": "released",
    "paired": False,
    "sequences": 100,
    "normalise_gradient": False,
    "strict": True,
    "ranks": "ordinal",
}
"""Every switch that the first public pipeline sets otherwise than gcgap does."""


@dataclass(frozen=True)
class MeasuredRun:
    """One trained model under one protocol.

    Args:
        final: The record of its final model under the window rule.
        tracked: The records of its checkpoints in the order of their steps.
    """

    final: Record
    tracked: tuple[Record, ...] = ()

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.final["task"]

    @property
    def seed(self) -> int:
        """Seed of data and weights."""
        return self.final["seed"]

    def has_roles(self, baseline: str) -> bool:
        """Whether the components have roles, and so a rank correlation."""
        return self.final["gap"][baseline]["rho"] is not None


@dataclass(frozen=True)
class Group:
    """Runs of one model under one protocol, both tasks, in the order of their seeds.

    Args:
        settings: What they have in common: the protocol's and the model's settings.
        runs: The runs, those that were skipped too.
        matchings: Records of heads of such runs, matched between seeds.
    """

    settings: dict[str, Any]
    runs: tuple[MeasuredRun, ...]
    matchings: tuple[MatchingRecord, ...] = ()

    @property
    def name(self) -> str:
        """`default`, `released`, or the settings that are not the default's; of a pretrained model its name comes first."""
        model, default = self.settings.get("name"), default_settings()
        if model is not None:
            return ", ".join([model, *_changed(self.settings)])
        changed = {key: self.settings.get(key) for key in default | self.settings if self.settings.get(key) != default.get(key)}
        if changed == RELEASED:
            return "released"
        return ", ".join(f"{key}={value}".replace("'", "") for key, value in changed.items()) or "default"

    @property
    def baselines(self) -> list[str]:
        """Ablation baselines, in the order of the protocol; the claims are decided by the first."""
        return list(self.settings["baselines"])

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the paper's tables."""
        return tasks_in_order(run.task for run in self.runs)

    def measured(self, task: str) -> list[MeasuredRun]:
        """Runs of a task that have numbers."""
        return [run for run in self.runs if run.task == task and run.final.skipped is None]

    def ranked(self, task: str, baseline: str | None = None) -> list[MeasuredRun]:
        """Runs of a task whose components have roles, by the first baseline unless another is named."""
        return [run for run in self.measured(task) if run.has_roles(baseline or self.baselines[0])]

    def skipped(self, task: str) -> list[MeasuredRun]:
        """Runs of a task without an OOD length inside the window, which are never averaged in."""
        return [run for run in self.runs if run.task == task and run.final.skipped is not None]


def tasks_in_order(tasks: Iterable[str]) -> list[str]:
    """The tasks, each once: reversal, sorting, then any other."""
    return sorted(set(tasks), key=lambda task: (task != "reverse", task != "sort", task))


def _changed(settings: dict[str, Any]) -> list[str]:
    """What of the protocol of a pretrained model is not the usual one; its other settings follow from its name."""
    usual = PROMPTED.to_dict() | {"length": 0, "prompts_sha256": None, "dtype": "float32"}
    return [f"{key}={settings[key]}".replace("'", "") for key, value in usual.items() if settings.get(key, value) != value]


def default_settings() -> dict[str, Any]:
    """Every setting at its default."""
    return Protocol().to_dict() | DATA | MODEL | TRAINING


def gather(paths: Iterable[str | Path]) -> list[Group]:
    """Every finished run at or below the paths, in groups; the group of the defaults first, then the largest.

    Raises:
        ValueError: No finished run, or two runs of the same task and seed in one group.
    """
    found: dict[str, list[MeasuredRun]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for run in _runs(paths):
        own = _settings(run.final)
        key = json.dumps(own, sort_keys=True)
        settings[key] = own
        found.setdefault(key, []).append(run)
    groups = [Group(settings[key], tuple(_once(runs))) for key, runs in found.items()]
    if not groups:
        searched = ", ".join(str(path) for path in paths)
        raise ValueError(
            f"`{searched}` holds no finished run; expected gap/final.json below it. Run `gcgap fit` or `gcgap sweep` first."
        )
    return sorted(groups, key=lambda group: (group.name != "default", group.name != "released", -len(group.runs), group.name))


def with_matchings(groups: Sequence[Group], records: Sequence[MatchingRecord]) -> list[Group]:
    """The groups, each with the records of matched heads whose roles are of its protocol."""
    return [replace(group, matchings=tuple(one for one in records if one["group"] == group.name)) for group in groups]


def has_runs(path: Path) -> bool:
    """Whether there is a record of a measurement at or below a path, to go by the names of files."""
    names = ("final.json", "step=*.json")
    return any(path.match(name) if path.is_file() else any(path.rglob(name)) for name in names)


def _runs(paths: Iterable[str | Path]) -> Iterator[MeasuredRun]:
    records = {record.path or Path(str(i)): record for path in paths for i, record in enumerate(find_records(path))}
    folders: dict[Path, list[Record]] = {}
    for path, record in records.items():
        folders.setdefault(path.parent, []).append(record)
    for inside in folders.values():
        tracked = [record for record in inside if not record.data.get("final", record.path and record.path.name == "final.json")]
        tracked.sort(key=lambda record: record["step"] or 0)
        yield from (MeasuredRun(record, tuple(tracked)) for record in inside if record not in tracked)


def _settings(record: Record) -> dict[str, Any]:
    """What must be equal for two records to be averaged; a length that the window rule chose may differ."""
    if "model" not in record.data:
        raise ValueError(f"`{record.path}` does not name its model; measure the run again with `gcgap measure --force`.")
    length = {"length": record["length"]} if record.data.get("length_given") else {}
    own = "name" not in record["model"]  # a pretrained model was trained elsewhere, nobody knows how
    training = trained(record["training"] or (TRAINING if own else {}))
    if "precision" in training:  # the protocol has one too
        training["training_precision"] = training.pop("precision")
    return record["protocol"] | record["model"] | training | length


def trained(training: dict[str, Any]) -> dict[str, Any]:
    """The settings of training without the usual precision: records from before there was another one do not name it."""
    return {key: value for key, value in training.items() if (key, value) != ("precision", "32-true")}


def _once(runs: list[MeasuredRun]) -> list[MeasuredRun]:
    """The runs in the order of their seeds, each task and seed once: of two records of the same weights, the run's own."""
    first: dict[tuple[str, int], MeasuredRun] = {}
    for run in sorted(runs, key=lambda run: -len(run.tracked)):
        other = first.setdefault((run.task, run.seed), run)
        if other is not run and not _same_weights(run, other):
            raise ValueError(
                f"`{run.final.path}` and `{other.final.path}` are the same run under the same protocol; leave one out."
            )
    return sorted(first.values(), key=lambda run: (run.task, run.seed))


def _same_weights(run: MeasuredRun, other: MeasuredRun) -> bool:
    """Whether two records of one run directory hold the same measurement of the same checkpoint."""
    first, second = (one.final for one in (run, other))
    if first.path is None or second.path is None or first["checkpoint_sha256"] is None:
        return False
    homes = {next((parent.parent for parent in path.parents if parent.name == "gap"), path) for path in (first.path, second.path)}
    return len(homes) == 1 and first["checkpoint_sha256"] == second["checkpoint_sha256"]


@dataclass(frozen=True)
class Agreement:
    """How far two measurements of the same weights agree, over runs.

    Args:
        task: The task.
        first: Name of the group that one measurement of each belongs to.
        second: Name of the other's.
        causes: Rank correlation of the two C, by exact match.
        causes_by_log_prob: The same by log-probability, which has no floor.
        gaps: Rank correlation of the two rank differences.
        heroes: Share of the first's Heroes that are Heroes in the second.
        bloats: Share of the first's Bloats that are Bloats in the second.
    """

    task: str
    first: str
    second: str
    causes: Summary
    causes_by_log_prob: Summary
    gaps: Summary
    heroes: Summary
    bloats: Summary


def agreements(groups: Sequence[Group]) -> list[Agreement]:
    """Every pair of groups that share checkpoints, task by task; the earlier group is the first."""
    found = []
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            for task in first.tasks:
                shared = [name for name in first.baselines if name in second.baselines]
                if shared and (pairs := _pairs(first, second, task)):
                    found.append(_agreement(task, first, second, shared[0], pairs))
    return found


def doubts(run: MeasuredRun) -> list[str]:
    """What cannot be in a run: two steps with the bytes of one checkpoint, and a record of another step than its file's name."""
    found, first = [], dict[str, Record]()
    for record in (*run.tracked, run.final):
        if record.path and named_step(record.path) not in (None, record["step"]):
            found.append(f"`{record.path}` is a record of step {record['step']}, and not of the one that its name says")
        other = first.setdefault(record["checkpoint_sha256"] or str(record.path), record)
        known = record is run.final and any(record["step"] == one["step"] for one in run.tracked)  # reported already
        if other["step"] != record["step"] and not known:
            steps = f"steps {other['step']} and {record['step']}"
            what = "weights" if "name" in record["model"] else "checkpoint, byte for byte"
            found.append(f"`{other.path}` and `{record.path}` are of {steps} but of the same {what}")
    return found


def _pairs(first: Group, second: Group, task: str) -> list[tuple[Record, Record]]:
    known = {run.final["checkpoint_sha256"]: run.final for run in second.measured(task)}
    own = [run.final for run in first.measured(task) if run.final["checkpoint_sha256"] is not None]
    return [(record, known[record["checkpoint_sha256"]]) for record in own if record["checkpoint_sha256"] in known]


def _agreement(task: str, first: Group, second: Group, baseline: str, pairs: Sequence[tuple[Record, Record]]) -> Agreement:
    def over(one: str) -> Summary:
        columns = [[_column(record, baseline, one) for record in pair] for pair in pairs]
        values = [spearman(before, after) for before, after in columns if before is not None and after is not None]
        return summary([value for value in values if value is not None], CORRELATION)

    def kept(role: str) -> Summary:
        members = [[set(record.roles(baseline)[role]) for record in pair] for pair in pairs]
        return summary([len(before & after) / len(before) for before, after in members if before], SHARE)

    return Agreement(
        task, first.name, second.name, over("exact_match"), over("log_prob"), over("delta"), kept("hero"), kept("bloat")
    )


def _column(record: Record, baseline: str, what: str) -> Array | None:
    """One number per component: its drop by a metric, or its rank difference; None where there is no rank difference."""
    if what == "delta":
        found = [component["delta"][baseline]["value"] for component in record["components"]]
        return None if None in found else np.array(found)
    return np.array([component["causal"][baseline][what]["value"] for component in record["components"]])
