from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import logit

from gcgap.importance.gap import (
    SMOOTHING,
    Array,
    Gap,
    Judgement,
    constant,
    delta_intervals,
    draws_of_drops,
    draws_of_means,
    expected_by_chance,
    interval_of_mean,
    is_role,
    measure_gap,
    missed,
    noise_ceiling,
    p_value,
    rank,
    rank_correlation,
    reliability,
)
from gcgap.importance.protocol import Ranks

KINDS = list(Ranks)
values = st.lists(st.integers(0, 4), min_size=6, max_size=20)  # many ties


def pairs(smallest: int, largest: int) -> st.SearchStrategy[tuple[list[int], list[int]]]:
    def two(n: int) -> st.SearchStrategy[tuple[list[int], list[int]]]:
        one = st.lists(st.integers(0, 4), min_size=n, max_size=n).filter(lambda v: len(set(v)) > 1)
        return st.tuples(one, one)

    return st.integers(smallest, largest).flatmap(two)


def array(numbers: Any) -> Array:
    return np.asarray(numbers, dtype=np.float64)


def gap_of(G: Any, C: Any, **by: Any) -> Gap:
    """The gap of exactly known G and C: every sample is its mean."""
    norms, drops = (np.repeat(array(numbers)[:, None], 4, axis=1) for numbers in (G, C))
    judgement = Judgement(resamples=100, **by)
    return measure_gap(norms, drops, (norms, drops), judgement, np.random.default_rng(0))


def draws(norms: Array, drops: Array, resamples: int, random: np.random.Generator, unit: float = 1.0) -> tuple[Array, Array]:
    """Draws of G and of C."""
    return draws_of_means(norms, resamples, random), draws_of_drops(drops, [unit] * len(drops), resamples, random)


def noisy(components: int, samples: int, seed: int, noise: float = 0.3) -> tuple[Array, Array]:
    """Gradient norms and (0 / 1) drops with ties, of components that matter more and more."""
    random = np.random.default_rng(seed)
    norms = random.random((components, 1)) + noise * random.random((components, samples))
    drops = (random.random((components, samples)) < np.linspace(0, 0.8, components)[:, None].round(1)).astype(np.float64)
    return norms, drops


@given(values)
def test_ranks_are_those_of_the_reference(numbers: list[int]) -> None:
    assert rank(array(numbers)).tolist() == reference.average_ranks(numbers)
    assert rank(array(numbers), Ranks.ORDINAL).tolist() == reference.ordinal_ranks(numbers)


def test_average_ranks_share_a_tie_and_ordinal_ranks_favour_the_first() -> None:
    assert rank(array([5, 1, 5, 1, 9])).tolist() == [3.5, 1.5, 3.5, 1.5, 5.0]
    assert rank(array([5, 1, 5, 1, 9]), Ranks.ORDINAL).tolist() == [3.0, 1.0, 4.0, 2.0, 5.0]


@given(pairs(5, 20))
def test_rho_is_spearmans(both: tuple[list[int], list[int]]) -> None:
    G, C = both
    rho, theirs = gap_of(G, C).rho, np.asarray(stats.spearmanr(G, C))
    assert rho == pytest.approx(reference.spearman(G, C), abs=1e-12)
    assert rho == pytest.approx(theirs[0], abs=1e-12)


@given(pairs(5, 20), st.sampled_from(KINDS), st.booleans(), st.sampled_from([0.2, 0.3, 0.5]))
def test_deltas_and_roles_are_those_of_the_reference(
    both: tuple[list[int], list[int]], ranks: Ranks, strict: bool, threshold: float
) -> None:
    G, C = both
    found = gap_of(G, C, ranks=ranks, strict=strict, threshold=threshold)
    delta = reference.rank_differences(G, C, ranks)
    assert found.delta == delta
    assert found.role == [reference.role(d, round(threshold * len(G), 9), strict) for d in delta]
    assert found.counts is not None
    for share in {0.2, threshold, 0.4}:
        roles = [reference.role(d, round(share * len(G), 9), strict) for d in delta]
        assert found.counts[f"{share:g}"]["heroes"] == roles.count("hero")
        assert found.counts[f"{share:g}"]["bloats"] == roles.count("bloat")
    assert set(found.counts) == {f"{share:g}" for share in (0.2, threshold, 0.4)}


