"""The gradient-causal gap: ranks, rank differences, roles, and how sure one can be of them.

    Delta_i = rank(G_i) - rank(C_i)        (arXiv:2602.01442v3, eq. 2; ascending ranks, ties averaged)

Hero: Delta <= -t (low gradient, essential). Bloat: Delta >= t (high gradient, dispensable). t is 30 % of the components.
Pure numpy and scipy on arrays whose second-last or last axis is the component; owns no model and no file. Where a number does not
exist (a constant vector has no rank correlation) it is None, with the reason beside it; a NaN never leaves this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from gcgap.importance.protocol import Protocol, Ranks

Array = NDArray[np.float64]
ROLES = ("hero", "bloat", "aligned")
HALVES = 100  # random halvings behind a split-half reliability
LEAST_HALVED = 8  # samples that can be halved twice
SURELY = 1e-7  # what a ceiling without noise lacks of 1, for rounding
BLOCKS = 10  # that the jackknife leaves out, one after another
SMOOTHING = 0.4  # sequences; docs/calibration.md has the coverage that it gives
LEAST_AGREEMENT = 0.25  # of draws with the estimate, in ranks: below it rho has no interval


@dataclass(frozen=True)
class Estimate:
    """A quantity, such as G or C, of every component: samples of it along the last axis, and the value made of them."""

    samples: Array

    @property
    def value(self) -> Array:
        """The mean over samples."""
        return self.samples.mean(-1)


@dataclass(frozen=True)
class Judgement:
    """How values become ranks and ranks become roles and intervals: see the settings of the same names in `Protocol`."""

    threshold: float = 0.3
    strict: bool = False
    ranks: str = Ranks.AVERAGE
    confidence: float = 0.95
    resamples: int = 1000

    @classmethod
    def of(cls, protocol: Protocol) -> Judgement:
        """That of a protocol."""
        return cls(**{one.name: getattr(protocol, one.name) for one in fields(cls)})

    def role_threshold(self, components: int, share: float | None = None) -> float:
        """The rank difference that makes a Hero or Bloat among so many components."""
        return round((self.threshold if share is None else share) * components, 9)

    def interval(self, draws: Array) -> list[float]:
        """The middle of draws (1-d, finite), as wide as the confidence."""
        tail = 50 * (1 - self.confidence)
        low, high = np.percentile(draws, [tail, 100 - tail])
        return [float(low), float(high)]


def rank(values: Array, kind: str = Ranks.AVERAGE, axis: int = -1) -> Array:
    """Ascending ranks 1..n along an axis.

    Values that differ by less than 1e-12 of the largest are tied: equal drops must not differ by the rounding of a mean.
    `ordinal` breaks ties by position, which favours early layers: see `Protocol.ranks`.
    """
    return stats.rankdata(_rounded(values, axis), method=kind, axis=axis).astype(np.float64)


def constant(values: Array, axis: int = -1) -> NDArray[np.bool_]:
    """Whether all values along an axis are the same, to the precision of `rank`."""
    return np.asarray(np.ptp(_rounded(values, axis), axis=axis) == 0)


def _rounded(values: Array, axis: int) -> Array:
    """Values as shares of the largest along an axis, to 12 decimals."""
    largest = np.abs(values).max(axis, keepdims=True)
    return np.round(values / np.where(largest > 0, largest, 1), 12)


def rank_difference(G: Array, C: Array, kind: str = Ranks.AVERAGE, axis: int = -1) -> Array:
    """Delta_i = rank(G_i) - rank(C_i) (eq. 2): negative where the gradient is small for what the component causes."""
    return rank(G, kind, axis) - rank(C, kind, axis)


def rank_correlation(first: Array, second: Array, axis: int = -1) -> Array:
    """Spearman's rho from ranks: their Pearson correlation; NaN where either is constant."""
    first, second = (r - r.mean(axis, keepdims=True) for r in np.broadcast_arrays(first, second))
    scale = np.sqrt((first**2).sum(axis) * (second**2).sum(axis))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (first * second).sum(axis) / scale, np.nan)


def is_role(delta: Array, threshold: float, strict: bool) -> dict[str, NDArray[np.bool_]]:
    """Which rank differences make a Hero, a Bloat, or neither."""
    hero = delta < -threshold if strict else delta <= -threshold
    bloat = delta > threshold if strict else delta >= threshold
    return {"hero": hero, "bloat": bloat, "aligned": ~(hero | bloat)}


