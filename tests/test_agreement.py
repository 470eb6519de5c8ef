"""Agreement of scores with exact effects: against plain loops over lists, and intervals against populations that are known."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import assume, given
from hypothesis import strategies as st

from gcgap.attribution.agreement import _mean, agreement, bootstrapped, grouped, top_size, with_intervals
from gcgap.importance.gap import Array, Judgement, noise_ceiling, rank, rank_correlation

BY = Judgement(resamples=200)
KINDS = ["head", "head", "mlp"] * 3
SCORES = [3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0, 6.0, 5.0]
EFFECTS = [2.0, 7.0, 1.0, 8.0, -2.0, 8.5, 1.5, 8.2, 2.5]
lists = st.integers(4, 7).flatmap(lambda n: st.tuples(*[st.lists(st.integers(-3, 3), min_size=n, max_size=n)] * 2))


def array(values: Any) -> Array:
    return np.array(values, dtype=np.float64)


def varied(values: Any) -> bool:
    return len(set(values)) > 1


def tau_b(x: list[float], y: list[float]) -> float:
    """Kendall's tau-b by a loop over pairs: concordant minus discordant, over the pairs that each could have ordered."""
    agree = tied_x = tied_y = pairs = 0
    for i, j in combinations(range(len(x)), 2):
        one, other = (x[i] > x[j]) - (x[i] < x[j]), (y[i] > y[j]) - (y[i] < y[j])
        agree, tied_x, tied_y, pairs = agree + one * other, tied_x + (one == 0), tied_y + (other == 0), pairs + 1
    return agree / math.sqrt((pairs - tied_x) * (pairs - tied_y))


def found_of_top(scores: list[float], effects: list[float], k: int) -> float:
    """Mean share of the top k found, over every order in which ties could fall."""
    first, second = (Counter(reference.largest(values, k)) for values in (scores, effects))
    total = sum(a * b * len(one & other) / k for one, a in first.items() for other, b in second.items())
    return total / (first.total() * second.total())


@given(lists)
def test_every_number_is_that_of_a_plain_loop_ties_included(pair: tuple[list[float], list[float]]) -> None:
    scores, effects = pair
    assume(varied(scores) and varied(effects))
    twin = [effect / 2 for effect in effects]
    found = agreement(array(scores), array(effects), array(twin))
    k = max(1, round(len(scores) / 4))
    assert found["k"] == k
    assert found["rho"] == pytest.approx(reference.spearman(scores, effects), abs=1e-12)
    assert found["tau_b"] == pytest.approx(tau_b(scores, effects), abs=1e-12)
    assert found["top_k"] == pytest.approx(found_of_top(scores, effects, k), abs=1e-12)
    assert found["missed"] == pytest.approx(1 - found["top_k"], abs=1e-15)
    assert found["l1"] == pytest.approx(sum(abs(a - b) for a, b in zip(scores, twin, strict=True)) / len(scores))
    assert found["reason"] is None


def test_a_row_worked_by_hand() -> None:
    found = agreement(array([4, 3, 2, 1]), array([1.0, 2.5, 2.5, 0.0]), array([4, 2, 2.5, 0]))
    assert found["rho"] == pytest.approx(1.5 / math.sqrt(5 * 4.5))  # of ranks 4 3 2 1 and 2, 3.5, 3.5, 1
    assert found["tau_b"] == pytest.approx((3 - 2) / math.sqrt(6 * 5))  # three pairs agree, two do not, one is tied
    assert (found["k"], found["top_k"], found["missed"]) == (1, 0.0, 1.0)
    assert found["l1"] == pytest.approx((0 + 1 + 0.5 + 1) / 4)  # against the effects on the scores' own sequences


def test_ties_at_the_border_of_the_top_count_with_their_chance() -> None:
    scores, effects = array([9, 8, 8, 8, 1, 1, 1, 1]), array([9, 8, 0, 1, 2, 3, 4, 5])
    found = agreement(scores, effects)  # k = 2: the first is sure, the second one of three
    assert found["top_k"] == pytest.approx((1 + 1 / 3) / 2)
    assert found["l1"] is None  # scores that estimate something else have no error


@pytest.mark.parametrize(("components", "k"), [(1, 1), (2, 1), (5, 1), (6, 2), (8, 2), (20, 5), (40, 10)])
def test_the_top_is_a_quarter_and_one_at_least(components: int, k: int) -> None:
    assert top_size(components) == k


