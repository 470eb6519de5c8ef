"""What the shipped models give on many sequences and batches: the populations that samples are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import gcgap
from gcgap.data.batches import Purpose
from gcgap.importance.ablation import Intervention
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment
from gcgap.importance.gap import Array, Judgement, is_role, rank_difference
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.models.transformer import Transformer
from gcgap.models.wiring import Wiring

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
SEQUENCES, BATCHES = 4_000, 200
LENGTH = 8


@dataclass(frozen=True)
class Population:
    """Gradient norms (component, batch) and drops under mean ablation by metric (metric, component, sequence).

    `together` has the joint exact-match drops (sequence,) of the true Heroes and Bloats, and `members` who these are.
    """

    norms: Array
    drops: Array
    metrics: tuple[str, ...]
    together: dict[str, Array]
    members: dict[str, list[int]]


def population(task: str, sequences: int = SEQUENCES, batches: int = BATCHES) -> Population:
    """That of the shipped model of a task, on sequences of the length that the window rule picks."""
    model = gcgap.load(CHECKPOINTS / f"{task}-seed42")
    assert isinstance(model, Transformer)
    assert model.origin is not None
    wiring, source = Wiring.of(model), model.origin.source
    protocol = Protocol(baselines=(Baseline.MEAN,), gradient_batches=batches, sequences=sequences)
    mean = mean_activations(model, wiring, source.batches(Purpose.MEAN, LENGTH, 5, protocol.batch_size), by_position=False)
    experiment = Experiment(model, wiring, source, protocol, LENGTH, mean)
    singles = [Intervention(frozenset([i]), Baseline.MEAN) for i in range(len(wiring.components))]
    with torch.inference_mode(mode=False):
        norms = experiment.gradient().samples[0]  # as trained
        batch = experiment.batch(LENGTH, sequences)
        drops = experiment.ablation(singles, batch).samples
        delta = rank_difference(norms.mean(-1), drops[0].mean(-1))
        roles = is_role(delta, Judgement().role_threshold(len(delta)), strict=False)
        members = {role: np.flatnonzero(roles[role]).tolist() for role in ("hero", "bloat")}
        sets = [Intervention(frozenset(one), Baseline.MEAN) for one in members.values()]
        joint = dict(zip(members, experiment.ablation(sets, batch).samples[0], strict=True))
    return Population(norms, drops, experiment.metrics, joint, members)
