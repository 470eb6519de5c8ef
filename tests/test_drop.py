from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
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
    ROWS,
    WIRING,
    N,
    a_drop,
    bent_model,
    case,
    exact,
    level_of,
    other_inputs,
    some_batch,
)
from torch import Tensor, nn

from gcgap.attribution import drop as drop_module
from gcgap.attribution.drop import Drop, Passes
from gcgap.importance.baselines import activations_on, zero_activations
from gcgap.importance.gates import gated
from gcgap.importance.protocol import Site
from gcgap.importance.scores import exact_match, log_prob

Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
FAR = torch.tensor([0.3, 0.0, 1.0, 0.8, 0.25, 0.5], dtype=torch.float64)
V = torch.tensor([1.0, -2.0, 0.5, 1.5, 0.7, -0.3], dtype=torch.float64)
EYE = torch.eye(N, dtype=torch.float64)


def some_gates(rows: int = ROWS) -> Tensor:
    return torch.rand(rows, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def everything(drop: Drop, xi: Tensor) -> dict[str, Tensor]:
    """All that D can say, by name, sequences last."""
    g, hv = drop.hessian_product(xi, V)
    slope, curvature = drop.path_derivatives(0.3, curvature=True)
    found = {"level": drop.level(xi), "value": drop.value(xi), "gradient": drop.gradient(xi), "g": g, "hv": hv}
    return found | {"slope": slope, "curvature": curvature, "plain slope": drop.path_derivatives(0.3)[0]}


CALLS: dict[str, Callable[[Drop], Any]] = {
    "level": lambda drop: drop.level(drop.zero_gates() + 0.5),
    "value": lambda drop: drop.value(drop.zero_gates() + 0.5),
    "gradient": lambda drop: drop.gradient(drop.zero_gates()),
    "hessian_product": lambda drop: drop.hessian_product(drop.zero_gates(), drop.zero_gates() + 1),
    "own": lambda drop: drop.path_derivatives(0.0),
    "curvature": lambda drop: drop.path_derivatives(0.0, curvature=True),
}
SLOPES = ["gradient", "hessian_product", "own", "curvature"]


@pytest.mark.parametrize(("metric", "site", "where", "positions"), CASES)
def test_values_are_those_of_the_reference(metric: str, site: Site, where: Any, positions: str) -> None:
    drop, level = case(metric, site, where, positions)
    closed = drop.zero_gates()
    for xi in (closed, closed + 1, FAR, some_gates()):
        torch.testing.assert_close(drop.level(xi), level(xi), **CLOSE)
        torch.testing.assert_close(drop.value(xi), level(closed) - level(xi), **CLOSE)
    assert drop.value(closed + 1).abs().min() > 1e-3


@pytest.mark.parametrize(("metric", "site", "where", "positions"), CASES)
def test_derivatives_are_those_of_the_reference(metric: str, site: Site, where: Any, positions: str) -> None:
    drop, level = case(metric, site, where, positions)
    for at in (drop.zero_gates(), FAR):
        gradient, hessian = reference.derivatives(level, at)
        torch.testing.assert_close(drop.gradient(at), gradient, **CLOSE)
        g, hv = drop.hessian_product(at, V)
        torch.testing.assert_close(g, gradient, **CLOSE)
        torch.testing.assert_close(hv, torch.einsum("ijs,j->is", hessian, V), **CLOSE)
        assert hv.abs().max() > 1e-2
    for t in (0.0, 0.4):
        slope, curvature = reference.own_path(level, N, t)
        torch.testing.assert_close(drop.path_derivatives(t)[0], slope, **CLOSE)
        for found, theirs in zip(drop.path_derivatives(t, curvature=True), (slope, curvature), strict=True):
            torch.testing.assert_close(found, theirs, **CLOSE)
        assert curvature.abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of torch 2.13's own forward mode
def test_double_backward_is_finite_differences_is_forward_over_reverse() -> None:
    drop = a_drop(bent_model(attention="math"), metric=log_prob)

    def summed(xi: Tensor) -> Tensor:
        rows = slice(None)
        with gated(drop.model, WIRING, xi.expand(drop.sequences, -1), drop.replacement(rows), layers=range(2)):
            return -drop.metric(drop.model(drop.inputs(rows), drop.last), *drop.answers(rows)).sum()

    for at in (drop.zero_gates(), FAR):
        g, hv = drop.hessian_product(at, V)
        over = torch.func.jvp(torch.func.grad(summed), (at,), (V,))
        torch.testing.assert_close((g.sum(-1), hv.sum(-1)), over, atol=1e-12, rtol=1e-10)
        h = 1e-4
        numeric = (drop.gradient(at + h * V) - drop.gradient(at - h * V)) / (2 * h)
        torch.testing.assert_close(hv, numeric, atol=1e-6, rtol=1e-5)
        slopes = torch.stack([(drop.level(at - h * one) - drop.level(at + h * one)) / (2 * h) for one in EYE])
        torch.testing.assert_close(g, slopes, atol=1e-6, rtol=1e-5)


def test_own_derivatives_are_finite_differences_of_values_along_the_own_path() -> None:
    drop, h = a_drop(), 1e-3
    slope, curvature = drop.path_derivatives(0.6, curvature=True)
    before, at, after = (torch.stack([-drop.level(t * one) for one in EYE]) for t in (0.6 - h, 0.6, 0.6 + h))
    torch.testing.assert_close(slope, (after - before) / (2 * h), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(curvature, (after - 2 * at + before) / h**2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("site", list(Site))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_closed_gates_give_the_bare_model_bit_for_bit(dtype: torch.dtype, site: Site) -> None:
    model = bent_model().to(dtype)
    drop, batch = a_drop(model, site=site), some_batch()
    with torch.no_grad():
        bare = log_prob(model(batch.inputs, LENGTH + 1), batch.targets[:, -LENGTH - 1 :])
    assert drop.zero_gates().dtype == dtype
    assert torch.equal(drop.level(drop.zero_gates()), bare)
    assert not drop.value(drop.zero_gates()).any()


def test_replacing_a_component_by_its_own_output_changes_nothing_and_has_no_derivative() -> None:
    model, batch = bent_model(), some_batch()
    drop = a_drop(model, replacement=activations_on(model, WIRING, batch.inputs, LENGTH + 1))
    assert not exact(drop).any()
    assert not drop.value(drop.zero_gates() + 1).any()
    found = everything(drop, FAR)
    for name in ("value", "gradient", "g", "hv", "slope", "curvature"):
        torch.testing.assert_close(found[name], torch.zeros_like(found[name]), atol=1e-11, rtol=0)
    assert exact(a_drop(model)).abs().min() > 1e-4


def rows_of(drop: Drop) -> Iterator[Drop]:
    """Every sequence as a batch of its own."""
    for row in range(drop.sequences):
        one = slice(row, row + 1)
        yield replace(drop, batch=drop.batch.rows(one), replacement=lambda _, one=one: drop.replacement(one))


@pytest.mark.parametrize("own_gates", [True, False])
def test_a_batch_gives_what_its_rows_give_one_by_one(own_gates: bool) -> None:
    drop = a_drop()
    xi = some_gates() if own_gates else FAR
    together = everything(drop, xi)
    for row, alone in enumerate(rows_of(drop)):
        for name, found in everything(alone, xi[row : row + 1] if own_gates else xi).items():
            torch.testing.assert_close(found, together[name][..., row : row + 1], **CLOSE)


def test_pieces_of_a_batch_give_what_the_whole_gives() -> None:
    rows = drop_module.ROWS + 3
    drop = a_drop(rows=rows)
    assert len(drop.slices()) == 2
    assert len(drop.slices(drop_module.OWN_ROWS)) > 2
    xi = some_gates(rows)
    together = everything(drop, xi)
    assert [found.shape[-1] for found in together.values()] == [rows] * len(together)
    for first in (drop_module.OWN_ROWS - 1, drop_module.ROWS - 1):
        few = slice(first, first + 4)
        alone = replace(drop, batch=drop.batch.rows(few), replacement=lambda _, few=few: drop.replacement(few))
        for name, found in everything(alone, xi[few]).items():
            torch.testing.assert_close(found, together[name][..., few], **CLOSE)


def test_slices_cover_every_sequence_once() -> None:
    drop = a_drop()
    assert [list(range(4))[one] for one in drop.slices(3)] == [[0, 1, 2], [3]]


def test_gates_act_at_the_chosen_positions_alone() -> None:
    model = bent_model()
    everywhere = everything(a_drop(model), FAR)
    for name, found in everything(a_drop(model, where=torch.ones(POSITIONS, dtype=torch.bool)), FAR).items():
        torch.testing.assert_close(found, everywhere[name], **CLOSE)
    second = a_drop(model, where=torch.arange(POSITIONS) == 1)
    slope, curvature = second.path_derivatives(0.0, curvature=True)
    top = [PARTS.index((1, head)) for head in (0, 1, None)]  # their writes at the second position are read by nobody
    assert not slope[top].any()
    assert not curvature[top].any()
    assert slope[PARTS.index((0, None))].abs().min() > 1e-5


@pytest.mark.parametrize("call", CALLS)
def test_no_chosen_position_is_an_error(call: str, unchanged: Unchanged) -> None:
    drop = a_drop(where=torch.zeros(POSITIONS, dtype=torch.bool))
    with unchanged(drop.model), pytest.raises(ValueError, match="`positions` must choose at least one position"):
        CALLS[call](drop)


def test_a_gain_is_a_drop_with_the_sign_turned() -> None:
    model = bent_model()
    gains = everything(a_drop(model, sign=-1), FAR)
    for name, drop in everything(a_drop(model), FAR).items():
        assert torch.equal(gains[name], drop if name == "level" else -drop)


@pytest.mark.parametrize("call", CALLS)
def test_the_model_is_left_as_it_was_after_success_and_after_an_exception(call: str, unchanged: Unchanged) -> None:
    model = bent_model()

    def broken(logits: Tensor, targets: Tensor) -> Tensor:
        assert not any(weight.requires_grad for weight in model.parameters())
        assert not any(module.training for module in model.modules())
        raise ZeroDivisionError

    with unchanged(model):
        CALLS[call](a_drop(model))
    with unchanged(model), pytest.raises(ZeroDivisionError):
        CALLS[call](a_drop(model, metric=broken))


def test_the_gates_that_are_asked_about_are_left_as_they_were() -> None:
    drop, xi = a_drop(), FAR.clone()
    everything(drop, xi)
    assert torch.equal(xi, FAR)
    assert not xi.requires_grad


@pytest.mark.parametrize("call", SLOPES)
@pytest.mark.parametrize("metric", [exact_match, lambda logits, targets: log_prob(logits.detach(), targets)])
def test_a_metric_without_a_gradient_is_an_error_not_a_zero(metric: Any, call: str, unchanged: Unchanged) -> None:
    drop = a_drop(metric=metric)
    with unchanged(drop.model), pytest.raises(RuntimeError, match="does not depend on the gates: its graph is cut"):
        CALLS[call](drop)


@pytest.mark.parametrize("call", SLOPES)
def test_a_score_that_is_not_finite_is_an_error_that_names_its_component(call: str, unchanged: Unchanged) -> None:
    model = bent_model()
    with torch.no_grad():
        model.blocks[1].attention.W_O.weight[:, :8] = 0  # what L1_H0 writes: nothing
    drop = a_drop(model)
    bare = drop.level(drop.zero_gates())

    def distance(logits: Tensor, targets: Tensor) -> Tensor:
        moved = log_prob(logits, targets) - bare.repeat(len(logits) // len(bare))
        return (moved**2).sqrt()  # its slope is 0/0 where nothing moves

    at = {"own": lambda one: one.path_derivatives(0.5), "curvature": lambda one: one.path_derivatives(0.5, curvature=True)}
    name = "L1_H0" if call in at else "L0_H0"
    with unchanged(model), pytest.raises(FloatingPointError, match=f"The score of {name} is not finite"):
        at.get(call, CALLS[call])(replace(drop, metric=distance))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("call", CALLS)
def test_a_weight_that_is_not_finite_is_an_error(call: str, value: float) -> None:
    model = bent_model()
    drop = a_drop(model)
    with torch.no_grad():
        model.unembedding.weight[3, 2] = value
    name = "the gated model" if call in ("level", "value") else "L0_H0"
    with pytest.raises(FloatingPointError, match=f"The score of {name} is not finite"):
        CALLS[call](drop)


@pytest.mark.parametrize("call", CALLS)
def test_a_replacement_that_is_not_finite_is_an_error_that_names_its_component(call: str) -> None:
    model = bent_model()
    other = zero_activations(model, WIRING)
    other.heads[1][0, 0, 1, 3] = torch.inf
    with pytest.raises(FloatingPointError, match=r"The replacement of L1_H1 is not finite"):
        CALLS[call](a_drop(model, replacement=lambda rows: other))


def test_fused_attention_has_no_second_derivative_and_drop_takes_another_path() -> None:
    model = bent_model(attention="fused")
    fused, plain = a_drop(model), a_drop(bent_model(attention="math"))
    assert model.blocks[0].attention.path == "fused"
    gates = torch.zeros(ROWS, N, dtype=torch.float64, requires_grad=True)
    with gated(fused.model, WIRING, gates, fused.replacement(slice(None))):
        value = fused.metric(fused.model(fused.batch.inputs, fused.last), *fused.answers(slice(None)))
    (first,) = torch.autograd.grad(value.sum(), gates, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for aten::_scaled_dot_product.*_backward is not implemented"):
        torch.autograd.grad(first.sum(), gates)
    theirs = everything(plain, FAR)
    for name, found in everything(fused, FAR).items():
        torch.testing.assert_close(found, theirs[name], **CLOSE)


@pytest.mark.parametrize("change", ["out_projection", "mlp"])
@pytest.mark.parametrize("call", ["gradient", "hessian_product", "own", "curvature"])
def test_a_wrong_module_name_is_an_error_that_names_it(call: str, change: str, unchanged: Unchanged) -> None:
    model = bent_model()
    wiring = replace(WIRING, **{change: "blocks.{layer}.nowhere"})
    drop = a_drop(model, wiring=wiring, replacement=lambda rows: zero_activations(model, WIRING))
    with unchanged(model), pytest.raises(ValueError, match=r"`Transformer` has no module 'blocks\.0\.nowhere'"):
        CALLS[call](drop)


def test_float32_agrees_with_float64_to_its_rounding() -> None:
    double = everything(a_drop(), FAR)
    single = everything(a_drop(bent_model().float()), FAR.float())
    for name, found in single.items():
        assert found.dtype == torch.float64  # what is summed later is summed in float64
        torch.testing.assert_close(found, double[name], atol=2e-5, rtol=2e-4)


def test_shapes_are_component_by_sequence_and_an_unasked_curvature_is_empty() -> None:
    drop = a_drop()
    slope, curvature = drop.path_derivatives(0.0)
    assert slope.shape == (N, ROWS)
    assert curvature.numel() == 0
    assert drop.gradient(drop.zero_gates()).shape == (N, ROWS)
    assert drop.level(drop.zero_gates()).shape == (ROWS,)


def test_passes_count_what_every_sequence_went_through() -> None:
    def counted(call: str) -> Passes:
        drop = a_drop(passes=Passes())
        CALLS[call](drop)
        return drop.passes

    assert counted("level") == Passes(1.0, 0.0, 0.0)
    assert counted("value") == Passes(2.0, 0.0, 0.0)
    assert counted("gradient") == Passes(1.0, 1.0, 0.0)
    assert counted("hessian_product") == Passes(1.0, 1.0, 1.0)
    assert counted("own") == Passes(float(N), float(N), 0.0)
    assert counted("curvature") == Passes(float(N), float(N), float(N))


def test_drops_do_not_share_their_counts() -> None:
    first, second = a_drop(), a_drop()
    first.level(first.zero_gates())
    assert second.passes == Passes()


def test_more_heads_than_layers_and_more_layers_than_heads_are_told_apart() -> None:
    for sizes in ({"n_layers": 3, "n_heads": 1}, {"n_layers": 1, "n_heads": 4}):
        drop = a_drop(bent_model(**sizes))
        level, n = level_of(drop), drop.components
        gradient, _ = reference.derivatives(level, drop.zero_gates())
        torch.testing.assert_close(drop.gradient(drop.zero_gates()), gradient, **CLOSE)
        torch.testing.assert_close(drop.path_derivatives(0.0)[0], gradient, **CLOSE)
        torch.testing.assert_close(exact(drop), torch.stack([reference.drop_of(level, n, [i]) for i in range(n)]), **CLOSE)


def test_denoising_starts_from_the_corrupted_run_and_lets_in_the_clean_one() -> None:
    model, batch = bent_model(), some_batch()
    clean = activations_on(model, WIRING, batch.inputs, LENGTH + 1)
    drop = a_drop(model, batch=batch._replace(inputs=other_inputs()), replacement=clean, sign=-1)
    corrupted = log_prob(model(other_inputs(), LENGTH + 1), batch.targets[:, -LENGTH - 1 :]).detach()
    assert torch.equal(drop.level(drop.zero_gates()), corrupted)
    state = reference.float64(model.state_dict())
    other = reference.run(state, batch.inputs, 2, "none").parts
    level = reference.level(state, other_inputs(), batch.targets, LENGTH + 1, 2, "none", PARTS, other)
    for one, found in zip(EYE, exact(drop), strict=True):
        torch.testing.assert_close(found, level(one) - level(drop.zero_gates()), **CLOSE)


def test_a_gradient_is_a_gradient_inside_no_grad_too() -> None:
    drop = a_drop()
    xi = some_gates()
    outside = everything(drop, xi)
    with torch.no_grad():
        inside = everything(drop, xi)
    for name, found in outside.items():
        assert torch.equal(inside[name], found), name
