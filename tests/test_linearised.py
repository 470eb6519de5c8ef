from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from handmade import (
    CASES,
    CLOSE,
    LENGTH,
    PARTS,
    POSITIONS,
    QUADRATIC,
    ROWS,
    THEIRS,
    WIRING,
    N,
    a_drop,
    attribution_patching,
    bent_model,
    case,
    exact,
    level_of,
    other_inputs,
    projected,
    some_batch,
    straight,
)
from torch import Tensor, nn

from gcgap.attribution import drop as drop_module
from gcgap.attribution.drop import Drop
from gcgap.attribution.sets import single_drops
from gcgap.attribution.trust import frozen_effects, linear_effects, local_effects
from gcgap.importance.baselines import activations_on, zero_activations
from gcgap.importance.protocol import Metric, Site
from gcgap.importance.scores import DIFFERENTIABLE
from gcgap.models.transformer import Transformer

TIGHT: dict[str, Any] = {"atol": 1e-10, "rtol": 1e-9}
HEADS = [i for i, (_, head) in enumerate(PARTS) if head is not None]
MLPS = [i for i, (_, head) in enumerate(PARTS) if head is None]
EFFECTS: dict[str, Callable[[Drop], Tensor]] = {
    "linear": linear_effects,
    "frozen": frozen_effects,
    "local": lambda drop: local_effects(drop, other_inputs(drop.sequences), "log_prob"),
}


@pytest.mark.parametrize(("metric", "site", "where", "positions"), CASES)
def test_linear_effects_move_the_logits_along_their_jacobian(metric: str, site: Any, where: Any, positions: str) -> None:
    drop, level = case(metric, site, where, positions)
    logits_of, closed, targets = level_of(drop, "logits", positions), drop.zero_gates(), drop.batch.targets[:, -LENGTH - 1 :]
    found = linear_effects(drop)
    for e, own in zip(torch.eye(N, dtype=torch.float64), found, strict=True):
        logits, change = torch.autograd.functional.jvp(logits_of, closed, e)
        assert isinstance(logits, Tensor)
        assert isinstance(change, Tensor)
        torch.testing.assert_close(own, level(closed) - THEIRS[metric](logits + change, targets), **CLOSE)
    assert (found - exact(drop)).abs().max() > 1e-3


@pytest.mark.parametrize("metric", ["log_prob", "logit_difference"])
@pytest.mark.parametrize("where", [None, [1, 4, 6]])
def test_frozen_effects_keep_patterns_scales_and_slopes_as_given_numbers(where: Any, metric: str) -> None:
    drop, _ = case(metric, Site.COMPONENT, where, "none")
    state, targets = reference.float64(drop.model.state_dict()), drop.batch.targets[:, -LENGTH - 1 :]
    other = reference.run(state, other_inputs(), 2, "none").parts
    acts = None if drop.where is None else drop.where.tolist()
    clean = THEIRS[metric](reference.run(state, drop.batch.inputs, 2, "none").logits[:, -LENGTH - 1 :], targets)
    found, tangent = frozen_effects(drop), attribution_patching(drop)
    for i, part in enumerate(PARTS):
        logits = reference.frozen_logits(state, drop.batch.inputs, 2, part, other[part], acts)[:, -LENGTH - 1 :]
        torch.testing.assert_close(found[i], clean - THEIRS[metric](logits, targets), **CLOSE)
    for apart in (exact(drop), linear_effects(drop), tangent):
        assert (found - apart).abs().max() > 1e-3


def test_frozen_effects_with_a_replacement_shared_by_all_rows_and_positions() -> None:
    model = bent_model()
    zero = zero_activations(model, WIRING)
    drop = a_drop(model, replacement=lambda rows: zero)
    state, targets = reference.float64(model.state_dict()), drop.batch.targets[:, -LENGTH - 1 :]
    clean = reference.log_prob(reference.run(state, drop.batch.inputs, 2, "none").logits[:, -LENGTH - 1 :], targets)
    for part, found in zip(PARTS, frozen_effects(drop), strict=True):
        nothing = torch.zeros(1, 1, 1, dtype=torch.float64)
        logits = reference.frozen_logits(state, drop.batch.inputs, 2, part, nothing)[:, -LENGTH - 1 :]
        torch.testing.assert_close(found, clean - reference.log_prob(logits, targets), **CLOSE)


