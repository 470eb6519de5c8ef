"""Running methods: their scores, and what each cost in passes and seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from gcgap.attribution.methods import Method, Problem
from gcgap.gap import Array
from gcgap.importance.drop import Drop

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
    problem: Problem, methods: Iterable[Method], unit: float, done: Callable[[str], object] = lambda name: None
) -> list[Scored]:
    """Every method's scores and cost; `unit` is the seconds of a forward pass, `done` is called with its name after each.

    Raises:
        FloatingPointError: A score is not finite; the text names the method and the component.
    """
    found = []
    for method in methods:
        before = asdict(problem.drop.passes)
        samples, seconds = timed(lambda method=method: method.run(problem))
        bad = samples.isfinite().all(-1).logical_not().nonzero()
        if len(bad):
            name = problem.drop.wiring.components[int(bad[0])].name
            raise FloatingPointError(f"The score of {name} by {method.name} is not finite.")
        passes = {kind: count - before[kind] for kind, count in asdict(problem.drop.passes).items()}
        cost = Cost(**passes, forward_equivalents=seconds / unit, seconds=seconds)
        found.append(Scored(method, samples.to(torch.float64).numpy(), cost))
        done(method.name)
    return found
