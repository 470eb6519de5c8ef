"""Running methods: their scores, what each cost in passes and seconds, and what an interrupted attribution had done already."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gcgap.attribution.drop import Drop
from gcgap.attribution.methods import Method, Problem
from gcgap.importance.gap import Array
from gcgap.records.atomic import write_whole

Arrays = dict[str, np.ndarray]
REPEATS = 3  # forward passes that are timed for the unit of cost


class Partial:
    """What an attribution that was interrupted had done already: the arrays of each finished method, until the record is written.

    Args:
        folder: Where they lie, beside the record; None keeps nothing.
        of: All that decides their numbers; the arrays of anything else are not taken.
    """

    def __init__(self, folder: Path | None = None, of: Mapping[str, Any] | None = None) -> None:
        text = json.dumps(of or {}, sort_keys=True, default=str)
        self.folder = None if folder is None else folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def __call__(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What is kept under a name, or else what `make` gives, which is kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name.replace(' ', '_')}.npz"
        if (found := _read(path)) is None:
            found, buffer = make(), BytesIO()
            np.savez(buffer, allow_pickle=False, **found)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, buffer.getvalue())
        return found


def discard(folder: Path) -> None:
    """Remove the arrays that `Partial` keeps in a folder, of whatever they are, and the folders if nothing else is in them."""
    for path in folder.glob(f"{'[0-9a-f]' * 16}/*.npz"):
        path.unlink()
    for place in (*folder.glob("[0-9a-f]" * 16), folder):
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()


def _read(path: Path) -> Arrays | None:
    """The arrays of a file; None if it cannot be read, and must be computed again."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # of a corrupted file numpy and zipfile raise nearly anything, and nothing but time is lost with it
        return None


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
    """Scores of one method, shape (component, sample), their cost, and standard errors (component,) from its draws, if known."""

    method: Method
    samples: Array
    cost: Cost
    errors: Array | None = None


def forward_seconds(drop: Drop) -> float:
    """Seconds of one plain forward pass of the untouched model over the drop's sequences: the unit of cost.

    The median of a few, after one gradient, so that what torch sets up once is paid.
    """
    drop.gradient(drop.zero_gates())
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
    partial: Partial | None = None,
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
    found, partial = [], partial or Partial()
    for method in methods:
        kept = partial(method.name, lambda method=method: _run(method, problem, unit))
        found.append(Scored(method, kept["samples"], Cost(*kept["cost"].tolist()), kept.get("errors")))
        done(method.name)
    return found


def _run(method: Method, problem: Problem, unit: float) -> Arrays:
    """Scores of one method, (component, sample), its cost in the order of the fields of `Cost`, and errors if it has them."""
    before = asdict(problem.drop.passes)
    samples, seconds = timed(lambda: method.run(problem))
    bad = samples.isfinite().all(-1).logical_not().nonzero()
    if len(bad):
        name = problem.drop.wiring.components[int(bad[0])].name
        raise FloatingPointError(f"The score of {name} by {method.name} is not finite.")
    passes = [count - before[kind] for kind, count in asdict(problem.drop.passes).items()]
    errors = {"errors": problem.errors[method.name].numpy()} if method.name in problem.errors else {}
    return {"samples": samples.to(torch.float64).numpy(), "cost": np.array([*passes, seconds / unit, seconds])} | errors
