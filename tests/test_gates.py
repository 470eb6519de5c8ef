from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, get_args

import pytest
import reference
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gcgap.data.batches import Purpose, Source
from gcgap.importance.gates import Activations, NotFiredError, gated, mix, recorded
from gcgap.importance.protocol import Site
from gcgap.models.transformer import Positions, Transformer, eval_mode
from gcgap.models.wiring import Wiring

POSITIONS = get_args(Positions)
SITES = list(Site)
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "n_ctx": 14, "seed": 5}
WIRING = Wiring(2, 2)
N = len(WIRING.components)
TABLE: dict[str, Any] = {"atol": 3e-5, "rtol": 0.0}
CLOSE: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-11}
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]


def random_tokens(rows: int = 3, length: int = 9, seed: int = 9) -> Tensor:
    return torch.randint(1, 100, (rows, length), generator=torch.Generator().manual_seed(seed))


def others(rows: int, length: int, seed: int = 3) -> Activations:
    """Arbitrary replacements of the shapes that SIZES needs."""
    generator = torch.Generator().manual_seed(seed)
    heads = [torch.randn(rows, length, 2, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    return Activations(heads, [torch.randn(rows, length, 16, generator=generator, dtype=torch.float64) for _ in range(2)])


def as_parts(values: Activations) -> dict[reference.Part, Tensor]:
    """The same values in the words of the reference."""
    parts: dict[reference.Part, Tensor] = {(layer, None): mlp for layer, mlp in enumerate(values.mlps)}
    for layer, heads in enumerate(values.heads):
        parts |= {(layer, head): heads[:, :, head] for head in range(heads.shape[2])}
    return parts


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_of_zero_give_the_logits_of_the_bare_model_bit_for_bit(
    positions: Positions, site: Site, dtype: torch.dtype
) -> None:
    model = Transformer(**SIZES, positions=positions).to(dtype)
    tokens = random_tokens()
    other = others(3, 9).each(lambda value: value.to(dtype))
    bare = model(tokens)
    for gates in (torch.zeros(3, N, dtype=dtype), torch.zeros(3, N, dtype=dtype, requires_grad=True)):
        with gated(model, WIRING, gates, other, site):
            hooked = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
            assert torch.equal(model(tokens), bare)
        assert hooked == (4 if gates.requires_grad else 0)


@pytest.mark.parametrize("positions", POSITIONS)
def test_patching_with_own_activation_is_identity(positions: Positions) -> None:
    model = Transformer(**SIZES, positions=positions)
    tokens = random_tokens()
    with recorded(model, WIRING) as own:
        bare = model(tokens)
    for gates in (*torch.eye(N), torch.ones(N), torch.full((N,), 0.5)):
        with gated(model, WIRING, gates.expand(3, N), own):
            patched = model(tokens)
        if set(gates.tolist()) <= {0.0, 1.0}:
            assert torch.equal(patched, bare)
        torch.testing.assert_close(patched, bare, atol=1e-5, rtol=1e-5)


def test_recording_gives_the_outputs_of_the_reference_and_changes_nothing() -> None:
    model = Transformer(**SIZES).double()
    tokens = random_tokens()
    with recorded(model, WIRING) as seen:
        logits = model(tokens)
    assert torch.equal(logits, model(tokens))
    theirs = reference.run(model.state_dict(), tokens, 2, "none").parts
    for part, value in as_parts(seen).items():
        torch.testing.assert_close(value, theirs[part], **CLOSE)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("length", [1, 9])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_gates_between_zero_and_one_interpolate_as_in_the_reference(
    positions: Positions, site: Site, length: int, rows: int
) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    tokens, other = random_tokens(), others(rows, length)
    gates = torch.tensor([0.3, 0.0, 1.0, 0.8, 0.25, 0.5], dtype=torch.float64)
    with gated(model, WIRING, gates.expand(3, N), other, site):
        logits = model(tokens)
    by_part = {(part.layer, part.head): float(gate) for part, gate in zip(WIRING.components, gates, strict=True)}
    theirs = reference.run(model.state_dict(), tokens, 2, positions, by_part, as_parts(other), site)
    torch.testing.assert_close(logits, theirs.logits, **(TABLE if positions == "sinusoidal" else CLOSE))


@pytest.mark.parametrize("site", SITES)
def test_every_row_of_a_batch_runs_under_its_own_gates(site: Site) -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(3, 9)
    gates = torch.rand(3, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gates[1] = 0
    with gated(model, WIRING, gates, other, site):
        together = model(tokens)
    for row in range(3):
        mine = other.each(lambda value, row=row: value[row : row + 1])
        with gated(model, WIRING, gates[row : row + 1], mine, site):
            torch.testing.assert_close(model(tokens[row : row + 1]), together[row : row + 1], **CLOSE)
    torch.testing.assert_close(together[1:2], model(tokens[1:2]), **CLOSE)


def test_replacements_repeat_for_every_group_of_rows() -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(3, 9)
    gates = torch.eye(N, dtype=torch.float64)[:2].repeat_interleave(3, 0)
    with gated(model, WIRING, gates, other):
        together = model(tokens.repeat(2, 1))
    for variant in range(2):
        with gated(model, WIRING, gates[3 * variant : 3 * variant + 3], other):
            torch.testing.assert_close(model(tokens), together[3 * variant : 3 * variant + 3], **CLOSE)


def test_an_open_gate_changes_its_own_component_alone() -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(1, 1)
    for number, part in enumerate(WIRING.components):
        with gated(model, WIRING, torch.eye(N, dtype=torch.float64)[number].expand(3, N), other):
            logits = model(tokens)
        here = {(part.layer, part.head): 1.0}
        theirs = reference.run(model.state_dict(), tokens, 2, "none", here, as_parts(other)).logits
        torch.testing.assert_close(logits, theirs, **CLOSE)
        assert not torch.allclose(logits, model(tokens), atol=1e-3)


def test_the_released_site_overwrites_a_slice_of_what_all_heads_write() -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(1, 1)
    written: list[Tensor] = []
    gates = torch.eye(N, dtype=torch.float64)[4].expand(3, N)  # L1_H1
    with gated(model, WIRING, gates, other, Site.RELEASED):
        handle = model.blocks[1].attention.W_O.register_forward_hook(lambda *call: written.append(call[2]))
        model(tokens)
    handle.remove()
    assert torch.equal(written[0][..., 8:], other.heads[1][0, 0, 1].expand(3, 9, 8))
    z = model.states(tokens)[1][1]
    torch.testing.assert_close(written[0][..., :8], model.blocks[1].attention.W_O(z)[..., :8], **CLOSE)


floats = st.floats(-1e6, 1e6, allow_nan=False, width=32)


@example(own=1e6, other=0.1, gate=0.5)  # own + (other - own) is not other in float32
@given(own=floats, other=floats, gate=st.floats(0, 1))
def test_a_mix_is_exactly_its_ends_and_lies_between_them(own: float, other: float, gate: float) -> None:
    first, second = torch.full((2, 3, 4), own), torch.full((1, 1, 4), other)

    def mixed(xi: float) -> Tensor:
        return mix(first, torch.full((2, 1), float(xi)), second)

    assert torch.equal(mixed(0), first)
    assert torch.equal(mixed(1), second.expand(2, 3, 4))
    expected = (1 - gate) * own + gate * other
    torch.testing.assert_close(mixed(gate), torch.full((2, 3, 4), expected), atol=1e-6 * max(1, abs(own), abs(other)), rtol=0)


def test_where_only_the_last_positions_run_the_last_replacements_are_used() -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(3, 9)
    gates = torch.ones(3, N, dtype=torch.float64)
    with gated(model, WIRING, gates, other):
        whole = model(tokens)
    with gated(model, WIRING, gates, other):
        torch.testing.assert_close(model(tokens, 4), whole[:, -4:], **CLOSE)


def test_an_intervention_that_did_not_fire_is_an_error_that_names_it(unchanged: Unchanged) -> None:
    model = Transformer(**SIZES)
    other, tokens = others(1, 1).each(Tensor.float), random_tokens()
    gates = torch.eye(N)[[0, 2]]  # L0_H0 and L0_MLP
    with unchanged(model):
        with (
            pytest.raises(NotFiredError, match="at MLP of layer 0, heads of layer 0 did not fire: the model never ran"),
            gated(model, WIRING, gates.expand(2, N), other),
        ):
            pass
        x, z = model.states(tokens)[1]
        with pytest.raises(NotFiredError, match="heads of layer 0"), gated(model, WIRING, gates[:1].expand(3, N), other):
            model.forward_from(1, (x, z))
        with pytest.raises(NotFiredError, match="heads of layer 0, heads of layer 1"), recorded(model, WIRING):
            pass


@pytest.mark.parametrize("change", ["out_projection", "mlp"])
def test_a_wrong_module_name_is_an_error_that_names_it(change: str, unchanged: Unchanged) -> None:
    model = Transformer(**SIZES)
    wiring = replace(WIRING, **{change: "blocks.{layer}.nowhere"})
    other = others(1, 1).each(Tensor.float)
    text = r"`Transformer` has no module 'blocks\.0\.nowhere'"
    with unchanged(model):
        with pytest.raises(ValueError, match=text), gated(model, wiring, torch.ones(3, N), other):
            model(random_tokens())
        with pytest.raises(ValueError, match=text), recorded(model, wiring):
            model(random_tokens())


def test_gates_need_a_column_for_every_component() -> None:
    model = Transformer(**SIZES)
    with (
        pytest.raises(ValueError, match="one column per component, 6; got 5"),
        gated(model, WIRING, torch.zeros(1, 5), others(1, 1)),
    ):
        pass


@pytest.mark.parametrize("site", SITES)
def test_gates_and_recordings_leave_the_model_as_it_was_after_success_and_after_an_exception(
    site: Site, unchanged: Unchanged
) -> None:
    model = Transformer(**SIZES).double()
    tokens, other = random_tokens(), others(1, 1)
    with unchanged(model):
        gates = torch.rand(3, N, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
        with eval_mode(model), gated(model, WIRING, gates, other, site):
            torch.autograd.grad(model(tokens).sum(), gates)
        with eval_mode(model), recorded(model, WIRING):
            model(tokens)
    with unchanged(model), pytest.raises(ZeroDivisionError), eval_mode(model), gated(model, WIRING, gates, other, site):
        raise ZeroDivisionError
    with unchanged(model), pytest.raises(ZeroDivisionError), eval_mode(model), recorded(model, WIRING):
        raise ZeroDivisionError
    with unchanged(model), pytest.raises(IndexError), eval_mode(model), gated(model, WIRING, gates, other, site):
        model(tokens + 10_000)


def test_eval_mode_runs_in_evaluation_mode_and_full_precision() -> None:
    model = Transformer(**SIZES)
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(random_tokens()).dtype == torch.bfloat16
        with eval_mode(model):
            assert not any(module.training for module in model.modules())
            assert model(random_tokens()).dtype == torch.float32
        assert model(random_tokens()).dtype == torch.bfloat16


def loss_of_gates(model: Transformer, site: Site) -> Callable[[Tensor], Tensor]:
    batch = Source("sort", seed=2).batch(Purpose.EVALUATION, 4, 3)
    other = others(1, 1)

    def loss(gates: Tensor) -> Tensor:
        with gated(model, WIRING, gates.expand(3, N), other, site):
            logits = model(batch.inputs, 5)
        return F.cross_entropy(logits.flatten(0, 1), batch.targets[:, -5:].flatten())

    return loss


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("attention", ["fused", "math"])
def test_first_derivatives_by_the_gates_are_finite_differences(attention: Any, site: Site) -> None:
    loss = loss_of_gates(Transformer(**SIZES, attention=attention).double(), site)
    numeric: list[float] = []
    at = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.9, 1.0], dtype=torch.float64)
    gates = at.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(loss(gates), gates)
    step = 1e-6
    with torch.no_grad():
        for e in torch.eye(N, dtype=torch.float64) * step:
            numeric.append(float(loss(at + e) - loss(at - e)) / (2 * step))
    torch.testing.assert_close(slope, torch.tensor(numeric, dtype=torch.float64), atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("at", [0.0, 0.4])
def test_the_math_path_has_second_derivatives_by_the_gates(at: float, site: Site) -> None:
    loss = loss_of_gates(Transformer(**SIZES, attention="math").double(), site)
    gates = torch.full((N,), at, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(loss, gates)
    assert isinstance(hessian, Tensor)
    step = 1e-3

    def numeric(i: int, j: int) -> float:
        e = torch.eye(N, dtype=torch.float64) * step
        four = loss(gates + e[i] + e[j]) - loss(gates + e[i] - e[j]) - loss(gates - e[i] + e[j]) + loss(gates - e[i] - e[j])
        return float(four.detach()) / (4 * step**2)

    expected = torch.tensor([[numeric(i, j) for j in range(N)] for i in range(N)], dtype=torch.float64)
    torch.testing.assert_close(hessian, expected, atol=2e-5, rtol=1e-4)
    assert hessian.abs().max() > 1e-3