def expected_by_chance(G: Array, C: Array, judgement: Judgement, share: float | None = None) -> dict[str, float]:
    """Expected numbers of Heroes and Bloats if these very G and C were paired at random: the exact mean over all pairings."""
    difference = rank(G, judgement.ranks)[:, None] - rank(C, judgement.ranks)[None, :]
    found = is_role(difference, judgement.role_threshold(len(G), share), judgement.strict)
    return {"heroes": float(found["hero"].sum() / len(G)), "bloats": float(found["bloat"].sum() / len(G))}


def p_value(G: Array, C: Array, judgement: Judgement, rng: np.random.Generator) -> float:
    """Two-sided permutation p-value of Spearman's rho under random pairing."""
    rank_g, rank_c = rank(G, judgement.ranks), rank(C, judgement.ranks)

    def statistic(shuffled: Array, axis: int) -> Array:
        return rank_correlation(shuffled, rank_c, axis)

    test = stats.permutation_test(
        (rank_g,), statistic, permutation_type="pairings", vectorized=True, n_resamples=judgement.resamples, rng=rng
    )
    return float(test.pvalue)


def reliability(
    samples: Float[Array, "component sample"], ranks: str, order: Int[NDArray[np.int64], "halving used"]
) -> tuple[float | None, str]:
    """The rank correlation of the component means with those of as many other samples.

    Disjoint halves of the samples, and disjoint quarters, show how it grows with their number: its logit is a straight line
    in the logarithm of that number, and so extrapolated from the halves to all samples. (The line of Spearman and Brown has
    the slope 1, which ranks of nearly equal components do not reach: it gives 0.88 for 0.82 from 20 sequences.)

    Args:
        samples: Of each component.
        ranks: How ties are ranked.
        order: Random orders of the samples in use, whose first halves and quarters are compared with the second ones.

    Returns:
        The reliability in (0, 1], or None and the reason.
    """
    size = order.shape[1]
    if size < LEAST_HALVED:
        return None, f"too few samples ({size}) to halve twice"
    half, quarter = size // 2, size // 4
    found = []
    for name, few in (("halves", half), ("quarters", quarter)):
        parts = [samples[:, own].mean(-1).T for own in (order[:, :few], order[:, few : 2 * few])]
        if undefined := int((constant(parts[0]) | constant(parts[1])).sum()):
            return None, f"in {undefined} of {len(order)} random {name} all components are alike"
        first, second = (rank(part, ranks) for part in parts)
        found.append(float(rank_correlation(first, second).mean()))
        if found[-1] <= 0:
            return None, f"two {name} of the data do not agree (mean rank correlation {found[-1]:.2f})"
    logits = logit(np.minimum(found, 1 - 1e-9))
    slope = np.clip((logits[0] - logits[1]) / np.log(half / quarter), 0, 1)
    return float(expit(logits[0] + slope * np.log(size / half))), ""


def draws_of_means(
    samples: Float[Array, "*measure component sample"], resamples: int, rng: np.random.Generator
) -> Float[Array, "*measure component resample"]:
    """Draws of what the means over samples may be, if samples scatter as a normal distribution does.

    They have a multivariate t distribution around the means, with the covariance that the samples have: each draw sees the
    same samples for all components and measures. Marginal intervals are those of Student's t, from two samples on.
    """
    n = samples.shape[-1]
    mean = samples.mean(-1, keepdims=True)
    scale = np.sqrt(1 / (n * rng.chisquare(n - 1, resamples)))  # sqrt((n-1) / chi^2) sqrt(1 / (n (n-1)))
    return mean + (samples - mean) @ rng.standard_normal((n, resamples)) * scale


def draws_of_drops(
    drops: Float[Array, "measure component sequence"], units: Sequence[float], resamples: int, rng: np.random.Generator
) -> Float[Array, "measure component resample"]:
    """Draws of what the mean drops C may be; each draw sees the same sequences for all components and measures.

    A drop that comes in units (1 for exact match) can be 0 on all sequences seen without being 0, and a bootstrap would be sure
    of it. So a draw weighs the sequences by a Dirichlet distribution (the Bayesian bootstrap of Rubin, 1981), to which every
    component brings `SMOOTHING` sequences of its own on which it loses a unit, and as many on which it gains one: for exact
    match a draw from the Dirichlet posterior of the two discordant proportions and the rest (Agresti and Min, 2005). For drops
    without a unit, see `draws_of_means`.

    Args:
        drops: By measure, such as baseline and metric.
        units: The unit of each measure's drops; 0 for those that have none.
        resamples: How many draws.
        rng: Draws.
    """
    n = drops.shape[-1]
    if n < 2:
        return np.tile(drops, (1, 1, resamples))
    found = draws_of_means(drops, resamples, rng)
    weights = rng.standard_exponential((n, resamples))
    total = weights.sum(0)
    for measure, unit in enumerate(units):
        if unit:
            lost, gained = rng.gamma(SMOOTHING, size=(2, drops.shape[1], resamples))
            found[measure] = (drops[measure] @ weights + unit * (lost - gained)) / (total + lost + gained)
    return found


