"""Every attribution method on models whose circuit is known: does it find the circuit, and would that circuit work?

Owns how the models are put before the methods. The models are in `gcgap.attribution.known_circuits`, the numbers of one
ranking in `gcgap.attribution.circuits`, what all of them say in `gcgap.attribution.method_verdict`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from gcgap.attribution.circuits import Circuits, recovered
from gcgap.attribution.drop import Drop
from gcgap.attribution.known_circuits import KNOWN, Known
from gcgap.attribution.method_verdict import KIND, SCHEMA, summary, verdict
from gcgap.attribution.methods import METHODS, Method, Problem, find_methods
from gcgap.attribution.scoring import forward_seconds, scored
from gcgap.importance.baselines import mean_activations, zero_activations
from gcgap.importance.gates import Activations
from gcgap.importance.protocol import Attribution, Baseline
from gcgap.importance.scores import DIFFERENTIABLE
from gcgap.models.wiring import Wiring

BASELINES = (Baseline.ZERO, Baseline.MEAN)  # those for which the notes of the models hold
BATCHES, ROWS = 8, 64  # behind the mean replacement, and behind the gradients of weights; sequences in each
STREAMS = 1 + 2 * BATCHES  # batches that one seed draws, none of which another seed does
HAIR = (
    0.01  # least share that is a clear lead: of what ablating everything costs, or of the largest score where those have no units
)


def truth(
    names: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    baselines: Sequence[str] = BASELINES,
    sequences: int = 64,
    settings: Attribution | None = None,
    seed: int = 0,
    done: Callable[[str], object] = lambda stage: None,
) -> dict[str, Any]:
    """Score the components of every known model by every method, and hold the scores against the true circuit.

    Args:
        names: Known models; all by default.
        methods: Names of methods; all by default.
        baselines: What replaces an ablated output: zero, mean.
        sequences: Evaluation sequences.
        settings: How finely methods work; its own list of methods plays no part.
        seed: Seed of all sequences, and of methods that draw.
        done: Called once for each model, baseline and method, with their names.

    Returns:
        Plain values: by model, baseline and method the area under the ROC curve, CPR, CMD, scores and cost; each method over all
        of them; and the sentence that says what was found.

    Raises:
        ValueError: An unknown name, or none at all; or a number that cannot be.
        FloatingPointError: A score is not finite; the text names method, model and component.
    """
    names, methods = list(KNOWN if names is None else names), list(METHODS if methods is None else methods)
    for key, asked, all_of in (("names", names, KNOWN), ("baselines", baselines, BASELINES), ("methods", methods, METHODS)):
        _check(key, asked, all_of)
    if sequences < 1 or seed < 0:
        raise ValueError(f"`sequences` must be at least 1 and `seed` at least 0; got {sequences} and {seed}.")
    settings, chosen = replace(settings or Attribution(), methods=tuple(methods)), find_methods(methods)
    plain = asdict(settings) | {"methods": methods, "sequences": sequences, "seed": seed, "hair": HAIR}
    models = {name: _model(KNOWN[name](), chosen, baselines, sequences, settings, seed, done) for name in names}
    record: dict[str, Any] = {"kind": KIND, "schema": SCHEMA, "settings": plain, "models": models}
    record["methods"] = {one.name: {"family": one.family, "text": one.text} | summary(models, one.name) for one in chosen}
    libraries = {name: version(name) for name in ("gcgap", "torch", "numpy", "scipy")}
    record |= {"verdict": verdict(record), "versions": libraries | {"python": platform.python_version()}}
    return record | {"created": datetime.now(UTC).isoformat(timespec="seconds")}


def _check(key: str, asked: Sequence[str], known: Collection[str]) -> None:
    for name in asked:
        if name not in known:
            raise ValueError(f"`{key}` must be among {', '.join(known)}; got {name!r}.")
    if not asked or len(set(asked)) < len(asked):
        raise ValueError(f"`{key}` must be different ones, one at least; got {', '.join(asked) or 'none'}.")


def _model(
    known: Known,
    methods: Sequence[Method],
    baselines: Sequence[str],
    sequences: int,
    settings: Attribution,
    seed: int,
    done: Callable[[str], object],
) -> dict[str, Any]:
    """A known model, and the numbers of every method on it under each baseline."""
    problems = _problems(known, sequences, settings, seed)
    found = {name: _methods(known, name, problems[Baseline(name)], methods, done) for name in baselines}
    components = [component.name for component in Wiring.of(known.model).components]
    return {"circuit": list(known.circuit), "note": known.note, "components": components, "baselines": found}


def _problems(known: Known, sequences: int, settings: Attribution, seed: int) -> dict[Baseline, Problem]:
    """What methods score under each baseline; evaluation, means and gradients share no batch."""
    model, wiring, first = known.model, Wiring.of(known.model), seed * STREAMS
    draw = first + len(BASELINES) * list(KNOWN).index(known.name)  # random methods draw anew for each model and baseline
    means, gradients = ([known.batch(ROWS, first + 1 + part * BATCHES + i) for i in range(BATCHES)] for part in (0, 1))
    clean, metric = known.batch(sequences, first), DIFFERENTIABLE[settings.metric]

    def drop(values: Activations) -> Drop:
        return Drop(model, wiring, clean, lambda rows: values, metric)

    zero = drop(zero_activations(model, wiring))
    drops = {Baseline.ZERO: zero, Baseline.MEAN: drop(mean_activations(model, wiring, means, by_position=False))}
    return {name: Problem(clean, one, zero, gradients, settings, draw + i) for i, (name, one) in enumerate(drops.items())}


def _methods(
    known: Known, baseline: str, problem: Problem, methods: Sequence[Method], done: Callable[[str], object]
) -> dict[str, Any]:
    """The numbers of every method on one model under one baseline."""
    measured, unit = Circuits(problem.drop), forward_seconds(problem.drop)
    everything = float(problem.drop.value(problem.drop.closed() + 1).mean())
    true = np.array([component.name in known.circuit for component in problem.drop.wiring.components])
    found = {}
    for method in methods:
        try:
            (one,) = scored(problem, [method], unit)
        except FloatingPointError as error:
            raise FloatingPointError(f"{method.name} on {known.name}, {baseline} ablation: {error}") from error
        scores = one.samples.mean(-1)
        hair = HAIR * (float(np.abs(scores).max()) if method.estimates is None else everything)
        found[method.name] = recovered(scores, true, measured, hair) | {"scores": scores.tolist(), "cost": asdict(one.cost)}
        done(f"{method.name} on {known.name}, {baseline} ablation")
    return found
