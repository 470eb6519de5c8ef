"""Matched heads: partners by hand, known functions found, and p-values that are uniform where there is nothing to find."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from gcgap.study import matching
from gcgap.study.exchange import permuted_within
from gcgap.study.matching import exchanged, match, partners, shared_roles, similarity

LAYER = np.repeat([0, 1], 3)  # two layers of three heads
SEQUENCES, POSITIONS = 40, 3


def runs(count: int, rng: np.random.Generator, noise: float = 0.1, functions: bool = True) -> list[list[np.ndarray]]:
    """Runs whose layers have the same three functions in an order of their own each, or functions drawn anew in each run."""
    shape = (len(LAYER), SEQUENCES, POSITIONS)
    kinds, found = rng.normal(size=shape), []
    for _ in range(count):
        own = kinds if functions else rng.normal(size=shape)
        order = permuted_within(np.arange(len(LAYER))[None], LAYER, rng)[0]
        found.append([own[order] + noise * rng.normal(size=shape)])
    return found


def test_similarity_is_that_of_the_formula() -> None:
    a, b = np.array([[1.0, 2.0], [0.0, 0.0]]), np.array([[2.0, 1.0], [0.0, 0.0], [1.0, 2.0]])
    assert similarity(a, b).tolist() == [[2 * 4 / 10, 0, 1], [0, 0, 0]]


def test_partners_have_the_largest_sum_and_stay_in_their_layer() -> None:
    alike = np.random.default_rng(0).normal(size=(6, 6))
    for layer, groups in ((LAYER, ([0, 1, 2], [3, 4, 5])), (np.zeros(6, int), (list(range(6)),))):
        best = [max(itertools.permutations(one), key=lambda to, one=one: sum(alike[one, to])) for one in groups]
        assert partners(alike, layer, np.random.default_rng(1)).tolist() == list(itertools.chain(*best))


def test_equal_heads_have_partners_by_lot_and_not_by_number() -> None:
    """Where all heads are alike, partners in the own layer would be an effect of how ties are broken."""
    found = match([[np.ones((6, 8, 1))] for _ in range(5)], LAYER, np.random.default_rng(1))
    assert found["own_layer_p_value"] > 0.05
    assert found["own_layer"]["value"] < 0.8
    assert found["halves_agree"]["value"] < 0.8
    assert found["itself"] < 1


def test_functions_in_another_order_are_found_again() -> None:
    found = match(runs(5, np.random.default_rng(0)), LAYER, np.random.default_rng(1))
    assert found["matched"]["value"] > 0.98
    assert found["halves_agree"]["value"] == found["own_layer"]["value"] == 1
    assert abs(found["random"]["value"] - 1 / 3) < 0.1  # one of three has the same function, the others have nothing in common
    assert abs(found["same_number"]["value"] - 1 / 3) < 0.3
    assert found["functions_p_value"] < 0.001
    assert found["own_layer_p_value"] < 0.001
    assert len(found["within"]) == len(found["anywhere"]) == 10


def test_a_function_in_another_layer_counts_there_and_under_its_number() -> None:
    kinds = np.random.default_rng(0).normal(size=(len(LAYER), SEQUENCES, POSITIONS))
    found = match([[kinds], [kinds[[3, 1, 2, 0, 4, 5]]]], LAYER, np.random.default_rng(1))
    assert found["own_layer"]["value"] == pytest.approx(4 / 6)  # the first heads of both layers have changed places
    assert found["same_number"]["value"] == pytest.approx(4 / 6, abs=0.05)
    assert found["anywhere"] == [[3, 1, 2, 0, 4, 5]]


def test_partners_are_valued_on_the_sequences_that_did_not_choose_them() -> None:
    """Heads that share nothing have the best partners of chance on one half, and nothing on the other."""
    found = match(runs(5, np.random.default_rng(0), functions=False), LAYER, np.random.default_rng(1))
    assert abs(found["matched"]["value"] - found["random"]["value"]) < 0.03
    assert found["halves_agree"]["value"] < 0.6


def test_p_values_are_uniform_where_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of functions: heads are independent draws of those of their layer. Of layers: heads are alike in all of them. Of roles."""
    monkeypatch.setattr(matching, "PERMUTATIONS", 200)
    monkeypatch.setattr(matching, "BATCH", 200)
    rng, p_values = np.random.default_rng(5), {"functions": [], "layers": [], "roles": []}
    for _ in range(150):
        kinds = rng.normal(size=(4, SEQUENCES, POSITIONS))
        drawn = [[kinds[rng.integers(0, 4, 6)] + 0.3 * rng.normal(size=(6, SEQUENCES, POSITIONS))] for _ in range(4)]
        found = match(drawn, LAYER, rng)
        has = permuted_within(np.tile([True, False, False, True, True, False], (4, 1)), LAYER, rng)
        p_values["functions"].append(found["functions_p_value"])
        p_values["layers"].append(found["own_layer_p_value"])
        p_values["roles"].append(shared_roles(has, found["within"], LAYER, rng)["p_value"])
    for name, values in p_values.items():
        assert np.mean(np.array(values) <= 0.05) <= 0.1, name
        assert np.mean(np.array(values) <= 0.5) <= 0.6, name
    assert stats.kstest(p_values["functions"], "uniform").pvalue > 0.01  # the others are of counts, and so on the safe side


def test_partners_listed_and_solved_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    halves = [np.random.default_rng(i).normal(size=(3, 3, 6, 6)) for i in range(2)]
    monkeypatch.setattr(matching, "PERMUTATIONS", 20)
    monkeypatch.setattr(matching, "BATCH", 20)
    listed = exchanged(halves, LAYER, np.random.default_rng(0))
    monkeypatch.setattr(matching, "LISTED", 1)
    assert exchanged(halves, LAYER, np.random.default_rng(0)) == listed


def test_roles_that_follow_partners_are_seen() -> None:
    """One head of three has the role in each layer; its partner has it in every run."""
    rng = np.random.default_rng(0)
    orders = [permuted_within(np.arange(6)[None], LAYER, rng)[0] for _ in range(6)]
    within = [[int(np.flatnonzero(b == one)[0]) for one in a] for a, b in itertools.combinations(orders, 2)]
    found = shared_roles(np.array([np.isin(one, [0, 3]) for one in orders]), within, LAYER, rng)
    assert found["shared"] == 2
    assert found["by_chance"] == pytest.approx(2 / 3)
    assert found["p_value"] < 0.001
