"""The protocol: which settings are refused, when a checkpoint is due, and which length the window rule picks."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from gcgap.importance.protocol import Attribution, Baseline, Protocol, Ranks, Site, Tracking, window_length

NAN = float("nan")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("baselines", ()), ("baselines", ("mean", "mean")), ("baselines", ("median",)), ("baselines", ("mean", "patch"))],
        *[("window", (0.75, 0.2)), ("window", (-0.1, 0.5)), ("window", (0.5, 1.1)), ("window", (NAN, 0.5)), ("window", (0.5,))],
        *[("threshold", 0), ("threshold", -0.3), ("threshold", 1.5), ("threshold", NAN)],
        *[("confidence", 0), ("confidence", 1), ("confidence", 95), ("confidence", NAN)],
        *[("batch_size", 0), ("batch_size", -64), ("site", "elsewhere"), ("ranks", "dense"), ("precision", "float16")],
        *[("gradient_batches", 1), ("mean_batches", 0), ("sequences", 1), ("resamples", 99)],
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_was_got(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`(protocol`: `|protocol\.)?{key}`") as refused:
        Protocol(**{key: value})
    for part in value if isinstance(value, tuple) else [value]:
        assert str(part) in str(refused.value).split("got")[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("length", 0), ("length", -9), ("dense_every", 0), ("then_every", 0), ("then_every", -250)],
        *[("gradient_batches", 1), ("mean_batches", 0), ("sequences", 1), ("resamples", 99)],
    ],
)
def test_a_bad_value_of_tracking_is_refused_with_its_key_and_what_was_got(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=rf"`(protocol`: `|protocol\.tracking\.)?{key}`") as refused:
        Tracking(**dict[str, Any]({key: value}))
    assert str(value) in str(refused.value).split("got")[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *[("window", (0.0, 1.0)), ("window", (0.5, 0.5)), ("threshold", 1), ("batch_size", 1), ("baselines", ("zero",))],
        *[("gradient_batches", 2), ("mean_batches", 1), ("sequences", 2), ("resamples", 100)],
    ],
)
def test_the_borders_themselves_are_allowed(key: str, value: Any) -> None:
    assert getattr(Protocol(**{key: value}), key) == value


def test_a_run_of_a_thousand_steps_has_some_fifteen_due_checkpoints() -> None:
    tracking = Tracking()
    assert [step for step in range(1251) if tracking.due(step)] == [*range(0, 501, 50), 750, 1000, 1250]


def test_due_changes_its_stride_after_dense_until() -> None:
    tracking = Tracking(dense_every=3, dense_until=7, then_every=5)
    assert [step for step in range(22) if tracking.due(step)] == [0, 3, 6, 10, 15, 20]
    assert [step for step in range(12) if Tracking(dense_every=4, dense_until=8, then_every=5).due(step)] == [0, 4, 8, 10]
    assert [step for step in range(22) if Tracking(dense_every=4, dense_until=0, then_every=10).due(step)] == [0, 10, 20]


@pytest.mark.parametrize(
    ("accuracy", "found"),
    [
        ({8: 0.9, 9: 0.5, 10: 0.3}, 9),
        ({8: 0.75, 9: 0.5}, 8),
        ({8: 0.7501, 9: 0.2}, 9),
        ({8: 0.76, 9: 0.1999, 10: 0.1}, None),
        ({8: 0.0, 9: 0.25, 10: 0.0}, 9),
        ({8: 1.0, 9: 0.0}, None),
        ({}, None),
    ],
)
def test_the_window_rule_picks_the_first_length_inside_both_ends_included(accuracy: dict[int, float], found: int | None) -> None:
    assert window_length(accuracy.items(), (0.20, 0.75)) == found


def test_the_window_ends_hold_for_shares_that_rounding_moves() -> None:
    for size in (5, 20, 100, 500):
        right = [sum([1 / size] * (size * part // 20)) for part in (4, 15)]  # 0.20 and 0.75, with the error of a float sum
        assert [window_length([(8, share)], (0.20, 0.75)) for share in right] == [8, 8]


def test_the_order_of_the_lengths_decides_which_is_first() -> None:
    assert window_length([(11, 0.5), (8, 0.5)], (0.2, 0.75)) == 11


def test_to_dict_holds_plain_json_of_every_setting_but_tracking_and_unused_attribution() -> None:
    protocol = Protocol(sets=(("L0_H0", "L1_MLP"), ("L2_H3",)), window=(0, 1), baselines=(Baseline.ZERO,))
    plain = protocol.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["sets"] == [["L0_H0", "L1_MLP"], ["L2_H3"]]
    assert plain["baselines"] == ["zero"]
    assert plain.keys() == asdict(protocol).keys() - {"tracking", "attribution"}
    used = replace(protocol, attribution=Attribution(methods=("hvp",))).to_dict()
    assert json.loads(json.dumps(used)) == used
    assert used.keys() - plain.keys() == {"attribution"}
    assert used["attribution"]["methods"] == ["hvp"]


def test_tracked_has_the_sizes_of_tracking_and_keeps_the_rest() -> None:
    sizes: dict[str, Any] = {"gradient_batches": 3, "mean_batches": 4, "sequences": 5, "resamples": 101}
    sizes |= {"random_pairs": 2, "inside": False}
    protocol = Protocol(site=Site.RELEASED, threshold=0.2, tracking=Tracking(length=8, **sizes))
    tracked = protocol.tracked().to_dict()
    assert {key: tracked[key] for key in sizes} == sizes
    assert tracked == protocol.to_dict() | sizes


def test_smallest_shrinks_sizes_only() -> None:
    protocol = Protocol(site=Site.RELEASED, ranks=Ranks.ORDINAL, sets=(("L0_H0",),))
    small = protocol.smallest()
    changed = {key for key, value in small.to_dict().items() if value != protocol.to_dict()[key]}
    assert changed == {"gradient_batches", "mean_batches", "sequences", "resamples", "random_pairs", "batch_size"}
    assert small.tracking.sequences <= 4
    assert small.tracking.length == protocol.tracking.length
