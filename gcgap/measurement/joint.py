"""What removing whole classes costs: pruning, and joint against individual drops.

All are interventions of M(xi) on sets that the roles define, on held-out sequences. On the sequences that chose the sets the
drops of Bloats, chosen for a small C, would come out too small, and those of Heroes too large: the winner's curse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcgap.data.batches import Batch
from gcgap.importance.ablation import Intervention
from gcgap.importance.experiment import Experiment, id_batches
from gcgap.importance.gap import Array, Gap, Judgement, draws_of_drops, interval_of_mean
from gcgap.importance.protocol import Baseline

OVERFITTING = 0.05  # in-distribution drop above which a Bloat set is an overfitting circuit, not optimisation noise (v1)
CLASSES = {"heroes": "hero", "bloats": "bloat"}

RATIOS = ("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum")

Key = tuple[str, str, str]
"""Baseline, class (heroes, bloats, random, single, a named set), and which of it: top2, all, number of a pair or component."""


def members(gap: Gap, role: str, G: Array, C: Array, names: list[str]) -> list[int]:
    """Components of a role, the largest |Delta| first; ties by larger G for Bloats, larger C for Heroes, then by name."""
    if gap.role is None or gap.delta is None:
        return []
    tie = G if role == "bloat" else C
    found = [i for i, name in enumerate(gap.role) if name == role]
    delta = gap.delta
    return sorted(found, key=lambda i: (-abs(delta[i]), -tie[i], names[i]))


def role_sets(gaps: Mapping[Baseline, Gap], G: Array, C: Array, names: list[str]) -> dict[Key, list[int]]:
    """For every baseline and class its two most extreme members and all of them (possibly none)."""
    sets: dict[Key, list[int]] = {}
    for b, (baseline, gap) in enumerate(gaps.items()):
        for label, role in CLASSES.items():
            found = members(gap, role, G, C[b], names)
            sets |= {(baseline, label, "top2"): found[:2], (baseline, label, "all"): found}
    return sets


def named_sets(experiment: Experiment) -> dict[Key, list[int]]:
    """The sets that the protocol names, under every baseline."""
    sets = [(" + ".join(names), experiment.wiring.find(names)) for names in experiment.protocol.sets]
    return {(baseline, label, "all"): found for baseline in experiment.protocol.baselines for label, found in sets}


def random_pairs(experiment: Experiment, rng: np.random.Generator) -> dict[Key, list[int]]:
    """Pairs of different components drawn at random, the same ones under every baseline."""
    n, count = len(experiment.wiring.components), experiment.protocol.random_pairs
    pairs = [sorted(rng.choice(n, size=2, replace=False).tolist()) for _ in range(count)]
    return {(baseline, "random", str(k)): pair for baseline in experiment.protocol.baselines for k, pair in enumerate(pairs)}


def singles(experiment: Experiment, sets: Mapping[Key, list[int]]) -> dict[Key, list[int]]:
    """Every member of the sets by itself under the same baseline, or every component if the protocol asks for all of them."""
    p, n = experiment.protocol, len(experiment.wiring.components)
    every = {(b, i) for b in p.baselines for i in range(n)} if p.inside else {(key[0], i) for key, of in sets.items() for i in of}
    return {(baseline, "single", str(i)): [i] for baseline, i in sorted(every)}


def removal(
    experiment: Experiment, G: Array, C: Array, gaps: Mapping[Baseline, Gap], rng: np.random.Generator
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What removing whole classes, random pairs and the sets that the protocol names costs, and single components apart from C.

    Args:
        experiment: The model under measurement.
        G: Gradient magnitudes (component,).
        C: Causal importances by exact match (baseline, component).
        gaps: The gap by exact match under every baseline.
        rng: Draws pairs and resamples.

    Returns:
        Blocks of a record, and what every component adds to its own.
    """
    by, names = Judgement.of(experiment.protocol), [component.name for component in experiment.wiring.components]
    sets, named, pairs = role_sets(gaps, G, C, names), named_sets(experiment), random_pairs(experiment, rng)
    found = drops_of_sets(experiment, sets | named | pairs)
    blocks = {
        "pruning": pruning(sets, found, names, by, rng),
        "random_pairs": random_pruning(pairs, found, names, by, rng),
        "joint": joint(sets, found, names, by, rng),
        "sets": pruning(named, found, names, by, rng),
    }
    return blocks, single_entries(experiment, found, by, rng)