class Ceiling(NamedTuple):
    """The largest rho that measurement noise would let through, with its interval, if that can be had."""

    value: float
    ci: list[float] | None


@dataclass(frozen=True)
class Gap:
    """The gap between one gradient vector and one causal vector, with its uncertainty. None where a number does not exist.

    Attributes:
        rho: Spearman correlation of G and C over components.
        ci: Its interval; see `rho_interval`.
        p_value: Its permutation p-value.
        ceiling: See `noise_ceiling`.
        ceiling_ci: Its interval.
        corrected: rho / ceiling; can exceed 1 by chance.
        reason: Why something is None, or empty.
        delta: Rank difference per component, or None.
        delta_ci: Its intervals.
        probability: For each role the probability of every component, its share of the draws.
        role: Role names, or None.
        counts: For the shares 0.2, threshold and 0.4 of the components: how many Heroes and Bloats, and how many by chance.
        missed: For k = 5 and 10: the share of the k causally largest that is not among the k largest gradients.
    """

    rho: float | None = None
    ci: list[float] | None = None
    p_value: float | None = None
    ceiling: float | None = None
    ceiling_ci: list[float] | None = None
    corrected: float | None = None
    reason: str = ""
    delta: list[float] | None = None
    delta_ci: list[list[float]] | None = None
    probability: dict[str, list[float]] | None = None
    role: list[str] | None = None
    counts: dict[str, dict[str, int | float]] | None = None
    missed: dict[str, float] | None = None


def measure_gap(
    norms: Float[Array, "component batch"],
    drops: Float[Array, "component sequence"],
    draws: tuple[Float[Array, "component resample"], Float[Array, "component resample"]],
    judgement: Judgement,
    rng: np.random.Generator,
) -> Gap:
    """The gap between G (mean of `norms`) and C (mean of `drops`); `draws` are draws of what these may be."""
    G, C = norms.mean(-1), drops.mean(-1)
    for name, values in (("gradient magnitude", G), ("causal importance", C)):
        if constant(values):
            return Gap(reason=f"the {name} of all components is the same, {values[0]:g}: ranks do not exist")
    rank_g, rank_c = rank(G, judgement.ranks), rank(C, judgement.ranks)
    delta = rank_difference(G, C, judgement.ranks)
    threshold = judgement.role_threshold(len(G))
    found = is_role(delta, threshold, judgement.strict)
    rho = float(rank_correlation(rank_g, rank_c))
    star_g, star_c = (rank(draw, judgement.ranks, axis=0) for draw in draws)
    star_delta = rank_difference(*draws, judgement.ranks, axis=0)
    star = is_role(star_delta, threshold, judgement.strict)
    ci, no_ci = rho_interval((rank_g, rank_c), (star_g, star_c), judgement)
    ceiling, no_ceiling = noise_ceiling(norms, drops, judgement, rng)
    return Gap(
        rho=rho,
        ci=ci,
        p_value=p_value(G, C, judgement, rng),
        ceiling=None if ceiling is None else ceiling.value,
        ceiling_ci=None if ceiling is None else ceiling.ci,
        corrected=None if ceiling is None else rho / ceiling.value,
        reason="; ".join(filter(None, (no_ci, no_ceiling))),
        delta=delta.tolist(),
        delta_ci=delta_intervals(delta, star_delta, judgement).tolist(),
        probability={role: star[role].mean(-1).tolist() for role in ROLES},
        role=[next(role for role in ROLES if found[role][i]) for i in range(len(G))],
        counts={f"{share:g}": _counts(G, C, delta, judgement, share) for share in sorted({0.2, judgement.threshold, 0.4})},
        missed={str(k): missed(G, C, k) for k in (5, 10) if k < len(G)},
    )


