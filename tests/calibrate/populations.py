"""What trained models give on many sequences and batches: the populations that samples are drawn from."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gcgap
from gcgap.data.batches import Purpose
from gcgap.importance.ablation import Intervention
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment
from gcgap.importance.gap import Array, Judgement, is_role, rank_difference
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.models.wiring import Wiring

CHECKPOINTS = Path(__file__).parents[2] / "checkpoints"
PROMPTS = Path(__file__).with_name("prompts.npz")
SEQUENCES, BATCHES = 4_000, 200
LENGTH = 8


@dataclass(frozen=True)
class Population:
    """Gradient norms as trained (component, batch) and drops under mean ablation (component, sequence).

    Drops come in a `unit`, or in none (0). `together` has the joint drops (sequence,) of the true Heroes and Bloats, and
    `members` who these are.
    """

    norms: Array
    drops: Array
    together: dict[str, Array]
    members: dict[str, list[int]]
    unit: float = 1.0


def population(task: str, sequences: int = SEQUENCES, batches: int = BATCHES) -> Population:
    """That of the shipped model of a task, at the length that the window rule picks; of prompts, what `prompts.npz` keeps."""
    if not task.startswith("prompts"):
        return of_run(CHECKPOINTS / f"{task}-seed42", LENGTH, sequences, batches)
    with np.load(PROMPTS) as kept:
        if task == "prompts by log-probability":
            return Population(kept["norms"].astype(float), kept["log_prob"].astype(float), {}, {}, unit=0.0)
        members = json.loads(str(kept["members"]))
        together = {role: kept[role].astype(float) for role in members}
        return Population(kept["norms"].astype(float), kept["drops"].astype(float), together, members)


def of_run(run: Path, length: int, sequences: int = SEQUENCES, batches: int = BATCHES) -> Population:
    """That of the last checkpoint of a run, by exact match."""
    return by_metric(run, length, sequences, batches)["exact_match"]


def by_metric(run: Path, length: int, sequences: int, batches: int) -> dict[str, Population]:
    """Those of the last checkpoint of a run; that by log-probability without sets."""
    model = gcgap.load(run)
    assert model.origin is not None
    wiring, source = Wiring.of(model), model.origin.source
    protocol = Protocol(baselines=(Baseline.MEAN,), gradient_batches=batches, sequences=sequences)
    mean = mean_activations(model, wiring, source.batches(Purpose.MEAN, length, 5, protocol.batch_size), by_position=False)
    experiment = Experiment(model, wiring, source, protocol, length, mean)
    singles = [Intervention(frozenset([i]), Baseline.MEAN) for i in range(len(wiring.components))]
    with torch.inference_mode(mode=False):
        norms = experiment.gradient().samples[0]  # as trained
        batch = experiment.batch(length, sequences)
        drops, log_prob, *_ = experiment.ablation(singles, batch).samples
        delta = rank_difference(norms.mean(-1), drops.mean(-1))
        roles = is_role(delta, Judgement().role_threshold(len(delta)), strict=False)
        members = {role: np.flatnonzero(roles[role]).tolist() for role in ("hero", "bloat")}
        sets = [Intervention(frozenset(one), Baseline.MEAN) for one in members.values() if one]
        joint = experiment.ablation(sets, batch).samples[0] if sets else []
        together = dict(zip([role for role in members if members[role]], joint, strict=True))
    by_log_prob = Population(norms, log_prob, {}, {}, unit=0.0)
    return {"exact_match": Population(norms, drops, together, members), "log_prob": by_log_prob}


def main() -> None:
    """Write `prompts.npz` from a run of configs/ioi.yaml."""
    options = argparse.ArgumentParser(description=main.__doc__)
    options.add_argument("run", type=Path, help="such as runs/ioi-seed42")
    both = by_metric(options.parse_args().run, 2, SEQUENCES, BATCHES)
    found = both["exact_match"]
    norms, drops = found.norms.astype(np.float32), found.drops.astype(np.int8)
    kept: dict[str, Any] = {role: values.astype(np.int8) for role, values in found.together.items()}
    kept["log_prob"] = both["log_prob"].drops.astype(np.float16)
    np.savez_compressed(PROMPTS, norms=norms, drops=drops, members=json.dumps(found.members), **kept)


if __name__ == "__main__":
    main()
