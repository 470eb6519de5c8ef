"""Attribution methods over runs: which agree with the exact effects, and whether any resolves the Bloats.

Groups attribution records that may be averaged (one model, protocol and intervention), and answers by fixed rules. The gap of a
method is what its rank correlation falls short of that of the exact effects on the same sequences, run by run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcgap.importance.gap import Array, Judgement, constant, expected_by_chance, is_role, rank
from gcgap.records.attribution_record import AttributionRecord, find_attributions
from gcgap.study.groups import tasks_in_order, trained
from gcgap.study.seeds import CORRELATION, POSITIVE, TIED, Interval, Summary, summary

CLOSED = 0.1  # shortfall in rho up to which a method counts as having no gap
AGAIN = {"again:exact_match": "exact effects on other sequences", "again:log_prob": "exact effects by log-probability"}
ANSWERS = ("closed", "remains", "inconclusive")


@dataclass(frozen=True)
class MethodGroup:
    """Attribution records of one model, protocol and intervention, both tasks, in the order of their seeds.

    Args:
        settings: What they have in common.
        records: One for each task and seed.
        difference: Settings that another group of the same name has otherwise; empty if there is none.
    """

    settings: dict[str, Any]
    records: tuple[AttributionRecord, ...]
    difference: str = ""

    @property
    def name(self) -> str:
        """What is intervened on, the number of sequences, and what sets it apart from other groups."""
        setup, protocol = self.settings["setup"], self.settings["protocol"]
        positions = "" if setup["positions"] == "all" else f", positions {setup['positions']}"
        length = f", length {self.settings['length']}" if self.settings["length"] else ""
        metric = protocol["attribution"]["metric"].replace("_", " ")
        name = f"{setup['baseline']}, {setup['direction']}, {metric}{positions}{length}, {protocol['sequences']} sequences"
        if model := self.settings["model"].get("name"):
            name = f"{model}: {name}"
        return f"{name}, {self.difference}" if self.difference else name

    @property
    def tasks(self) -> list[str]:
        """Tasks in the order of the paper's tables."""
        return tasks_in_order(record["task"] for record in self.records)

    @property
    def effects(self) -> list[str]:
        """Metrics of the exact effects: log-probability, that of the scores, exact match."""
        return list(dict.fromkeys(("log_prob", self.settings["protocol"]["attribution"]["metric"], "exact_match")))

    @property
    def methods(self) -> list[str]:
        """Names of the methods that every record has."""
        return [name for name in self.records[0]["methods"] if all(name in record["methods"] for record in self.records)]

    def of_task(self, task: str) -> list[AttributionRecord]:
        """The records of a task."""
        return [record for record in self.records if record["task"] == task]


def gather_methods(paths: Iterable[str | Path]) -> list[MethodGroup]:
    """Every attribution record at or below the paths, in groups, the largest first; none is no error.

    Raises:
        ValueError: Two records of one task and seed in one group.
    """
    found: dict[str, tuple[dict[str, Any], dict[tuple[str, int], AttributionRecord]]] = {}
    for record in (record for path in paths for record in find_attributions(path)):
        length = record["length"] if record["length_given"] else None
        own = {key: record[key] for key in ("setup", "protocol", "model")}
        own |= {"training": record["training"] and trained(record["training"]), "length": length}
        own |= {"revision": revision} if (revision := record.data.get("revision")) else {}
        _, members = found.setdefault(json.dumps(own, sort_keys=True), (own, {}))
        other = members.setdefault((record["task"], record["seed"]), record)
        if other is not record:
            raise ValueError(f"`{record.path}` and `{other.path}` are of the same run and settings; leave one out.")
    groups = [MethodGroup(own, tuple(members[key] for key in sorted(members))) for own, members in found.values()]
    return sorted(_distinguished(groups), key=lambda group: (-len(group.records), group.name))


