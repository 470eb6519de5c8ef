"""Can a Bloat that is part of an overfitting circuit be told from optimisation noise before it is pruned? (v1's open question)

A final Bloat whose own removal costs in-distribution accuracy more than five points counts as overfitting, else as noise. A
logistic regression predicts which from what training recorded; every seed is predicted by a model that has not seen it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

from gcgap.importance.gap import Array
from gcgap.records.record import Record
from gcgap.study.arrays import Mask
from gcgap.study.groups import Run
from gcgap.study.seeds import CONFIDENCE

OVERFITTING = 0.05  # in-distribution drop, as in `gcgap.measurement.joint`
PENALTY = 1.0  # of the squared coefficients, on standardised features
SHUFFLES = 500
RESAMPLES = 2000
FEATURES = ("gradient", "gradient growth", "activation norm", "attention entropy", "is an MLP", "log-prob drop")

OBSERVED = range(5)
"""Features that are seen without ablating anything."""


@dataclass(frozen=True)
class Example:
    """One final Bloat of one run: what training recorded of it, and what its removal costs in distribution."""

    seed: int
    name: str
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
        auc: Probability that an overfitting Bloat is ranked above a noisy one; 0.5 is guessing. None with a `reason`.
        ci: 95 % interval, by a bootstrap over seeds.
        p_value: Share of shufflings of the labels that are predicted as well.
        reason: Why there is no number.
    """

    bloats: int
    overfitting: int
    auc: float | None = None
    ci: tuple[float, float] | None = None
    p_value: float | None = None
    reason: str | None = None


def examples(runs: Sequence[Run], baseline: str) -> list[Example]:
    """The final Bloats of runs that were tracked and whose single drops in distribution are known."""
    found = []
    for run in runs:
        tracked = [record for record in run.tracked if record["components"]]
        if len(tracked) < 2:
            continue
        for i, component in enumerate(run.final["components"]):
            inside = component.get("in_distribution")
            if component["role"][baseline]["name"] == "bloat" and inside is not None:
                features = _features(tracked, i, baseline)
                found.append(Example(run.seed, component["name"], features, inside[baseline]["value"]))
    return found


def predict(
    known: Sequence[Example], rng: np.random.Generator, columns: Sequence[int] | None = None, shuffles: int = SHUFFLES
) -> Prediction:
    """Cross-validated prediction of the kind of a Bloat, leaving out one seed at a time.

    Args:
        known: Bloats whose kind is known.
        rng: Randomness of the shufflings and the bootstrap.
        columns: Which of `FEATURES` to predict from; all by default.
        shuffles: Shufflings of the labels behind the p-value; none gives no p-value.
    """
    overfits = np.array([one.overfits for one in known], dtype=bool)
    count = int(overfits.sum())
    if count in (0, len(known)):
        kind = "overfits" if count else "is optimisation noise"
        return Prediction(
            len(known), count, reason=f"every one of {len(known)} Bloats {kind}" if len(known) else "no Bloats of tracked runs"
        )
    seeds = np.array([one.seed for one in known])
    if len(np.unique(seeds)) < 3:
        return Prediction(len(known), count, reason="fewer than three seeds to cross-validate over")
    X = np.array([one.features for one in known])[:, list(columns if columns is not None else range(len(FEATURES)))]
    scores = _held_out(X, overfits, seeds)
    value = _auc(scores, overfits)
    shuffled = [rng.permutation(overfits) for _ in range(shuffles)]
    as_good = sum(_auc(_held_out(X, labels, seeds), labels) >= value for labels in shuffled)
    p_value = (1 + as_good) / (1 + shuffles) if shuffles else None
    return Prediction(len(known), count, value, _interval(scores, overfits, seeds, rng), p_value)


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


def _held_out(X: Array, labels: Mask, seeds: NDArray[np.int64]) -> Array:
    """For every example the score of a model that was fitted on the other seeds; 0 where those are all of one kind."""
    scores = np.zeros(len(X))
    for seed in np.unique(seeds):
        out = seeds == seed
        if len(np.unique(labels[~out])) == 2:
            mean, scale = X[~out].mean(0), X[~out].std(0)
            scaled = (X - mean) / np.where(scale > 0, scale, 1)
            scores[out] = scaled[out] @ _fitted(scaled[~out], labels[~out])[1:]
    return scores


def _fitted(X: Array, labels: Mask) -> Array:
    """Intercept and coefficients of a ridge-penalised logistic regression."""
    sign = np.where(labels, 1.0, -1.0)

    def loss(weights: Array) -> tuple[float, Array]:
        margin = sign * (weights[0] + X @ weights[1:])
        pull = -sign * special.expit(-margin)
        gradient = np.array([pull.sum(), *(pull @ X + PENALTY * weights[1:])])
        return float(-special.log_expit(margin).sum() + PENALTY / 2 * (weights[1:] ** 2).sum()), gradient

    return optimize.minimize(loss, np.zeros(X.shape[1] + 1), method="BFGS", jac=True).x


def _auc(scores: Array, labels: Mask) -> float:
    """Area under the ROC curve: Mann-Whitney's U as a share of all pairs."""
    statistic = stats.mannwhitneyu(scores[labels], scores[~labels]).statistic
    return float(statistic / (labels.sum() * (~labels).sum()))


def _interval(scores: Array, labels: Mask, seeds: NDArray[np.int64], rng: np.random.Generator) -> tuple[float, float] | None:
    by_seed = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([by_seed[k] for k in rng.integers(0, len(by_seed), len(by_seed))])
        if labels[rows].any() and not labels[rows].all():
            drawn.append(_auc(scores[rows], labels[rows]))
    if len(drawn) < RESAMPLES / 2:
        return None
    low, high = np.percentile(drawn, [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    return float(low), float(high)