@pytest.mark.parametrize(("whose", "value"), [("scores", 0.0), ("effects", 0.25)])
def test_constant_values_have_no_ranks_and_say_so(whose: str, value: float) -> None:
    scores, effects = array([1, 2, 3, 4]), array([4, 3, 1, 2])
    (scores if whose == "scores" else effects)[:] = value
    found = agreement(scores, effects, array([1, 2, 3, 5]))
    assert [found[key] for key in ("rho", "tau_b", "top_k", "missed")] == [None] * 4
    assert found["reason"] == f"the {whose} of all components are the same, {value:g}: ranks do not exist"
    assert found["l1"] == pytest.approx(float(np.abs(scores - array([1, 2, 3, 5])).mean()))  # an error needs no ranks


def test_differences_by_rounding_alone_are_no_ranks() -> None:
    assert agreement(array([0.1, 0.1 + 1e-17, 0.1 - 1e-17]), array([1, 2, 3]))["rho"] is None


increasing = st.sampled_from([np.exp, np.cbrt, np.arctan, lambda x: 3 * x - 7, lambda x: x**3 + x])


@given(lists, increasing)
def test_what_keeps_the_order_keeps_every_rank_number(pair: tuple[list[float], list[float]], bend: Any) -> None:
    scores, effects = pair
    assume(varied(scores) and varied(effects))
    before = agreement(array(scores), array(effects))
    assert agreement(bend(array(scores)), array(effects)) == pytest.approx(before, abs=1e-12)
    assert agreement(array(scores), bend(array(effects))) == pytest.approx(before, abs=1e-12)


@given(lists)
def test_scores_and_effects_may_be_swapped_and_reversal_turns_the_sign(pair: tuple[list[float], list[float]]) -> None:
    scores, effects = (array(values) for values in pair)
    assume(varied(pair[0]) and varied(pair[1]))
    found = agreement(scores, effects, effects)
    assert agreement(effects, scores, scores) == pytest.approx(found, abs=1e-12)
    turned = agreement(-scores, effects)
    assert (turned["rho"], turned["tau_b"]) == pytest.approx((-found["rho"], -found["tau_b"]), abs=1e-12)
    same = agreement(scores, scores, scores)
    assert (same["rho"], same["tau_b"], same["l1"]) == pytest.approx((1, 1, 0))


def test_groups_are_all_components_the_heads_and_the_mlps() -> None:
    twin = [effect + i for i, effect in enumerate(EFFECTS)]
    found = grouped(array(SCORES), array(EFFECTS), KINDS, array(twin))
    members = {"all": range(9), "heads": [0, 1, 3, 4, 6, 7], "mlps": [2, 5, 8]}
    assert found.keys() == members.keys()
    for name, inside in members.items():
        mine, theirs = [SCORES[i] for i in inside], [EFFECTS[i] for i in inside]
        assert found[name] == agreement(array(mine), array(theirs), array([twin[i] for i in inside]))
        assert found[name]["rho"] == pytest.approx(reference.spearman(mine, theirs))
    assert len({found[name]["rho"] for name in members}) == len({found[name]["l1"] for name in members}) == 3
    assert {one["l1"] for one in grouped(array(SCORES), array(EFFECTS), KINDS).values()} == {None}


@pytest.mark.parametrize(("kinds", "groups"), [(["head"] * 3, {"all", "heads"}), (["head", "head", "mlp"], {"all", "heads"})])
def test_a_group_of_fewer_than_two_is_left_out(kinds: list[str], groups: set[str]) -> None:
    assert grouped(array([1, 2, 3]), array([1, 3, 2]), kinds).keys() == groups


def some_samples(seed: int = 0, sequences: int = 30, noise: float = 1.0) -> Array:
    """Six components whose means are 0 .. 5."""
    return np.arange(6.0)[:, None] + noise * np.random.default_rng(seed).normal(size=(6, sequences))


def draws_of(**samples: Array) -> dict[str, Array]:
    return bootstrapped(samples, BY, np.random.default_rng(3))


def test_equally_many_samples_are_resampled_together() -> None:
    first = some_samples()
    draws = draws_of(first=first, again=first.copy(), stretched=2 * first + 3, other=some_samples(1, sequences=31))
    assert {name: of.shape for name, of in draws.items()} == dict.fromkeys(draws, (6, 200))
    np.testing.assert_array_equal(draws["first"], draws["again"])
    np.testing.assert_allclose(draws["stretched"], 2 * draws["first"] + 3, rtol=1e-12)
    assert not np.isclose(draws["other"] - draws["other"].mean(), draws["first"] - draws["first"].mean()).any(axis=0).all()


