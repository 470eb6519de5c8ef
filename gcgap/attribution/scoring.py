"""Running methods: their scores, and what each cost in passes and seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from gcgap.attribution.drop import Drop
from gcgap.attribution.methods import Method, Problem
from gcgap.attribution.partial import Arrays, Partial
from gcgap.importance.gap import Array

NOTHING_KEPT = Partial()
REPEATS = 3  # forward passes that are timed for the unit of cost


@dataclass(frozen=True)
class Cost:
    """What a method cost.

    Args:
        forward: Times every sequence went forward through the model.
        backward: Times it went backward.
        double_backward: Times it went backward through a backward pass.
        forward_equivalents: Seconds over the seconds of one plain forward pass of the same sequences.
        seconds: Wall time.
    """

    forward: float
    backward: float
    double_backward: float
    forward_equivalents: float
    seconds: float


@dataclass(frozen=True)
class Scored:
    """Scores of one method, shape (component, sample), and their cost."""

    method: Method
    samples: Array
    cost: Cost


def forward_seconds(drop: Drop) -> float:
    """Seconds of one plain forward pass of the untouched model over the drop's sequences: the unit of cost.

    The median of a few, after one gradient, so that what torch sets up once is paid.
    """
    drop.gradient(drop.closed())
    return statistics.median(timed(drop.untouched)[1] for _ in range(REPEATS))


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call returns, and its seconds."""
    begun = time.perf_counter()
    found = call()
    return found, time.perf_counter() - begun


def scored(
    problem: Problem,
    methods: Iterable[Method],
    unit: float,
    done: Callable[[str], object] = lambda name: None,
    partial: Partial = NOTHING_KEPT,
) -> list[Scored]:
    """Every method's scores and cost.

    Args:
        problem: What is scored.
        methods: By what.
        unit: Seconds of a forward pass.
        done: Called with the name of each method after it.
        partial: What an earlier call had done already.

    Raises:
        FloatingPointError: A score is not finite; the text names the method and the component.
    """
    found = []
    for method in methods:
        kept = partial(method.name, lambda method=method: _run(method, problem, unit))
        found.append(Scored(method, kept["samples"], Cost(*kept["cost"].tolist())))
        done(method.name)
    return found


def _run(method: Method, problem: Problem, unit: float) -> Arrays:
    """Scores of one method, (component, sample), and its cost in the order of the fields of `Cost`."""
    before = asdict(problem.drop.passes)
    samples, seconds = timed(lambda: method.run(problem))
    bad = samples.isfinite().all(-1).logical_not().nonzero()
    if len(bad):
        name = problem.drop.wiring.components[int(bad[0])].name
        raise FloatingPointError(f"The score of {name} by {method.name} is not finite.")
    passes = [count - before[kind] for kind, count in asdict(problem.drop.passes).items()]
    return {"samples": samples.to(torch.float64).numpy(), "cost": np.array([*passes, seconds / unit, seconds])}
