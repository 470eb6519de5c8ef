from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from gcgap.data.batches import Purpose, Source
from gcgap.importance.ablation import Intervention, ablated_scores, bound, drops
from gcgap.importance.baselines import mean_activations, replacements
from gcgap.importance.experiment import Experiment, id_batches
from gcgap.importance.gap import Array, Gap, Judgement
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.measurement.joint import (
    drops_of_sets,
    joint,
    joint_and_sum,
    members,
    named_sets,
    pruning,
    random_pairs,
    random_pruning,
    role_sets,
    single_entries,
)
from gcgap.models.transformer import Transformer
from gcgap.models.wiring import Wiring

NAMES = [f"L{layer}_{what}" for layer in range(2) for what in ("H0", "H1", "MLP")]
BY = Judgement(resamples=200)
RNG = np.random.default_rng(0)
PROTOCOL = Protocol(
    mean_batches=2,
    batch_size=8,
    sequences=30,
    resamples=100,
    baselines=(Baseline.MEAN, Baseline.MEAN_BY_POSITION, Baseline.RESAMPLE),
)


def array(*numbers: float) -> Array:
    return np.asarray(numbers, dtype=np.float64)


@pytest.fixture
def experiment(trained: Transformer, source: Source) -> Experiment:
    wiring = Wiring.of(trained)
    mean = mean_activations(trained, wiring, source.batches(Purpose.MEAN, 4, 2, 8), by_position=False)
    return Experiment(trained, wiring, source, PROTOCOL, 4, mean)


def gap_with(role: list[str], delta: list[float]) -> Gap:
    return Gap(rho=0.0, role=role, delta=[float(value) for value in delta])


def test_members_come_in_the_order_of_their_rank_difference() -> None:
    gap = gap_with(["bloat", "hero", "bloat", "aligned", "hero", "bloat"], [2, -2, 5, 0, -4, 3])
    flat = np.zeros(6)
    assert members(gap, "bloat", flat, flat, NAMES) == [2, 5, 0]
    assert members(gap, "hero", flat, flat, NAMES) == [4, 1]


def test_ties_go_to_the_larger_gradient_for_bloats_to_the_larger_cause_for_heroes_then_to_the_name() -> None:
    G, C = array(1, 2, 3, 3, 2, 1), array(5, 6, 4, 4, 7, 7)
    gap = gap_with(["bloat"] * 6, [3.0] * 6)
    assert members(gap, "bloat", G, C, NAMES) == [2, 3, 1, 4, 0, 5]
    gap = gap_with(["hero"] * 6, [-3.0] * 6)
    assert members(gap, "hero", G, C, NAMES) == [4, 5, 1, 0, 2, 3]
    assert members(gap, "hero", G, C, NAMES[::-1]) == [5, 4, 1, 0, 3, 2]


def test_every_baseline_has_its_two_most_extreme_members_and_all_of_them_or_none() -> None:
    gaps = {
        Baseline.MEAN: gap_with(["bloat", "bloat", "bloat", "hero", "aligned", "aligned"], [2, 4, 3, -9, 0, 0]),
        Baseline.ZERO: gap_with(["aligned"] * 6, [0.0] * 6),
        Baseline.RESAMPLE: Gap(reason="none"),
    }
    sets = role_sets(gaps, np.zeros(6), np.zeros((3, 6)), NAMES)
    empty = {(b, label, which): [] for b in gaps for label in ("heroes", "bloats") for which in ("top2", "all")}
    found = {
        ("mean", "bloats", "top2"): [1, 2],
        ("mean", "bloats", "all"): [1, 2, 0],
        ("mean", "heroes", "top2"): [3],
        ("mean", "heroes", "all"): [3],
    }
    assert sets == empty | found


def test_ties_among_heroes_are_settled_by_the_cause_under_the_same_baseline() -> None:
    gap = gap_with(["hero", "hero", "hero", "bloat", "bloat", "bloat"], [-3, -3, -3, 3, 3, 3])
    C = np.asarray([[1.0, 2, 3, 0, 0, 0], [3.0, 2, 1, 0, 0, 0]])
    sets = role_sets({Baseline.MEAN: gap, Baseline.ZERO: gap}, np.zeros(6), C, NAMES)
    assert [sets[b, "heroes", "top2"] for b in ("mean", "zero")] == [[2, 1], [0, 1]]


