"""The roles of components over many runs: which recur, in which layers they lie, and what choosing by role costs by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcgap.importance.gap import Array, Judgement, is_role, rank, rank_difference
from gcgap.records.record import Record
from gcgap.study.exchange import PERMUTATIONS, Mask, chance
from gcgap.study.seeds import Summary, jackknife, permutation_p, spearman

SHUFFLES = 200  # gradients in random order behind what selection alone costs
ROUNDING = 1e-12


@dataclass(frozen=True)
class ComponentArrays:
    """Every component of one record, under one baseline, by exact match.

    Args:
        names: Component names.
        layer: Layer of each.
        is_head: Whether each is a head.
        G: Gradient magnitudes.
        C: Causal importances (share of sequences).
        judgement: How the record turns ranks into roles.
        held_out: C on sequences that chose no role; None where the record is older than them, NaN where it has only some.
    """

    names: tuple[str, ...]
    layer: NDArray[np.int64]
    is_head: Mask
    G: Array
    C: Array
    judgement: Judgement
    held_out: Array | None = None

    def roles(self, score: Array | None = None, causal: Array | None = None) -> dict[str, Mask]:
        """Which components are Heroes and Bloats, by G and C or by the arrays given in their place (..., component)."""
        kind = self.judgement.ranks
        delta = rank(self.G if score is None else score, kind) - rank(self.C if causal is None else causal, kind)
        return is_role(delta, self.judgement.role_threshold(len(self.names)), self.judgement.strict)


def component_arrays(record: Record, baseline: str) -> ComponentArrays:
    """The arrays of a record that was not skipped."""
    of, protocol = record["components"], record["protocol"]
    apart = [one["value"] for component in of if (one := component.get("held_out", {}).get(baseline))]
    return ComponentArrays(
        tuple(component["name"] for component in of),
        np.array([component["layer"] for component in of]),
        np.array([component["kind"] == "head" for component in of]),
        np.array([component["gradient"]["value"] for component in of]),
        np.array([component["causal"][baseline]["exact_match"]["value"] for component in of]),
        Judgement(protocol["threshold"], protocol["strict"], protocol["ranks"], protocol["confidence"], protocol["resamples"]),
        np.array(apart if len(apart) == len(of) else [np.nan] * len(of)) if record.is_held_out else None,
    )


@dataclass(frozen=True)
class Stability:
    """How stable the members of a role are over seeds.

    Args:
        counts: For each component the number of seeds in which it has the role.
        agreement: Mean number of members that two seeds share.
        by_chance: The same when labels are permuted within each type (heads among heads, MLPs among MLPs).
        p_value: Probability that such labels agree as much or more; exact where `gcgap.study.exchange` finds it.
        most: The largest count.
        most_p_value: Probability that such labels have as large a count.
        within_layer_p_value: As `p_value`, but heads are permuted only within their layer, whose heads have no order.
    """

    counts: dict[str, int]
    agreement: float
    by_chance: float
    p_value: float
    most: int
    most_p_value: float
    within_layer_p_value: float


def stability(runs: Sequence[ComponentArrays], role: str, rng: np.random.Generator) -> Stability | None:
    """How stable a role's members are over runs of one task; None with fewer than two runs."""
    if len(runs) < 2:
        return None
    first = runs[0]
    has = np.array([one.roles()[role] for one in runs])
    counts = has.sum(0)
    by_type = chance(has, first.is_head.astype(int), rng)
    by_layer = chance(has, 2 * first.layer + first.is_head, rng)
    return Stability(
        counts=dict(zip(first.names, counts.tolist(), strict=True)),
        agreement=float((counts * (counts - 1)).sum() / (len(runs) * (len(runs) - 1))),
        by_chance=by_type.agreement,
        p_value=by_type.p_value,
        most=int(counts.max()),
        most_p_value=by_type.most_p_value,
        within_layer_p_value=by_layer.p_value,
    )


@dataclass(frozen=True)
class LayerGap:
    """How many layers above the Bloats the Heroes lie, over all runs.

    Args:
        found: Mean layer of the Heroes minus mean layer of the Bloats; its n is the number of runs with a Hero, or that of
            runs with a Bloat if that is smaller.
        by_chance: Its mean when the G and C of each run are paired at random.
        p_value: Share of random pairings in which it is as large or larger.
        by_layer_index: Its value when G is replaced by the layer's number, the first layer highest.
        beyond_index: The difference of the two.
    """

    found: Summary
    by_chance: float | None = None
    p_value: float | None = None
    by_layer_index: float | None = None
    beyond_index: Summary | None = None


