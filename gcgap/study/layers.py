"""Do Bloats lie early and Heroes late? The layers of the roles, against random pairing and against the layer's number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcgap.importance.gap import Array, rank, rank_correlation
from gcgap.study.arrays import Mask, Measured
from gcgap.study.seeds import CONFIDENCE, RESAMPLES

PAIRINGS = 2000


@dataclass(frozen=True)
class LayerGap:
    """How many layers above the Bloats the Heroes lie, over all runs.

    Args:
        value: Mean layer of the Heroes minus mean layer of the Bloats; None if there are none of a role.
        ci: 95 % bootstrap interval over runs, of the resamples that have both roles; None if fewer than 95 % have.
        by_chance: Its mean when the G and C of each run are paired at random.
        p_value: Share of random pairings in which it is as large or larger.
        by_layer_index: Its value when G is replaced by the layer's number, the first layer highest.
        beyond_index: Interval of the difference of the two.
    """

    value: float | None
    ci: tuple[float, float] | None
    by_chance: float | None
    p_value: float | None
    by_layer_index: float | None
    beyond_index: tuple[float, float] | None = None


def layer_gap(runs: Sequence[Measured], rng: np.random.Generator, heads_only: bool = False) -> LayerGap:
    """The layer gap of runs of one task, of all components or of the heads."""
    sums = np.array([_sums(one, one.roles(), heads_only) for one in runs])
    by_index = np.array([_sums(one, one.roles(score=-one.layer.astype(float)), heads_only) for one in runs])
    value = _gap(sums.sum(0)) if len(runs) else np.nan
    if not np.isfinite(value):
        return LayerGap(None, None, None, None, None)
    drawn = np.sum([_sums(one, one.roles(causal=_shuffled(one.C, rng)), heads_only) for one in runs], axis=0)
    chance = _gap(drawn)
    finite = chance[np.isfinite(chance)]
    p_value = (1 + int((finite >= value - 1e-12).sum())) / (1 + len(finite))
    index = _gap(by_index.sum(0))
    ci, beyond = _intervals(sums, by_index, rng)
    return LayerGap(float(value), ci, float(finite.mean()), float(p_value), float(index) if np.isfinite(index) else None, beyond)


def layer_index_rho(one: Measured) -> tuple[float, float] | None:
    """Rank correlations of C, and of G, with the layer's number (the first layer highest); None where C is constant."""
    index = rank(-one.layer.astype(float))
    with_cause, with_gradient = (float(rank_correlation(index, rank(values))) for values in (one.C, one.G))
    return (with_cause, with_gradient) if np.isfinite(with_cause) else None


def _shuffled(C: Array, rng: np.random.Generator) -> Array:
    """C in random orders, shape (pairing, component)."""
    return rng.permuted(np.tile(C, (PAIRINGS, 1)), axis=1)


def _sums(one: Measured, roles: dict[str, Mask], heads_only: bool) -> Array:
    """Sum of the layers of Heroes, their number, and the same of Bloats, shape (4, ...)."""
    counted = one.is_head if heads_only else np.ones_like(one.is_head)
    weights = (one.layer.astype(np.float64), np.ones(len(counted)))
    return np.array([(roles[role] & counted).astype(np.float64) @ weight for role in ("hero", "bloat") for weight in weights])


def _gap(sums: Array) -> Array:
    """Mean layer of Heroes minus that of Bloats from sums of shape (4, ...); NaN where a role has none."""
    heroes, hero_count, bloats, bloat_count = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(heroes / hero_count - bloats / bloat_count)


def _intervals(sums: Array, by_index: Array, rng: np.random.Generator) -> tuple[tuple[float, float] | None, ...]:
    """Intervals over runs of the gap, and of the gap minus that of the layer's number."""
    if len(sums) < 2:
        return None, None
    pick = rng.integers(0, len(sums), (RESAMPLES, len(sums)))
    gap, index = (_gap(np.moveaxis(of[pick].sum(1), -1, 0)) for of in (sums, by_index))
    return _middle(gap), _middle(gap - index)


def _middle(spread: Array) -> tuple[float, float] | None:
    finite = spread[np.isfinite(spread)]
    if len(finite) < CONFIDENCE * len(spread):
        return None
    low, high = np.percentile(finite, [50 - 50 * CONFIDENCE, 50 + 50 * CONFIDENCE])
    return float(low), float(high)
