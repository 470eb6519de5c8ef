"""From measured arrays to the dictionary of an attribution record: which number stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np

from gcgap.attribution.agreement import Entry, bootstrapped, grouped, with_intervals
from gcgap.attribution.scoring import Scored
from gcgap.attribution.sets import CriticalSets, Interactions
from gcgap.attribution.setup import Setup
from gcgap.attribution.workflow import Workflow
from gcgap.importance.gap import Array, Gap, Judgement
from gcgap.importance.protocol import Protocol
from gcgap.importance.scores import Scores
from gcgap.models.wiring import Component
from gcgap.records.attribution_record import KIND

EFFECTS = ("exact_match", "log_prob")  # the exact effects that every method is held against


def head(record: dict[str, Any], setup: Setup) -> dict[str, Any]:
    """What was measured, how, and how good the model is."""
    return {"kind": KIND} | record | {"setup": setup.to_dict()}


def body(
    components: Sequence[Component],
    protocol: Protocol,
    rows: Sequence[Scored],
    effects: Scores,
    twins: Scores,
    trust: Sequence[dict[str, Any]],
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Components with their scores, and methods with their agreement and cost.

    Args:
        components: In the order of the arrays.
        protocol: Confidence and resamples.
        rows: Scores of every method.
        effects: Exact effects that methods are held against, shape (component, sequence), on sequences of their own.
        twins: Exact effects on the methods' sequences.
        trust: One entry for each component.
        rng: Draws resamples and halves.
    """
    units = protocol.attribution.metric
    exact = {name: getattr(effects, name).numpy() for name in dict.fromkeys((*EFFECTS, units))}
    again = {name: getattr(twins, name).mean(-1).numpy() for name in exact}
    found = held_against(components, protocol, rows, exact, rng, again[units])
    entries = [
        {"name": component.name, "layer": component.layer, "kind": component.kind}
        | {"exact": found.exact[i], "exact_again": {name: float(of[i]) for name, of in again.items()}}
        | {"scores": found.scores[i], "trust": trust[i]}
        for i, component in enumerate(components)
    ]
    return {"components": entries, "methods": found.methods}


class HeldAgainst(NamedTuple):
    """Methods beside exact effects: for each component its effects and scores, and for each method agreement and cost."""

    exact: list[Entry]
    scores: list[Entry]
    methods: dict[str, Entry]


def held_against(
    components: Sequence[Component],
    protocol: Protocol,
    rows: Sequence[Scored],
    exact: Mapping[str, Array],
    rng: np.random.Generator,
    twin: Array | None = None,
) -> HeldAgainst:
    """Hold every method against exact effects of shape (component, sequence), given by metric.

    `twin` are the mean effects on the methods' own sequences, by the metric of the scores; without them there is no L1 error.
    """
    by, kinds, units = Judgement.of(protocol), [component.kind for component in components], protocol.attribution.metric
    scores = {one.method.name: one.samples for one in rows}
    draws = bootstrapped(scores | {f"exact effect, {name}": drops for name, drops in exact.items()}, by, rng)
    methods: dict[str, Entry] = {}
    for one in rows:
        method, agreements = one.method, dict[str, Any]()
        for name, drops in exact.items():
            own = twin if method.estimates == "drop" and name == units else None
            found = grouped(one.samples.mean(-1), drops.mean(-1), kinds, own)
            star = draws[method.name], draws[f"exact effect, {name}"]
            agreements[name] = found | {"all": with_intervals(found["all"], one.samples, drops, star, by, rng)}
        told = {"family": method.family, "estimates": method.estimates, "text": method.text}
        methods[method.name] = told | {"agreement": agreements, "cost": asdict(one.cost)}

    def of_each(samples: Mapping[str, Array], prefix: str = "") -> list[Entry]:
        names = range(len(components))
        return [{name: _mean(of[i], draws[prefix + name][i], by) for name, of in samples.items()} for i in names]

    return HeldAgainst(of_each(exact, "exact effect, "), of_each(scores), methods)


def _mean(samples: Array, draws: Array, by: Judgement) -> dict[str, Any]:
    """A mean over samples with its interval and standard error; neither from a single sample."""
    if len(samples) < 2:
        return {"value": float(samples[0]), "ci": None, "error": None}
    error = float(samples.std(ddof=1) / len(samples) ** 0.5)
    return {"value": float(samples.mean()), "ci": by.interval(draws), "error": error}


def gap(found: Gap) -> Entry:
    """The numbers of a gap that are about all components together."""
    return {key: getattr(found, key) for key in ("rho", "ci", "p_value", "ceiling", "corrected")} | {
        "reason": found.reason or None
    }


def sets(
    components: Sequence[Component],
    pairs: Mapping[str, Interactions],
    critical: CriticalSets | None,
    again: Mapping[frozenset[int], tuple[float, float]],
    among: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Pairwise interactions, and the smallest jointly critical sets with their effect and its error on other sequences.

    `among` names the components that were paired, where not all were.
    """
    matrices = {
        name: {"mean": found.mean.tolist(), "error": found.error.tolist(), "single": found.single.tolist()}
        for name, found in pairs.items()
    }

    def told(one: tuple[frozenset[int], float]) -> dict[str, Any]:
        other, error = again[one[0]]
        return {"members": _names(components, sorted(one[0])), "effect": one[1], "effect_again": other, "error_again": error}

    return {
        "interactions": matrices,
        "among": among,
        "critical": critical
        and {
            "dispensable": _names(components, sorted(critical.dispensable)),
            "tolerance": critical.tolerance,
            "critical": critical.critical,
            "size": critical.size,
            "sets": [told(one) for one in critical.sets],
            "searched": critical.searched,
            "greedy": None if critical.greedy is None else told(critical.greedy),
            "evaluated": critical.evaluated,
        },
    }


def workflow(components: Sequence[Component], found: Workflow) -> dict[str, Any]:
    """What Screen-Flag-Fix did."""
    lists = {name: _names(components, getattr(found, name)) for name in ("fixed", "unresolved", "verified", "above")}
    flags = {components[i].name: list(why) for i, why in found.flags.items()}
    return {"tau": found.tau, "flags": flags} | lists | {"limit": found.limit, "rule_of_three": found.rule_of_three}


def _names(components: Sequence[Component], members: Sequence[int]) -> list[str]:
    return [components[i].name for i in members]