def layer_gap(runs: Sequence[ComponentArrays], rng: np.random.Generator, heads_only: bool = False) -> LayerGap:
    """The layer gap of runs of one task, of all components or of the heads."""
    sums = np.array([_layer_sums(one, one.roles(), heads_only) for one in runs]).reshape(len(runs), 4)
    used = int((sums[:, [1, 3]] > 0).sum(0).min())
    found = jackknife(lambda rows: float(_mean_gap(sums[rows].sum(0))), len(runs), used)
    if found.mean is None:
        return LayerGap(found)
    by_index = np.array([_layer_sums(one, one.roles(score=-one.layer.astype(float)), heads_only) for one in runs])
    shuffled = (rng.permuted(np.tile(one.C, (PERMUTATIONS, 1)), axis=1) for one in runs)
    drawn = [_layer_sums(one, one.roles(causal=C), heads_only) for one, C in zip(runs, shuffled, strict=True)]
    chance = _mean_gap(np.sum(drawn, axis=0))
    chance = chance[np.isfinite(chance)]
    index = float(_mean_gap(by_index.sum(0)))
    beyond = jackknife(lambda rows: float(_mean_gap(sums[rows].sum(0)) - _mean_gap(by_index[rows].sum(0))), len(runs), used)
    p_value = permutation_p(chance >= found.mean - ROUNDING)
    return LayerGap(found, float(chance.mean()), p_value, index if np.isfinite(index) else None, beyond)


def layer_index_rho(one: ComponentArrays) -> tuple[float, float] | None:
    """Rank correlations of C, and of G, with the layer's number (the first layer highest); None where C is constant."""
    with_cause, with_gradient = (spearman(-one.layer.astype(float), values) for values in (one.C, one.G))
    return None if with_cause is None or with_gradient is None else (with_cause, with_gradient)


def _layer_sums(one: ComponentArrays, roles: dict[str, Mask], heads_only: bool) -> Array:
    """Sum of the layers of Heroes, their number, and the same of Bloats, shape (4, ...)."""
    counted = one.is_head if heads_only else np.ones_like(one.is_head)
    weights = (one.layer.astype(np.float64), np.ones(len(counted)))
    return np.array([(roles[role] & counted).astype(np.float64) @ weight for role in ("hero", "bloat") for weight in weights])


def _mean_gap(sums: Array) -> Array:
    """Mean layer of Heroes minus that of Bloats from sums of shape (4, ...); NaN where a role has none."""
    heroes, hero_count, bloats, bloat_count = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(heroes / hero_count - bloats / bloat_count)


def top_two_cost(one: ComponentArrays, role: str) -> float | None:
    """Sum of the single drops of a role's top two, as pruning chooses them; None if it has fewer than two members.

    The drops are held-out ones where the record has them.
    """
    cost = float(_top_two_costs(one, role, one.G))
    return cost if np.isfinite(cost) else None


def top_two_cost_by_selection(one: ComponentArrays, role: str, rng: np.random.Generator) -> float | None:
    """The same on average over gradients in random order: a Hero is chosen by its large C, so it is costly whatever G is.

    None if those never make two members.
    """
    drawn = _top_two_costs(one, role, np.array([rng.permutation(one.G) for _ in range(SHUFFLES)]))
    known = drawn[np.isfinite(drawn)]
    return float(known.mean()) if len(known) else None


def _top_two_costs(one: ComponentArrays, role: str, G: Array) -> Array:
    """The sums for gradients G in place of the record's, shape (..., component); NaN for fewer than two members."""
    delta, tie = rank_difference(G, one.C, one.judgement.ranks), G if role == "bloat" else one.C
    members = one.roles(score=G)[role]
    by_name = np.unique(one.names, return_inverse=True)[1]
    keys = np.broadcast_arrays(by_name, -tie, np.where(members, -np.abs(delta), np.inf))
    drops = one.C if one.held_out is None else one.held_out
    return np.where(members.sum(-1) > 1, drops[np.lexsort(keys)[..., :2]].sum(-1), np.nan)