def entries(ood: Array, inside: Array, label: str = "bloats") -> dict[str, Any]:
    key = ("mean", label, "all")
    return pruning({key: [0, 2]}, {key: {"ood": ood, "in_distribution": inside}}, NAMES, BY, RNG)["mean"][label]["all"]


def test_pruning_tells_members_mean_drops_and_their_intervals() -> None:
    ood, inside = np.random.default_rng(1).random(80), np.zeros(60)
    found = entries(ood, inside)
    assert found["members"] == ["L0_H0", "L0_MLP"]
    assert found["reason"] is None
    assert found["ood_drop"]["value"] == pytest.approx(sum(ood.tolist()) / 80, abs=1e-12)
    low, high = found["ood_drop"]["ci"]
    assert low < ood.mean() < high
    assert high - low == pytest.approx(2 * 1.96 * ood.std() / np.sqrt(80), rel=0.25)
    assert found["in_distribution_drop"]["value"] == 0
    low, high = found["in_distribution_drop"]["ci"]  # nothing lost on 60 sequences is not nothing lost for sure
    assert -0.06 < low < -0.01
    assert 0.01 < high < 0.06


@pytest.mark.parametrize(
    ("lost", "reading"),
    [(0, "optimisation noise"), (5, "optimisation noise"), (6, "overfitting circuit"), (-9, "optimisation noise")],
)
def test_bloats_whose_removal_costs_more_than_five_points_in_distribution_are_overfitting(lost: int, reading: str) -> None:
    inside = np.zeros(100)
    inside[: abs(lost)] = np.sign(lost)
    assert entries(np.ones(10), inside)["reading"] == reading
    assert "reading" not in entries(np.ones(10), inside, "heroes")


def test_an_empty_class_has_no_numbers_but_a_reason() -> None:
    keys = [("mean", label, which) for label in ("heroes", "bloats") for which in ("top2", "all")]
    sets: dict[Any, list[int]] = {key: [] for key in keys}
    found = pruning(sets, {}, NAMES, BY, RNG)["mean"]
    nothing = {"value": None, "ci": None}
    assert found["heroes"]["all"] == {
        "members": [],
        "reason": "no heroes",
        "ood_drop": nothing,
        "in_distribution_drop": nothing,
    }
    assert found["bloats"]["top2"]["reason"] == "no bloats"
    assert found["bloats"]["top2"]["reading"] is None
    together = joint(sets, {}, NAMES, BY, RNG)["mean"]
    assert together["heroes"].pop("reason") == "no heroes"
    assert together["heroes"].pop("members") == []
    assert set(together["heroes"].values()) == {None}


def together(each: Array, whole: Array) -> dict[str, Any]:
    """The joint entry of a class of the first components with known drops."""
    key = ("mean", "heroes", "all")
    drops = {key: {"ood": whole}} | {("mean", "single", str(i)): {"ood": drop} for i, drop in enumerate(each)}
    sets = {key: list(range(len(each))), ("mean", "heroes", "top2"): [0, 1]}
    return joint(sets, drops, NAMES, BY, RNG)["mean"]["heroes"]


def some(members: int, sequences: int, lost: float = 0.3) -> Array:
    """Exact-match drops: 1 on a share of the sequences, else 0."""
    return (np.random.default_rng(2).random((members, sequences)) < lost).astype(float)


def test_drops_that_add_up_have_the_ratio_of_their_number_to_the_mean_and_of_one_to_the_sum() -> None:
    each = some(3, 400, 0.1)
    found = together(each, each.sum(0))
    assert found["members"] == NAMES[:3]
    assert found["ratio_to_mean"] == pytest.approx(3.0)
    assert found["ratio_to_sum"] == pytest.approx(1.0)
    assert found["individual_sum"] == pytest.approx(sum(map(sum, each.tolist())) / 400)
    assert found["individual_mean"] == pytest.approx(found["individual_sum"] / 3)
    assert found["joint"] == pytest.approx(found["individual_sum"])
    assert found["reason"] is None
    for name in ("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum"):
        low, high = found["ci"][name]
        assert low < found[name] < high
    low, high = found["ci"]["ratio_to_sum"]  # both vary together, and what is left is the smoothing
    assert high - low < 0.1
    assert found["ci"]["ratio_to_mean"] == pytest.approx([3 * low, 3 * high])
    assert found["ci"]["joint"] == pytest.approx(found["ci"]["individual_sum"], abs=0.02)


