"""The course of roles over training, worked by hand."""

from __future__ import annotations

import pytest
import tiny
from scipy.stats import spearmanr

from gcgap.study.emergence import Course, course, courses, following
from gcgap.study.groups import MeasuredRun

STEPS = [0, 50, 100, 150, 200, 250]
RISING = [0.001 * (i + 1) for i in range(10)]
FALLING = [0.0125 * (10 - i) for i in range(10)]


@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        ("--bbbb", Course("x", "bloat", 100, 100, 1.0, True)),
        ("b-bb--", Course("x", "bloat", 0, None, 0.5, False)),
        ("b-bbb-", Course("x", "bloat", 0, 100, 4 / 6, False)),
        ("-----b", Course("x", "bloat", 250, None, 1.0, True)),
        ("?hbbbh", Course("x", "bloat", 100, 100, 0.75, False)),
    ],
)
def test_a_role_is_stable_from_the_first_of_three_checkpoints_in_a_row(taken: str, expected: Course) -> None:
    names = {"b": "bloat", "h": "hero", "-": "aligned", "?": None}
    assert course("x", "bloat", STEPS, [names[one] for one in taken]) == expected


def test_every_role_that_a_component_takes_has_a_course() -> None:
    first, second, last = (tiny.ten(step=step) for step in (0, 50, 100))
    found = courses(MeasuredRun(last, (first, second, last)), "mean")
    assert [(one.name, one.role, one.first, one.stable) for one in found] == [("L0_H0", "hero", 0, 0), ("L1_MLP", "bloat", 0, 0)]
    assert courses(MeasuredRun(last, (first, second, last)), "zero") == []
    assert courses(MeasuredRun(last), "mean") == []


def test_checkpoints_without_ranks_have_no_roles() -> None:
    constant = tiny.ten(step=0, reason="all components are alike")
    found = courses(MeasuredRun(tiny.ten(), (constant, tiny.ten(step=50))), "mean")
    assert [(one.first, one.persistence) for one in found] == [(50, 1.0), (50, 1.0)]


def test_the_gap_follows_what_the_records_say() -> None:
    tracked = []
    for k, (rho, ood, inside) in enumerate([(0.1, 0.1, 0.2), (0.3, 0.2, 0.4), (0.2, 0.4, 0.9), (0.6, 0.5, 0.9), (0.7, 0.3, 1.0)]):
        C = [0.0125 * i for i in range(10)] if k in (2, 4) else FALLING  # rising C against falling G: four Bloats in layer 0
        record = tiny.synthetic(RISING[::-1], {"mean": C}, step=50 * k, rho=rho)
        record.data["accuracy"] = {"in_distribution": inside, "by_length": {"9": ood}}
        tracked.append(record)
    found = following(MeasuredRun(tracked[-1], tuple(tracked)), "mean")
    assert found.checkpoints == 5
    assert found.level == pytest.approx(1 - 6 * (0 + 1 + 4 + 1 + 4) / (5 * 24))  # ranks 1 3 2 4 5 against 1 2 4 5 3
    assert found.change == pytest.approx(spearmanr([0.2, -0.1, 0.4, 0.1], [0.1, 0.2, 0.1, -0.2])[0])
    assert found.shortcut == pytest.approx(spearmanr([0, 0, 4, 0, 4], [0.1, 0.2, 0.5, 0.4, 0.7])[0])
    assert (found.shortcut or 0) > 0.8


def test_too_few_checkpoints_have_no_correlation() -> None:
    found = following(MeasuredRun(tiny.ten(), (tiny.ten(step=0), tiny.ten(step=50))), "mean")
    assert (found.level, found.change, found.shortcut, found.checkpoints) == (None, None, None, 2)
