"""Attribution methods beside G and C: what the record of a measured checkpoint holds of them, so that each is a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcgap.attribution.attribution_entries import EFFECTS, Entry, held_against
from gcgap.attribution.methods import find_methods
from gcgap.attribution.scoring import forward_seconds, scored
from gcgap.attribution.setup import Setup
from gcgap.importance.experiment import Experiment
from gcgap.importance.gap import Array
from gcgap.importance.protocol import Baseline


def track(
    subject: Experiment, baseline: Baseline, causal: Mapping[str, Array], rng: np.random.Generator
) -> tuple[dict[str, Any], list[Entry]]:
    """Score the protocol's methods on as many other sequences as C has, and hold them against C.

    Args:
        subject: The model under measurement.
        baseline: What replaces outputs.
        causal: C by metric, shape (component, sequence), under that baseline.
        rng: Draws resamples and halves.

    Returns:
        The record's `attribution`, and the scores of each component.
    """
    protocol = subject.protocol
    others = 1 + len(subject.wiring.components)  # beyond the batches that unpaired drops are measured on
    problem = Setup(baseline).problem(subject, subject.batch(subject.length, protocol.sequences, index=others))
    rows = scored(problem, find_methods(protocol.attribution.methods), forward_seconds(problem.drop))
    exact = {name: causal[name] for name in EFFECTS}
    found = held_against(subject.wiring.components, protocol, rows, exact, rng)
    return {"baseline": str(baseline), "methods": found.methods}, found.scores