def test_redundant_members_have_a_ratio_to_the_sum_above_one() -> None:
    each = np.zeros((2, 300))
    each[0, :30] = each[1, 10:40] = 1
    whole = np.zeros(300)
    whole[:180] = 1
    found = together(each, whole)
    assert found["ratio_to_sum"] == pytest.approx(3.0)
    assert found["ratio_to_mean"] == pytest.approx(6.0)
    low, high = found["ci"]["ratio_to_sum"]
    assert 2 < low < 3 < high < 4.5


@pytest.mark.parametrize("value", [0.0, -0.25])
def test_there_is_no_ratio_to_drops_that_do_not_add_up_to_something_positive(value: float) -> None:
    found = together(np.full((2, 10), value), np.ones(10))
    assert (found["ratio_to_mean"], found["ratio_to_sum"], found["ci"]["ratio_to_sum"]) == (None, None, None)
    assert found["reason"].startswith(f"no ratios: the individual drops add up to {2 * value:.4f}")
    assert found["joint"] == 1.0


def test_a_ratio_has_no_interval_where_the_sum_is_not_surely_above_zero() -> None:
    each = np.zeros((2, 12))
    each[:, 0] = 1
    found = together(each, np.ones(12))
    assert found["ratio_to_sum"] == pytest.approx(6.0)
    assert found["ci"]["ratio_to_sum"] is found["ci"]["ratio_to_mean"] is None
    assert found["reason"] == "no interval of the ratios: the sum of the individual drops is not surely above 0"


def test_in_distribution_sequences_are_as_many_of_each_training_length() -> None:
    source = Source("sort", seed=3)
    found = id_batches(source, 502)
    assert [int(batch.scored[0].sum()) - 1 for batch in found] == [3, 4, 5, 6, 7]
    assert [len(batch.inputs) for batch in found] == [100] * 5
    assert [len(batch.inputs) for batch in id_batches(source, 3)] == [2] * 5
    assert torch.equal(found[2].inputs, source.batch(Purpose.EVALUATION, 5, 100).inputs)


def test_the_drops_of_sets_are_joint_interventions_on_the_measured_and_on_the_training_lengths(experiment: Experiment) -> None:
    sets = {
        ("mean", "heroes", "all"): [0, 4],
        ("mean", "bloats", "all"): [3],
        ("resample", "bloats", "top2"): [0, 4],
        ("mean_by_position", "heroes", "top2"): [1, 2],
        ("resample", "heroes", "all"): [],
    }
    experiment.protocol = replace(experiment.protocol, inside=False)
    found = drops_of_sets(experiment, sets)
    alone = {(key[0], "single", str(i)): [i] for key, numbers in sets.items() for i in numbers}
    assert found.keys() == {key for key, numbers in sets.items() if numbers} | alone.keys()
    sets |= alone
    for (baseline, label, which), places in found.items():
        one = Intervention(frozenset(sets[baseline, label, which]), Baseline(baseline))
        np.testing.assert_array_equal(places["ood"], separately(experiment, one, Purpose.HELD_OUT, 4, 30))
        if label == "single":
            assert "in_distribution" not in places
            continue
        inside = [separately(experiment, one, Purpose.EVALUATION, n, 15) for n in (2, 3)]
        np.testing.assert_array_equal(places["in_distribution"], np.concatenate(inside))
    assert any(places["ood"].any() for places in found.values())


def separately(experiment: Experiment, one: Intervention, purpose: Purpose, length: int, size: int) -> Array:
    """Exact-match drops of one intervention alone, per sequence."""
    model, wiring, source = experiment.model, experiment.wiring, experiment.source
    batch = source.batch(purpose, length, size)
    other = replacements(model, wiring, source, batch, [Baseline(one.replacement)], experiment.mean, 2, 8)
    return drops(*ablated_scores(model, wiring, batch, bound([one], other)))[0, 0].numpy()


