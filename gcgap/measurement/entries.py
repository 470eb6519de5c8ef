"""From measured arrays to the dictionary of a record (schema 1).

Owns which number stands where in a record; computes nothing but means and intervals of what it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from gcgap.importance.gap import Array, Gap
from gcgap.importance.prepare import judgement
from gcgap.importance.protocol import Protocol
from gcgap.models.wiring import Component

Gaps = Mapping[str, Mapping[str, Gap]]
"""The gap by baseline and metric."""


def skipped(protocol: Protocol, accuracy: dict[str, Any]) -> dict[str, Any]:
    """The rest of a record whose model has no OOD length inside the window: no component, and the reason."""
    low, high = protocol.window
    found = ", ".join(f"{length}: {value:.1%}" for length, value in accuracy["by_length"].items())
    reason = f"no OOD length has an accuracy in [{low:.0%}, {high:.0%}] ({found})"
    gap = {baseline: _gap_entry(Gap(reason=reason), protocol) for baseline in protocol.baselines}
    return {"skipped": reason, "components": [], "layers": [], "gap": gap, "pruning": {}, "joint": {}, "sets": {}}


def body(
    components: Sequence[Component],
    protocol: Protocol,
    norms: Array,
    sizes: Sequence[int],
    activity: tuple[Array, Array | None],
    causal: Array,
    gaps: Gaps,
    draws: tuple[Array, Array],
) -> dict[str, Any]:
    """Components, layers and gaps.

    Args:
        components: In the order of the arrays.
        protocol: What was measured.
        norms: Gradient norms, shape (component, batch), divided by sqrt(N_i) or not as the protocol says.
        sizes: N_i, the numbers of entries of the weights.
        activity: Activation norms (component,) and attention entropies (layer, head), if the model shows its attention.
        causal: Drops, shape (baseline, metric, component, sequence).
        gaps: The gap by baseline and metric, exact match first.
        draws: Bootstrap distributions of G (component, resample) and C (baseline, metric, component, resample).
    """
    interval = judgement(protocol).interval
    C = causal.mean(-1)
    entropies = repeat(None) if activity[1] is None else map(float, activity[1].flat)
    entries = []
    for i, component in enumerate(components):
        drop = {
            baseline: {
                metric: {"value": float(C[b, m, i]), "ci": interval(draws[1][b, m, i])} for m, metric in enumerate(gaps[baseline])
            }
            for b, baseline in enumerate(protocol.baselines)
        }
        entries.append(
            {
                "name": component.name,
                "layer": component.layer,
                "kind": component.kind,
                "activation_norm": float(activity[0][i]),
                "attention_entropy": next(entropies) if component.kind == "head" else None,
                "gradient": _gradient(float(norms[i].mean()), sizes[i], protocol) | {"ci": interval(draws[0][i])},
                "causal": drop,
                "delta": {baseline: _by_metric(gaps[baseline], i, _delta) for baseline in protocol.baselines},
                "role": {baseline: _by_metric(gaps[baseline], i, _role) for baseline in protocol.baselines},
            }
        )
    summary = {
        baseline: _gap_entry(gaps[baseline]["exact_match"], protocol)
        | {"by_metric": {metric: _gap_entry(gaps[baseline][metric], protocol) for metric in list(gaps[baseline])[1:]}}
        for baseline in protocol.baselines
    }
    return {"components": entries, "layers": _layers(entries, protocol.baselines), "gap": summary}


def _gradient(value: float, size: int, protocol: Protocol) -> dict[str, float]:
    """G as the protocol says, and both with and without the division by sqrt(N_i)."""
    root = size**0.5
    both = (value * root, value) if protocol.normalise_gradient else (value, value / root)
    return {"value": value, "raw": both[0], "normalised": both[1]}


def _by_metric(gaps: Mapping[str, Gap], i: int, entry: Any) -> dict[str, Any]:
    """An entry by exact match, with those by the other metrics inside."""
    return entry(gaps["exact_match"], i) | {"by_metric": {metric: entry(gaps[metric], i) for metric in list(gaps)[1:]}}


def _delta(gap: Gap, i: int) -> dict[str, Any]:
    if gap.delta is None or gap.delta_ci is None:
        return {"value": None, "ci": None}
    return {"value": gap.delta[i], "ci": gap.delta_ci[i]}


def _role(gap: Gap, i: int) -> dict[str, Any]:
    if gap.role is None or gap.probability is None:
        return {"name": None, "probability": None, "probabilities": None}
    every = {role: of_all[i] for role, of_all in gap.probability.items()}
    return {"name": gap.role[i], "probability": every[gap.role[i]], "probabilities": every}


def _gap_entry(gap: Gap, protocol: Protocol) -> dict[str, Any]:
    """The part of a Gap that speaks of all components together."""
    count = None if gap.counts is None else gap.counts[f"{protocol.threshold:g}"]
    by_chance = count and {"heroes": count["heroes_by_chance"], "bloats": count["bloats_by_chance"]}
    return {
        "rho": gap.rho,
        "ci": gap.ci,
        "p_value": gap.p_value,
        "ceiling": gap.ceiling,
        "corrected": gap.corrected,
        "reason": gap.reason or None,
        "heroes": count and count["heroes"],
        "bloats": count and count["bloats"],
        "expected_by_chance": by_chance,
        "by_threshold": gap.counts,
        "missed": gap.missed,
    }


def _layers(entries: list[dict[str, Any]], baselines: Sequence[str]) -> list[dict[str, Any]]:
    """Per layer: mean gradient norm, and how many Heroes and Bloats, over the heads and over all components."""
    layers = []
    for layer in sorted({entry["layer"] for entry in entries}):
        groups = {"all": [entry for entry in entries if entry["layer"] == layer]}
        groups["heads"] = [entry for entry in groups["all"] if entry["kind"] == "head"]
        layers.append(
            {"layer": layer}
            | {
                group: {"gradient": float(np.mean([entry["gradient"]["value"] for entry in members]))}
                | {baseline: _role_counts(members, baseline) for baseline in baselines}
                for group, members in groups.items()
            }
        )
    return layers


def _role_counts(entries: list[dict[str, Any]], baseline: str) -> dict[str, int] | None:
    names = [entry["role"][baseline]["name"] for entry in entries]
    return None if None in names else {"heroes": names.count("hero"), "bloats": names.count("bloat")}