def test_resamples_of_different_sizes_are_independent() -> None:
    first, other = some_samples(), some_samples(0, sequences=29)
    draws = draws_of(first=first, other=other)
    assert abs(np.corrcoef(draws["first"][0], draws["other"][0])[0, 1]) < 0.2


def test_resamples_are_means_of_as_many_samples_drawn_with_replacement() -> None:
    flags = (np.arange(10) == 0).astype(float)[None]  # 1 for the first sample: a mean tells how often it was drawn
    counts = 10 * draws_of(flags=flags)["flags"][0]
    np.testing.assert_allclose(counts, np.round(counts), atol=1e-9)
    assert counts.mean() == pytest.approx(1, abs=0.25)
    assert (np.round(counts) == 0).mean() == pytest.approx(0.9**10, abs=0.12)
    assert counts.max() > 1.5


def test_a_single_sample_has_no_spread() -> None:
    once = np.arange(6.0)[:, None]
    draws = draws_of(once=once, many=some_samples())
    np.testing.assert_array_equal(draws["once"], np.tile(once, 200))
    assert _mean(once[2], draws["once"][2], BY) == {"value": 2.0, "ci": None, "error": None}


def test_equal_generators_give_equal_draws() -> None:
    first, again = draws_of(x=some_samples()), draws_of(x=some_samples())
    np.testing.assert_array_equal(first["x"], again["x"])


@pytest.mark.parametrize("population", ["normal", "rarely one", "skewed"])
def test_the_interval_of_a_mean_covers_the_true_mean_as_often_as_it_says(population: str) -> None:
    rng = np.random.default_rng(11)
    drawn: dict[str, Any] = {
        "normal": lambda: rng.normal(0.3, 1, (200, 60)) - 0.3,
        "rarely one": lambda: (rng.random((200, 60)) < 0.2) - 0.2,  # as exact match drops are
        "skewed": lambda: rng.exponential(1, (200, 60)) - 1,
    }
    samples = drawn[population]().astype(float)  # 200 data sets of 60 sequences, true mean 0
    draws = bootstrapped({"x": samples}, Judgement(resamples=400), rng)["x"]
    told = [_mean(samples[i], draws[i], BY) for i in range(200)]
    assert 0.88 <= np.mean([one["ci"][0] <= 0 <= one["ci"][1] for one in told]) <= 0.99
    spread = float(np.std([one["value"] for one in told]))
    assert np.mean([one["error"] for one in told]) == pytest.approx(spread, rel=0.15)


def test_the_interval_is_as_wide_as_its_confidence() -> None:
    draws = np.linspace(0, 100, 10_001)
    samples = np.arange(5.0)
    assert _mean(samples, draws, Judgement(confidence=0.9))["ci"] == pytest.approx([5, 95])
    assert _mean(samples, draws, BY)["ci"] == pytest.approx([2.5, 97.5])
    assert _mean(samples, draws, BY)["error"] == pytest.approx(math.sqrt(2.5 / 5))


def told(samples: Array, drops: Array, judgement: Judgement = BY, seed: int = 5) -> dict[str, Any]:
    """An entry with intervals, as `held_against` makes it."""
    rng = np.random.default_rng(seed)
    draws = bootstrapped({"scores": samples, "effects": drops}, judgement, rng)
    entry = agreement(samples.mean(-1), drops.mean(-1))
    return with_intervals(entry, samples, drops, (draws["scores"], draws["effects"]), judgement, rng)


def intervals_of_rho(noise: float, shared: bool = False, repeats: int = 60) -> Array:
    """Data sets of twelve components: the true rho, the measured one, and the ends of its interval, shape (4, data set)."""
    rng, found = np.random.default_rng(8), []
    for _ in range(repeats):
        scores = rng.permutation(12).astype(float)
        effects = scores + rng.normal(0, 3, 12)
        errors = noise * rng.normal(size=(2, 12, 40))
        samples, drops = scores[:, None] + errors[0], effects[:, None] + errors[0 if shared else 1]
        draws = bootstrapped({"scores": samples, "effects": drops}, BY, rng)
        star = rank_correlation(*(rank(draw, axis=0) for draw in draws.values()), axis=0)
        measured = reference.spearman(samples.mean(-1).tolist(), drops.mean(-1).tolist())
        found.append([reference.spearman(scores.tolist(), effects.tolist()), measured, *BY.interval(star)])
    return array(found).T


