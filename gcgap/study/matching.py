"""Heads of different runs matched by what they do, since their numbers say nothing: are layers stable, functions, or nothing?

Two heads are as similar as their profiles a and b, entry by entry over the same sequences and positions:

    similarity = 2 <a, b> / (<a, a> + <b, b>) = 1 - |a - b|^2 / (|a|^2 + |b|^2)

1 for equal ones; size and shape both count. Partners are the one-to-one assignment with the largest sum (Hungarian method, Kuhn
1955). It is made on one half of the sequences and valued on the other half, both ways. Pure numpy and scipy; owns no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from gcgap.study.exchange import PERMUTATIONS, Mask, permuted_within
from gcgap.study.seeds import SHARE, Interval, Summary, jackknife, permutation_p

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Profile = Sequence[Array]
LISTED = 5  # heads of a layer up to which all their assignments are listed: faster than solving each problem
BATCH = 250  # exchanges that are made at once
ROUNDING = 1e-12


def similarity(first: Array, second: Array) -> Array:
    """Similarity of the heads of one run (head, ...) with those of another (head, ...), shape (head, head); 0 for empty ones."""
    a, b = (one.reshape(len(one), -1) for one in (first, second))
    size = (a * a).sum(1)[:, None] + (b * b).sum(1)
    return 2 * (a @ b.T) / np.where(size > 0, size, 1)


def partners(alike: Array, layer: Indices, rng: np.random.Generator) -> Indices:
    """The partner of every head, among those of its own layer; with one layer for all, among all of them.

    `rng` decides between equal ones: by number they would be partners in the own layer, which says nothing.
    """
    found = np.zeros(len(layer), dtype=np.int64)
    for one in np.unique(layer):
        (heads,) = np.nonzero(layer == one)
        others = rng.permutation(heads)
        found[heads] = others[linear_sum_assignment(alike[np.ix_(heads, others)], maximize=True)[1]]
    return found


def match(profiles: Sequence[Profile], layer: Indices, rng: np.random.Generator) -> dict[str, Any]:
    """Partners of the heads of every two runs, and what they say.

    Args:
        profiles: Of each run, two or more: arrays (head, sequence, ...) of the same sequences, whose similarities are averaged.
        layer: The layer of each head.
        rng: Draws the permutations behind p-values, `PERMUTATIONS` each; decides between equal partners.

    Returns:
        Plain values. `within` and `anywhere` have the partners of each pair of runs, within layers and among all heads, made on
        all sequences. The rest is over pairs of runs, cross-fitted: `matched` similarity within layers, that of `random` partners
        in the layer, that of the `same_number`; the share of partners on which the `halves_agree`; `own_layer`, the share of
        partners among all heads that lie in the head's layer; and `itself`: the share of heads that are found again when a run is
        matched with itself from the means of two halves over their sequences. `functions_p_value` is that of `exchanged`.
    """
    n, all_heads = len(profiles), np.zeros_like(layer)
    pairs = list(combinations(range(n), 2))
    parts = [[[block[:, start::2] for block in one] for one in profiles] for start in (0, 1)]
    halves = [_pooled(part) for part in parts]
    whole, ties = _pooled(profiles), rng.spawn(1)[0]
    within = [partners(whole[i, j], layer, ties) for i, j in pairs]
    anywhere = [partners(whole[i, j], all_heads, ties) for i, j in pairs]
    made = [[partners(one[i, j], layer, ties) for i, j in pairs] for one in halves]
    far = [[partners(one[i, j], all_heads, ties) for i, j in pairs] for one in halves]
    of_other, own = list(zip(made, reversed(halves), strict=True)), np.arange(len(layer))
    same_layer = layer[:, None] == layer
    values = {
        "matched": [[like[i, j][own, to].mean() for (i, j), to in zip(pairs, they, strict=True)] for they, like in of_other],
        "random": [[like[i, j][same_layer].mean() for i, j in pairs] for like in halves],
        "same_number": [[like[i, j].diagonal().mean() for i, j in pairs] for like in halves],
        "halves_agree": [[(one == other).mean() for one, other in zip(*made, strict=True)]],
        "own_layer": [[(layer[to] == layer).mean() for to in they] for they in far],
    }
    shares = ("halves_agree", "own_layer")
    ranges = dict.fromkeys(values) | dict.fromkeys(shares, SHARE)
    found: dict[str, Any] = {name: _plain(_over_pairs(np.mean(of, 0), pairs, n, ranges[name])) for name, of in values.items()}
    by_layer = [_by_layer(they, like, pairs, layer) for they, like in of_other]
    found["by_layer"] = [{"matched": float(m), "random": float(r)} for m, r in np.mean(by_layer, 0)]
    means = [[[block.mean(1) for block in one] for one in part] for part in parts]
    again = [(partners(_alike(a, b), all_heads, ties) == own).mean() for a, b in zip(*means, strict=True)]
    found |= {"itself": float(np.mean(again)), "own_layer_p_value": _layers_p(far, pairs, layer, n, rng)}
    found["functions_p_value"] = exchanged(halves, layer, rng)
    return found | {name: [one.tolist() for one in of] for name, of in (("within", within), ("anywhere", anywhere))}


def _plain(number: Summary) -> dict[str, Any]:
    """A number over runs as a record holds it."""
    return {"value": number.mean, "ci": None if number.ci is None else list(number.ci)}


def _alike(first: Profile, second: Profile) -> Array:
    """Mean similarity over the arrays of two profiles."""
    return np.mean([similarity(a, b) for a, b in zip(first, second, strict=True)], axis=0)


def _pooled(profiles: Sequence[Profile]) -> Array:
    """Similarities of all heads, shape (run, run, head, head)."""
    flat = [np.concatenate(blocks) for blocks in zip(*profiles, strict=True)]
    runs, heads = len(profiles), len(profiles[0][0])
    return _alike(flat, flat).reshape(runs, heads, runs, heads).transpose(0, 2, 1, 3)


def _over_pairs(values: Array, pairs: Sequence[tuple[int, int]], runs: int, within: Interval | None) -> Summary:
    """Mean of one number per pair of runs, with the jackknife over runs."""
    table = np.full((runs, runs), np.nan)
    for (i, j), value in zip(pairs, values, strict=True):
        table[i, j] = value

    def mean(rows: Indices) -> float:
        return float(np.nanmean(table[np.ix_(rows, rows)])) if len(rows) > 1 else float("nan")

    return jackknife(mean, runs, within=within)


def _by_layer(they: Sequence[Indices], like: Array, pairs: Sequence[tuple[int, int]], layer: Indices) -> list[tuple[Any, Any]]:
    """Mean similarity of partners, and of random ones, in each layer."""
    matched = np.mean([like[i, j][np.arange(len(layer)), to] for (i, j), to in zip(pairs, they, strict=True)], 0)
    random = np.mean([like[i, j] for i, j in pairs], 0)
    return [(matched[layer == one].mean(), random[np.ix_(layer == one, layer == one)].mean()) for one in np.unique(layer)]


def _layers_p(
    far: Sequence[Sequence[Indices]], pairs: Sequence[tuple[int, int]], layer: Indices, runs: int, rng: np.random.Generator
) -> float:
    """How often partners share their layer as often, or more, when the heads of each run exchange their layers."""
    one_kind = np.zeros_like(layer)
    drawn = np.array([permuted_within(np.tile(layer, (PERMUTATIONS, 1)), one_kind, rng) for _ in range(runs)])
    chance, found = np.zeros(PERMUTATIONS), 0
    for they in far:
        for (i, j), to in zip(pairs, they, strict=True):
            chance += (drawn[i] == drawn[j][:, to]).sum(1)
            found += int((layer == layer[to]).sum())
    return permutation_p(chance >= found)


def exchanged(halves: Sequence[Array], layer: Indices, rng: np.random.Generator) -> float:
    """Whether every run has the same functions in a layer, each once: the p-value of the matched similarity.

    The heads of each layer are dealt out anew among the runs. If they are independent draws of what heads of that layer are, new
    runs match each other as well as the real ones; if a layer has the same set of functions in every run, new runs have some
    twice and lack others. Random partners alone would be no test: the best of four partners on one half is better than a random
    one on the other half whatever heads are.

    Args:
        halves: Similarities (run, run, head, head) by two halves of the sequences.
        layer: The layer of each head.
        rng: Deals out.
    """
    runs, total, found = len(halves[0]), np.zeros(PERMUTATIONS), 0.0
    for one in np.unique(layer):
        (heads,) = np.nonzero(layer == one)
        size = len(heads)
        pooled = [like[:, :, heads][..., heads].transpose(0, 2, 1, 3).reshape(runs * size, runs * size) for like in halves]
        found += _matched(pooled, np.arange(runs * size).reshape(1, runs, size))[0]
        for start in range(0, PERMUTATIONS, BATCH):
            dealt = rng.permuted(np.tile(np.arange(runs * size), (BATCH, 1)), axis=1).reshape(BATCH, runs, size)
            total[start : start + BATCH] += _matched(pooled, dealt)
    return permutation_p(total >= found - ROUNDING * abs(found))


def _matched(pooled: Sequence[Array], runs: Indices) -> Array:
    """Sum over pairs of runs of what partners by one half are worth by the other, both ways.

    Args:
        pooled: Similarities of all heads of a layer by each half.
        runs: Which heads each run has, shape (draw, run, head).
    """
    first, second = np.array(list(combinations(range(runs.shape[1]), 2))).T
    rows, columns = runs[:, first, :, None], runs[:, second, None, :]
    made, other = (like[rows, columns] for like in pooled)
    return _worth(made, other) + _worth(other, made)


def _worth(made: Array, other: Array) -> Array:
    """What the partners by `made` are worth by `other`, both (draw, pair, head, head), summed over pairs."""
    size = made.shape[-1]
    own = np.arange(size)
    if size > LISTED:
        flat = zip(made.reshape(-1, size, size), other.reshape(-1, size, size), strict=True)
        sums = [like[own, linear_sum_assignment(one, maximize=True)[1]].sum() for one, like in flat]
        return np.array(sums).reshape(made.shape[:2]).sum(1)
    every = np.array(list(permutations(range(size))))
    best = every[made[:, :, own, every].sum(-1).argmax(-1)]
    return np.take_along_axis(other, best[..., None], -1).sum((1, 2, 3))


def shared_roles(has: Mask, within: Sequence[Sequence[int]], layer: Indices, rng: np.random.Generator) -> dict[str, float]:
    """How many members of a role have a partner with it, in two runs, and when the heads of each layer exchange their labels.

    Args:
        has: Which heads have the role in each run, (run, head).
        within: The partners of each pair of runs, which were made without looking at labels.
        layer: The layer of each head.
        rng: Draws the permutations.
    """
    pairs = list(combinations(range(len(has)), 2))
    drawn = np.array([permuted_within(np.tile(one, (PERMUTATIONS, 1)), layer, rng) for one in has])
    chance, found, expected = np.zeros(PERMUTATIONS), 0, 0.0
    members = np.array([[one[layer == at].sum() for at in np.unique(layer)] for one in has])
    sizes = np.unique(layer, return_counts=True)[1]
    for (i, j), to in zip(pairs, within, strict=True):
        found += int((has[i] & has[j][list(to)]).sum())
        chance += (drawn[i] & drawn[j][:, list(to)]).sum(1)
        expected += float((members[i] * members[j] / sizes).sum())
    p_value = permutation_p(chance >= found)
    return {"shared": found / len(pairs), "by_chance": expected / len(pairs), "p_value": p_value}


def roles_between(
    found: Mapping[str, Any], roles: Sequence[Sequence[str | None]], layer: Indices, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """`shared_roles` of Heroes and of Bloats under the partners that `match` found."""
    names = np.array([[str(role) for role in of] for of in roles])
    return {role: shared_roles(names == role, found["within"], layer, rng) for role in ("hero", "bloat")}
