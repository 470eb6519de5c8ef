"""Exchanged labels: the exact distribution by listing every way, by permutations, and uniform p-values."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from gcgap.study import exchange
from gcgap.study.exchange import chance

KIND = np.array([0, 0, 0, 0, 1, 1, 1])
MEMBERS = ((1, 1), (2, 0), (1, 2))  # labels among the four places of the first kind and the three of the second, in each run


def every_way() -> list[np.ndarray]:
    """All placements of the labels of three runs, each equally likely: 4 x 3, 6 x 1 and 4 x 3 of them."""
    by_run = []
    for first, second in MEMBERS:
        picks = itertools.product(itertools.combinations(range(4), first), itertools.combinations(range(4, 7), second))
        by_run.append([np.isin(np.arange(7), [*one, *other]) for one, other in picks])
    return [np.array(rows) for rows in itertools.product(*by_run)]


def agreement(has: np.ndarray) -> float:
    return float(np.mean([(one & other).sum() for one, other in itertools.combinations(has, 2)]))


def test_exact_probabilities_are_those_of_all_ways_listed() -> None:
    ways = every_way()
    shared, most = np.array([agreement(one) for one in ways]), np.array([one.sum(0).max() for one in ways])
    for has in ways[::37]:
        found = chance(has, KIND, np.random.default_rng(0))
        assert found.exact
        assert found.agreement == pytest.approx(shared.mean())
        assert found.p_value == pytest.approx((shared >= agreement(has) - 1e-9).mean())
        assert found.most_p_value == pytest.approx((most >= has.sum(0).max()).mean())


def test_exact_p_values_are_uniform_where_labels_are_exchanged() -> None:
    """Over all ways a p-value of p or less has probability p, for every p that there is."""
    p_values = Counter(round(chance(has, KIND, np.random.default_rng(0)).p_value, 9) for has in every_way())
    assert len(p_values) > 3
    below = 0
    for p, count in sorted(p_values.items()):
        below += count
        assert below / p_values.total() == pytest.approx(p)


def test_permutations_stand_in_where_there_are_too_many_states(monkeypatch: pytest.MonkeyPatch) -> None:
    has = np.array([np.isin(np.arange(12), rng.choice(12, 3, replace=False)) for rng in map(np.random.default_rng, range(5))])
    kind = np.repeat([0, 1, 2], 4)
    exact = chance(has, kind, np.random.default_rng(0))
    exchange._exact.cache_clear()
    monkeypatch.setattr(exchange, "MOST_STATES", 1)
    drawn = chance(has, kind, np.random.default_rng(0))
    exchange._exact.cache_clear()
    assert (exact.exact, drawn.exact) == (True, False)
    assert drawn.p_value == pytest.approx(exact.p_value, abs=0.02)
    assert drawn.most_p_value == pytest.approx(exact.most_p_value, abs=0.02)
    assert drawn.agreement == exact.agreement


def test_ten_seeds_are_exact() -> None:
    has = np.array([np.isin(np.arange(16), rng.choice(16, 3, replace=False)) for rng in map(np.random.default_rng, range(10))])
    assert chance(has, np.repeat(range(4), 4), np.random.default_rng(0)).exact
