"""What every attribution method costs, in forward passes of the same sequences, beside exact effects for all."""

from __future__ import annotations

import statistics
from dataclasses import replace

from bench.subject import LENGTH, Reference
from bench.timing import Rows, spread, turns
from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import Setup
from gcgap.importance.experiment import Experiment

SEQUENCES = 64


def attribution(repeats: int) -> Rows:
    """Every method."""
    of = Reference()
    protocol = replace(of.protocol, sequences=SEQUENCES)
    subject = Experiment(of.model, of.wiring, of.source, protocol, LENGTH, of.mean)
    problem = Setup().problem(subject, subject.batch(LENGTH, SEQUENCES))
    calls = [lambda run=method.run: run(problem) for method in METHODS.values()]
    unit, *found = turns(repeats, lambda: problem.drop.level(problem.drop.zero_gates()), *calls)
    typical = statistics.median(unit)  # a single pass is too short to be the unit of its turn on a shared machine
    return [(name, spread([seconds / typical for seconds in of])) for name, of in zip(METHODS, found, strict=True)]