def noise_ceiling(norms: Array, drops: Array, judgement: Judgement, rng: np.random.Generator) -> tuple[Ceiling | None, str]:
    """sqrt(reliability of G x reliability of C) with its interval; None for what there is not, and the reason.

    The interval is Student's, on the logit scale, from a jackknife that leaves out a tenth of the batches or of the sequences.
    """
    both, variances = [], []
    for whose, samples in (("gradient", norms), ("causal importance", drops)):
        order = rng.permuted(np.tile(np.arange(samples.shape[1]), (HALVES, 1)), axis=1)
        value, why = reliability(samples, judgement.ranks, order)
        if value is None:
            return None, f"no noise ceiling: {whose}, {why}"
        blocks = np.array_split(order[0], min(BLOCKS, samples.shape[1]))
        rest = [reliability(samples, judgement.ranks, order[~np.isin(order, one)].reshape(HALVES, -1))[0] for one in blocks]
        both.append(value)
        variances.append(None if None in rest else (len(rest) - 1) * np.var(np.log(np.array(rest, float))) / 4)
    value = float(np.sqrt(both[0] * both[1]))
    if None in variances:
        return Ceiling(value, None), "no interval of the noise ceiling: without a tenth of the data there is none"
    if 1 - value < SURELY:
        return Ceiling(value, None), "no interval of the noise ceiling: in no random halves do ranks differ"
    error = np.sqrt(np.sum(variances)) / (1 - value)  # of its logit, whose derivative by its logarithm is 1 / (1 - value)
    reach = stats.t.ppf((1 + judgement.confidence) / 2, BLOCKS - 1) * error
    return Ceiling(value, [float(expit(logit(value) + sign * reach)) for sign in (-1, 1)]), ""


def missed(G: Array, C: Array, k: int) -> float:
    """Share of the k causally largest components that are not among the k largest gradients.

    Ties at the border count with the chance that a random order of them would give.
    """
    return float(1 - (_top(G, k) * _top(C, k)).sum() / k)


def interval_of_mean(
    values: Float[Array, " sample"], judgement: Judgement, rng: np.random.Generator, unit: float = 0.0
) -> list[float]:
    """Interval of a mean over sequences, whose drops come in a unit or not: see `draws_of_drops`; of no width for one sample."""
    return judgement.interval(draws_of_drops(values[None, None], [unit], judgement.resamples, rng)[0, 0])


def interval_of_share(right: Float[Array, " sample"], confidence: float) -> list[float]:
    """Wilson's interval of the share of samples that are 1, of samples that are 0 or 1."""
    found = stats.binomtest(int(right.sum()), len(right)).proportion_ci(confidence, method="wilson")
    return [float(found.low), float(found.high)]


def delta_intervals(
    delta: Float[Array, " component"], draws: Float[Array, "component resample"], judgement: Judgement
) -> Float[Array, "component end"]:
    """Intervals of Delta from its draws.

    Noise pulls ranks to the middle: those of the estimate away from the truth, and those of draws once more. How far is seen
    between the draws and the estimate, and the interval is extended by twice that to the side that they were pulled from.
    """
    pull = draws.mean(-1) - delta
    low, high = np.array([judgement.interval(row) for row in draws]).T
    ends = np.stack([low - 2 * np.maximum(pull, 0), high - 2 * np.minimum(pull, 0)], -1)
    return np.clip(ends, 1 - len(delta), len(delta) - 1)


def rho_interval(ranks: tuple[Array, Array], draws: tuple[Array, Array], judgement: Judgement) -> tuple[list[float] | None, str]:
    """The interval of Spearman's rho from the ranks of both estimates, (component,), and of their draws, (component, resample).

    Draws carry the noise of the estimates and as much again, which takes from every rank correlation. How much is seen between
    the draws and the estimates themselves, and the correlations of draws are divided by it. The interval holds their middle and
    that of the undivided ones: where the order of components without an effect is noise, division goes too far.

    Returns:
        The interval, or None and the reason.
    """
    star = rank_correlation(*draws, axis=0)
    if undefined := int(np.isnan(star).sum()):
        return None, f"no interval: in {undefined} of {len(star)} resamples all components are alike"
    agreements = [float(np.mean(rank_correlation(own[:, None], drawn, axis=0))) for own, drawn in zip(ranks, draws, strict=True)]
    least = min(agreements)
    if least < LEAST_AGREEMENT:
        return None, f"no interval: resamples rank the components otherwise than the data (mean rank correlation {least:.2f})"
    ends = np.array([judgement.interval(star), judgement.interval(np.clip(star / np.prod(agreements), -1, 1))])
    return [float(ends[:, 0].min()), float(ends[:, 1].max())], ""


def _counts(G: Array, C: Array, delta: Array, judgement: Judgement, share: float) -> dict[str, int | float]:
    found = is_role(delta, judgement.role_threshold(len(G), share), judgement.strict)
    chance = expected_by_chance(G, C, judgement, share)
    return {
        "heroes": int(found["hero"].sum()),
        "bloats": int(found["bloat"].sum()),
        "heroes_by_chance": chance["heroes"],
        "bloats_by_chance": chance["bloats"],
    }


def _top(values: Array, k: int) -> Array:
    """Probability of each component to be among the k largest, ties broken at random."""
    values = _rounded(values, axis=-1)
    border = np.sort(values)[-k]
    above, tied = values > border, values == border
    return above + tied * (k - above.sum()) / tied.sum()
