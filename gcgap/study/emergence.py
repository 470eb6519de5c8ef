"""When roles appear over training and how long they last, and whether the gap follows generalisation.

From the tracked records of a run alone: one curve, one length, exact match under one baseline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcgap.importance.gap import Array
from gcgap.records.record import Record
from gcgap.study.groups import MeasuredRun
from gcgap.study.seeds import spearman

STABLE = 3
"""Measured checkpoints in a row after which a role counts as stable."""


@dataclass(frozen=True)
class Course:
    """The course of one component's role over the checkpoints of a run.

    Args:
        name: Component.
        role: hero or bloat.
        first: Optimiser step at which it first has the role.
        stable: First step of `STABLE` measured checkpoints in a row with the role; None if it never holds that long.
        persistence: Share of the measured checkpoints from `first` on that have the role.
        final: Whether it has the role at the last measured checkpoint.
    """

    name: str
    role: str
    first: int
    stable: int | None
    persistence: float
    final: bool


def courses(run: MeasuredRun, baseline: str) -> list[Course]:
    """Every role that any component ever takes in a run, in the order of components."""
    records = [record for record in run.tracked if record["components"]]
    steps = [record["step"] for record in records]
    found = []
    for i, component in enumerate(records[0]["components"] if records else []):
        taken = [record["components"][i]["role"][baseline]["name"] for record in records]
        found += [course(component["name"], role, steps, taken) for role in ("hero", "bloat") if role in taken]
    return found


def course(name: str, role: str, steps: Sequence[int], taken: Sequence[str | None]) -> Course:
    """The course of one role that occurs among the roles `taken` at the measured `steps`."""
    has = [one == role for one in taken]
    first = has.index(True)
    starts = (at for at in range(len(has) - STABLE + 1) if all(has[at : at + STABLE]))
    stable = next(starts, None)
    return Course(name, role, steps[first], None if stable is None else steps[stable], float(np.mean(has[first:])), has[-1])


@dataclass(frozen=True)
class Following:
    """How the gap moves with generalisation over one run; each a Spearman correlation over checkpoints, or None.

    Args:
        level: Of rho with OOD exact match.
        change: Of the changes of rho with the changes of OOD exact match from checkpoint to checkpoint.
        shortcut: Of the number of Bloats in the lower half of the layers with in-distribution minus OOD exact match.
        checkpoints: Checkpoints that have a rho.
    """

    level: float | None
    change: float | None
    shortcut: float | None
    checkpoints: int


def following(run: MeasuredRun, baseline: str) -> Following:
    """How rho, and the early Bloats, follow the accuracy over a run's checkpoints that have a rho."""
    records = [record for record in run.tracked if record["components"] and record["gap"][baseline]["rho"] is not None]
    rho = np.array([record["gap"][baseline]["rho"] for record in records])
    ood = np.array([record.ood_accuracy for record in records])
    lack = np.array([record["accuracy"]["in_distribution"] for record in records]) - ood
    early = np.array([_early_bloats(record, baseline) for record in records])
    return Following(_rho(rho, ood), _rho(np.diff(rho), np.diff(ood)), _rho(early, lack), len(records))


def _early_bloats(record: Record, baseline: str) -> int:
    half = (1 + max(component["layer"] for component in record["components"])) / 2
    return sum(one["role"][baseline]["name"] == "bloat" for one in record["components"] if one["layer"] < half)


def _rho(first: Array, second: Array) -> float | None:
    """Spearman's rho of at least four points, or None where one side does not vary."""
    return None if len(first) < 4 else spearman(first, second)