@given(pairs(5, 20))
def test_deltas_sum_to_zero_and_change_sign_when_gradient_and_cause_are_swapped(both: tuple[list[int], list[int]]) -> None:
    G, C = both
    one, other = gap_of(G, C), gap_of(C, G)
    assert one.delta is not None
    assert other.delta is not None
    assert sum(one.delta) == 0
    assert other.delta == [-d for d in one.delta]
    assert other.rho == pytest.approx(one.rho, abs=1e-12)
    assert other.role == [{"hero": "bloat", "bloat": "hero"}.get(role, role) for role in one.role or []]


@given(pairs(5, 20), st.floats(1e-6, 1e6))
def test_scaling_the_gradient_leaves_the_gap(both: tuple[list[int], list[int]], scale: float) -> None:
    G, C = both
    plain, scaled = gap_of(G, C), gap_of(scale * array(G), C)
    assert asdict(scaled) == asdict(plain)


def test_a_component_whose_gradient_ranks_low_and_whose_removal_harms_most_is_a_hero() -> None:
    G, C = list(range(20)), list(range(20))
    C[0], C[19] = C[19], C[0]
    found = gap_of(G, C)
    assert found.role == ["hero"] + ["aligned"] * 18 + ["bloat"]
    assert found.delta == [-19.0] + [0.0] * 18 + [19.0]


def test_a_difference_of_exactly_the_threshold_counts_unless_bounds_are_strict() -> None:
    delta = array([-7, -6, -5.5, 0, 5.5, 6, 7])
    inclusive, strict = (is_role(delta, Judgement(strict=s).role_threshold(20), s) for s in (False, True))
    assert inclusive["hero"].tolist() == [True, True] + [False] * 5
    assert inclusive["bloat"].tolist() == [False] * 5 + [True, True]
    assert strict["hero"].tolist() == [True] + [False] * 6
    assert strict["bloat"].tolist() == [False] * 6 + [True]
    for found in (inclusive, strict):
        assert np.sum(list(found.values()), axis=0).tolist() == [1] * 7


@pytest.mark.parametrize(
    ("share", "components", "cut"), [(0.3, 20, 6.0), (0.3, 5, 1.5), (0.3, 6, 1.8), (0.7, 90, 63.0), (0.55, 30, 16.5)]
)
def test_the_threshold_is_a_share_of_the_components_without_rounding_noise(share: float, components: int, cut: float) -> None:
    assert Judgement(share).role_threshold(components) == Judgement().role_threshold(components, share) == cut


@given(pairs(5, 6), st.sampled_from(KINDS), st.booleans(), st.sampled_from([0.2, 0.3, 0.5]))
def test_chance_counts_are_the_mean_over_every_pairing(
    both: tuple[list[int], list[int]], ranks: Ranks, strict: bool, threshold: float
) -> None:
    G, C = both
    judgement = Judgement(threshold, strict, ranks)
    theirs = reference.by_chance(G, C, judgement.role_threshold(len(G)), strict, ranks)
    assert expected_by_chance(array(G), array(C), judgement) == pytest.approx(theirs, abs=1e-12)


def test_twenty_components_without_ties_give_five_and_a_quarter_of_each_class_by_chance() -> None:
    G, C = np.arange(20.0), np.random.default_rng(0).permutation(20).astype(np.float64)
    assert expected_by_chance(G, C, Judgement()) == {"heroes": 5.25, "bloats": 5.25}
    assert expected_by_chance(G, C, Judgement(strict=True)) == {"heroes": 4.55, "bloats": 4.55}
    counts = gap_of(G, C).counts
    assert counts is not None
    assert [counts["0.3"][key] for key in ("heroes_by_chance", "bloats_by_chance")] == [5.25, 5.25]


