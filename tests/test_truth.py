"""Methods against known circuits: worked by hand on the smallest one, and what truly holds of the redundant pair."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.attribution.drop import Drop
from gcgap.attribution.known_circuits import KNOWN, Known
from gcgap.attribution.methods import METHODS, Problem, Scores, default_methods, method
from gcgap.attribution.recovery import cells, clear_area, failures, summary, verdict
from gcgap.attribution.sets import set_drops
from gcgap.attribution.truth import BASELINES, BATCHES, PERFORMANCE, ROWS, Circuits, circuits, truth
from gcgap.importance.baselines import zero_activations
from gcgap.importance.protocol import Attribution
from gcgap.models.wiring import Wiring

FEW = 8
TRUE = 1  # the place of L0_H1 among the components of copy_head


def register(monkeypatch: pytest.MonkeyPatch, name: str, scores: list[float]) -> None:
    """A method that gives these scores, whatever the problem."""
    monkeypatch.setitem(METHODS, name, METHODS["exact"])  # so that the name is taken away again

    def constant(p: Problem) -> Scores:
        """Given scores."""
        return torch.tensor(scores, dtype=torch.float64)[:, None]

    constant.__name__ = name
    method("control")(constant)


def drop_of(known: Known) -> Drop:
    wiring = Wiring.of(known.model)
    zero = zero_activations(known.model, wiring)
    return Drop(known.model, wiring, known.batch(2, 0), lambda rows: zero)


def without_cost(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what no two runs share: times."""

    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(one) for key, one in value.items() if key not in ("cost", "created", "forward_equivalents")}
        return value

    return stripped(record)


def one(record: dict[str, Any], name: str, by: str, baseline: str = "zero") -> dict[str, Any]:
    return record["models"][name]["baselines"][baseline][by]


@pytest.fixture(scope="module")
def pair() -> dict[str, Any]:
    """The redundant pair under both baselines."""
    names = ["exact", "attribution_patching", "joint_ig", "shapley_value", "shapley_exact_match"]
    return truth(["redundant_pair"], names, sequences=FEW, settings=Attribution(pairs=1))


def test_perfect_and_reversed_scores_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    first = [0.0] * 10
    first[TRUE] = 1e-6  # controls have a scale of their own
    register(monkeypatch, "perfect", first)
    register(monkeypatch, "turned", [-score for score in first])
    found = truth(["copy_head"], ["perfect", "turned"], ["zero"], 2)
    best, worst = one(found, "copy_head", "perfect"), one(found, "copy_head", "turned")
    assert best["auc"] == best["clear_auc"] == 1
    assert worst["auc"] == worst["clear_auc"] == 0
    assert best["cpr_exact_match"] == pytest.approx(0.95, abs=1e-12)  # f = 0, 1, .., 1: half a step of ten is lost
    assert best["cmd_exact_match"] == pytest.approx(0.05, abs=1e-12)
    assert worst["cpr_exact_match"] == pytest.approx(0.05, abs=1e-12)  # f = 0, .., 0, 1
    assert worst["cmd_exact_match"] == pytest.approx(0.05, abs=1e-12)  # |score| is that of the perfect method
    for entry in (best, worst):  # the log-probability hears idle components faintly
        assert entry["cpr"] == pytest.approx(entry["cpr_exact_match"], abs=5e-3)
        assert entry["cmd"] == pytest.approx(entry["cmd_exact_match"], abs=5e-3)
    assert best["cost"]["forward"] == best["cost"]["backward"] == 0


def test_every_circuit_keeps_what_ablating_its_complement_leaves() -> None:
    drop = drop_of(KNOWN["induction_pair"]())
    scores = np.array([0, 3, 9, 1, 2, 4, 8, 5, 7, -1.0])  # L0_H2 and L1_H1 first
    order = np.argsort(-scores).tolist()
    curves = Circuits(drop).curves(scores)
    for metric in PERFORMANCE:
        lost = [getattr(set_drops(drop, [frozenset(order[k:])]), metric).mean().item() for k in range(10)] + [0.0]
        by_hand = [(lost[0] - value) / lost[0] for value in lost]
        np.testing.assert_allclose(curves[metric], by_hand, atol=1e-9)
    assert curves["exact_match"].tolist() == [0, 0] + [1] * 9