def test_the_interval_of_rho_covers_the_true_rho_while_noise_is_small_against_differences() -> None:
    true, _, low, high = intervals_of_rho(noise=3.0)
    assert ((low <= true) & (true <= high)).mean() >= 0.88


def test_under_much_noise_of_its_own_the_interval_of_rho_lies_too_low_and_never_too_high() -> None:
    true, measured, low, high = intervals_of_rho(noise=20.0)  # noise takes correlation away, and a resample adds noise to noise
    assert (high < true).mean() > 0.4
    assert (low > true).mean() <= 0.05
    assert (measured - true).mean() < -0.15


def test_under_much_shared_noise_the_interval_of_rho_lies_too_high_and_never_too_low() -> None:
    true, measured, low, high = intervals_of_rho(noise=60.0, shared=True)  # of the same sequences: both err alike
    assert (low > true).mean() > 0.4
    assert (high < true).mean() <= 0.05
    assert (measured - true).mean() > 0.08


def test_the_ceiling_tells_of_the_noise_that_pulls_rho_down() -> None:
    clear, noisy = (told(some_samples(1, 40, noise), some_samples(2, 40, noise)) for noise in (0.1, 12.0))
    assert clear["ceiling"] == pytest.approx(1, abs=1e-6)
    assert clear["no_ceiling"] is None
    assert noisy["ceiling"] is None or noisy["ceiling"] < 0.9


def test_an_entry_gets_the_interval_of_paired_draws_and_the_ceiling_of_its_samples() -> None:
    samples, drops = some_samples(1), some_samples(2)
    found = told(samples, drops)
    rng = np.random.default_rng(5)
    draws = bootstrapped({"scores": samples, "effects": drops}, BY, rng)
    star = [reference.spearman(*pair) for pair in zip(draws["scores"].T.tolist(), draws["effects"].T.tolist(), strict=True)]
    assert found["ci"] == pytest.approx([float(np.percentile(star, end)) for end in (2.5, 97.5)])
    assert ((found["ceiling"], found["ceiling_ci"]), None) == (noise_ceiling(samples, drops, BY, rng)[0], found["no_ceiling"])
    assert found["rho"] == pytest.approx(reference.spearman(samples.mean(-1).tolist(), drops.mean(-1).tolist()))


def test_scores_of_the_same_noise_have_a_narrower_interval_than_independent_ones() -> None:
    drops = some_samples(2, noise=4.0)
    (low, high), (lower, higher) = told(2 * drops, drops)["ci"], told(some_samples(1, noise=4.0), drops)["ci"]
    assert (low, high) == (1.0, 1.0)  # paired: every resample orders both alike
    assert higher - lower > 0.1


def test_the_ceiling_is_of_averaged_ranks_whatever_roles_are_made_of() -> None:
    samples, drops = np.round(some_samples(1)), np.round(some_samples(2))  # with ties
    assert told(samples, drops, Judgement(resamples=100, ranks="ordinal")) == told(samples, drops, Judgement(resamples=100))


def test_too_few_samples_have_no_ceiling_and_say_so() -> None:
    found = told(np.arange(6.0)[:, None], some_samples())
    assert found["ceiling"] is None
    assert found["no_ceiling"] == "no noise ceiling: gradient, too few samples (1) to halve twice"
    assert found["ci"] is not None  # of the effects alone


def test_without_ranks_there_is_no_interval_and_the_reason_is_told() -> None:
    found = told(np.zeros((6, 30)), some_samples())
    assert (found["rho"], found["ci"], found["ceiling"]) == (None, None, None)
    assert found["reason"] == "the scores of all components are the same, 0: ranks do not exist"
    assert found["no_ceiling"].startswith("no noise ceiling: ")


def test_a_resample_in_which_all_components_are_alike_takes_the_interval_and_says_so() -> None:
    drops = np.zeros((6, 8))
    drops[0, 0] = 1.0  # the one sequence that tells components apart is missing from about a third of the resamples
    found = told(some_samples(1, 8), drops)
    assert found["rho"] is not None
    assert found["ci"] is None
    assert "of 200 resamples all components are alike" in found["no_ci"]
    assert told(some_samples(1, 8), some_samples(2, 8))["no_ci"] is None
