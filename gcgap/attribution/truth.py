"""Every attribution method on models whose circuit is known: does it find the circuit, and do the circuits that it picks work?

    f_k = (M(C_k) - M(empty)) / (M(full) - M(empty)),   C_k the k highest-scoring components, all others ablated at once

The models are in `gcgap.attribution.known_circuits`, the numbers of one ranking and the verdict in `gcgap.attribution.recovery`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from gcgap.attribution.drop import Drop
from gcgap.attribution.known_circuits import KNOWN, Known
from gcgap.attribution.methods import METHODS, Method, Problem, default_methods, find_methods
from gcgap.attribution.recovery import KIND, SCHEMA, area_under_roc, clear_area, cmd, cpr, faithfulness, summary, verdict
from gcgap.attribution.scoring import forward_seconds, scored
from gcgap.attribution.sets import Set, set_drops
from gcgap.importance.baselines import mean_activations, zero_activations
from gcgap.importance.gates import Activations
from gcgap.importance.protocol import Attribution, Baseline
from gcgap.importance.scores import DIFFERENTIABLE
from gcgap.models.wiring import Wiring

BASELINES = (Baseline.ZERO, Baseline.MEAN)  # those for which the notes of the models hold
PERFORMANCE = ("log_prob", "exact_match")  # the metrics M by which circuits are judged
BATCHES, ROWS = 8, 64  # behind the mean replacement, and behind the gradients of weights; sequences in each
STREAMS = 1 + 2 * BATCHES  # batches that one seed draws, none of which another seed does
CLEAR_LEAD = 0.01  # least share that leads clearly: of the drop when all is ablated, or of the largest score (no units)


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
        methods: Names of methods; by default all that need no corrupted input.
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
    names, methods = list(KNOWN if names is None else names), list(default_methods() if methods is None else methods)
    for key, asked, all_of in (("names", names, KNOWN), ("baselines", baselines, BASELINES), ("methods", methods, METHODS)):
        _check(key, asked, all_of)
    if sequences < 1 or seed < 0:
        raise ValueError(f"`sequences` must be at least 1 and `seed` at least 0; got {sequences} and {seed}.")
    settings, chosen = replace(settings or Attribution(), methods=tuple(methods)), find_methods(methods, Baseline.ZERO)
    plain = asdict(settings) | {"methods": methods, "sequences": sequences, "seed": seed, "hair": CLEAR_LEAD}
    del plain["stages"]  # those of an attribution
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
    everything = float(problem.drop.value(problem.drop.zero_gates() + 1).mean())
    true = np.array([component.name in known.circuit for component in problem.drop.wiring.components])
    found = {}
    for method in methods:
        try:
            (one,) = scored(problem, [method], unit)
        except FloatingPointError as error:
            raise FloatingPointError(f"{method.name} on {known.name}, {baseline} ablation: {error}") from error
        scores = one.samples.mean(-1)
        hair = CLEAR_LEAD * (float(np.abs(scores).max()) if method.estimates is None else everything)
        found[method.name] = measured.recovery(scores, true, hair) | {"scores": scores.tolist(), "cost": asdict(one.cost)}
        done(f"{method.name} on {known.name}, {baseline} ablation")
    return found


def circuits(scores: Float[ndarray, " component"]) -> list[list[Set]]:
    """For every size 0 .. n, each choice of so many components of which none left out scores higher."""
    order, found = np.sort(scores)[::-1], [[frozenset[int]()]]
    for size, lowest in enumerate(order, 1):
        above = np.flatnonzero(scores > lowest).tolist()
        tied = np.flatnonzero(scores == lowest).tolist()
        found.append([frozenset([*above, *chosen]) for chosen in combinations(tied, size - len(above))])
    return found


class Circuits:
    """What circuits of one model keep when all else is ablated; each is run once, whichever methods ask for it.

    For scores that are exactly equal f_k is the mean over all choices of k that the scores allow, every one of them measured:
    breaking ties by the order of components would give early layers, or late ones, a circuit that nobody found. This is for
    models of about ten components, since a ranking of n ties allows 2^n circuits.

    Args:
        drop: Model, sequences and replacement; its metric plays no part.
    """

    def __init__(self, drop: Drop) -> None:
        self.drop = drop
        self._all = frozenset(range(drop.components))
        self._lost = {self._all: (0.0,) * len(PERFORMANCE)}  # the untouched model loses nothing

    def curves(self, scores: Float[ndarray, " component"]) -> dict[str, Float[ndarray, " size"]]:
        """f_0 .. f_n of the highest-scoring components by each metric."""
        by_size = circuits(scores)
        asked = dict.fromkeys(circuit for choices in by_size for circuit in choices)
        if missing := [circuit for circuit in asked if circuit not in self._lost]:
            found = set_drops(self.drop, [self._all - circuit for circuit in missing])
            means = zip(*(getattr(found, metric).mean(-1).tolist() for metric in PERFORMANCE), strict=True)
            self._lost |= dict(zip(missing, means, strict=True))
        kept = -np.array([np.mean([self._lost[circuit] for circuit in choices], axis=0) for choices in by_size])
        return {metric: faithfulness(kept[:, column]) for column, metric in enumerate(PERFORMANCE)}

    def recovery(self, scores: Float[ndarray, " component"], true: Bool[ndarray, " component"], hair: float) -> dict[str, float]:
        """How well scores recover a circuit. As in MIB, CPR takes the order of the scores, CMD that of their sizes."""
        helpful, large = self.curves(scores), self.curves(np.abs(scores))
        return {
            "auc": area_under_roc(scores, true),
            "clear_auc": clear_area(scores, true, hair),
            "cpr": cpr(helpful["log_prob"]),
            "cmd": cmd(large["log_prob"]),
            "cpr_exact_match": cpr(helpful["exact_match"]),
            "cmd_exact_match": cmd(large["exact_match"]),
        }
