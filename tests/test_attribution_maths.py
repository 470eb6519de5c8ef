"""First- and second-order attribution, path methods and Shapley values: against the reference, and where the answer is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import reference
import torch
from handmade import (
    CASES,
    CLOSE,
    CUBIC,
    LENGTH,
    QUADRATIC,
    WIRING,
    N,
    a_drop,
    attribution_patching,
    bent_model,
    case,
    exact,
    fisher_trace,
    gate_gradient,
    hvp,
    hvp_differences,
    joint_hvp,
    joint_hvp_differences,
    level_of,
    multi_step_hvp,
    polynomial,
    projected,
    some_batch,
    straight,
    weight_times_gradient,
)
from hypothesis import given
from hypothesis import strategies as st
from memory import peak
from torch import Tensor, nn

from gcgap.attribution.drop import Drop
from gcgap.attribution.paths import (
    RULES,
    Rule,
    completeness_residual,
    gauss_legendre,
    integrated_gradients,
    joint_integrated_gradients,
    left,
    marginals,
    midpoint,
    right,
    shapley_values,
    trapezoid,
)
from gcgap.attribution.sets import standard_error
from gcgap.importance.baselines import zero_activations
from gcgap.importance.gates import gated
from gcgap.models.transformer import Transformer
from gcgap.models.wiring import Wiring

TIGHT: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-10}


# Against the slow implementation.


@pytest.mark.parametrize(("metric", "site", "where", "positions"), CASES[:3])
def test_tangents_and_curvatures_agree_with_the_reference(metric: str, site: Any, where: Any, positions: str) -> None:
    drop, level = case(metric, site, where, positions, rows=2)
    tangent, _ = reference.derivatives(level, drop.zero_gates())
    torch.testing.assert_close(attribution_patching(drop), tangent, **CLOSE)
    torch.testing.assert_close(gate_gradient(drop), tangent.abs(), **CLOSE)
    assert (tangent < 0).any()
    for t in (0.7,):
        for found, theirs in zip(drop.path_derivatives(t, curvature=True), reference.own_path(level, N, t), strict=True):
            torch.testing.assert_close(found, theirs, **CLOSE)
    torch.testing.assert_close(hvp(drop), reference.hvp(level, N), **CLOSE)
    torch.testing.assert_close(joint_hvp(drop), reference.joint_hvp(level, N), **CLOSE)
    torch.testing.assert_close(multi_step_hvp(drop, 2), reference.multi_step_hvp(level, N, 2), **CLOSE)
    torch.testing.assert_close(multi_step_hvp(drop, 1), hvp(drop), **TIGHT)


@pytest.mark.parametrize("rule", RULES)
def test_path_methods_agree_with_the_reference(rule: str) -> None:
    drop, level = case(*CASES[1], rows=2)
    own = reference.integrated_gradients(level, N, rule, 2)
    torch.testing.assert_close(integrated_gradients(drop, RULES[rule], 2), own, **CLOSE)
    joint = reference.joint_integrated_gradients(level, N, rule, 3)
    torch.testing.assert_close(joint_integrated_gradients(drop, RULES[rule], 3), joint, **CLOSE)


def test_shapley_values_agree_with_the_reference() -> None:
    drop = a_drop(bent_model(n_layers=1, n_heads=3, d_model=12))
    level, n = level_of(drop), drop.components
    orders = [list(order) for order in itertools.permutations(range(n))]
    game = tabled(drop)
    mean = torch.stack([marginals(game, torch.tensor([order] * drop.sequences)) for order in orders]).mean(0)
    exactly = reference.shapley(level, n)
    torch.testing.assert_close(mean, exactly, **CLOSE)
    order = torch.stack([torch.tensor(orders[number]) for number in (3, 11, 17, 22)])  # another one for every sequence
    found = marginals(drop, order)
    for row, one in enumerate(order.tolist()):
        torch.testing.assert_close(found[:, row], reference.shapley(level, n, [one])[:, row], **CLOSE)
    sampled = shapley_values(game, 300, np.random.default_rng(0))
    assert (sampled - exactly).abs().max() < 0.05 * exactly.abs().max()


def test_fisher_trace_is_the_squared_gradient_of_one_sequence_at_a_time() -> None:
    model, batches = bent_model(positions="learned"), [some_batch(3), some_batch(2, index=1)]
    found = fisher_trace(model, batches)
    assert found.shape == (N, 5)
    for column, row in enumerate((0, 1, 2, 0, 1)):
        batch, one = batches[column > 2], slice(row, row + 1)
        theirs = reference.weight_gradients(model.state_dict(), batch.inputs[one], batch.targets[one], LENGTH + 1, 2, "learned")
        squares = [sum(g * g for g in theirs[part.layer, part.head][1]) for part in WIRING.components]
        torch.testing.assert_close(found[:, column], torch.tensor(squares, dtype=torch.float64), **CLOSE)


def test_weight_times_gradient_is_the_sum_over_entries_of_every_batch() -> None:
    model, batches = bent_model(), [some_batch(3), some_batch(3, index=1)]
    found = weight_times_gradient(model, batches)
    assert found.shape == (N, 2)
    for column, batch in enumerate(batches):
        theirs = reference.weight_gradients(model.state_dict(), batch.inputs, batch.targets, LENGTH + 1, 2, "none")
        pairs = [zip(*theirs[part.layer, part.head], strict=True) for part in WIRING.components]
        sums = [sum(abs(w * g) for w, g in pair) for pair in pairs]
        torch.testing.assert_close(found[:, column], torch.tensor(sums, dtype=torch.float64), **CLOSE)


@pytest.mark.parametrize("measure", [fisher_trace, weight_times_gradient])
def test_weight_measures_leave_the_model_as_it_was(measure: Callable[..., Tensor], unchanged: Any) -> None:
    model, batches = bent_model(), [some_batch(2)]
    free = measure(model, batches)
    with unchanged(model):
        torch.testing.assert_close(measure(model, batches), free, **TIGHT)
    with unchanged(model), pytest.raises(IndexError):
        measure(model, [batches[0]._replace(inputs=batches[0].inputs + 1000)])


def test_differences_of_gradients_approach_the_double_backward_quadratically() -> None:
    drop = a_drop()
    pairs: list[tuple[Callable[[float], Tensor], Tensor]] = [
        (lambda h: hvp_differences(drop, h), hvp(drop)),
        (lambda h: joint_hvp_differences(drop, h), joint_hvp(drop)),
    ]
    for by_differences, truth in pairs:
        coarse, fine = ((by_differences(h) - truth).norm() for h in (0.02, 0.01))
        assert fine < 1e-3 * truth.norm()
        assert 3.9 < coarse / fine < 4.1


# Where the answer is known.


def test_a_linear_network_makes_tangent_integral_and_exact_effect_one() -> None:
    drop = a_drop(straight(), metric=projected)
    truth = exact(drop)
    assert truth.abs().mean(-1).min() > 1e-3
    slope, curvature = drop.path_derivatives(0.4, curvature=True)
    assert curvature.abs().max() < 1e-13
    for found in (attribution_patching(drop), slope, hvp(drop), multi_step_hvp(drop, 2), integrated_gradients(drop, right, 1)):
        torch.testing.assert_close(found, truth, **TIGHT)
    # A gate of layer 0 and one of layer 1 stand in a row, so their product is there, however straight the network is.
    g, mixed = drop.hessian_product(drop.zero_gates(), drop.zero_gates() + 1)
    assert mixed.abs().max() > 1e-2
    torch.testing.assert_close(g, truth, **TIGHT)
    total = (g + mixed / 2).sum(0)  # of three factors at most: head, then MLP of layer 0, then head, then MLP of layer 1
    assert not torch.allclose(total, drop.value(drop.zero_gates() + 1), atol=1e-3)


def test_with_a_quadratic_metric_second_order_is_exact_along_every_own_path() -> None:
    drop = a_drop(straight(), metric=QUADRATIC)
    truth = exact(drop)
    assert not torch.allclose(attribution_patching(drop), truth, atol=1e-2)
    for found in (hvp(drop), multi_step_hvp(drop, 3), integrated_gradients(drop, midpoint, 1), hvp_differences(drop)):
        torch.testing.assert_close(found, truth, **TIGHT)


def test_with_a_quadratic_metric_of_parallel_components_the_joint_hvp_is_the_shapley_value() -> None:
    model = straight(n_heads=4, parallel=True)
    zero = zero_activations(model, Wiring(1, 4))
    drop = a_drop(model, rows=2, metric=QUADRATIC, replacement=lambda rows: zero)
    level, n = drop.level, drop.components
    found, together = joint_hvp(drop), drop.value(drop.zero_gates() + 1)
    truth = reference.shapley(level, n)
    torch.testing.assert_close(found, truth, **TIGHT)
    torch.testing.assert_close(found.sum(0), together, **TIGHT)
    torch.testing.assert_close(joint_hvp_differences(drop), truth, **TIGHT)
    torch.testing.assert_close(joint_integrated_gradients(drop, midpoint, 1), truth, **TIGHT)  # Aumann-Shapley is the same here
    torch.testing.assert_close(shapley_values(drop, 1, np.random.default_rng(0)), truth, **TIGHT)
    singles = exact(drop)
    assert not torch.allclose(singles, truth, atol=1e-2)
    one_way = shapley_values(drop, 1, np.random.default_rng(0), antithetic=False)
    assert not torch.allclose(one_way, truth, atol=1e-3)


def test_with_a_cubic_metric_midpoints_err_by_a_quarter_of_multi_step_hvp_and_trapezoids_by_minus_half_of_it() -> None:
    drop = a_drop(straight(n_layers=1), metric=CUBIC)
    truth = exact(drop)
    for steps in (1, 3):
        expansion = truth - multi_step_hvp(drop, steps)
        assert expansion.abs().max() > 1e-6
        torch.testing.assert_close(truth - integrated_gradients(drop, midpoint, steps), expansion / 4, **TIGHT)
        torch.testing.assert_close(truth - integrated_gradients(drop, trapezoid, steps), -expansion / 2, **TIGHT)
    torch.testing.assert_close(integrated_gradients(drop, gauss_legendre, 2), truth, **TIGHT)


def test_the_size_of_the_error_is_the_stated_one() -> None:
    drop = a_drop(straight(n_layers=1), metric=CUBIC)
    (_, before), (_, after) = drop.path_derivatives(0.0, curvature=True), drop.path_derivatives(1.0, curvature=True)
    third, truth = after - before, exact(drop)  # F''' is constant
    torch.testing.assert_close(truth - integrated_gradients(drop, midpoint, 4), third / (24 * 4**2), **TIGHT)
    torch.testing.assert_close(truth - multi_step_hvp(drop, 4), third / (6 * 4**2), **TIGHT)
    torch.testing.assert_close(truth - integrated_gradients(drop, trapezoid, 4), -third / (12 * 4**2), **TIGHT)
    drop = a_drop(straight(n_layers=1), metric=QUADRATIC)
    second, truth = drop.path_derivatives(0.0, curvature=True)[1], exact(drop)
    torch.testing.assert_close(truth - integrated_gradients(drop, left, 4), second / (2 * 4), **TIGHT)
    torch.testing.assert_close(truth - integrated_gradients(drop, right, 4), -second / (2 * 4), **TIGHT)


def errors(drop: Drop, method: Callable[[Drop, int], Tensor], steps: int) -> Tensor:
    return exact(drop) - method(drop, steps)


ORDERS: dict[str, tuple[Callable[[Drop, int], Tensor], float, float]] = {
    "midpoint": (lambda drop, k: integrated_gradients(drop, midpoint, k), 4, 0.03),
    "trapezoid": (lambda drop, k: integrated_gradients(drop, trapezoid, k), 4, 0.03),
    "left": (lambda drop, k: integrated_gradients(drop, left, k), 2, 0.05),
    "right": (lambda drop, k: integrated_gradients(drop, right, k), 2, 0.05),
    "multi-step HVP": (multi_step_hvp, 4, 0.12),  # its next term is of third order
}


@pytest.mark.parametrize("name", ORDERS)
def test_half_the_step_divides_the_error_as_the_order_says(name: str) -> None:
    drop = a_drop(bent_model(n_layers=1), rows=2)
    method, factor, tolerance = ORDERS[name]
    coarse, fine = (errors(drop, method, steps).norm() for steps in (8, 16))
    assert coarse / fine == pytest.approx(factor, rel=tolerance)
    assert fine > 1e-6  # far above the rounding


def test_trapezoids_err_twice_as_much_as_midpoints_and_to_the_other_side() -> None:
    drop = a_drop(bent_model(n_layers=1), rows=2)
    middle, ends = (
        errors(drop, lambda drop, k, rule=rule: integrated_gradients(drop, rule, k), 16) for rule in (midpoint, trapezoid)
    )
    torch.testing.assert_close(ends, -2 * middle, atol=float(middle.abs().max()) / 50, rtol=0)
    assert middle.abs().max() > 1e-5


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_gauss_legendre_is_exact_for_polynomials_up_to_its_degree(steps: int) -> None:
    within, beyond = [0.0] * (2 * steps) + [0.3], [0.0] * (2 * steps + 1) + [0.3]
    drop = a_drop(straight(n_layers=1), rows=2, metric=polynomial(*within))
    truth = exact(drop)
    torch.testing.assert_close(integrated_gradients(drop, gauss_legendre, steps), truth, atol=1e-10, rtol=1e-9)
    drop = a_drop(straight(n_layers=1), rows=2, metric=polynomial(*beyond))
    assert (integrated_gradients(drop, gauss_legendre, steps) - exact(drop)).abs().max() > 1e-7


def test_gauss_legendre_reaches_the_exact_effects_of_a_bent_network() -> None:
    drop = a_drop()
    assert errors(drop, lambda drop, k: integrated_gradients(drop, gauss_legendre, k), 10).abs().max() < 1e-7


def test_the_joint_path_is_complete() -> None:
    drop = a_drop()
    joint = joint_integrated_gradients(drop, gauss_legendre, 12)
    torch.testing.assert_close(joint.sum(0), drop.value(drop.zero_gates() + 1), atol=1e-6, rtol=0)
    coarse, fine = (
        (joint_integrated_gradients(drop, midpoint, k).sum(0) - drop.value(drop.zero_gates() + 1)).norm() for k in (8, 16)
    )
    assert coarse / fine == pytest.approx(4, rel=0.15)
    own = integrated_gradients(drop, gauss_legendre, 4)
    assert (own.sum(0) - drop.value(drop.zero_gates() + 1)).abs().max() > 1e-2  # the own paths are not


def test_the_completeness_residual_is_what_the_scores_miss_of_the_joint_effect() -> None:
    drop, level = case(*CASES[2])
    scores = joint_integrated_gradients(drop, left, 2)
    together = reference.drop_of(level, N, range(N))
    missed = sum(float(scores[i, s]) for i in range(N) for s in range(drop.sequences)) - float(together.sum())
    assert completeness_residual(drop, scores) == pytest.approx(abs(missed) / drop.sequences, rel=1e-9)
    assert completeness_residual(drop, scores) > 1e-3


# Rules.


@given(steps=st.integers(1, 30))
def test_rules_have_nodes_on_the_path_in_order_and_weights_that_sum_to_one(steps: int) -> None:
    for name, rule in RULES.items():
        nodes, weights = rule(steps)
        assert len(nodes) == len(weights) == steps + (name == "trapezoid")
        assert all(0 <= node <= 1 for node in nodes)
        assert nodes == sorted(nodes)
        assert all(weight > 0 for weight in weights)
        assert sum(weights) == pytest.approx(1, abs=1e-12)


@given(steps=st.integers(1, 30), power=st.integers(0, 12))
def test_rules_integrate_powers_as_exactly_as_their_degree_and_the_reference_say(steps: int, power: int) -> None:
    degrees = {"midpoint": 1, "trapezoid": 1, "left": 0, "right": 0, "gauss_legendre": 2 * steps - 1}
    for name, rule in RULES.items():
        found = sum(weight * node**power for node, weight in zip(*rule(steps), strict=True))
        assert found == pytest.approx(sum(w * node**power for node, w in reference.pieces(name, steps)), abs=1e-12)
        if power <= degrees[name]:
            assert found == pytest.approx(1 / (power + 1), abs=1e-12)


def test_left_and_right_rules_touch_one_end_each_and_trapezoids_both() -> None:
    ends = {name: (0.0 in rule(4)[0], 1.0 in rule(4)[0]) for name, rule in RULES.items()}
    assert ends == {
        "left": (True, False),
        "right": (False, True),
        "trapezoid": (True, True),
        "midpoint": (False, False),
        "gauss_legendre": (False, False),
    }


# Shapley values.


def test_every_order_shares_out_exactly_the_joint_effect() -> None:
    drop = a_drop()
    together = drop.value(drop.zero_gates() + 1)
    for antithetic in (True, False):
        found = shapley_values(drop, 1, np.random.default_rng(1), antithetic)
        torch.testing.assert_close(found.sum(0), together, **TIGHT)
    assert together.abs().min() > 1e-3


def twins_and_a_dummy() -> Transformer:
    """Heads 0 and 1 are one and the same; head 2 writes nothing."""
    model = bent_model(n_layers=1, n_heads=4)
    attention = model.blocks[0].attention
    with torch.no_grad():
        for linear in (attention.W_Q, attention.W_K, attention.W_V):
            linear.weight[4:8] = linear.weight[:4]
            linear.bias[4:8] = linear.bias[:4]
        attention.W_O.weight[:, 4:8] = attention.W_O.weight[:, :4]
        attention.W_O.weight[:, 8:12] = 0
    return model


def test_twins_share_evenly_and_a_dummy_gets_nothing() -> None:
    drop = a_drop(twins_and_a_dummy(), rows=2)
    found = shapley_values(drop, 1, np.random.default_rng(2))
    torch.testing.assert_close(found[2], torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    orders = list(itertools.permutations(range(5)))
    game = tabled(drop)
    mean = torch.stack([marginals(game, torch.tensor([order] * 2)) for order in orders]).mean(0)
    torch.testing.assert_close(mean[0], mean[1], **TIGHT)
    assert mean[[0, 3]].abs().min() > 1e-3
    order = torch.tensor([[0, 1, 2, 3, 4]] * 2)
    torch.testing.assert_close(marginals(drop, order)[:2], marginals(drop, order[:, [1, 0, 2, 3, 4]])[:2].flip(0), **TIGHT)


def test_a_gain_turns_every_sign() -> None:
    drop = a_drop()
    turned = replace(drop, sign=-1)
    for measure in (
        lambda one: marginals(one, torch.arange(N).repeat(one.sequences, 1)),
        joint_hvp,
        lambda one: multi_step_hvp(one, 2),
        lambda one: integrated_gradients(one, midpoint, 2),
    ):
        assert torch.equal(measure(turned), -measure(drop))


def test_equal_generators_give_equal_orders_and_every_sequence_its_own() -> None:
    game = Tabled(*vars_of(a_drop()), table=torch.arange(2**N, dtype=torch.float64).sqrt().repeat(4, 1))
    first, second = (shapley_values(game, 1, np.random.default_rng(8)) for _ in range(2))
    assert torch.equal(first, second)
    assert len({tuple(column) for column in first.T.tolist()}) == 4  # the game is the same, the orders are not


@dataclass(frozen=True)
class Tabled(Drop):
    """A game whose M(1_S) stands in a table, a row per sequence; the bits of the column's number are the members of S."""

    table: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def sequences(self) -> int:
        return len(self.table)

    def level(self, xi: Tensor) -> Tensor:
        column = (xi.expand(self.sequences, -1) * 2 ** torch.arange(self.components)).sum(-1).long()
        return self.table.gather(1, column[:, None])[:, 0]