def test_ties_are_averaged_over_every_choice() -> None:
    measured = Circuits(drop_of(KNOWN["copy_head"]()))
    curve = measured.curves(np.zeros(10))["exact_match"]
    np.testing.assert_allclose(curve, np.arange(11) / 10, atol=1e-12)  # k of ten choices in ten hold the one head
    assert len(measured._lost) == 2**10
    some = np.array([2.0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(measured.curves(some)["exact_match"], [0, 0, 0.5] + [1] * 8, atol=1e-12)


@given(st.lists(st.integers(-2, 2), min_size=1, max_size=7))
def test_a_circuit_leaves_out_nothing_that_scores_higher_than_what_it_holds(values: list[int]) -> None:
    scores = np.array(values, dtype=float)
    found = circuits(scores)
    assert len(found) == len(values) + 1
    for size, choices in enumerate(found):
        assert len(set(choices)) == len(choices) > 0
        for kept in choices:
            assert len(kept) == size
            left = [value for i, value in enumerate(values) if i not in kept]
            assert not kept or not left or min(values[i] for i in kept) >= max(left)


def test_a_lead_by_a_hair_counts_half() -> None:
    true = np.array([True, True, False])
    scores = np.array([1.0, 0.001, 0.0])
    assert clear_area(scores, true, 0.0) == 1
    assert clear_area(scores, true, 0.01) == 0.75
    assert clear_area(-scores, true, 0.01) == 0.25


def test_exact_effects_recover_the_copying_head_under_every_baseline() -> None:
    found = truth(["copy_head"], ["exact"], sequences=FEW)
    for entry in cells(found["models"], "exact").values():
        assert entry["auc"] == entry["clear_auc"] == 1
        assert int(np.argmax(entry["scores"])) == TRUE
    assert failures(found["models"], "exact") == {}
    assert "exact fails nowhere." in found["verdict"]
    assert "under zero and mean ablation, exact puts every circuit first by a clear lead (AUC 1)." in found["verdict"]


def test_single_effects_miss_the_redundant_pair_and_shapley_values_do_not(pair: dict[str, Any]) -> None:
    for baseline in BASELINES:
        alone = one(pair, "redundant_pair", "exact", baseline)
        assert alone["clear_auc"] == pytest.approx((7 + 3.5 + 3.5) / 21)  # the MLP leads, and both heads are nowhere
        for name in ("shapley_value", "shapley_exact_match", "joint_ig"):
            together = one(pair, "redundant_pair", name, baseline)
            assert together["auc"] == together["clear_auc"] == 1
            assert together["cpr_exact_match"] > 0.8
    assert one(pair, "redundant_pair", "exact", "zero")["auc"] == pytest.approx(7 / 21)  # one head is a little better than two
    assert one(pair, "redundant_pair", "exact", "mean")["auc"] == 1  # by a hair


def test_single_effects_find_the_backup_by_a_hair_only() -> None:
    found = truth(["backup_head"], ["exact"], ["mean"], FEW)
    entry = one(found, "backup_head", "exact", "mean")
    assert entry["auc"] == 1
    assert entry["clear_auc"] == 0.5  # though its largest effect is a clear lead on its own scale
    assert sorted(entry["scores"])[-1] > 10 * sorted(entry["scores"])[-3]


def test_the_sentence_tells_clear_leads_from_hairs(pair: dict[str, Any]) -> None:
    said = verdict(pair)
    assert said == pair["verdict"]
    assert "joint_ig, shapley_value and shapley_exact_match put every circuit first by a clear lead" in said
    assert (
        "exact fails on redundant_pair (AUC 0.33 under zero) and leads only by a hair on redundant_pair (AUC 0.67 under mean)."
        in said
    )
    only_mean = truth(["redundant_pair"], ["exact"], ["mean"], FEW)["verdict"]
    assert "none puts every circuit first by a clear lead (AUC 1), exact only by a hair." in only_mean
    assert "exact leads only by a hair on redundant_pair (AUC 0.67 under mean)." in only_mean


def test_the_summary_is_the_mean_and_the_worst_over_models_and_baselines(pair: dict[str, Any]) -> None:
    for name, entry in pair["methods"].items():
        found = list(cells(pair["models"], name).values())
        assert len(found) == 2
        assert summary(pair["models"], name).items() <= entry.items()
        assert entry["worst_auc"] == min(one["auc"] for one in found)
        assert entry["mean_auc"] == pytest.approx(sum(one["auc"] for one in found) / 2)
        assert entry["worst_cmd"] == max(one["cmd"] for one in found)
        assert entry["worst_cpr"] == min(one["cpr"] for one in found)


def test_the_table_is_plain_values(pair: dict[str, Any]) -> None:
    assert json.loads(json.dumps(pair, allow_nan=False)) == pair
    assert (pair["kind"], pair["schema"]) == ("known_truth", 1)
    model = pair["models"]["redundant_pair"]
    assert model["circuit"] == ["L0_H0", "L0_H3", "L1_MLP"]
    assert model["note"].startswith("An OR")
    assert len(model["components"]) == len(one(pair, "redundant_pair", "exact")["scores"]) == 10


def test_the_same_seed_gives_the_same_table_and_another_one_does_not() -> None:
    def again(seed: int) -> dict[str, Any]:
        return without_cost(truth(["copy_head"], ["shapley_value", "random_order"], ["zero"], 2, Attribution(pairs=1), seed))

    assert again(1) == again(1)
    first, second = (one(again(seed), "copy_head", "shapley_value")["scores"] for seed in (1, 2))
    assert first != second


def test_evaluation_means_and_gradients_share_no_batch_even_across_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    build, asked = KNOWN["copy_head"], []

    def watched() -> Known:
        known = build()

        def batch(size: int, seed: int) -> Any:
            asked.append((size, seed))
            return known.batch(size, seed)

        return Known(known.name, known.model, batch, known.circuit, known.note)

    monkeypatch.setitem(KNOWN, "copy_head", watched)
    for seed in range(3):
        truth(["copy_head"], ["layer_index"], ["mean"], 2, seed=seed)
    assert sorted(size for size, _ in asked) == [2] * 3 + [ROWS] * 2 * BATCHES * 3
    assert len({seed for _, seed in asked}) == len(asked)


def test_a_new_method_is_one_function_and_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "mine", [float(i) for i in range(10)])
    heard: list[str] = []
    found = truth(["copy_head"], None, ["zero"], 2, Attribution(steps=1, pairs=1, gradient_batches=1), done=heard.append)
    assert list(found["methods"]) == list(methods := default_methods())
    assert found["methods"]["mine"]["text"] == "Given scores."
    assert heard == [f"{name} on copy_head, zero ablation" for name in methods]


def test_a_score_that_is_not_finite_is_refused_by_the_name_of_method_model_and_component(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, "broken", [0.0, 1.0, float("nan"), *[0.0] * 7])
    with pytest.raises(FloatingPointError, match=r"broken on reversal_head, zero ablation: The score of L0_H2 .* is not finite"):
        truth(["reversal_head"], ["broken"], ["zero"], 2)


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"names": ["copy"]}, "`names` must be among copy_head, .*; got 'copy'"),
        ({"methods": ["gradients"]}, "`methods` must be among exact, .*; got 'gradients'"),
        ({"baselines": ["resample"]}, "`baselines` must be among zero, mean; got 'resample'"),
        ({"names": []}, "`names` must be different ones, one at least; got none"),
        ({"methods": ["exact", "exact"]}, "`methods` must be different ones, one at least; got exact, exact"),
        ({"sequences": 0}, "`sequences` must be at least 1 .*; got 0 and 0"),
        ({"seed": -1}, "`seed` at least 0; got 64 and -1"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(asked: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        truth(**asked)