@pytest.mark.parametrize("metric", ["log_prob", "logit_difference"])
def test_in_a_linear_network_linear_frozen_and_exact_effects_are_one(metric: str) -> None:
    drop = a_drop(straight(), metric=DIFFERENTIABLE[Metric(metric)])
    truth = exact(drop)
    assert truth.abs().mean(-1).min() > 1e-3
    torch.testing.assert_close(linear_effects(drop), truth, **TIGHT)
    torch.testing.assert_close(frozen_effects(drop), truth, **TIGHT)
    if metric == "log_prob":  # then all of the tangent's error is the metric's
        assert (attribution_patching(drop) - truth).abs().max() > 1e-3


def test_with_a_linear_metric_the_tangent_errs_by_the_network_alone() -> None:
    drop = a_drop(metric=projected)
    linear, tangent = linear_effects(drop), attribution_patching(drop)
    torch.testing.assert_close(linear, tangent, **TIGHT)
    assert (linear - exact(drop)).abs().max() > 1e-3


def test_the_parts_of_the_network_and_of_the_metric_add_up_to_the_error() -> None:
    """A quadratic metric of a linear network: the metric's part is half the curvature, the network's is nothing."""
    drop = a_drop(straight(), metric=QUADRATIC)
    tangent, linear, truth = attribution_patching(drop), linear_effects(drop), exact(drop)
    _, curvature = drop.path_derivatives(0.0, curvature=True)
    torch.testing.assert_close(linear - tangent, curvature / 2, **TIGHT)
    torch.testing.assert_close((truth - linear) + (linear - tangent), truth - tangent, **TIGHT)
    torch.testing.assert_close(truth, linear, **TIGHT)
    assert curvature.abs().max() > 1e-3


def test_above_the_last_layer_only_the_last_norm_can_bend_what_the_last_mlp_writes() -> None:
    model = bent_model()
    drop = a_drop(model)
    bent = exact(drop)
    assert (frozen_effects(drop)[-1] - bent[-1]).abs().max() > 1e-3
    model.norm.eps = 1e16
    with torch.no_grad():
        model.norm.weight.fill_(1e8)
    drop = a_drop(model)
    truth = exact(drop)
    torch.testing.assert_close(linear_effects(drop)[-1], truth[-1], **TIGHT)
    torch.testing.assert_close(frozen_effects(drop)[-1], truth[-1], **TIGHT)
    assert (linear_effects(drop)[:-1] - truth[:-1]).abs().amax(-1).min() > 1e-4  # the heads below it still pass through it


def test_frozen_effects_refuse_the_released_site() -> None:
    with pytest.raises(ValueError, match="`frozen_effects` needs the site `component`; got `released`"):
        frozen_effects(a_drop(site=Site.RELEASED))


def local_by_reference(drop: Drop, inputs: Tensor) -> Tensor:
    """D(e_i) where every part answers by its tangent, (component, sequence)."""
    state = reference.float64(drop.model.state_dict())
    answers = {part: reference.tangent_answer(state, part, drop.batch.inputs, inputs, 2) for part in PARTS}
    where = None if drop.where is None else drop.where.tolist()
    level = reference.level(
        state, drop.batch.inputs, drop.batch.targets, LENGTH + 1, 2, "none", PARTS, answers, site=drop.site, where=where
    )
    return torch.stack([drop.sign * reference.drop_of(level, N, [i]) for i in range(N)])


@pytest.mark.parametrize("site", list(Site))
@pytest.mark.parametrize("where", [None, [1, 4, 6]])
def test_local_effects_let_in_the_tangent_of_each_component(where: Any, site: Site) -> None:
    chosen = None if where is None else torch.isin(torch.arange(POSITIONS), torch.tensor(where))
    drop = a_drop(site=site, where=chosen)
    found = local_effects(drop, other_inputs(), "log_prob")
    torch.testing.assert_close(found, local_by_reference(drop, other_inputs()), **CLOSE)
    assert (found - exact(drop)).abs().amax(-1).min() > 1e-4


