"""What choosing sets costs, and how often the intervals of held-out sums, joint drops and their ratios hold the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gcgap.importance.gap import Array, Judgement, is_role, rank_difference
from gcgap.measurement.joint import joint_and_sum


class Curse(NamedTuple):
    """The true sum of the single drops of chosen sets over what is reported of it, on average over samples."""

    same: float
    """Where it is summed on the sequences that chose the set."""
    held_out: float
    """Where it is summed on others."""


def curse(norms: Array, drops: Array, role: str, sequences: int, batches: int, repeats: int, rng: np.random.Generator) -> Curse:
    """Of sets that samples of a population choose: gradient norms (component, batch), exact-match drops (component, sequence)."""
    truth, sums = drops.mean(-1), np.zeros(3)
    for _ in range(repeats):
        G = norms[:, rng.integers(0, norms.shape[1], batches)].mean(-1)
        first, second = (drops[:, rng.integers(0, drops.shape[1], sequences)].mean(-1) for _ in range(2))
        chosen = is_role(rank_difference(G, first), Judgement().role_threshold(len(G)), strict=False)[role]
        sums += [truth[chosen].sum(), first[chosen].sum(), second[chosen].sum()]
    return Curse(sums[0] / sums[1], sums[0] / sums[2])


class Held(NamedTuple):
    """Coverage of the intervals of a set, and the share of samples in which its ratio had none."""

    sum: float
    joint: float
    ratio: float
    without: float


def set_coverage(each: Array, whole: Array, sequences: int, repeats: int, rng: np.random.Generator, judgement: Judgement) -> Held:
    """That of samples of a set's single drops (member, sequence) and joint drops (sequence,)."""
    truth = {"individual_sum": each.mean(-1).sum(), "joint": whole.mean(), "ratio_to_sum": whole.mean() / each.mean(-1).sum()}
    held: dict[str, list[bool]] = {name: [] for name in truth}
    for _ in range(repeats):
        rows = rng.integers(0, len(whole), sequences)
        ends = joint_and_sum(each[:, rows], whole[rows], judgement, rng)["ci"]
        for name, value in truth.items():
            if ends[name] is not None:
                held[name].append(ends[name][0] <= value <= ends[name][1])
    sums, joint, ratio = (float(np.mean(one)) if one else float("nan") for one in held.values())
    return Held(sums, joint, ratio, 1 - len(held["ratio_to_sum"]) / repeats)