def test_with_ordinal_ranks_a_tied_cause_makes_early_bloats_and_late_heroes_that_average_ranks_do_not() -> None:
    G = [19.0, 0.0] * 10
    C = [0.0] * 19 + [1.0]
    ordinal, average = (gap_of(G, C, ranks=ranks).delta for ranks in KINDS[::-1])
    assert ordinal is not None
    assert average is not None
    early, late = slice(0, 9), slice(10, 19)
    assert np.mean(ordinal[early]) > np.mean(ordinal[late]) + 4
    assert average[0:18:2] == [average[0]] * 9
    assert average[1:18:2] == [average[1]] * 9


@given(pairs(4, 5), st.integers(1, 3))
def test_missed_components_are_counted_over_every_order_of_ties(both: tuple[list[int], list[int]], k: int) -> None:
    G, C = both
    assert missed(array(G), array(C), k) == pytest.approx(reference.missed(G, C, k), abs=1e-12)


def test_missed_is_told_for_five_and_ten_where_there_are_more_components() -> None:
    G, C = list(range(20)), list(range(20))[::-1]
    assert gap_of(G, C).missed == {"5": 1.0, "10": 1.0}
    assert gap_of(G, G).missed == {"5": 0.0, "10": 0.0}
    assert gap_of(G[:10], G[:10]).missed == {"5": 0.0}
    assert gap_of(G[:5], G[:5]).missed == {}


@pytest.mark.parametrize("seed", range(4))
def test_the_p_value_is_exact_where_all_pairings_can_be_tried(seed: int) -> None:
    random = np.random.default_rng(seed)
    G, C = random.random(5), random.integers(0, 4, 5).astype(np.float64)
    found = p_value(G, C, Judgement(resamples=200), np.random.default_rng(1))
    assert found == pytest.approx(reference.p_value(G.tolist(), C.tolist()), abs=1e-12)


def test_the_p_value_is_small_for_the_same_order_and_large_for_an_unrelated_one() -> None:
    G = np.arange(20.0)
    unrelated = np.random.default_rng(5).permutation(20).astype(np.float64)
    assert p_value(G, G, Judgement(), np.random.default_rng(0)) < 0.01
    assert p_value(G, -G, Judgement(), np.random.default_rng(0)) < 0.01
    assert abs(reference.spearman(G.tolist(), unrelated.tolist())) < 0.15
    assert p_value(G, unrelated, Judgement(), np.random.default_rng(0)) > 0.3


@pytest.mark.parametrize("value", [0.0, 0.125])
def test_constant_values_have_no_gap_but_a_reason(value: float) -> None:
    varied, same = np.arange(6.0), np.full(6, value)
    for found, what in ((gap_of(varied, same), "causal importance"), (gap_of(same, varied), "gradient magnitude")):
        numbers = asdict(found)
        assert numbers.pop("reason") == f"the {what} of all components is the same, {value:g}: ranks do not exist"
        assert set(numbers.values()) == {None}


def test_constant_is_told_along_an_axis() -> None:
    assert constant(array([[1, 1], [1, 2]])).tolist() == [True, False]
    assert constant(array([[1, 1], [1, 2]]), axis=0).tolist() == [True, False]


@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 12), st.floats(0, 1))
def test_a_nan_never_leaves_and_a_missing_number_has_a_reason(seed: int, components: int, samples: int, zeros: float) -> None:
    norms, drops = noisy(components, samples, seed)
    drops[np.random.default_rng(seed).random(components) < zeros] = 0
    random = np.random.default_rng(seed)
    judgement = Judgement(resamples=100)
    G, C = draws(norms, drops[None], 100, random)
    found = asdict(measure_gap(norms, drops, (G, C[0]), judgement, random))
    json.dumps(found, allow_nan=False)
    absent = [name for name, value in found.items() if value is None]
    assert bool(absent) == bool(found["reason"])


