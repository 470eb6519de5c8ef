"""What removing whole classes costs: pruning, and joint against individual drops.

Both are joint interventions of M(xi) on sets that the roles define, on the same sequences as everything else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gcgap.data.batches import Batch
from gcgap.importance.ablation import Intervention
from gcgap.importance.experiment import Experiment, id_batches
from gcgap.importance.gap import Array, Gap, Judgement, interval_of_mean
from gcgap.importance.protocol import Baseline

OVERFITTING = 0.05  # in-distribution drop above which a Bloat set is an overfitting circuit, not optimisation noise (v1)
CLASSES = {"heroes": "hero", "bloats": "bloat"}

RATIOS = ("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum")

Key = tuple[str, str, str]
"""Baseline, class (heroes, bloats or random), and which of it: top2, all, or the number of a random pair."""


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


def removal(
    experiment: Experiment, G: Array, C: Array, single: Array, gaps: Mapping[Baseline, Gap], rng: np.random.Generator
) -> dict[str, Any]:
    """What removing whole classes, random pairs and the sets that the protocol names costs.

    Args:
        experiment: The model under measurement.
        G: Gradient magnitudes (component,).
        C: Causal importances by exact match (baseline, component).
        single: Paired exact-match drops of every component, shape (baseline, component, sequence).
        gaps: The gap by exact match under every baseline.
        rng: Draws pairs and resamples.
    """
    by, names = Judgement.of(experiment.protocol), [component.name for component in experiment.wiring.components]
    sets, named, pairs = role_sets(gaps, G, C, names), named_sets(experiment), random_pairs(experiment, rng)
    found = drops_of_sets(experiment, sets | named | pairs)
    return {
        "pruning": pruning(sets, found, names, by, rng),
        "random_pairs": random_pruning(pairs, found, names, by, rng),
        "joint": joint(sets, found, dict(zip(gaps, single, strict=True)), names, by, rng),
        "sets": pruning(named, found, names, by, rng),
    }


def drops_of_sets(experiment: Experiment, sets: Mapping[Key, list[int]]) -> dict[Key, dict[str, Array]]:
    """Exact-match drops per sequence of every set that has members, `ood` at the measured length and `in_distribution` if that is
    another."""
    wanted = {key: Intervention(frozenset(found), Baseline(key[0])) for key, found in sets.items() if found}
    if not wanted:
        return {}
    once = list(dict.fromkeys(wanted.values()))
    size = experiment.protocol.sequences
    found = {"ood": experiment.ablation(once, experiment.batch(experiment.length, size)).samples[0]}
    if batches := id_batches(experiment.source, size):
        found["in_distribution"] = _inside_drops(experiment, once, batches)
    return {key: {place: of[once.index(one)] for place, of in found.items()} for key, one in wanted.items()}


def _inside_drops(experiment: Experiment, sets: list[Intervention], batches: list[Batch]) -> Array:
    """In-distribution exact-match drops, shape (intervention, sequence)."""
    return np.concatenate([experiment.ablation(sets, batch).samples[0] for batch in batches], -1)


def inside_entries(experiment: Experiment, rng: np.random.Generator) -> list[dict[str, Any] | None]:
    """For every component its in-distribution drop by baseline; None where the protocol does not ask for it."""
    p, n = experiment.protocol, len(experiment.wiring.components)
    batches = id_batches(experiment.source, p.sequences)
    if not p.inside or not batches:
        return [None] * n
    singles = [Intervention(frozenset([i]), baseline) for baseline in p.baselines for i in range(n)]
    drops, by = _inside_drops(experiment, singles, batches).reshape(len(p.baselines), n, -1), Judgement.of(p)
    return [{b: _with_interval(drops[at, i], by, rng) for at, b in enumerate(p.baselines)} for i in range(n)]


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
    """What removing two components costs on average, by baseline: the mean over random pairs, its interval over the pairs."""
    result: dict[str, Any] = {}
    for baseline in dict.fromkeys(key[0] for key in pairs):
        keys = [key for key in pairs if key[0] == baseline]
        entry: dict[str, Any] = {"members": [[names[i] for i in pairs[key]] for key in keys]}
        for place in ("ood", "in_distribution"):
            means = [drops[key][place].mean() for key in keys if place in drops[key]]
            entry[f"{place}_drop"] = _with_interval(np.array(means) if means else None, judgement, rng, unit=0.0)
        result[baseline] = entry
    return result


def joint(
    sets: Mapping[Key, list[int]],
    drops: Mapping[Key, Mapping[str, Array]],
    individual: Mapping[str, Array],
    names: list[str],
    judgement: Judgement,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Joint against individual exact-match drops of every class, OOD.

    `ratio_to_mean` is the paper's (joint / mean individual); it is k for k members that are not redundant at all.
    `ratio_to_sum` (joint / sum of individual) is 1 there, and only it tests redundancy.
    `individual` holds, for each baseline, the drops of single components, shape (component, sequence).
    """
    result: dict[str, Any] = {}
    for (baseline, label, which), found in sets.items():
        if which != "all":
            continue
        ratios: dict[str, Any]
        if found:
            ratios = _ratios(individual[baseline][found], drops[baseline, label, which]["ood"], judgement, rng)
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


def _ratios(each: Array, whole: Array, judgement: Judgement, rng: np.random.Generator) -> dict[str, Any]:
    """Means and ratios of individual drops (member, sequence) and joint drops (sequence,), with paired bootstrap intervals."""
    pick = rng.integers(0, len(whole), (judgement.resamples, len(whole)))
    draws = {"individual_sum": each.sum(0)[pick].mean(-1), "joint": whole[pick].mean(-1)}
    total, together = float(each.sum()) / each.shape[1], float(whole.mean())  # exact: exact-match drops are integers
    result: dict[str, Any] = {
        "individual_mean": total / len(each),
        "individual_sum": total,
        "joint": together,
        "ratio_to_mean": None,
        "ratio_to_sum": None,
        "ci": {name: judgement.interval(draw) for name, draw in draws.items()} | {"ratio_to_sum": None},
        "reason": None,
    }
    if total <= 0:
        return result | {"reason": f"no ratios: the individual drops add up to {total:.4f}, which is not positive"}
    result |= {"ratio_to_mean": together / (total / len(each)), "ratio_to_sum": together / total}
    if (draws["individual_sum"] > 0).all():
        result["ci"]["ratio_to_sum"] = judgement.interval(draws["joint"] / draws["individual_sum"])
    else:
        result["reason"] = "no interval of the ratios: in some resamples the individual drops do not add up to more than 0"
    return result
