"""How well every method's scores agree with the exact effects, which method to use for it, and when an estimate can be trusted.

    rho, tau-b     rank correlations of scores and effects (ties averaged; tau-b corrected for them)
    top-k          share of the k largest effects that are among the k largest scores, k a quarter of the components
    missed         1 - top-k: the author's "misses 70 % of what matters"
    L1             mean |score - effect on the same sequences|, in the metric's units; only for scores that estimate that effect
    R_i            |F_i''(0)| / (2 |F_i'(0)|), the correction over the estimate; R < 1: the correction cannot flip the sign

Ranks are compared with effects on other sequences than the scores', so that no method shares their noise: the exact effects on
the scores' own sequences are compared with them too, and say what noise alone takes away. A low R is no certificate, since it
knows nothing of what comes further along the path; so it ships with its calibration. The bounds are Taylor remainders with the
largest derivative *on a grid* of the path: estimates of bounds, with measured coverage. R and the bounds are this project's
reading of the abstract of arXiv:2606.09899.

Imports no torch. A number that does not exist is None, with the reason beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from gcgap.importance.gap import Array, Judgement, constant, missed, noise_ceiling, rank, rank_correlation

if TYPE_CHECKING:
    from gcgap.attribution.scoring import Scored
from itertools import pairwise

Entry = dict[str, Any]
CLOSE = 0.1  # rho below that of exact effects on the same sequences by which a method still counts as ranking as they do


class Comparison(NamedTuple):
    """Methods beside exact effects: for each component its effects and scores, and for each method agreement and cost."""

    exact: list[Entry]
    scores: list[Entry]
    methods: dict[str, Entry]


def compared_with_exact(
    kinds: Sequence[str],
    rows: Sequence[Scored],
    exact: Mapping[str, Array],
    judgement: Judgement,
    rng: np.random.Generator,
    same_sequences: tuple[str, Array] | None = None,
) -> Comparison:
    """Compare every method with the exact effects.

    Args:
        kinds: Of each component, head or mlp.
        rows: Scores of every method.
        exact: Exact effects by metric, shape (component, sequence).
        judgement: Confidence and resamples.
        rng: Draws resamples and halves.
        same_sequences: The metric of the scores, and mean effects by it on the scores' own sequences; without, no L1 error.
    """
    units, twin = same_sequences or (None, None)
    scores = {one.method.name: one.samples for one in rows}
    draws = bootstrapped(scores | {f"exact effect, {name}": drops for name, drops in exact.items()}, judgement, rng)
    methods: dict[str, Entry] = {}
    for one in rows:
        method, agreements = one.method, dict[str, Entry]()
        for name, drops in exact.items():
            own = twin if method.estimates == "drop" and name == units else None
            found = grouped(one.samples.mean(-1), drops.mean(-1), kinds, own)
            star = draws[method.name], draws[f"exact effect, {name}"]
            agreements[name] = found | {"all": with_intervals(found["all"], one.samples, drops, star, judgement, rng)}
        described = {"family": method.family, "estimates": method.estimates, "text": method.text}
        methods[method.name] = described | {"agreement": agreements, "cost": asdict(one.cost)}

    def of_each(samples: Mapping[str, Array], prefix: str = "") -> list[Entry]:
        return [
            {name: _mean(of[i], draws[prefix + name][i], judgement) for name, of in samples.items()} for i in range(len(kinds))
        ]

    entries = of_each(scores)
    for one in rows:
        if one.errors is not None:
            for entry, error in zip(entries, one.errors.tolist(), strict=True):
                entry[one.method.name]["error_of_draws"] = error
    return Comparison(of_each(exact, "exact effect, "), entries, methods)


def _mean(samples: Array, draws: Array, by: Judgement) -> Entry:
    """A mean over samples with its interval and standard error; neither from a single sample."""
    if len(samples) < 2:
        return {"value": float(samples[0]), "ci": None, "error": None}
    error = float(samples.std(ddof=1) / len(samples) ** 0.5)
    return {"value": float(samples.mean()), "ci": by.interval(draws), "error": error}


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
    interval = {"ci": judgement.interval(star) if defined else None, "no_ci": no_ci}
    value, ci = ceiling or (None, None)
    return entry | interval | {"ceiling": value, "ceiling_ci": ci, "no_ceiling": why if ceiling is None else None}


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


def advice(methods: Mapping[str, Mapping[str, Any]], effect: str = "log_prob") -> str:
    """The cheapest of the methods that rank components as exact effects do, exact effects among them.

    A method ranks as they do if its rho with the effects on other sequences is at most `CLOSE` below that of the exact effects on
    its own: noise takes as much from them. The joint HVP is never advised: it is a Shapley value to second order, and what it
    adds to attribution patching are interactions, which of many components are most of it.

    Args:
        methods: The `methods` of an attribution record.
        effect: The exact effect that decides.
    """
    no_ranking = {name for name, of in methods.items() if (of["family"], of["estimates"]) == ("curvature", "shapley")}
    no_ranking |= {name for name, of in methods.items() if of["family"] == "control"}
    found = {name: entry["agreement"][effect]["all"] for name, entry in methods.items() if name not in no_ranking}
    known = {name: of["rho"] for name, of in found.items() if of["rho"] is not None}
    if "exact" not in known or len(known) < 2:
        return "No advice: it needs `exact` and another method, and effects that have ranks."
    ends = found["exact"]["ci"]
    if ends is not None and ends[0] <= 0:
        return (
            f"No advice: exact effects rank components no better on other sequences than chance might, ρ = {known['exact']:.2f} "
            f"[{ends[0]:.2f}, {ends[1]:.2f}]. Take more sequences, or a model that has learned the task."
        )
    price = {name: methods[name]["cost"]["forward_equivalents"] for name in known}
    good = [name for name in known if known[name] >= known["exact"] - CLOSE]
    best = min(good, key=lambda name: price[name])
    noise = f"ρ = {known['exact']:.2f} with those on other sequences: that is noise"
    exact = f"exact effects of all components ({noise}) cost {price['exact']:.1f} forward passes"
    if best != "exact":
        only = "" if methods[best]["estimates"] == "drop" else ", for a ranking: its scores are no drops"
        return f"Use {best}{only}: \u03c1 = {known[best]:.2f} for {price[best]:.1f} forward passes, where {exact}."
    others = [name for name in good if name != "exact"]
    if not others:
        return f"Use exact: {exact}, and no other method that was run ranks as they do."
    rival = min(others, key=lambda name: price[name])
    return f"Use exact: {exact}; {rival}, the cheapest other method that ranks as they do, costs {price[rival]:.1f}."


EDGES = (0.0, 0.1, 0.3, 1.0, 3.0, np.inf)


def reliability_ratio(slope: Float[Array, " component"], curvature: Float[Array, " component"]) -> Float[Array, " component"]:
    """Reliability ratio R = |F''(0)| / (2 |F'(0)|) of each component.

    Infinite where the gradient is exactly zero and the curvature is not, zero where both are.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(curvature == 0, 0.0, np.abs(curvature) / (2 * np.abs(slope)))


def calibration(
    slope: Float[Array, " component"],
    curvature: Float[Array, " component"],
    exact: Float[Array, " component"],
) -> list[dict[str, Any]]:
    """For each bin of R: components, median relative error of AP and of HVP-corrected AP, and share of wrong signs of AP."""
    ratio = reliability_ratio(slope, curvature)
    size = np.abs(exact)
    rows = []
    for low, high in pairwise(EDGES):
        inside = (ratio >= low) & ((ratio < high) | np.isinf(high)) & (size > 0)  # the last bin holds infinite ratios too
        row: dict[str, Any] = {"low": low, "high": high if np.isfinite(high) else None, "components": int(inside.sum())}
        errors = {"ap_error": slope, "hvp_error": slope + curvature / 2}
        relative = {name: np.abs(of - exact)[inside] / size[inside] for name, of in errors.items()}
        row |= {name: float(np.median(of)) if inside.any() else None for name, of in relative.items()}
        row["wrong_sign"] = float((np.sign(slope) != np.sign(exact))[inside].mean()) if inside.any() else None
        rows.append(row)
    return rows


def remainders(
    slopes: Float[Array, "node component"], curvatures: Float[Array, "node component"]
) -> dict[str, Float[Array, " component"]]:
    """Estimated bounds on the errors of AP and of HVP-corrected AP, from F' and F'' on an even grid of [0, 1].

        |D - F'(0)| <= max|F''| / 2          |D - F'(0) - F''(0)/2| <= max|F'''| / 6

    F''' is the difference of F'' between neighbouring nodes. The maxima are over the grid only.
    """
    step = 1 / (len(curvatures) - 1)
    third = np.abs(np.diff(curvatures, axis=0)).max(0) / step
    steepest = np.abs(np.diff(slopes, axis=0)).max(0) / step
    return {"ap": np.maximum(np.abs(curvatures).max(0), steepest) / 2, "hvp": third / 6}


def coverage(bounds: dict[str, Array], slope: Array, curvature: Array, exact: Array) -> dict[str, dict[str, float | None]]:
    """Share of components whose error keeps below its bound, and the median of bound over error where there is an error."""
    errors = {"ap": np.abs(exact - slope), "hvp": np.abs(exact - slope - curvature / 2)}
    found: dict[str, dict[str, float | None]] = {}
    for name, bound in bounds.items():
        wrong = errors[name] > 0
        median = float(np.median(bound[wrong] / errors[name][wrong])) if wrong.any() else None
        found[name] = {"covered": float((errors[name] <= bound).mean()), "bound_over_error": median}
    return found