def drops_of_sets(experiment: Experiment, sets: Mapping[Key, list[int]]) -> dict[Key, dict[str, Array]]:
    """Exact-match drops per sequence of every set that has members, and of members alone (see `singles`).

    `ood` are those of held-out sequences of the measured length; `in_distribution` those of the training lengths, where these are
    others, of single components if the protocol asks for them.
    """
    alone = singles(experiment, sets)
    inside = {**sets, **alone} if experiment.protocol.inside else sets
    found = {
        "ood": _drops(experiment, {**sets, **alone}, [experiment.held_out()]),
        "in_distribution": _drops(experiment, inside, id_batches(experiment.source, experiment.protocol.sequences)),
    }
    return {key: {place: of[key] for place, of in found.items() if key in of} for key in found["ood"]}


def _drops(experiment: Experiment, sets: Mapping[Key, list[int]], batches: list[Batch]) -> dict[Key, Array]:
    wanted = {key: Intervention(frozenset(found), Baseline(key[0])) for key, found in sets.items() if found}
    if not wanted or not batches:
        return {}
    once = list(dict.fromkeys(wanted.values()))
    found = np.concatenate([experiment.ablation(once, batch).samples[0] for batch in batches], -1)
    return {key: found[once.index(one)] for key, one in wanted.items()}