def vars_of(drop: Drop) -> tuple[Any, ...]:
    return drop.model, drop.wiring, drop.batch, drop.replacement


def tabled(drop: Drop) -> Tabled:
    """The same game, played out once and for all."""
    n = drop.components
    sets = [torch.tensor([float(number >> i & 1) for i in range(n)], dtype=torch.float64) for number in range(2**n)]
    return Tabled(*vars_of(drop), table=torch.stack([drop.level(xi) for xi in sets], dim=-1))


def repeated(game: Tabled, draws: int, rows: int, antithetic: bool = True) -> tuple[Tensor, Tensor]:
    """Means over sequences and their standard errors of many estimates, each from its own orders and its own sequences."""
    random = np.random.default_rng(4)
    means, standard = [], []
    for _ in range(draws):
        chosen = torch.from_numpy(random.integers(0, len(game.table), rows))
        scores = shapley_values(replace(game, table=game.table[chosen]), 1, random, antithetic)
        means.append(scores.mean(-1))
        standard.append(standard_error(scores))
    return torch.stack(means), torch.stack(standard)


def truth_of(game: Tabled) -> Tensor:
    return reference.shapley(game.level, game.components).mean(-1)


def test_the_standard_error_covers_the_truth_as_often_as_it_says() -> None:
    game = tabled(a_drop(bent_model(n_layers=1, n_heads=3, d_model=12), rows=40))
    means, standard = repeated(game, draws=300, rows=30)
    covered = ((means - truth_of(game)).abs() < 1.96 * standard).double().mean(0)
    assert covered.min() > 0.9
    assert covered.max() < 0.99
    torch.testing.assert_close(means.std(0), standard.mean(0), atol=0, rtol=0.15)


