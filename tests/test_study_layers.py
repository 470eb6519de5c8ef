"""The layers of roles: worked by hand, and against the nulls."""

from __future__ import annotations

import numpy as np
import pytest

from gcgap.importance.gap import Judgement
from gcgap.study.roles import ComponentArrays, layer_gap, layer_index_rho

LAYER = np.repeat(np.arange(4), 5)
IS_HEAD = np.tile(np.array([True] * 4 + [False]), 4)
NAMES = tuple(f"L{layer}_{f'H{i}' if i < 4 else 'MLP'}" for layer in range(4) for i in range(5))


def run(G: np.ndarray, C: np.ndarray) -> ComponentArrays:
    return ComponentArrays(NAMES, LAYER, IS_HEAD, G.astype(float), C.astype(float), Judgement())


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(20)


def by_hand(one: ComponentArrays, heads_only: bool) -> tuple[list[int], list[int]]:
    """Layers of Heroes and of Bloats by plain loops; no ties."""
    rank_g, rank_c = ([sorted(values).index(value) + 1 for value in values] for values in (one.G.tolist(), one.C.tolist()))
    delta = [g - c for g, c in zip(rank_g, rank_c, strict=True)]
    counted = [i for i in range(20) if IS_HEAD[i] or not heads_only]
    return [int(LAYER[i]) for i in counted if delta[i] <= -6], [int(LAYER[i]) for i in counted if delta[i] >= 6]


@pytest.mark.parametrize("heads_only", [True, False])
def test_the_gap_is_the_mean_layer_of_heroes_minus_that_of_bloats_over_all_runs(heads_only: bool) -> None:
    runs = [run(noise(i), noise(50 + i)) for i in range(5)]
    heroes, bloats = ([layer for one in runs for layer in by_hand(one, heads_only)[k]] for k in (0, 1))
    found = layer_gap(runs, np.random.default_rng(0), heads_only)
    assert found.found.mean == pytest.approx(np.mean(heroes) - np.mean(bloats))
    assert found.found.ci is not None
    assert found.found.mean is not None
    assert found.found.ci[0] < found.found.mean < found.found.ci[1]


def test_early_gradients_against_late_causes_are_told_from_chance() -> None:
    order = np.arange(20)
    runs = [run(19 - order + 0.1 * noise(i), order + 0.1 * noise(9 + i)) for i in range(6)]
    found = layer_gap(runs, np.random.default_rng(0))
    assert (found.found.mean or 0) > 2
    assert (found.p_value or 1) < 0.01
    assert found.by_layer_index == pytest.approx(found.found.mean, abs=0.5)  # here the layer's number says as much as G


def test_a_gradient_that_falls_with_the_layer_makes_early_bloats_by_chance_alone() -> None:
    runs = [run(19 - np.arange(20), noise(20 + i)) for i in range(40)]
    found = layer_gap(runs, np.random.default_rng(0))
    assert (found.by_chance or 0) > 1  # although C knows nothing of layers
    assert found.found.mean == pytest.approx(found.by_chance, abs=0.4)
    assert (found.p_value or 0) > 0.05


def test_the_p_value_is_uniform_when_g_and_c_are_independent() -> None:
    values = [
        layer_gap([run(noise(1000 * k + i), noise(1000 * k + 500 + i)) for i in range(3)], np.random.default_rng(k)).p_value or 0
        for k in range(60)
    ]
    assert 0.35 < np.mean(values) < 0.65
    assert sum(value < 0.2 for value in values) in range(4, 22)  # 12 expected


def test_without_any_hero_there_is_no_gap() -> None:
    same = run(np.arange(20), np.arange(20))
    assert layer_gap([same, same], np.random.default_rng(0)).found.mean is None
    assert layer_gap([], np.random.default_rng(0)).found.mean is None


def test_one_run_has_no_interval() -> None:
    found = layer_gap([run(noise(1), noise(2))], np.random.default_rng(0))
    assert found.found.mean is not None
    assert found.found.ci is None


def test_the_layers_number_ranks_what_falls_with_it() -> None:
    assert layer_index_rho(run(19 - np.arange(20), np.arange(20))) == pytest.approx((-0.970, 0.970), abs=1e-3)
    assert layer_index_rho(run(np.arange(20), np.zeros(20))) is None
