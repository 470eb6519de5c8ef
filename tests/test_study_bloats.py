"""Predicting the kind of a Bloat: on examples whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from gcgap.study.bloat_kinds import FEATURES, Example, Prediction, _auc, predict


def known(signal: float, seeds: int = 10, each: int = 4, seed: int = 0) -> list[Example]:
    """Bloats half of which overfit; the first feature differs by `signal` standard deviations between the kinds."""
    rng = np.random.default_rng(seed)
    found = []
    for s in range(seeds):
        for i in range(each):
            features = rng.normal(size=len(FEATURES))
            features[0] += signal * (i % 2)
            found.append(Example(s, tuple(features.tolist()), 0.2 * (i % 2)))
    return found


def area(found: Prediction) -> float:
    """The area under the curve, which must exist."""
    assert found.auc is not None
    assert found.auc.mean is not None
    return found.auc.mean


def test_a_strong_signal_is_found_on_seeds_that_were_left_out() -> None:
    found = predict(known(signal=3.0), np.random.default_rng(0), shuffles=40)
    assert found.auc is not None
    assert (found.auc.mean or 0) > 0.9
    assert found.auc.above(0.5)
    assert found.auc.n == 10
    assert (found.p_value or 1) < 0.05
    assert (found.bloats, found.overfitting) == (40, 20)


def test_without_a_signal_nothing_is_found() -> None:
    found = [predict(known(signal=0.0, seed=k), np.random.default_rng(0), shuffles=40) for k in range(1, 7)]
    assert 0.3 < np.mean([area(one) for one in found]) < 0.6
    assert sum((one.p_value or 1) < 0.05 for one in found) <= 1


def test_a_seed_is_never_predicted_from_itself() -> None:
    """A feature that only names the seed tells everything inside a seed and nothing beyond it."""
    examples = [
        Example(s, tuple(np.eye(len(FEATURES))[s].tolist()), 0.2 * (s % 2)) for s in range(len(FEATURES)) for _ in range(4)
    ]
    found = predict(examples, np.random.default_rng(0), shuffles=0)
    assert area(found) <= 0.5


def test_a_seed_with_bloats_of_one_kind_alone_is_predicted_from_the_others() -> None:
    alike = [Example(one.seed, one.features[:1] * len(FEATURES), one.drop) for one in known(signal=4.0, seeds=6)]
    split = [Example(2 * one.seed + one.overfits, one.features, one.drop) for one in alike]
    assert area(predict(split, np.random.default_rng(0), shuffles=0)) > 0.9


def test_columns_choose_the_features() -> None:
    examples = known(signal=3.0)
    assert area(predict(examples, np.random.default_rng(0), [0], shuffles=0)) > 0.9
    assert area(predict(examples, np.random.default_rng(0), [1], shuffles=0)) < 0.75


@pytest.mark.parametrize(("drop", "reason"), [(0.2, "every one of 4 Bloats overfits"), (0.0, "is optimisation noise")])
def test_one_kind_alone_cannot_be_told(drop: float, reason: str) -> None:
    found = predict([Example(s, (0.0,) * len(FEATURES), drop) for s in range(4)], np.random.default_rng(0))
    assert found.auc is None
    assert reason in (found.reason or "")


def test_too_few_seeds_or_no_bloats_have_a_reason() -> None:
    assert predict([], np.random.default_rng(0)).reason == "no Bloats of tracked runs"
    assert "three seeds" in (predict(known(1.0, seeds=2), np.random.default_rng(0)).reason or "")


def test_the_area_under_the_curve_counts_ordered_pairs() -> None:
    scores, labels = np.array([0.1, 0.4, 0.4, 0.8]), np.array([False, False, True, True])
    assert _auc(scores, labels) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