def single_entries(
    experiment: Experiment, drops: Mapping[Key, Mapping[str, Array]], judgement: Judgement, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """What every component costs alone on sequences that did not make its role, by baseline.

    `held_out` has the baselines under which it was measured there, `in_distribution` is None where the protocol does not ask.
    """

    def of(i: int, place: str) -> dict[str, Any]:
        known = {b: drops.get((b, "single", str(i)), {}).get(place) for b in experiment.protocol.baselines}
        return {b: _with_interval(values, judgement, rng) for b, values in known.items() if values is not None}

    every = range(len(experiment.wiring.components))
    return [{"held_out": of(i, "ood"), "in_distribution": of(i, "in_distribution") or None} for i in every]


def pruning(
    sets: Mapping[Key, list[int]],
    drops: Mapping[Key, Mapping[str, Array]],
    names: list[str],
    judgement: Judgement,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Drops of OOD and in-distribution exact match when the sets are ablated together; `drops` are those of `drops_of_sets`."""
    result: dict[str, Any] = {}
    for (baseline, label, which), found in sets.items():
        entry: dict[str, Any] = {"members": [names[i] for i in found], "reason": None if found else f"no {label}"}
        for place in ("ood", "in_distribution"):
            values = drops.get((baseline, label, which), {}).get(place)
            entry[f"{place}_drop"] = _with_interval(values, judgement, rng)
        if label == "bloats":
            entry["reading"] = _reading(entry["in_distribution_drop"]["value"])
        result.setdefault(baseline, {}).setdefault(label, {})[which] = entry
    return result


def random_pruning(
    pairs: Mapping[Key, list[int]],
    drops: Mapping[Key, Mapping[str, Array]],
    names: list[str],
    judgement: Judgement,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """What removing two components costs on average, by baseline: the mean over random pairs, its interval over the pairs.

    `individual_sum` is the mean of what the two cost alone, added up, on the same sequences as `ood_drop`.
    """
    result: dict[str, Any] = {}
    for baseline in dict.fromkeys(key[0] for key in pairs):
        keys = [key for key in pairs if key[0] == baseline]
        entry: dict[str, Any] = {"members": [[names[i] for i in pairs[key]] for key in keys]}
        for place in ("ood", "in_distribution"):
            means = [drops[key][place].mean() for key in keys if place in drops[key]]
            entry[f"{place}_drop"] = _with_interval(np.array(means) if means else None, judgement, rng, unit=0.0)
        sums = [sum(drops[baseline, "single", str(i)]["ood"].mean() for i in pairs[key]) for key in keys]
        entry["individual_sum"] = float(np.mean(sums))
        result[baseline] = entry
    return result


def joint(
    sets: Mapping[Key, list[int]],
    drops: Mapping[Key, Mapping[str, Array]],
    names: list[str],
    judgement: Judgement,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Joint against individual exact-match drops of every class, on the same held-out sequences.

    `ratio_to_mean` is the paper's (joint / mean individual); it is k for k members that are not redundant at all.
    `ratio_to_sum` (joint / sum of individual) is 1 there, and only it tests redundancy.
    """
    result: dict[str, Any] = {}
    for (baseline, label, which), found in sets.items():
        if which != "all":
            continue
        ratios: dict[str, Any]
        if found:
            each = np.array([drops[baseline, "single", str(i)]["ood"] for i in found])
            ratios = joint_and_sum(each, drops[baseline, label, which]["ood"], judgement, rng)
        else:
            ratios = dict.fromkeys((*RATIOS, "ci"))
            ratios |= {"reason": f"no {label}"}
        result.setdefault(baseline, {})[label] = {"members": [names[i] for i in found]} | ratios
    return result


def _reading(drop: float | None) -> str | None:
    """v1's two kinds of Bloats, by what their removal costs in distribution."""
    if drop is None:
        return None
    return "overfitting circuit" if drop > OVERFITTING else "optimisation noise"


def _with_interval(values: Array | None, judgement: Judgement, rng: np.random.Generator, unit: float = 1.0) -> dict[str, Any]:
    """Their mean with its interval; `unit` is that of exact-match drops, or 0 for means of them."""
    if values is None:
        return {"value": None, "ci": None}
    ends = interval_of_mean(values, judgement, rng, unit)
    return {"value": float(values.mean()), "ci": np.clip(ends, -1, 1).tolist()}  # no drop is larger


def joint_and_sum(each: Array, whole: Array, judgement: Judgement, rng: np.random.Generator) -> dict[str, Any]:
    """Means and ratios of individual drops (member, sequence) and joint drops (sequence,), with intervals from shared draws.

    A ratio is the slope of the direction (sum, joint), and the interval that of the direction's angle: the analogue of Fieller's
    for draws, and unbounded as his where the sum is not surely above 0.
    """
    k = len(each)
    draws = draws_of_drops(np.concatenate([each, whole[None]])[None], [1.0], judgement.resamples, rng)[0]
    star_sum, star_joint = draws[:-1].sum(0), draws[-1]
    low, high = judgement.interval(np.arctan2(star_joint, star_sum))
    bounded = -np.pi / 2 < low and high < np.pi / 2
    slope = [float(np.tan(low)), float(np.tan(high))] if bounded else None
    total, together = float(each.sum()) / each.shape[1], float(whole.mean())  # exact: exact-match drops are integers
    ends = np.array([np.clip(judgement.interval(star_sum), -k, k), np.clip(judgement.interval(star_joint), -1, 1)])
    result: dict[str, Any] = {
        "individual_mean": total / k,
        "individual_sum": total,
        "joint": together,
        "ratio_to_mean": None,
        "ratio_to_sum": None,
        "ci": {"individual_mean": (ends[0] / k).tolist(), "individual_sum": ends[0].tolist(), "joint": ends[1].tolist()}
        | {"ratio_to_mean": None, "ratio_to_sum": None},
        "reason": None,
    }
    if total <= 0:
        return result | {"reason": f"no ratios: the individual drops add up to {total:.4f}, which is not positive"}
    result |= {"ratio_to_mean": together / (total / k), "ratio_to_sum": together / total}
    if slope is None:
        return result | {"reason": "no interval of the ratios: the sum of the individual drops is not surely above 0"}
    result["ci"] |= {"ratio_to_mean": [k * end for end in slope], "ratio_to_sum": slope}
    return result
