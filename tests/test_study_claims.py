"""The verdict from synthetic records whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tiny

from gcgap.study.bloat_kinds import two_kinds
from gcgap.study.claims import ANSWERS, CLAIMS, SITE, verdicts
from gcgap.study.evidence import (
    beyond_noise,
    bloats_are_dispensable,
    collapse,
    heads_not_layers,
    heroes_destroy,
    identities,
    inversion,
    layers,
    layers_of_heads,
    missed,
    negligible,
    superadditivity,
)
from gcgap.study.groups import RELEASED, Group, MeasuredRun, default_settings
from gcgap.study.roles import ComponentArrays, component_arrays, top_two_cost, top_two_cost_by_selection

SHAKE = (-0.04, 0.01, 0.03, 0.0, 0.0)  # what differs from seed to seed


def run(task: str, seed: int, rho: float | None = 0.5, **changes: Any) -> MeasuredRun:
    """A run whose record says what the changes say; L0_H0 is its Hero and L1_MLP its Bloat."""
    record = tiny.ten(rho=rho, ceiling=changes.get("ceiling", 0.9), p_value=changes.get("p_value", 0.01))
    if rho is None:
        record = tiny.ten(reason="all components are alike")
    bloats, heroes, pairs = changes.get("bloats", 0.02), changes.get("heroes", 0.4), changes.get("random", 0.2)
    singles = changes.get("singles", 0.03)
    inside = changes.get("inside", 0.1)
    drop = {"value": inside, "ci": [inside - 0.02, inside + 0.02]}
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
    return MeasuredRun(record)


def group(runs: Sequence[MeasuredRun], released: bool = False, **changes: Any) -> Group:
    return Group(default_settings() | (RELEASED if released else {}) | changes, tuple(runs))


def both(rho: dict[str, float], **changes: Any) -> list[MeasuredRun]:
    return [run(task, i, value + shake, **changes) for task, value in rho.items() for i, shake in enumerate(SHAKE)]


@pytest.mark.parametrize(("sort", "holds"), [(0.2, True), (0.68, None), (0.9, False)])
def test_a_collapse_is_a_difference_above_zero(sort: float, holds: bool | None) -> None:
    found = collapse(group(both({"reverse": 0.7, "sort": sort})))
    assert found.holds is holds
    assert found.numbers["difference"].mean == pytest.approx(0.7 - sort)
    assert f"{sort:.2f} [" in found.text
    assert "5 seeds" in found.text


def test_one_seed_cannot_tell_and_null_correlations_are_left_out() -> None:
    one = group([run("sort", 0), run("reverse", 0)])
    assert collapse(one).holds is None
    runs = [*both({"reverse": 0.7, "sort": 0.2}), run("sort", 9, rho=None)]
    assert collapse(group(runs)).numbers["sorting"].n == 5


def test_an_inverted_seed_must_be_so_beyond_chance_and_the_number_of_seeds() -> None:
    assert inversion(group([run("sort", i) for i in range(5)])).holds is False
    assert inversion(group([run("sort", i) for i in range(4)])).holds is None  # four that are not negative say too little
    for p_value, holds in [(0.02, True), (0.03, None)]:  # of two seeds, 0.05 / 2
        found = inversion(group([run("sort", 0, -0.5, p_value=p_value), run("sort", 1)]))
        assert found.holds is holds
        assert "(seed 0, p =" in found.text
    assert inversion(group([run("sort", 0, -0.5, p_value=0.001)])).holds is None


def test_the_gap_is_beyond_noise_where_the_ceiling_stays_above_rho() -> None:
    assert beyond_noise(group(both({"sort": 0.5}))).holds is True
    noisy = [run("sort", i, 0.5 + shake, ceiling=0.5 - shake) for i, shake in enumerate(SHAKE)]
    assert beyond_noise(group(noisy)).holds is None
    without = beyond_noise(group([*both({"sort": 0.5}), run("sort", 9, ceiling=None)]))
    assert without.numbers["ceiling"].mean == pytest.approx(5 * 0.9 / 6)  # the noisiest run is counted, not dropped
    assert "Seeds 9 have no ceiling" in without.text


def test_missed_components_are_shown_beside_chance() -> None:
    found = missed(group([run("sort", i, missed=0.7 + shake) for i, shake in enumerate(SHAKE)]))
    assert found.holds is True
    assert "random ranking would miss 50 %" in found.text
    assert missed(group([run("sort", i, missed=0.3 + shake) for i, shake in enumerate(SHAKE)])).holds is False


def test_identities_that_are_the_same_everywhere_hold() -> None:
    found = identities(group(both({"sort": 0.5})))
    assert found.numbers["Heroes"].mean == 1  # L0_H0 in every pair of seeds
    assert found.numbers["Bloats"].mean == 1
    assert found.holds is None  # one of two MLPs in five seeds is little surprise: permuting MLPs gives as much every 16th time
    assert "Published Bloats: L1_H1 in 0, L1_H3 in 0" in found.text


def test_roles_of_a_layer_are_no_roles_of_its_heads() -> None:
    """L0_H0 is the Hero of every seed: of four heads of its layer, in seven seeds, that is no accident."""
    assert heads_not_layers(group([run("sort", i) for i in range(7)])).holds is True
    assert heads_not_layers(group([run("sort", i) for i in range(2)])).holds is None
    assert heads_not_layers(group([run("sort", 0)])).holds is None


@pytest.mark.parametrize(("joint", "holds"), [(0.06, None), (0.3, True), (0.03, False)])
def test_superadditivity_is_judged_by_the_ratio_to_the_sum(joint: float, holds: bool | None) -> None:
    runs = [run("sort", i, bloats=joint + shake / 4, singles=0.03) for i, shake in enumerate(SHAKE)]
    found = superadditivity(group(runs))
    assert found.holds is holds
    assert found.numbers["joint / sum"].mean == pytest.approx(joint / 0.06)
    assert "mean single drop" not in found.text  # 2 without any redundancy: never beside the ratio to the sum


LARGEST = (0.2, 0.19, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.0, -0.01)
MIDDLING = (0.09, 0.08, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.4, 0.41)


def heroes(drops: tuple[float, ...] = LARGEST, **changes: Any) -> list[MeasuredRun]:
    """Reversal runs with two Heroes, L0_H0 and L0_H1, of these single drops."""
    runs = []
    for seed, shake in enumerate(SHAKE):
        one = run("reverse", seed, heroes=0.4 + shake, bloats=0.1 - shake, **changes)
        for i, component in enumerate(one.final["components"]):
            component["causal"]["mean"]["exact_match"]["value"] = drops[i] + shake / 100
        runs.append(one)
    return runs


def test_heroes_are_judged_against_bloats_random_components_and_their_own_selection() -> None:
    found = heroes_destroy(group(heroes(random=0.2)))
    bloats, random, selection = found.numbers.values()
    assert bloats.mean == pytest.approx(0.3)
    assert random.mean == pytest.approx(0.2)
    chance = top_two_cost_by_selection(component_arrays(heroes()[0].final, "mean"), "hero", np.random.default_rng(5))
    assert selection.mean == pytest.approx(0.39 - (chance or 0), abs=0.02)
    assert found.holds is True
    assert heroes_destroy(group(heroes(random=0.6))).holds is False
    unselected = heroes_destroy(group(heroes(drops=MIDDLING, random=0.2)))  # a shuffled gradient would name costlier ones
    assert unselected.holds is False


def test_what_selection_explains_is_found_by_shuffling_the_gradient() -> None:
    one = component_arrays(heroes()[3].final, "mean")
    assert top_two_cost(one, "hero") == pytest.approx(0.39)
    drawn = [top_two_cost_by_selection(one, "hero", np.random.default_rng(seed)) for seed in (0, 1)]
    assert drawn[0] == pytest.approx(drawn[1], abs=0.03)
    by_hand = []  # two Heroes at least, by the definition, for every order of G that was drawn
    rng = np.random.default_rng(0)
    for _ in range(200):
        G = rng.permutation(one.G).tolist()
        ranks = [[sorted(values).index(value) for value in values] for values in (G, one.C.tolist())]
        delta = [g - c for g, c in zip(*ranks, strict=True)]
        members = sorted((i for i in range(10) if delta[i] <= -3), key=lambda i: (delta[i], -one.C[i], one.names[i]))
        by_hand += [one.C[members[0]] + one.C[members[1]]] if len(members) > 1 else []
    assert drawn[0] == pytest.approx(np.mean(by_hand))
    alike = ComponentArrays(one.names, one.layer, one.is_head, one.G, np.arange(10.0), one.judgement)
    assert top_two_cost(alike, "hero") is None


def held_out(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """The same runs, whose records say what every component, and two random ones, cost on sequences that chose nothing."""
    for one in runs:
        one.final.data["accuracy"]["held_out"] = {"value": 0.25, "ci": [0.2, 0.3], "sequences": 500}
        for i, component in enumerate(one.final["components"]):
            component["held_out"] = {"mean": {"value": 0.1 + i / 1000, "ci": [0.0, 0.2]}}
        one.final.data["random_pairs"]["mean"] |= {"members": [["L0_H0", "L0_H1"]], "individual_sum": 0.05}
    return list(runs)


def test_chosen_components_are_summed_on_sequences_that_did_not_choose_them() -> None:
    (one, *_) = held_out(heroes())
    arrays = component_arrays(one.final, "mean")
    assert top_two_cost(arrays, "hero") == pytest.approx(0.1 + 0.101)  # of L0_H0 and L0_H1, which C still chooses
    chance = top_two_cost_by_selection(arrays, "hero", np.random.default_rng(0))
    assert chance == pytest.approx(0.2, abs=0.02)
    del one.final["components"][-1]["held_out"]
    assert top_two_cost(component_arrays(one.final, "mean"), "hero") is None  # never in part from the sequences that chose
    runs = held_out([run("sort", i, bloats=0.1 + shake, random=0.2) for i, shake in enumerate(SHAKE)])
    assert superadditivity(group(runs)).numbers["joint / sum of random pairs"].mean == pytest.approx(4)


@pytest.mark.parametrize("claim", [negligible, superadditivity, heroes_destroy, bloats_are_dispensable])
def test_older_records_are_said_to_sum_what_their_sequences_chose(claim: Any) -> None:
    def runs() -> list[MeasuredRun]:
        return [run("sort", i) for i in range(5)] + heroes()

    assert "Of all runs the drops of sets, and accuracies, are of the very sequences that chose" in claim(group(runs())).text
    assert "that chose the sets" not in claim(group(held_out(runs()))).text
    mixed = runs()
    held_out(mixed[1:5] + mixed[6:])
    found = claim(group(mixed)).text
    assert "sort seed 0" in found or "reverse seed 0" in found
    assert "seed 1" not in found.split(" the drops of sets")[0].split("Of ")[-1]


@pytest.mark.parametrize(("sort", "reverse", "holds"), [(0.05, 0.06, True), (0.05, 0.2, False), (0.05, 0.1, None)])
def test_bloats_are_dispensable_if_two_cost_little_on_both_tasks(sort: float, reverse: float, holds: bool | None) -> None:
    runs = [run("sort", i, bloats=sort + shake / 4) for i, shake in enumerate(SHAKE)]
    runs += [run("reverse", i, bloats=reverse + shake / 4) for i, shake in enumerate(SHAKE)]
    found = bloats_are_dispensable(group(runs))
    assert found.holds is holds
    assert found.numbers["two Bloats, reversal"].mean == pytest.approx(reverse)


def test_single_drops_are_negligible_below_five_points() -> None:
    assert negligible(group([run("sort", i, singles=0.02 + shake / 10) for i, shake in enumerate(SHAKE)])).holds is True
    assert negligible(group([run("sort", i, singles=0.05 + shake / 10) for i, shake in enumerate(SHAKE)])).holds is None
    assert negligible(group([run("sort", i, singles=0.09 + shake / 10) for i, shake in enumerate(SHAKE)])).holds is False


@pytest.mark.parametrize(
    ("drops", "holds"),
    [([0.0, 0.01, 0.3, 0.4], True), ([0.0, 0.3, 0.3, 0.4], False), ([0.0, 0.04, 0.06, 0.4], None), ([0.0, 0.3, 0.4], None)],
)
def test_two_kinds_need_two_sets_of_each_by_their_own_intervals(drops: list[float], holds: bool | None) -> None:
    assert two_kinds(group([run("sort", i, inside=drop) for i, drop in enumerate(drops)])).holds is holds
    assert two_kinds(group([run("reverse", i, inside=drop) for i, drop in enumerate(drops)])).holds is None


def test_every_claim_has_one_of_the_answers_and_a_sentence() -> None:
    default, released = group(both({"reverse": 0.7, "sort": 0.6})), group(both({"reverse": 0.7, "sort": 0.1}), released=True)
    found = verdicts([default, released])
    assert [one.claim for one in found] == list(CLAIMS)
    for one in found:
        assert one.answer in ANSWERS
        assert one.by_protocol.keys() == {"default", "released"}
        assert all(evidence.text.endswith(".") for evidence in one.by_protocol.values())
        assert one.claim.rule.endswith(".")


HELD, UNDECIDED, REFUTED = {"reverse": 0.7, "sort": 0.1}, {"reverse": 0.7, "sort": 0.7}, {"reverse": 0.1, "sort": 0.7}
ONE = {"sort": 0.5}


@pytest.mark.parametrize(
    ("default", "released", "site", "answer"),
    [
        (HELD, REFUTED, REFUTED, "holds"),
        (REFUTED, HELD, None, "holds only under the released protocol"),
        (UNDECIDED, HELD, REFUTED, "holds only under the released protocol"),
        (UNDECIDED, None, HELD, "holds only with the released site"),
        (REFUTED, UNDECIDED, HELD, "holds only with the released site"),
        (REFUTED, REFUTED, HELD, "does not hold"),
        (UNDECIDED, REFUTED, HELD, "inconclusive"),
        (REFUTED, None, None, "does not hold"),
        (UNDECIDED, UNDECIDED, UNDECIDED, "inconclusive"),
        (ONE, None, None, "inconclusive"),
    ],
)
def test_the_answer_follows_from_the_default_protocol_first(
    default: Any, released: Any, site: Any, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.study.claims.CLAIMS", CLAIMS[:1])
    groups = [group(both(default))]
    groups += [group(both(released), released=True)] if released else []
    groups += [group(both(site), site="released")] if site else []
    for of in groups:
        for one in of.runs:
            one.final.data["checkpoint_sha256"] = f"{one.task}{one.seed}"
            one.final.data["gap"]["mean"]["rho"] += 0.01 * one.seed * (of.name == "site=released")
    assert verdicts(groups)[0].answer == answer
    assert verdicts([group(both(default), ranks="ordinal"), *groups[1:]]) == []


def test_what_the_site_adds_is_asked_of_the_same_weights() -> None:
    default, other = both({"reverse": 0.5, "sort": 0.4}), both({"reverse": 0.7, "sort": 0.3})
    for of in (default, other):
        for one in of:
            one.final.data["checkpoint_sha256"] = f"{one.task}{one.seed}"
    other[0].final.data["checkpoint_sha256"] = "of another model"
    for i, one in enumerate(other):
        one.final.data["gap"]["mean"]["rho"] += 0.01 * i
    last = verdicts([group(default), group(other, site="released")])[-1]
    assert last.claim.title == SITE
    assert last.answer == "holds"
    numbers = last.by_protocol["site=released"].numbers
    assert numbers["on reversal"].n == 4
    assert numbers["on reversal"].mean == pytest.approx(0.2 + 0.025)
    assert numbers["on sorting"].mean == pytest.approx(-0.1 + 0.07)
    assert numbers["added to the difference"].mean == pytest.approx(0.225 + 0.03)
    assert SITE not in [one.claim.title for one in verdicts([group(default)])]


@pytest.mark.parametrize(("sort", "answer"), [(0.1, "holds only with the released site"), (0.56, "inconclusive")])
def test_only_with_the_released_site_needs_the_site_to_add_to_the_number(
    sort: float, answer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both site groups meet the rule and the default does not, but one differs from the default by no more than noise."""
    monkeypatch.setattr("gcgap.study.claims.CLAIMS", CLAIMS[:1])
    noise = {0: 0.09, 1: -0.09, 2: 0.09, 3: -0.09, 4: 0.0}
    default, other = both({"reverse": 0.7, "sort": 0.6}), both({"reverse": 0.7, "sort": sort})
    for of, shake in ((default, noise), (other, dict.fromkeys(noise, 0.0))):
        for one in of:
            one.final.data["checkpoint_sha256"] = f"{one.task}{one.seed}"
            one.final.data["gap"]["mean"]["rho"] += shake[one.seed]
    found = verdicts([group(default), group(other, site="released")])[0]
    assert found.by_protocol["default"].holds is None
    assert found.by_protocol["site=released"].holds is True
    assert found.answer == answer
    assert "On the same weights the site adds" in found.by_protocol["site=released"].text