def test_standard_errors_are_the_spread_over_sequences() -> None:
    scores = torch.tensor([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    expected = [(sum((x - 3) ** 2 for x in (1, 2, 3, 6)) / 3 / 4) ** 0.5, 0.0]
    torch.testing.assert_close(standard_error(scores), torch.tensor(expected, dtype=torch.float64), **TIGHT)


def test_pairs_of_an_order_and_its_reverse_spread_less_than_independent_orders() -> None:
    """A nearly additive game: a sum, a pairwise part, and a little of the rest."""
    random, n = torch.Generator().manual_seed(0), 6
    bits = torch.tensor([[number >> i & 1 for i in range(n)] for number in range(2**n)], dtype=torch.float64)
    pair = torch.randn(n, n, generator=random, dtype=torch.float64)
    value = bits @ torch.randn(n, generator=random, dtype=torch.float64) + 0.2 * (bits @ pair * bits).sum(-1)
    quadratic = Tabled(*vars_of(a_drop()), table=value.repeat(4, 1))
    nearly = replace(quadratic, table=quadratic.table + 0.01 * torch.randn(2**n, generator=random, dtype=torch.float64))
    paired, apart = (repeated(nearly, 60, 8, antithetic)[0].var(0) for antithetic in (True, False))
    assert (paired < apart / 20).all()
    truth = truth_of(quadratic)
    for means in repeated(quadratic, 3, 4)[0]:
        torch.testing.assert_close(means, truth, **TIGHT)


# Memory.


def all_at_once(drop: Drop, rule: Rule, steps: int) -> Tensor:
    """Integrated gradients along the joint path as they should not be made: one graph over all nodes."""
    offset = torch.zeros(drop.sequences, drop.components, dtype=torch.float64, requires_grad=True)
    rows, total = slice(None), torch.zeros((), dtype=torch.float64)
    for node, weight in zip(*rule(steps), strict=True):
        with gated(drop.model, drop.wiring, offset + node, drop.replacement(rows)):
            total = total - weight * drop.metric(drop.model(drop.inputs(rows), drop.last), *drop.answers(rows)).sum()
    return torch.autograd.grad(total, offset)[0].T


PATHS: dict[str, Callable[[Drop, int], Tensor]] = {
    "integrated gradients": lambda drop, steps: integrated_gradients(drop, midpoint, steps),
    "joint integrated gradients": lambda drop, steps: joint_integrated_gradients(drop, midpoint, steps),
    "multi-step HVP": multi_step_hvp,
}


def for_memory() -> Drop:
    model = bent_model()
    zero = zero_activations(model, WIRING)
    return a_drop(model, replacement=lambda rows: zero)


@pytest.mark.parametrize("name", PATHS)
def test_the_memory_of_a_path_method_does_not_grow_with_its_steps(name: str) -> None:
    drop = for_memory()
    PATHS[name](drop, 1)
    short, long = (peak(lambda steps=steps: PATHS[name](drop, steps)) for steps in (2, 16))
    assert short > 10_000
    assert long == pytest.approx(short, rel=0.05)


def test_the_memory_of_one_graph_over_all_steps_does_grow() -> None:
    drop = for_memory()
    joint = joint_integrated_gradients(drop, midpoint, 4)
    torch.testing.assert_close(all_at_once(drop, midpoint, 4), joint, **TIGHT)
    short, long = (peak(lambda steps=steps: all_at_once(drop, midpoint, steps)) for steps in (2, 16))
    assert long > 5 * short


# What is left behind.

MEASURES: dict[str, Callable[[Drop], Any]] = {
    "attribution patching": attribution_patching,
    "joint HVP by differences": joint_hvp_differences,
    "multi-step HVP": lambda drop: multi_step_hvp(drop, 2),
    "integrated gradients": lambda drop: integrated_gradients(drop, gauss_legendre, 2),
    "Shapley values": lambda drop: shapley_values(drop, 1, np.random.default_rng(0)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_measures_leave_the_model_as_it_was(name: str, unchanged: Callable[[nn.Module], Any]) -> None:
    drop = a_drop()
    with unchanged(drop.model):
        MEASURES[name](drop)