def test_rank_correlation_is_nan_inside_for_constants_without_a_warning() -> None:
    assert np.isnan(rank_correlation(array([1, 1, 1]), array([1, 2, 3])))
    both = rank_correlation(array([[1, 2, 3], [2, 2, 2]]), array([3, 2, 1]))
    assert both[0] == -1
    assert np.isnan(both[1])


def test_the_whole_gap_of_noisy_data_is_that_of_the_reference() -> None:
    norms, drops = noisy(20, 40, seed=1)
    judgement, random = Judgement(), np.random.default_rng(2)
    G, C = draws(norms, drops[None], 400, random)
    found = measure_gap(norms, drops, (G, C[0]), judgement, random)
    mean_g, mean_c = ([sum(row) / len(row) for row in rows.tolist()] for rows in (norms, drops))
    assert len(set(mean_c)) < 20
    assert found.rho == pytest.approx(reference.spearman(mean_g, mean_c), abs=1e-12)
    assert found.delta == reference.rank_differences(mean_g, mean_c)
    every = [reference.rank_differences(g, c) for g, c in zip(G.T.tolist(), C[0].T.tolist(), strict=True)]
    roles = [[reference.role(delta, 6.0, False) for delta in deltas] for deltas in every]
    assert found.probability is not None
    for role, shares in found.probability.items():
        assert shares == pytest.approx([sum(one[i] == role for one in roles) / 400 for i in range(20)], abs=1e-12)
    assert found.delta is not None
    assert found.delta_ci is not None
    for i, (low, high) in enumerate(found.delta_ci):
        pull = float(np.mean([deltas[i] for deltas in every])) - found.delta[i]
        middle = np.percentile([deltas[i] for deltas in every], [2.5, 97.5])
        assert [low, high] == pytest.approx([middle[0] - 2 * max(pull, 0), middle[1] - 2 * min(pull, 0)])
    raw = np.array([reference.spearman(g, c) for g, c in zip(G.T.tolist(), C[0].T.tolist(), strict=True)])
    divided = raw
    for own, drawn in ((mean_g, G), (mean_c, C[0])):
        divided = divided / np.mean([reference.spearman(own, one) for one in drawn.T.tolist()])
    ends = np.array([np.percentile(rhos, [2.5, 97.5]) for rhos in (raw, np.clip(divided, -1, 1))])
    assert found.ci == pytest.approx([min(ends[:, 0]), max(ends[:, 1])])
    assert found.rho is not None
    assert found.ceiling is not None
    assert found.corrected == found.rho / found.ceiling
    assert found.reason == ""


def test_data_without_noise_have_intervals_of_no_width_and_certain_roles() -> None:
    G, C = np.arange(20.0), np.arange(20.0)[::-1]
    found = gap_of(G, C)
    assert found.delta_ci == [[delta, delta] for delta in found.delta or []]
    assert found.ci == [-1.0, -1.0]
    assert found.probability is not None
    certain = [max(found.probability[role][i] for role in found.probability) for i in range(20)]
    assert certain == [1.0] * 20


def test_an_interval_is_missing_with_a_reason_where_draws_rank_otherwise_than_the_data() -> None:
    norms = np.random.default_rng(0).random((5, 8)) + np.arange(5.0)[:, None]
    drops = np.zeros((5, 8))
    drops[1, 0] = 1  # one sequence of eight: the draws say that any component may matter most
    G, C = draws(norms, drops[None], 200, np.random.default_rng(0))
    found = measure_gap(norms, drops, (G, C[0]), Judgement(resamples=100), np.random.default_rng(1))
    assert found.rho is not None
    assert found.ceiling is None
    assert "no noise ceiling: causal importance" in found.reason
    nothing = measure_gap(norms, drops, (G, np.zeros_like(C[0])), Judgement(resamples=100), np.random.default_rng(1))
    assert nothing.ci is None
    assert "of 200 resamples all components are alike" in nothing.reason
    other = np.random.default_rng(2).random(C[0].shape)
    without = measure_gap(norms, drops, (G, other), Judgement(resamples=100), np.random.default_rng(1))
    assert without.ci is None
    assert "resamples rank the components otherwise than the data" in without.reason


