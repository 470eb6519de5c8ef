"""The verdict from synthetic records whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import tiny

from gcgap.study.claims import ANSWERS, CLAIMS, verdicts
from gcgap.study.groups import RELEASED, Group, Run, default_settings
from gcgap.study.ranking import beyond_noise, collapse, heads_not_layers, identities, inversion, missed
from gcgap.study.removal import bloats_are_dispensable, heroes_destroy, negligible, superadditivity, two_kinds

SHAKE = (-0.04, 0.01, 0.03, 0.0)  # what differs from seed to seed


def run(task: str, seed: int, rho: float | None = 0.5, **changes: Any) -> Run:
    """A run whose record says what the changes say; L0_H0 is its Hero and L1_MLP its Bloat."""
    record = tiny.ten(rho=rho, ceiling=changes.get("ceiling", 0.9), ci=changes.get("ci", [0.1, 0.8]))
    if rho is None:
        record = tiny.ten(reason="all components are alike")
    bloats, heroes, pairs = changes.get("bloats", 0.02), changes.get("heroes", 0.4), changes.get("random", 0.2)
    singles = changes.get("singles", 0.03)
    drop = {"value": changes.get("inside", 0.1), "ci": [0, 0.2]}
    reading = "overfitting circuit" if drop["value"] > 0.05 else "optimisation noise"
    top = {"members": ["L1_MLP", "L1_H3"], "reason": None, "in_distribution_drop": drop}
    joint = {"members": ["L1_MLP", "L1_H3"], "individual_mean": singles, "individual_sum": 2 * singles, "joint": bloats}
    record.data.update(
        task=task,
        seed=seed,
        random_pairs={b: {"members": [], "ood_drop": {"value": pairs, "ci": None}} for b in ("mean", "zero")},
        joint={b: {"bloats": joint, "heroes": joint} for b in ("mean", "zero")},
        pruning={
            b: {
                "heroes": {"top2": top | {"ood_drop": {"value": heroes, "ci": None}}},
                "bloats": {
                    "top2": top | {"ood_drop": {"value": bloats, "ci": None}},
                    "all": top | {"reading": reading},
                },
            }
            for b in ("mean", "zero")
        },
    )
    for gap in record.data["gap"].values():
        gap["missed"] = {"5": changes.get("missed", 0.4)}
    return Run(record)


def group(runs: Sequence[Run], released: bool = False, **changes: Any) -> Group:
    return Group(default_settings() | (RELEASED if released else {}) | changes, tuple(runs))


def both(rho: dict[str, float], **changes: Any) -> list[Run]:
    return [run(task, i, value + shake, **changes) for task, value in rho.items() for i, shake in enumerate(SHAKE)]


@pytest.mark.parametrize(("sort", "holds"), [(0.2, True), (0.68, False), (0.9, False)])
def test_a_collapse_is_a_difference_above_zero(sort: float, holds: bool) -> None:
    found = collapse(group(both({"reverse": 0.7, "sort": sort})))
    assert found.holds is holds
    assert found.numbers["difference"].mean == pytest.approx(0.7 - sort)
    assert f"{sort:.2f} [" in found.text
    assert "4 seeds" in found.text


def test_one_seed_cannot_tell_and_null_correlations_are_left_out() -> None:
    one = group([run("sort", 0), run("reverse", 0)])
    assert collapse(one).holds is None
    runs = [*both({"reverse": 0.7, "sort": 0.2}), run("sort", 9, rho=None)]
    assert collapse(group(runs)).numbers["sorting"].n == 4


def test_an_inverted_seed_must_be_so_beyond_its_noise() -> None:
    assert inversion(group([run("sort", 0, -0.2, ci=[-0.5, 0.1]), run("sort", 1)])).holds is False
    found = inversion(group([run("sort", 0, -0.2, ci=[-0.5, -0.1]), run("sort", 1)]))
    assert found.holds is True
    assert "(seed 0)" in found.text


def test_the_gap_is_beyond_noise_where_the_ceiling_stays_above_rho() -> None:
    assert beyond_noise(group(both({"sort": 0.5}))).holds is True
    noisy = [run("sort", i, 0.5 + shake, ceiling=0.5 - shake) for i, shake in enumerate(SHAKE)]
    assert beyond_noise(group(noisy)).holds is False


def test_missed_components_are_shown_beside_chance() -> None:
    found = missed(group([run("sort", i, missed=0.7 + shake) for i, shake in enumerate(SHAKE)]))
    assert found.holds is True
    assert "random ranking would miss 50 %" in found.text
    assert missed(group([run("sort", i, missed=0.3 + shake) for i, shake in enumerate(SHAKE)])).holds is False


def test_identities_that_are_the_same_everywhere_hold() -> None:
    found = identities(group(both({"sort": 0.5})))
    assert found.numbers["Heroes"].mean == 1  # L0_H0 in every pair of seeds
    assert found.numbers["Bloats"].mean == 1
    assert found.holds is False  # one of two MLPs in four seeds is no surprise: permuting MLPs gives as much every eighth time


def test_roles_of_a_layer_are_no_roles_of_its_heads() -> None:
    """L0_H0 is the Hero of every seed: of four heads of its layer, in seven seeds, that is no accident."""
    assert heads_not_layers(group([run("sort", i) for i in range(7)])).holds is True
    assert heads_not_layers(group([run("sort", i) for i in range(2)])).holds is False
    assert heads_not_layers(group([run("sort", 0)])).holds is None


@pytest.mark.parametrize(("joint", "holds"), [(0.06, False), (0.3, True)])
def test_superadditivity_is_judged_by_the_ratio_to_the_sum(joint: float, holds: bool) -> None:
    runs = [run("sort", i, bloats=joint + shake / 4, singles=0.03) for i, shake in enumerate(SHAKE)]
    found = superadditivity(group(runs))
    assert found.holds is holds
    assert found.numbers["joint / sum"].mean == pytest.approx(joint / 0.06)
    assert found.numbers["joint / mean"].mean == pytest.approx(joint / 0.03)  # 2 without any redundancy: never the rule


def test_pruning_is_judged_against_random_components() -> None:
    costly = [run("reverse", i, heroes=0.4 + shake, random=0.2) for i, shake in enumerate(SHAKE)]
    assert heroes_destroy(group(costly)).holds is True
    as_random = [run("reverse", i, heroes=0.4 + shake, random=0.4 - shake) for i, shake in enumerate(SHAKE)]
    assert heroes_destroy(group(as_random)).holds is False
    cheap = [run("sort", i, bloats=0.02 + shake / 4, random=0.2) for i, shake in enumerate(SHAKE)]
    found = bloats_are_dispensable(group(cheap))
    assert found.holds is True
    assert found.numbers["bloats minus random"].mean == pytest.approx(-0.18)
    dear = [run("sort", i, bloats=0.3 + shake / 4, random=0.2) for i, shake in enumerate(SHAKE)]
    assert bloats_are_dispensable(group(dear)).holds is False


def test_single_drops_are_negligible_below_five_points() -> None:
    assert negligible(group([run("sort", i, singles=0.02 + shake / 10) for i, shake in enumerate(SHAKE)])).holds is True
    assert negligible(group([run("sort", i, singles=0.05 + shake / 10) for i, shake in enumerate(SHAKE)])).holds is False


def test_two_kinds_need_two_of_each() -> None:
    kinds = [run("sort", i, inside=drop) for i, drop in enumerate([0.0, 0.02, 0.3, 0.4])]
    found = two_kinds(group(kinds))
    assert found.holds is True
    assert "of 4 sets 2 cost more than 5 points" in found.text
    assert two_kinds(group(kinds[1:])).holds is False


def test_every_claim_has_one_of_the_answers_and_a_sentence() -> None:
    default, released = group(both({"reverse": 0.7, "sort": 0.6})), group(both({"reverse": 0.7, "sort": 0.1}), released=True)
    found = verdicts([default, released])
    assert [one.claim for one in found] == list(CLAIMS)
    for one in found:
        assert one.answer in ANSWERS
        assert one.by_protocol.keys() == {"default", "released"}
        assert all(evidence.text.endswith(".") for evidence in one.by_protocol.values())
        assert one.claim.rule.endswith(".")


def test_the_answer_follows_from_the_default_protocol_first() -> None:
    claim = CLAIMS[0].title
    held, fallen = {"reverse": 0.7, "sort": 0.1}, {"reverse": 0.7, "sort": 0.7}
    cases = [
        (held, fallen, "holds"),
        (fallen, held, "holds only under the released protocol"),
        (fallen, fallen, "does not hold"),
        (fallen, None, "does not hold"),
        ({"sort": 0.5}, held, "cannot be told"),
    ]
    for default, released, answer in cases:
        groups = [group(both(default))] + ([group(both(released), released=True)] if released else [])
        (one,) = (one for one in verdicts(groups) if one.claim.title == claim)
        assert one.answer == answer
    assert verdicts([group(both(held), released=True)]) == []


def test_the_released_site_alone_can_be_what_a_claim_holds_under() -> None:
    default, crosswise = group(both({"reverse": 0.7, "sort": 0.7})), group(both({"reverse": 0.7, "sort": 0.1}), site="released")
    assert crosswise.name == "site=released"
    found = verdicts([default, crosswise])[0]
    assert found.answer == "holds only under the released protocol"
    assert [one.holds for one in found.by_protocol.values()] == [False, True]
    other = group(both({"reverse": 0.7, "sort": 0.1}), ranks="ordinal")
    assert verdicts([default, other])[0].answer == "does not hold"