def _distinguished(groups: Sequence[MethodGroup]) -> list[MethodGroup]:
    """The groups, those of one name with the settings in which they differ: a name is a folder and a heading of a report."""
    found = []
    for group in groups:
        own = _flat(group.settings)
        others = [_flat(other.settings) for other in groups if other is not group and other.name == group.name]
        unlike = [f"{key}={value}" for key, value in own.items() if any(other.get(key, own) != value for other in others)]
        found.append(replace(group, difference=", ".join(unlike).replace("'", "")))
    return found


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def over_seeds(group: MethodGroup, task: str, method: str, effect: str, key: str = "rho", part: str = "all") -> Summary:
    """A number of a method's agreement over the runs of a task; runs in which it does not exist are left out."""
    values = [record["methods"][method]["agreement"][effect].get(part, {}).get(key) for record in group.of_task(task)]
    return summary([value for value in values if value is not None], RANGES.get(key))


RANGES: dict[str, Interval] = {"rho": CORRELATION, "tau_b": CORRELATION}
"""The range of each number of an agreement that has one."""


def cost(group: MethodGroup, method: str, key: str = "forward_equivalents") -> Summary:
    """What a method cost, over all runs."""
    return summary([record["methods"][method]["cost"][key] for record in group.records], POSITIVE)


def shortfall(group: MethodGroup, task: str, method: str, effect: str) -> Summary:
    """How much lower the method's rho is than that of exact effects on the scores' own sequences, paired by run."""
    pairs = [
        [record["methods"][name]["agreement"][effect]["all"]["rho"] for name in ("exact", method)]
        for record in group.of_task(task)
        if "exact" in record["methods"]
    ]
    return summary([exact - own for exact, own in pairs if exact is not None and own is not None])


def answer(short: Summary) -> str:
    """Whether the gap is closed, remains, or is inconclusive, from the interval of the shortfall."""
    closed, remains, inconclusive = ANSWERS
    low, high = short.ci or (None, None)
    if low is None and short.n > 2 and short.std is not None and short.std <= TIED:  # equal in all runs
        low = high = short.mean
    if low is None or high is None:
        return inconclusive
    return closed if high <= CLOSED else remains if low > CLOSED else inconclusive


@dataclass(frozen=True)
class Roles:
    """Heroes and Bloats of one run, by a method's scores against a causal importance.

    Args:
        heroes: How many.
        bloats: Names.
        heroes_by_chance: Expected under random pairing.
        bloats_by_chance: Expected under random pairing.
    """

    heroes: int
    bloats: frozenset[str]
    heroes_by_chance: float
    bloats_by_chance: float


def roles(record: AttributionRecord, method: str, causal: str | None = None) -> Roles | None:
    """Roles by rank(score) - rank(C), C the exact effect by exact match, or `causal`, see `scores`.

    None where either is constant.
    """
    score = scores(record, method)
    C = effects(record, "exact_match") if causal is None else scores(record, causal)
    if constant(score) or constant(C):
        return None
    by = Judgement(record["protocol"]["threshold"], record["protocol"]["strict"], record["protocol"]["ranks"])
    found = is_role(rank(score, by.ranks) - rank(C, by.ranks), by.role_threshold(len(C)), by.strict)
    names = [component["name"] for component in record["components"]]
    chance = expected_by_chance(score, C, by)
    bloats = frozenset(name for name, is_bloat in zip(names, found["bloat"], strict=True) if is_bloat)
    return Roles(int(found["hero"].sum()), bloats, chance["heroes"], chance["bloats"])


def scores(record: AttributionRecord, method: str) -> Array:
    """A method's scores, component by component; a name of `AGAIN` stands for exact effects on the scores' own sequences."""
    if method in AGAIN:
        metric = method.removeprefix("again:")
        return np.array([component["exact_again"][metric] for component in record["components"]])
    return np.array([component["scores"][method]["value"] for component in record["components"]])


def effects(record: AttributionRecord, metric: str) -> Array:
    """Exact effects, component by component."""
    return np.array([component["exact"][metric]["value"] for component in record["components"]])


def pooled_trust(records: Sequence[AttributionRecord]) -> dict[str, Array]:
    """Slope, curvature, exact effect and both bounds of every component of every run."""
    entries = [component["trust"] for record in records for component in record["components"]]
    found = {name: np.array([entry[name] for entry in entries]) for name in ("slope", "curvature")}
    found |= {f"bound_{name}": np.array([entry["bound"][name] for entry in entries]) for name in ("ap", "hvp")}
    return found | {"exact": np.array([entry["effects"]["exact"] for entry in entries])}