def test_draws_share_batches_and_sequences_between_components_and_measures() -> None:
    random = np.random.default_rng(3)
    norms, drops = random.random((4, 30)), random.random((2, 4, 30))
    norms[1], drops[0, 1], drops[1, 3] = norms[0], drops[0, 0], drops[0, 0]
    G, C = draws(norms, drops, 2000, np.random.default_rng(4), unit=0.0)
    assert (G.shape, C.shape) == ((4, 2000), (2, 4, 2000))
    np.testing.assert_array_equal(G[1], G[0])
    np.testing.assert_array_equal(C[0, 1], C[0, 0])
    np.testing.assert_array_equal(C[1, 3], C[0, 0])
    once, again = draws(norms, norms[None], 2000, np.random.default_rng(4), unit=0.0)
    assert abs(np.corrcoef(once[0], again[0, 0])[0, 1]) < 0.1
    wide = np.sqrt(29 / 27)  # the standard deviation of Student's t with 29 degrees of freedom
    np.testing.assert_allclose(G.mean(-1), norms.mean(-1), atol=0.01)
    np.testing.assert_allclose(G.std(-1), wide * norms.std(-1, ddof=1) / np.sqrt(30), rtol=0.08)
    np.testing.assert_allclose(C.std(-1), wide * drops.std(-1, ddof=1) / np.sqrt(30), rtol=0.08)


def test_draws_of_means_have_the_quantiles_of_students_t() -> None:
    for n in (2, 5, 50):
        sample = np.random.default_rng(n).standard_normal((1, n))
        (found,) = draws_of_means(sample, 100_000, np.random.default_rng(1))
        wanted = stats.t.interval(0.95, n - 1, sample.mean(), stats.sem(sample[0]))
        np.testing.assert_allclose(np.percentile(found, [2.5, 97.5]), wanted, rtol=0.05)


def test_draws_of_exact_match_are_those_of_the_dirichlet_posterior() -> None:
    drops = array([1] * 3 + [-1] + [0] * 16)
    ((found,),) = draws_of_drops(drops[None, None], [1.0], 100_000, np.random.default_rng(1))
    lost, gained, _ = np.random.default_rng(2).dirichlet([3 + SMOOTHING, 1 + SMOOTHING, 16], 100_000).T
    for share in (2.5, 50, 97.5):
        assert np.percentile(found, share) == pytest.approx(np.percentile(lost - gained, share), abs=0.005)


def test_a_drop_of_nothing_on_all_sequences_is_not_sure_to_be_nothing() -> None:
    _, C = draws(np.random.default_rng(0).random((3, 5)), np.zeros((2, 3, 11)), 400, np.random.default_rng(0))
    assert (C.shape, np.unique(C).size) == ((2, 3, 400), C.size)
    low, high = interval_of_mean(np.zeros(20), Judgement(), np.random.default_rng(0), unit=1.0)
    assert -0.2 < low < -0.02
    assert 0.02 < high < 0.2


def test_intervals_cover_a_known_truth_about_as_often_as_they_say() -> None:
    truth, judgement = array([0.02, 0.1, 0.3, 0.5]), Judgement(confidence=0.9)
    inside, of_gradient, of_mean, runs = np.zeros(4), 0, 0, 400
    for run in range(runs):
        random = np.random.default_rng([9, run])
        drops = (random.random((4, 25)) < truth[:, None]).astype(np.float64)
        G, C = draws(random.random((4, 5)), drops[None], 400, random)
        ends = [judgement.interval(one) for one in C[0]]
        inside += [low <= p <= high for (low, high), p in zip(ends, truth, strict=True)]
        low, high = judgement.interval(G[0])
        of_gradient += low <= 0.5 <= high
        low, high = interval_of_mean(random.standard_normal(6), judgement, random)
        of_mean += low <= 0 <= high
    assert (inside / runs > 0.86).all()
    assert (inside[1:] / runs < 0.95).all()
    assert abs(of_gradient / runs - 0.9) < 0.05
    assert abs(of_mean / runs - 0.9) < 0.05


