"""Two kinds of Bloats, parts of an overfitting circuit and optimisation noise: are there both, and can training tell them apart?

A final Bloat whose own removal costs in-distribution accuracy more than five points counts as overfitting, else as noise. A
logistic regression predicts which from what training recorded; every seed is predicted by a model that has not seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from gcgap.importance.gap import Array
from gcgap.records.record import Record
from gcgap.study.evidence import NAMES, SURE, Evidence, together, too_few
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.roles import Mask
from gcgap.study.seeds import DROP, SHARE, Summary, jackknife, permutation_p, summary

OVERFITTING = 0.05  # in-distribution drop, as in `gcgap.measurement.joint`
PENALTY = 1.0  # of the squared coefficients, on standardised features
SHUFFLES = 10_000
STEPS, CONVERGED = 50, 1e-9  # of Newton's method: steps at most, and the largest change of a weight that is none
LEAST = 5  # Bloats of each kind below which a prediction decides nothing
WEAK = 0.7  # area under the ROC curve up to which a prediction is as good as none
FEATURES = ("gradient", "gradient growth", "activation norm", "attention entropy", "is an MLP", "log-prob drop")

OBSERVED = range(5)
"""Features that are seen without ablating anything."""


def two_kinds(group: Group) -> Evidence:
    """Are some sets of sorting Bloats surely overfitting circuits and some surely optimisation noise?"""
    baseline = group.baselines[0]
    sets = [run.final["pruning"][baseline]["bloats"]["all"]["in_distribution_drop"] for run in group.ranked("sort")]
    drops = [one for one in sets if one["value"] is not None]
    if len(drops) < 4:
        return too_few("sorting runs with Bloats", 4)
    fit, noise = sum(one["ci"][0] > OVERFITTING for one in drops), sum(one["ci"][1] <= OVERFITTING for one in drops)
    drop = summary([one["value"] for one in drops], DROP)
    text = (
        f"Removing all Bloats of sorting costs {drop.points()} points in distribution (std {100 * (drop.std or 0):.1f}): of "
        f"{len(drops)} sets {fit} surely cost more than {100 * OVERFITTING:.0f} points (overfitting circuits), {noise} surely do "
        f"not (optimisation noise), and of {len(drops) - fit - noise} the interval holds {100 * OVERFITTING:.0f}."
    )
    return Evidence(True if min(fit, noise) >= 2 else False if len(drops) - max(fit, noise) < 2 else None, text, {"drop": drop})


def kind_is_unpredictable(group: Group) -> Evidence:
    """Does what is seen before anything is ablated fail to predict the kind of a single Bloat, on either task?"""
    said, numbers, holds, p_values = [], {}, [], list[float | None]()
    for task in group.tasks:
        known = examples(group.ranked(task), group.baselines[0])
        observed = predict(known, np.random.default_rng(0), OBSERVED)
        ablated = predict(known, np.random.default_rng(0), shuffles=0)
        name = NAMES.get(task, task)
        holds.append(_is_unpredictable(observed))
        p_values.append(observed.auc.p_below(WEAK) if observed.auc and holds[-1] is not None else None)
        if observed.auc is None or ablated.auc is None:
            said.append(f"on {name} there is nothing to learn: {observed.reason}")
            continue
        numbers[f"AUC, {name}"] = auc = observed.auc
        numbers[f"AUC with log-probability drop, {name}"] = with_drop = ablated.auc
        said.append(
            f"on {name}, where {observed.overfitting} of {observed.bloats} single Bloats cost more than {100 * OVERFITTING:.0f} "
            f"points in distribution, one of these is ranked above another Bloat with probability {auc.text()} "
            f"(p = {observed.p_value:.3f}); knowing the log-probability drop, itself an ablation, with {with_drop.text()}"
        )
    seen = "G's course, activation norm, attention entropy and being an MLP"
    text = f"Of seeds left out, from {seen} (guessing: 0.5): {'; '.join(said)}."
    answer = False if False in holds else True if True in holds and None not in holds else None
    return Evidence(answer, text, numbers, together(*p_values) if p_values else None)


@dataclass(frozen=True)
class Example:
    """One final Bloat of one run: what training recorded of it, and what its removal costs in distribution."""

    seed: int
    features: tuple[float, ...]
    drop: float

    @property
    def overfits(self) -> bool:
        """Whether it is part of an overfitting circuit."""
        return self.drop > OVERFITTING


@dataclass(frozen=True)
class Prediction:
    """How well the kind of a Bloat can be predicted for unseen seeds.

    Args:
        bloats: Bloats in all.
        overfitting: How many of them overfit.
        auc: Probability that an overfitting Bloat is ranked above a noisy one; 0.5 is guessing. Its n is the number of seeds with
            an overfitting Bloat, or that of seeds with a noisy one if that is smaller. None with a `reason`.
        p_value: Share of shufflings of the labels that are predicted as well.
        reason: Why there is no number.
    """

    bloats: int
    overfitting: int
    auc: Summary | None = None
    p_value: float | None = None
    reason: str | None = None


def _is_unpredictable(found: Prediction) -> bool | None:
    """Whether a prediction is as good as none: False if it predicts the kinds, None if it decides nothing."""
    if found.auc is None or min(found.overfitting, found.bloats - found.overfitting) < LEAST:
        return None
    if found.auc.above(0.5) and (found.p_value or 1) < SURE / 2:
        return False
    return True if found.auc.below(WEAK) else None


def examples(runs: Sequence[MeasuredRun], baseline: str) -> list[Example]:
    """The final Bloats of runs that were tracked and whose single drops in distribution are known."""
    found = []
    for run in runs:
        tracked = [record for record in run.tracked if record["components"]]
        if len(tracked) < 2:
            continue
        for i, component in enumerate(run.final["components"]):
            inside = component.get("in_distribution")
            if component["role"][baseline]["name"] == "bloat" and inside is not None:
                found.append(Example(run.seed, _features(tracked, i, baseline), inside[baseline]["value"]))
    return found


def _features(tracked: Sequence[Record], i: int, baseline: str) -> tuple[float, ...]:
    """What the tracked records say of component i, in the order of `FEATURES`; sizes as logs relative to the mean."""
    middle, last = tracked[len(tracked) // 2], tracked[-1]
    now, before = (_relative(record, i, lambda one: one["gradient"]["value"]) for record in (last, middle))
    component = last["components"][i]
    entropy = component["attention_entropy"]
    others = [one["attention_entropy"] for one in last["components"] if one["attention_entropy"] is not None]
    return (
        now,
        now - before,
        _relative(last, i, lambda one: one["activation_norm"]),
        float(np.mean(others)) if entropy is None else entropy,
        float(component["kind"] == "mlp"),
        component["causal"][baseline]["log_prob"]["value"],
    )


def _relative(record: Record, i: int, of: Callable[[dict[str, Any]], float]) -> float:
    values = np.array([of(one) for one in record["components"]])
    return float(np.log(values[i] / values.mean()))


def predict(
    known: Sequence[Example], rng: np.random.Generator, columns: Sequence[int] = range(len(FEATURES)), shuffles: int = SHUFFLES
) -> Prediction:
    """Cross-validated prediction of the kind of a Bloat, leaving out one seed at a time.

    Args:
        known: Bloats whose kind is known.
        rng: Randomness of the shufflings.
        columns: Which of `FEATURES` to predict from.
        shuffles: Shufflings of the labels behind the p-value; none gives no p-value.
    """
    overfits = np.array([one.overfits for one in known], dtype=bool)
    count, seeds = int(overfits.sum()), np.array([one.seed for one in known])
    reason = None
    if not known:
        reason = "no Bloats of tracked runs"
    elif count in (0, len(known)):
        reason = f"every one of {len(known)} Bloats {'overfits' if count else 'is optimisation noise'}"
    elif len(np.unique(seeds)) < 3:
        reason = "fewer than three seeds to cross-validate over"
    if reason:
        return Prediction(len(known), count, reason=reason)
    X = np.array([one.features for one in known])[:, list(columns)]
    shuffled = np.array([rng.permutation(overfits) for _ in range(shuffles)], dtype=bool).reshape(shuffles, len(known))
    labels = np.concatenate([overfits[None], shuffled])
    scores = _held_out_scores(X, labels, seeds)
    value, *by_chance = _auc(scores, labels).tolist()
    p_value = permutation_p(np.array(by_chance) >= value) if shuffles else None
    return Prediction(len(known), count, _auc_over_seeds(scores[0], overfits, seeds), p_value)


def _held_out_scores(X: Array, labels: Mask, seeds: NDArray[np.int64]) -> Array:
    """For every labelling (labelling, example) the score of each example by a model that was fitted on the other seeds.

    Scores are 0 where those are all of one kind.
    """
    scores = np.zeros(labels.shape)
    for seed in np.unique(seeds):
        out = seeds == seed
        mean, scale = X[~out].mean(0), X[~out].std(0)
        scaled = (X - mean) / np.where(scale > 0, scale, 1)
        both = labels[:, ~out].any(1) & ~labels[:, ~out].all(1)
        weights = _logistic_regressions(scaled[~out], labels[both][:, ~out])
        scores[np.ix_(both, out)] = weights[:, 1:] @ scaled[out].T
    return scores.round(8)  # scores that differ by rounding alone tie


def _logistic_regressions(X: Array, labels: Mask) -> Array:
    """Intercept and coefficients for every labelling, (labelling, 1 + feature), with a ridge penalty on the latter.

    By Newton's method on all labellings at once; a step that would raise a loss is halved until it does not.
    """
    design = np.column_stack([np.ones(len(X)), X])
    penalty = PENALTY * np.array([0.0, *np.ones(X.shape[1])])
    sign, weights = np.where(labels, 1.0, -1.0), np.zeros((len(labels), design.shape[1]))

    def loss(weights: Array) -> Array:
        return -special.log_expit(sign * (weights @ design.T)).sum(1) + (penalty * weights**2).sum(1) / 2

    before = loss(weights)
    for _ in range(STEPS):
        likely = special.expit(weights @ design.T)
        slope = (likely - labels) @ design + penalty * weights
        curvature = np.einsum("ki,if,ig->kfg", likely * (1 - likely), design, design, optimize=True) + np.diag(penalty)
        step, after = np.linalg.solve(curvature, slope[..., None])[..., 0], before
        if np.abs(step).max(initial=0.0) < CONVERGED:
            return weights - step
        for _ in range(STEPS):
            after = loss(weights - step)
            if not (worse := after > before + CONVERGED).any():
                break
            step[worse] /= 2
        weights, before = weights - step, after
    raise FloatingPointError("A logistic regression of the kinds of Bloats did not converge.")


def _auc(scores: Array, labels: Mask) -> Array:
    """Area under the ROC curve, over the last axis: Mann-Whitney's U as a share of all pairs."""
    ones = labels.sum(-1)
    ranks = (stats.rankdata(scores, axis=-1) * labels).sum(-1)
    return (ranks - ones * (ones + 1) / 2) / (ones * (labels.shape[-1] - ones))


def _auc_over_seeds(scores: Array, labels: Mask, seeds: NDArray[np.int64]) -> Summary:
    """The area under the ROC curve of scores, by a jackknife over seeds."""
    by_seed = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]

    def auc(picked: NDArray[np.int64]) -> float:
        rows = np.concatenate([by_seed[k] for k in picked])
        both = labels[rows].any() and not labels[rows].all()
        return float(_auc(scores[rows], labels[rows])) if both else float("nan")

    used = min(sum(bool((labels[rows] == kind).any()) for rows in by_seed) for kind in (True, False))
    return jackknife(auc, len(by_seed), used, SHARE)