def even_attention() -> Transformer:
    """Heads are linear functions of what they read; MLPs, and what is downstream of both, are not."""
    model = bent_model()
    with torch.no_grad():
        for block in model.blocks:
            block.norm_attention.eps = 1e16
            block.norm_attention.weight.fill_(1e8)
            block.attention.W_Q.weight.zero_()
            block.attention.W_Q.bias.zero_()
    return model


def test_of_a_component_that_is_linear_itself_the_local_effect_is_exact_whatever_is_downstream() -> None:
    drop = a_drop(even_attention())
    truth, found = exact(drop), local_effects(drop, other_inputs(), "log_prob")
    torch.testing.assert_close(found[HEADS], truth[HEADS], **TIGHT)
    assert (found[MLPS] - truth[MLPS]).abs().max() > 1e-3
    assert (frozen_effects(drop)[HEADS] - truth[HEADS]).abs().max() > 1e-3
    drop = a_drop(straight())
    torch.testing.assert_close(local_effects(drop, other_inputs(), "log_prob"), exact(drop), **TIGHT)


def test_local_effects_of_the_clean_inputs_are_nothing_and_do_not_ask_for_the_replacement() -> None:
    drop = a_drop(replacement=lambda rows: pytest.fail("asked for"))
    found = local_effects(drop, drop.batch.inputs, "log_prob")
    torch.testing.assert_close(found, torch.zeros(N, ROWS, dtype=torch.float64), **CLOSE)


def test_local_effects_are_those_of_the_named_metric() -> None:
    drop = a_drop()
    first, second = (local_effects(drop, other_inputs(), metric) for metric in ("log_prob", "logit_difference"))
    assert (first - second).abs().max() > 1e-3
    found = local_effects(replace(drop, metric=DIFFERENTIABLE[Metric.LOGIT_DIFFERENCE]), other_inputs(), "logit_difference")
    assert torch.equal(found, second)


@pytest.mark.parametrize("name", EFFECTS)
def test_the_sign_turns_every_effect(name: str) -> None:
    drop = a_drop()
    torch.testing.assert_close(EFFECTS[name](replace(drop, sign=-1)), -EFFECTS[name](drop), atol=0, rtol=0)


@pytest.mark.parametrize("name", EFFECTS)
def test_pieces_of_a_batch_give_what_the_whole_gives(name: str) -> None:
    rows = drop_module.ROWS + 2
    model, batch, inputs = bent_model(n_layers=1), some_batch(rows), other_inputs(rows)
    drop = a_drop(model, rows)
    found = EFFECTS[name](drop)
    assert found.shape == (3, rows)
    last = slice(rows - 3, rows)
    few = batch._replace(inputs=batch.inputs[last], targets=batch.targets[last], scored=batch.scored[last])
    alone = a_drop(model, batch=few, replacement=activations_on(model, drop.wiring, inputs[last], LENGTH + 1))
    theirs = local_effects(alone, inputs[last], "log_prob") if name == "local" else EFFECTS[name](alone)
    torch.testing.assert_close(found[:, last], theirs, **CLOSE)


@pytest.mark.parametrize("name", EFFECTS)
def test_the_model_is_left_as_it_was_after_success_and_after_an_exception(
    name: str, unchanged: Callable[[nn.Module], Any]
) -> None:
    model = bent_model()
    with unchanged(model):
        EFFECTS[name](a_drop(model))
    broken = a_drop(model, batch=some_batch()._replace(inputs=some_batch().inputs + 1000))
    with unchanged(model), pytest.raises(IndexError):
        EFFECTS[name](broken)


@pytest.mark.parametrize("name", ["linear", "frozen"])
def test_an_effect_that_is_not_finite_is_an_error_that_names_its_component(name: str) -> None:
    def late(logits: Tensor, targets: Tensor) -> Tensor:
        calls.append(projected(logits, targets))
        return calls[-1] * (torch.nan if len(calls) == 5 else 1)  # the untouched model, then L0_H0, L0_H1, L0_MLP, L1_H0

    calls: list[Tensor] = []
    with pytest.raises(FloatingPointError, match="The score of L1_H0 is not finite"):
        EFFECTS[name](a_drop(metric=late))


def test_exact_effects_are_the_single_drops() -> None:
    drop = a_drop()
    torch.testing.assert_close(exact(drop), single_drops(drop).log_prob, **CLOSE)