def test_an_interval_holds_the_middle_of_the_draws() -> None:
    assert Judgement(confidence=0.5).interval(np.arange(101.0)) == [25.0, 75.0]
    assert Judgement().interval(np.arange(1001.0)) == pytest.approx([25.0, 975.0])


def test_the_interval_of_a_constant_without_a_unit_has_no_width() -> None:
    assert interval_of_mean(np.full(9, 0.25), Judgement(), np.random.default_rng(0)) == [0.25, 0.25]
    assert interval_of_mean(np.full(1, 0.25), Judgement(), np.random.default_rng(0), unit=1.0) == [0.25, 0.25]


class Orders(np.random.Generator):
    """A generator whose permutations are known."""

    def __init__(self, orders: list[list[int]]) -> None:
        super().__init__(np.random.PCG64(0))
        self.orders = orders

    def permuted(self, *_: Any, **__: Any) -> Any:
        return np.asarray(self.orders)


def orders(size: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(size), (100, 1)), axis=1)


@pytest.mark.parametrize("size", [8, 9, 30])
def test_reliability_is_extrapolated_from_halves_and_quarters(size: int) -> None:
    samples = np.random.default_rng(1).random((7, size)) + np.arange(7.0)[:, None] / 4
    found, reason = reliability(samples, "average", orders(size))
    assert found == pytest.approx(reference.split_half(samples.tolist(), orders(size).tolist()), abs=1e-12)
    assert reason == ""


@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_reliability_foretells_the_correlation_with_a_repetition_also_where_components_are_nearly_equal(spread: float) -> None:
    random = np.random.default_rng(2)
    truth = np.concatenate([spread * random.random(20), np.arange(8.0)])[:, None]
    clean, _ = reliability(np.arange(20.0)[:, None] + 1e-3 * random.standard_normal((20, 50)), "average", orders(50))
    assert clean is not None
    assert clean > 0.99
    foretold, repeated = [], []
    for seed in range(60):
        one, two = (truth + 2 * random.standard_normal((28, 40)) for _ in range(2))
        found, _ = reliability(one, "average", orders(40, seed))
        foretold.append(found or 0.0)
        repeated.append(reference.spearman(one.mean(1).tolist(), two.mean(1).tolist()))
    assert abs(np.mean(foretold) - np.mean(repeated)) < 0.03  # Spearman-Brown: 0.1 too high where 20 of 28 are equal


def test_reliability_of_pure_noise_is_low_or_does_not_exist() -> None:
    found = []
    for seed in range(30):
        random = np.random.default_rng([6, seed])
        value, reason = reliability(random.standard_normal((20, 50)), "average", orders(50, seed))
        assert (value is None) == bool(reason)
        found.append(value or 0.0)
    assert found.count(0.0) > 5
    assert np.mean(found) < 0.35


def test_reliability_does_not_exist_for_few_samples_or_equal_components() -> None:
    random = np.random.default_rng(0)
    assert reliability(random.random((5, 7)), "average", orders(7)) == (None, "too few samples (7) to halve twice")
    value, reason = reliability(np.ones((5, 20)), "average", orders(20))
    assert value is None
    assert reason == "in 100 of 100 random halves all components are alike"