def test_every_test_is_corrected_for_all_of_them() -> None:
    found = verdicts([group(both({"reverse": 0.7, "sort": 0.6})), group(both({"reverse": 0.7, "sort": 0.1}), released=True)])
    pairs = [(one.p, verdict.adjusted[name]) for verdict in found for name, one in verdict.by_protocol.items()]
    known = [(p, adjusted) for p, adjusted in pairs if p is not None and adjusted is not None]
    assert len(known) == sum(p is not None for p, _ in pairs) > 8
    smallest, corrected = min(known)
    assert corrected == pytest.approx(min(1.0, smallest * len(known)))
    assert all(p <= adjusted for p, adjusted in known)


@pytest.mark.parametrize(("heroes", "holds"), [(4, None), (6, False)])
def test_layers_of_few_seeds_decide_nothing_and_chance_refutes_in_enough(heroes: int, holds: bool | None) -> None:
    """L0_H0 is the Hero of the first runs and L1_MLP the Bloat of all: Heroes lie early, where random pairing puts them late."""
    runs = [run("sort", i) for i in range(8)]
    for one in runs[heroes:]:
        for component in one.final["components"]:
            rank = one.final["components"].index(component)
            component["causal"]["mean"]["exact_match"]["value"] = 0.1 * (component["name"] != "L1_MLP") + 0.001 * rank
    found = layers(group(runs))
    assert found.holds is holds
    assert ("4 seeds determine it" in found.text) is (holds is None)


def test_what_random_pairing_gives_too_is_not_said_to_be_absent() -> None:
    refuted = {claim.refuted for claim in CLAIMS if claim.evidence in (layers, layers_of_heads)}
    assert refuted == {"not more than random pairing"} <= set(ANSWERS)
