"""Screen-Flag-Fix: why components are flagged, what a budget buys, and what a draw without a large effect says of the rest."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
import torch
from handmade import CLOSE, WIRING, N, a_drop, bent_model, exact, level_of, straight
from hypothesis import given
from hypothesis import strategies as st
from reference import drop_of, own_path

from gcgap.attribution.drop import Drop
from gcgap.attribution.probes import curvatures
from gcgap.attribution.workflow import VERIFIED_SHARE, Workflow, exact_for_largest, flagged, screen_flag_fix, upper_limit
from gcgap.importance.protocol import Attribution

PROBES = 4

SUSPECTS = {"large tangent", "large HVP", "large correction", "unreliable", "zero gradient"}


def why(tangent: float, curvature: float, tau: float = 1.0) -> set[str]:
    return set(flagged(np.array([tangent]), np.array([curvature]), tau).get(0, ()))


@pytest.mark.parametrize(
    ("numbers", "reasons"),
    [
        ((0.5, 0.2), set()),
        ((-0.5, 0.2), set()),
        ((1.0, 0.0), {"large tangent", "large HVP"}),  # as large as tau counts
        ((-1.5, 1.2), {"large tangent"}),  # the HVP is -0.9
        ((0.8, 0.6), {"large HVP"}),  # 1.1
        ((0.4, 1.5), {"large HVP", "unreliable"}),  # 1.15, and the correction exceeds the tangent
        ((-0.4, 1.5), {"unreliable"}),  # the correction turns the sign, and either sum of the two is at most 1.15
        ((0.75, 1.5), {"large HVP"}),  # a correction as large as the tangent does not exceed it
        ((0.2, 0.5), set()),  # it exceeds a tangent that is too small to be made large
        ((0.0, 0.0), {"zero gradient"}),
        ((0.0, 0.1), {"zero gradient"}),
        ((-0.5, 2.0), {"large correction", "unreliable"}),  # the tangent may be wrong by tau
        ((-0.5, 1.9), {"unreliable"}),
        ((-2.0, -5.0), {"large tangent", "large HVP", "large correction", "unreliable"}),
    ],
)
def test_each_reason_by_hand(numbers: tuple[float, float], reasons: set[str]) -> None:
    assert why(*numbers) == reasons


def test_only_components_with_a_reason_are_named() -> None:
    found = flagged(np.array([0.5, 2.0, 0.0, 0.5]), np.array([0.0, 0.0, 0.0, -3.5]), 1.0)
    reasons = ("large HVP", "large correction", "unreliable")
    assert found == {1: ("large tangent", "large HVP"), 2: ("zero gradient",), 3: reasons}


@given(st.floats(-2, 2), st.floats(-4, 4), st.floats(0.01, 2))
def test_a_flag_does_not_depend_on_units_or_sign(tangent: float, curvature: float, tau: float) -> None:
    one = why(tangent, curvature, tau)
    assert one <= SUSPECTS
    assert why(-4 * tangent, -4 * curvature, 4 * tau) == one  # a power of two, which rounds nothing


def limit_by_counting(above: int, checked: int, population: int) -> Fraction:
    """Draw every subset of a population with K large ones, for every K: the largest K under which so few are not improbable."""
    draws = list(combinations(range(population), checked))
    plausible = [
        large for large in range(population + 1) if 20 * sum(sum(i < large for i in draw) <= above for draw in draws) > len(draws)
    ]
    possible = [large for large in plausible if above <= large <= population - (checked - above)]
    return Fraction(max(possible), population)


@pytest.mark.parametrize("population", [1, 2, 5, 8])
def test_the_upper_limit_is_that_of_counting_every_draw(population: int) -> None:
    for checked in range(1, population + 1):
        for above in range(checked + 1):
            assert upper_limit(above, checked, population) == pytest.approx(float(limit_by_counting(above, checked, population)))


@pytest.mark.parametrize("checked", [10, 30, 100])
def test_in_a_large_population_the_limit_is_the_rule_of_three(checked: int) -> None:
    limit = upper_limit(0, checked, 3000)
    assert limit == pytest.approx(1 - 0.05 ** (1 / checked), rel=0.06, abs=2e-3)
    assert 0.85 * 3 / checked <= limit <= 3 / checked


@given(st.integers(1, 12), st.data())
def test_a_limit_lies_between_what_was_seen_and_what_is_possible(population: int, data: st.DataObject) -> None:
    checked = data.draw(st.integers(1, population))
    above = data.draw(st.integers(0, checked))
    limit = upper_limit(above, checked, population)
    assert above / population <= limit <= (population - checked + above) / population
    if checked == population:
        assert limit == above / population  # nothing is left to guess
    if above < checked:
        assert upper_limit(above + 1, checked, population) >= limit
    if checked < population:
        assert upper_limit(above, checked + 1, population) <= limit + 1e-12
    assert upper_limit(above, checked, population, confidence=0.99) >= limit


def test_one_that_was_checked_says_little() -> None:
    assert upper_limit(0, 1, 10) == 0.9
    assert upper_limit(1, 1, 10) == 1.0


@pytest.mark.parametrize(("population", "checked"), [(20, 6), (16, 3), (40, 12)])
def test_the_limit_covers_the_true_share_in_at_least_95_percent_of_draws(population: int, checked: int) -> None:
    worst = 1.0
    for large in range(population + 1):
        few, most = max(0, checked - (population - large)), min(large, checked)
        ways = {seen: comb(large, seen) * comb(population - large, checked - seen) for seen in range(few, most + 1)}
        covered = sum(number for seen, number in ways.items() if upper_limit(seen, checked, population) >= large / population)
        worst = min(worst, covered / comb(population, checked))
    assert 0.95 <= worst < 1  # kept, and not by promising nothing


def test_the_limit_covers_in_simulated_draws() -> None:
    rng, truly = np.random.default_rng(4), np.arange(20) < 7
    seen = [int(truly[rng.permutation(20)[:6]].sum()) for _ in range(2000)]
    limits = {above: upper_limit(above, 6, 20) for above in set(seen)}
    assert np.mean([limits[above] >= 7 / 20 for above in seen]) >= 0.95


def drop_with_quiet_parts(**fields: Any) -> Drop:
    """Components whose effects differ in size by orders of magnitude, so that some are not flagged."""
    model = bent_model()
    with torch.no_grad():
        for layer, block in enumerate(model.blocks):
            block.attention.W_O.weight.mul_(0.003 if layer else 1.0)
        model.blocks[0].attention.W_O.weight[:, :8].mul_(0.002)
    return a_drop(model, **fields)


def settings(budget: int) -> Attribution:
    return Attribution(budget=budget, probes=PROBES)


@cache
def run(budget: int, seed: int = 0) -> tuple[Workflow, Drop]:
    drop = drop_with_quiet_parts()
    return screen_flag_fix(drop, settings(budget), np.random.default_rng(seed)), drop


@cache
def truth() -> torch.Tensor:
    return exact(drop_with_quiet_parts())


@cache
def screen() -> tuple[torch.Tensor, torch.Tensor]:
    """Slopes and own curvatures by the reference, (component, sequence)."""
    return own_path(level_of(drop_with_quiet_parts()), N, 0.0)


def screened() -> torch.Tensor:
    return screen()[0]


def test_flags_are_those_of_slopes_and_probed_curvatures_against_an_even_share_of_the_joint_effect() -> None:
    found, _ = run(0)
    tau = abs(drop_of(level_of(drop_with_quiet_parts()), N, range(N)).mean().item()) / N
    assert found.tau == pytest.approx(tau, rel=1e-9)
    slope, own = (of.mean(-1).tolist() for of in screen())
    drawn = curvatures(drop_with_quiet_parts(), PROBES, np.random.default_rng(0))
    assert drawn.error is not None
    for i, one in enumerate(found.screened):
        assert one["slope"] == pytest.approx(slope[i], rel=1e-9)
        assert (one["curvature"], one["error"]) == (float(drawn.own[i].mean()), float(drawn.error[i]))
        assert abs(one["curvature"] - own[i]) < 5 * one["error"] + 1e-12
        assert set(found.flags.get(i, ())) == why(one["slope"], one["curvature"], tau)
    assert 0 < len(found.flags) < N  # so that both kinds are there


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budget", range(10))
def test_a_budget_is_kept_and_what_it_bought_is_exact(budget: int, seed: int) -> None:
    found, _ = run(budget, seed)
    bought = [*found.fixed, *found.verified]
    flags, rest = set(found.flags), set(range(N)) - set(found.flags)
    assert len(bought) == len(set(bought)) == min(budget, N)
    assert set(found.fixed) | set(found.unresolved) == flags
    assert not set(found.fixed) & set(found.unresolved)
    assert set(found.verified) <= rest
    torch.testing.assert_close(found.scores[bought], truth()[bought], **CLOSE)
    others = [i for i in range(N) if i not in bought]
    torch.testing.assert_close(found.scores[others], screened()[others], **CLOSE)
    assert len(found.verified) >= min(len(rest), int(VERIFIED_SHARE * budget))  # its share is kept, however many are flagged
    if budget - len(flags) <= VERIFIED_SHARE * budget:
        assert len(found.verified) == min(len(rest), int(VERIFIED_SHARE * budget))


@pytest.mark.parametrize("budget", [2, 3, 4])
def test_verification_keeps_its_share_however_many_are_flagged(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.attribution.workflow.VERIFIED_SHARE", 0.5)
    flags = run(0)[0].flags
    assert len(flags) > budget - budget // 2  # more than are left to be fixed
    found = screen_flag_fix(drop_with_quiet_parts(), settings(budget), np.random.default_rng(0))
    assert len(found.verified) == budget // 2
    assert len(found.fixed) == budget - budget // 2
    assert found.unresolved
    assert (*found.fixed, *found.unresolved) == run(N)[0].fixed


def test_nothing_is_bought_without_a_budget() -> None:
    found, drop = run(0)
    assert (found.fixed, found.verified, found.above) == ((), (), ())
    assert set(found.unresolved) == set(found.flags)
    assert (found.limit, found.rule_of_three) == (None, None)
    assert drop.passes.forward == 3


def test_a_budget_for_all_gives_every_exact_effect() -> None:
    for budget in (N, N + 5):
        found, _ = run(budget)
        assert found.unresolved == ()
        assert sorted((*found.fixed, *found.verified)) == list(range(N))
        torch.testing.assert_close(found.scores, truth(), **CLOSE)
        large = {i for i in found.verified if abs(float(truth()[i].mean())) >= found.tau}
        assert set(found.above) == large
        assert found.limit == len(large) / len(found.verified)  # nothing is left to guess
        assert found.rule_of_three == (None if large else min(1.0, 3 / len(found.verified)))


@pytest.mark.parametrize("budget", [0, 1, 3, 6, 9])
def test_passes_are_the_screen_with_its_joint_effect_and_one_for_the_base_and_each_effect(budget: int) -> None:
    found, drop = run(budget)
    bought = len(found.fixed) + len(found.verified)
    assert drop.passes.forward == 1 + 2 + (1 + bought) * (bought > 0)
    assert (drop.passes.backward, drop.passes.double_backward) == (1, PROBES)


def test_those_whose_tangent_is_most_wrong_are_fixed_first() -> None:
    found, _ = run(N)
    size = [abs(one["curvature"] or 0) for one in found.screened]
    assert list(found.fixed) == sorted(found.flags, key=lambda i: -size[i])
    few, _ = run(2)
    assert few.fixed == found.fixed[: len(few.fixed)]
    assert (*few.fixed, *few.unresolved) == found.fixed


def test_signs_and_verification_are_drawn_from_its_generator_alone() -> None:
    assert len({run(4, seed)[0].verified for seed in range(5)}) > 1
    again = screen_flag_fix(drop_with_quiet_parts(), settings(4), np.random.default_rng(3))
    assert again.verified == run(4, 3)[0].verified
    assert torch.equal(again.scores, run(4, 3)[0].scores)


def test_what_is_missed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from gcgap.attribution import workflow

    def loud(drop: Drop, sets: list[frozenset[int]]) -> Any:
        class Found:
            log_prob = torch.full((len(sets), drop.sequences), 1e3, dtype=torch.float64)

        return Found

    monkeypatch.setattr(workflow, "set_drops", loud)
    found = screen_flag_fix(drop_with_quiet_parts(), settings(4), np.random.default_rng(0))
    assert found.verified
    assert found.above == found.verified
    assert found.rule_of_three is None
    assert found.limit == upper_limit(len(found.verified), len(found.verified), N - len(found.flags))


def test_a_network_that_is_linear_in_every_gate_is_right_without_a_budget() -> None:
    drop = a_drop(straight(parallel=True), metric=_linear)
    found = screen_flag_fix(drop, settings(0), np.random.default_rng(0))
    torch.testing.assert_close(found.scores, exact(drop), atol=1e-6, rtol=1e-6)


def _linear(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double().mean(-1)


@pytest.mark.parametrize("budget", [0, 4])
def test_what_a_record_holds_of_it_are_names(budget: int) -> None:
    found, _ = run(budget)
    names = [component.name for component in WIRING.components]
    plain = found.to_dict(names)
    assert plain["flags"] == {names[i]: list(reasons) for i, reasons in found.flags.items()}
    assert plain["screened"] == dict(zip(names, found.screened, strict=True))
    for key in ("fixed", "unresolved", "verified", "above"):
        assert plain[key] == [names[i] for i in getattr(found, key)]
    assert (plain["tau"], plain["limit"], plain["rule_of_three"]) == (found.tau, found.limit, found.rule_of_three)


@pytest.mark.parametrize("budget", [0, 2, N + 3])
def test_the_comparison_has_exact_effects_of_the_largest_tangents_and_the_same_budget(budget: int) -> None:
    drop = drop_with_quiet_parts()
    found, slopes = exact_for_largest(drop, settings(budget)), screened()
    order = np.argsort(-np.abs(slopes.mean(-1).numpy()), kind="stable")[:budget]
    for i in range(N):
        torch.testing.assert_close(found[i], (truth() if i in order else slopes)[i], **CLOSE)
    assert drop.passes.forward == 1 + (1 + len(order)) * (budget > 0)
    assert (drop.passes.backward, drop.passes.double_backward) == (1, 0)


@pytest.mark.parametrize(
    ("budget", "components", "effects"),
    [(0.2, 20, 4), (0.2, 301, 61), (0.1, 30, 3), (0, 30, 0), (0.999, 7, 7), (1, 300, 1), (7, 300, 7), (7.0, 3, 7)],
)
def test_a_budget_below_one_is_a_share_of_the_components(budget: int | float, components: int, effects: int) -> None:
    assert Attribution(budget=budget).exact_effects(components) == effects