def test_the_noise_ceiling_is_the_root_of_both_reliabilities_and_says_whose_is_missing() -> None:
    norms, drops = noisy(20, 40, seed=1)
    drawn: Any = Orders(orders(40).tolist())
    ceiling, reason = noise_ceiling(norms, drops, Judgement(), drawn)
    both = [reference.split_half(samples.tolist(), drawn.orders) for samples in (norms, drops)]
    assert ceiling is not None
    assert ceiling.value == pytest.approx(math.sqrt(both[0] * both[1]), abs=1e-12)
    assert reason == ""
    assert ceiling.ci is not None
    assert ceiling.ci[0] < ceiling.value < ceiling.ci[1] < 1
    flat = np.ones((20, 40))
    assert "gradient, in 100 of 100" in noise_ceiling(flat, drops, Judgement(), drawn)[1]
    assert "causal importance, in 100 of 100" in noise_ceiling(norms, flat, Judgement(), drawn)[1]


def test_the_interval_of_the_ceiling_is_a_jackknife_over_tenths_of_both() -> None:
    norms, drops = noisy(12, 40, seed=3)
    drawn: Any = Orders(orders(40).tolist())
    ceiling, _ = noise_ceiling(norms, drops, Judgement(), drawn)
    assert ceiling is not None
    assert ceiling.ci is not None
    error, order = 0.0, drawn.orders
    for samples in (norms, drops):
        rest = []
        for start in range(0, 40, 4):
            out = set(order[0][start : start + 4])
            rest.append(math.log(reference.split_half(samples.tolist(), [[i for i in one if i not in out] for one in order])) / 2)
        error += sum((one - sum(rest) / 10) ** 2 for one in rest) * 9 / 10
    reach = 2.2621571628 * math.sqrt(error) / (1 - ceiling.value)  # Student's t with 9 degrees of freedom
    assert [logit(end) - logit(ceiling.value) for end in ceiling.ci] == pytest.approx([-reach, reach], rel=1e-6)


def test_a_ceiling_without_noise_or_of_too_few_samples_has_no_interval_but_a_reason() -> None:
    rng = np.random.default_rng(0)
    sure = np.arange(8.0)[:, None] + 0.01 * rng.normal(size=(8, 40))
    for norms, why in ((sure, "in no random halves do ranks differ"), (sure[:, :8], "without a tenth of the data there is none")):
        ceiling, reason = noise_ceiling(norms, sure, Judgement(), rng)
        assert ceiling is not None
        assert ceiling.value == pytest.approx(1, abs=1e-8)
        assert ceiling.ci is None
        assert why in reason


def test_an_interval_of_delta_is_extended_to_where_ranks_were_pulled_from() -> None:
    draws = np.tile(np.arange(5.0), (8, 1))
    found = delta_intervals(np.array([2.0, 4.0, -1.0, 5.0, 2, 2, 2, 2]), draws, Judgement(confidence=0.5))
    assert found[:4].tolist() == [[1, 3], [1, 7], [-5, 3], [1, 7]]  # the last one at the largest difference of 8 ranks


def test_a_perfect_gradient_is_limited_by_noise_to_the_ceiling() -> None:
    rhos, ceilings = [], []
    for seed in range(40):
        random = np.random.default_rng([8, seed])
        truth = random.random((20, 1))
        norms, drops = (truth + 1.5 * random.standard_normal((20, 50)) for _ in range(2))
        found = measure_gap(norms, drops, (norms, drops), Judgement(resamples=100), random)
        assert found.ceiling is not None
        rhos.append(found.rho)
        ceilings.append(found.ceiling)
    assert abs(np.mean(rhos) - np.mean(ceilings)) < 0.08
    assert np.mean(ceilings) < 0.85


def test_equal_drops_are_tied_whatever_rounding_made_of_their_means() -> None:
    """Three components that each lose one of ten tokens in twenty of a hundred sequences, not in the same ones."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        right = np.full((3, 100), 10)
        for row in right:
            row[rng.permutation(100)[:20]] -= 1
        C = (1.0 - right / 10).mean(-1)
        assert rank(C).tolist() == [2.0, 2.0, 2.0]
        assert constant(C)