def test_sets_without_members_need_no_pass_through_the_model(experiment: Experiment) -> None:
    experiment.protocol = replace(experiment.protocol, inside=False)
    assert drops_of_sets(experiment, {("mean", "heroes", "all"): []}) == {}
    assert single_entries(experiment, {}, BY, RNG) == [{"held_out": {}, "in_distribution": None}] * 6


def test_sets_are_chosen_on_other_sequences_than_their_drops_are_of(experiment: Experiment) -> None:
    held_out = experiment.held_out()
    assert held_out.inputs.shape == experiment.batch(4, 30).inputs.shape
    for other in (experiment.batch(4, 30, index) for index in range(8)):  # those of unpaired measurements too
        assert not torch.equal(held_out.inputs, other.inputs)


def test_named_sets_are_those_of_the_protocol_under_every_baseline(experiment: Experiment) -> None:
    experiment.protocol = Protocol(baselines=(Baseline.ZERO, Baseline.MEAN), sets=(("L0_H1", "L1_MLP"), ("L1_H0",)))
    assert named_sets(experiment) == {
        ("zero", "L0_H1 + L1_MLP", "all"): [1, 5],
        ("zero", "L1_H0", "all"): [3],
        ("mean", "L0_H1 + L1_MLP", "all"): [1, 5],
        ("mean", "L1_H0", "all"): [3],
    }


def test_random_pairs_are_different_components_and_the_same_under_every_baseline(experiment: Experiment) -> None:
    experiment.protocol = Protocol(baselines=(Baseline.ZERO, Baseline.MEAN), random_pairs=200)
    pairs = random_pairs(experiment, np.random.default_rng(3))
    zero, mean = ([pair for key, pair in pairs.items() if key[:2] == (name, "random")] for name in ("zero", "mean"))
    assert zero == mean
    assert len(zero) == 200
    assert {tuple(pair) for pair in zero} == {(i, j) for j in range(6) for i in range(j)}  # 15 pairs, all drawn sooner or later
    assert list(pairs.values()) == list(random_pairs(experiment, np.random.default_rng(3)).values())
    assert random_pairs(replace(experiment, protocol=Protocol(random_pairs=0)), np.random.default_rng(3)) == {}


def test_random_pruning_tells_the_mean_over_pairs_and_its_interval_over_them() -> None:
    pairs = {("mean", "random", str(k)): [0, k + 1] for k in range(4)}
    drops = {key: {"ood": np.array([k / 4, k / 4 + 0.5]), "in_distribution": np.full(6, 0.25)} for k, key in enumerate(pairs)}
    drops |= {("mean", "single", str(i)): {"ood": np.array([0.0, i / 10])} for i in range(6)}
    names = [f"L0_H{i}" for i in range(6)]
    found = random_pruning(pairs, drops, names, Judgement(resamples=500), np.random.default_rng(0))
    assert found.keys() == {"mean"}
    assert found["mean"]["members"] == [["L0_H0", f"L0_H{k + 1}"] for k in range(4)]
    assert found["mean"]["ood_drop"]["value"] == pytest.approx(0.625)  # of 0.25, 0.5, 0.75 and 1
    low, high = found["mean"]["ood_drop"]["ci"]
    assert low == pytest.approx(stats.t.interval(0.95, 3, 0.625, stats.sem([0.25, 0.5, 0.75, 1]))[0], abs=0.1)
    assert high == 1  # of t 1.14, but no drop is larger
    assert found["mean"]["in_distribution_drop"] == {"value": 0.25, "ci": [0.25, 0.25]}
    assert found["mean"]["individual_sum"] == pytest.approx((1 + 2 + 3 + 4) / 4 / 20)


def test_individual_drops_that_cancel_have_no_ratio() -> None:
    """0.1 + 0.2 - 0.3 is not 0 in floating point, and must not become a divisor."""
    each = np.zeros((3, 10))
    each[0, 0], each[1, :2], each[2, :3] = 1, 1, -1
    found = joint_and_sum(each, np.ones(10), Judgement(resamples=100), np.random.default_rng(0))
    assert found["individual_sum"] == 0
    assert found["ratio_to_sum"] is None
    assert "not positive" in found["reason"]
