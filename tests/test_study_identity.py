"""Stability of identities: counted by hand, and against permuted labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcgap.importance.gap import Judgement
from gcgap.study.roles import ComponentArrays, stability

LAYER = np.repeat(np.arange(4), 5)
IS_HEAD = np.tile(np.array([True] * 4 + [False]), 4)
NAMES = tuple(f"L{layer}_{f'H{i}' if i < 4 else 'MLP'}" for layer in range(4) for i in range(5))


def run(bloats: list[int]) -> ComponentArrays:
    """A run whose Bloats are just these: they and the last components exchange their places in C."""
    G = np.arange(20.0)
    order = [i for i in range(20) if i not in bloats] + bloats  # by rising G: the Bloats have the largest
    G[order] = np.arange(20.0)
    C = G.copy()
    C[bloats] = -1 - np.arange(len(bloats))  # and the smallest C
    return ComponentArrays(NAMES, LAYER, IS_HEAD, G, C, Judgement(threshold=0.5))


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_agreement_counts_the_members_that_two_seeds_share() -> None:
    sets = [[0, 5, 7], [0, 5, 12], [0, 8, 9], [2, 5, 7]]
    runs = [run(one) for one in sets]
    assert [np.flatnonzero(one.roles()["bloat"]).tolist() for one in runs] == sets
    found = stability(runs, "bloat", rng())
    assert found is not None
    shared = [len({*a} & {*b}) for a, b in itertools.combinations(sets, 2)]
    assert found.agreement == pytest.approx(sum(shared) / len(shared))
    assert (found.counts["L0_H0"], found.counts["L1_H0"], found.counts["L3_MLP"]) == (3, 3, 0)
    assert found.most == 3


def test_the_same_members_everywhere_are_beyond_chance() -> None:
    found = stability([run([0, 5, 7])] * 6, "bloat", rng())
    assert found is not None
    assert found.agreement == 3
    assert found.p_value < 0.001
    assert found.most_p_value < 0.01
    assert found.by_chance == pytest.approx(3 * 3 / 16, abs=0.05)  # three heads of sixteen, each time


def test_labels_are_permuted_within_their_type_only() -> None:
    """MLPs that are Bloats in every seed are no surprise if all MLPs are."""
    found = stability([run([4, 9, 14, 19])] * 5, "bloat", rng())
    assert found is not None
    assert found.agreement == found.by_chance == 4
    assert found.p_value == 1


def test_heads_of_one_layer_say_nothing_beyond_their_layer() -> None:
    found = stability([run([0, 1, 2, 3])] * 5, "bloat", rng())
    assert found is not None
    assert found.p_value < 0.001
    assert found.within_layer_p_value == 1


def test_random_members_are_not_stable() -> None:
    draw = np.random.default_rng(3)
    values = []
    for _ in range(40):
        runs = [run(sorted(draw.choice(16, 3, replace=False).tolist())) for _ in range(5)]
        heads = [
            ComponentArrays(NAMES[:16], LAYER[:16], np.ones(16, bool), one.G[:16], one.C[:16], one.judgement) for one in runs
        ]
        found = stability(heads, "bloat", rng())
        assert found is not None
        values.append(found.p_value)
    assert 0.3 < np.mean(values) < 0.8
    assert sum(value < 0.05 for value in values) <= 6


def test_one_seed_has_no_stability() -> None:
    assert stability([run([0, 5, 7])], "bloat", rng()) is None
