"""How well a method's scores agree with the exact effects: the numbers of one row of the table.

    rho, tau-b     rank correlations of scores and effects (ties averaged; tau-b corrected for them)
    top-k          share of the k largest effects that are among the k largest scores, k a quarter of the components
    missed         1 - top-k: the author's "misses 70 % of what matters"
    L1             mean |score - effect on the same sequences|, in the metric's units; only for scores that estimate that effect

The effects that ranks are held against are measured on other sequences than the scores, so that no method shares their noise: the
exact effects on the scores' own sequences are held against them too, and say what noise alone takes away.

Pure numpy and scipy. A number that does not exist is None, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from gcgap.importance.gap import Array, Judgement, constant, missed, noise_ceiling, rank, rank_correlation

Entry = dict[str, Any]


def agreement(
    scores: Float[Array, " component"], effects: Float[Array, " component"], twin: Float[Array, " component"] | None = None
) -> Entry:
    """The numbers of one method, one effect and one group of components.

    `twin` are the exact effects on the scores' own sequences, where the scores estimate those.
    """
    k = top_size(len(scores))
    entry: Entry = {"rho": None, "tau_b": None, "k": k, "top_k": None, "missed": None, "l1": None, "reason": None}
    if twin is not None:
        entry["l1"] = float(np.abs(scores - twin).mean())
    for name, values in (("scores", scores), ("effects", effects)):
        if constant(values):
            return entry | {"reason": f"the {name} of all components are the same, {values[0]:g}: ranks do not exist"}
    ranks, wanted = rank(scores), rank(effects)
    left_out = missed(scores, effects, k)
    tau = stats.kendalltau(ranks, wanted, variant="b").statistic  # pyright: ignore[reportAttributeAccessIssue]
    found = {"rho": float(rank_correlation(ranks, wanted)), "tau_b": float(tau)}
    return entry | found | {"top_k": 1 - left_out, "missed": left_out}


def top_size(components: int) -> int:
    """k: a quarter of the components, one at least."""
    return max(1, round(components / 4))


def grouped(scores: Array, effects: Array, kinds: Sequence[str], twin: Array | None = None) -> dict[str, Entry]:
    """The agreement over all components, within the heads, and within the MLPs."""
    kind = np.asarray(kinds)
    groups = {"all": np.ones(len(kind), bool), "heads": kind == "head", "mlps": kind == "mlp"}
    return {
        name: agreement(scores[inside], effects[inside], None if twin is None else twin[inside])
        for name, inside in groups.items()
        if inside.sum() > 1
    }


def with_intervals(
    entry: Entry, samples: Array, drops: Array, draws: tuple[Array, Array], judgement: Judgement, rng: np.random.Generator
) -> Entry:
    """An entry over all components with the interval of its rho and the noise ceiling.

    The ceiling is the largest rho that two independent measurements with the noise of these would reach.

    Args:
        entry: From `agreement`.
        samples: The method's scores, shape (component, sample).
        drops: Exact effects, shape (component, sequence).
        draws: Bootstrap means of the two, each (component, resample).
        judgement: Confidence.
        rng: Draws the halves of the data.
    """
    ceiling, why = noise_ceiling(samples, drops, replace(judgement, ranks="average"), rng)
    star = rank_correlation(*(rank(draw, axis=0) for draw in draws), axis=0)
    alike = int(np.isnan(star).sum())
    no_ci = f"no interval: in {alike} of {len(star)} resamples all components are alike" if alike else None
    defined = not alike and entry["rho"] is not None
    told = {"ci": judgement.interval(star) if defined else None, "no_ci": no_ci}
    return entry | told | {"ceiling": ceiling, "no_ceiling": why or None}


def bootstrapped(samples: Mapping[str, Array], judgement: Judgement, rng: np.random.Generator) -> dict[str, Array]:
    """Bootstrap means of each (component, sample) array, shape (component, resample).

    Arrays with equally many samples are resampled together, so that those of the same sequences stay paired.
    """
    found: dict[str, Array] = {}
    for size in {values.shape[1] for values in samples.values()}:
        names = [name for name, values in samples.items() if values.shape[1] == size]
        together = np.concatenate([samples[name] for name in names])
        draws = _means(together, judgement.resamples, rng)
        ends = np.cumsum([len(samples[name]) for name in names])[:-1]
        found |= dict(zip(names, np.split(draws, ends), strict=True))
    return found


def _means(values: Float[Array, "row sample"], resamples: int, rng: np.random.Generator) -> Float[Array, "row resample"]:
    if values.shape[1] < 2:
        return np.tile(values, (1, resamples))
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, batch=20, vectorized=True, axis=-1, method="percentile", rng=rng
    )
    return result.bootstrap_distribution
