from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, get_args

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.gradient import gradient_norms
from gcgap.models.transformer import Positions, Transformer
from gcgap.models.wiring import Wiring

few = settings(max_examples=settings().max_examples // 2)  # each of them runs a model
POSITIONS = get_args(Positions)
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "n_ctx": 14, "seed": 5}
WIRING = Wiring(2, 2)
ENTRIES = torch.tensor([16 * 8, 16 * 8, 16 * 24] * 2, dtype=torch.float64)
CLOSE: dict[str, Any] = {"atol": 0.0, "rtol": 1e-10}
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]


def batches(count: int = 3, size: int = 4) -> list[Batch]:
    return Source("sort", seed=7).batches(Purpose.GRADIENT, 5, count, size)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("positions", POSITIONS)
def test_gradient_magnitudes_agree_with_the_reference(positions: Positions, normalise: bool) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    norms = gradient_norms(model, WIRING, batches(), normalise)
    state = model.state_dict()
    for column, batch in enumerate(batches()):
        theirs = reference.gradient_magnitudes(state, batch.inputs, batch.targets, 6, 2, positions, normalise)
        expected = torch.tensor([theirs[part.layer, part.head] for part in WIRING.components], dtype=torch.float64)
        torch.testing.assert_close(norms[:, column], expected, atol=0.0, rtol=1e-4 if positions == "sinusoidal" else 1e-10)
    assert norms.shape == (6, 3)
    assert (norms > 0).all()


def test_normalising_divides_by_the_root_of_the_number_of_entries() -> None:
    model = Transformer(**SIZES).double()
    raw, normal = (gradient_norms(model, WIRING, batches(), normalise) for normalise in (False, True))
    torch.testing.assert_close(raw / ENTRIES.sqrt()[:, None], normal, **CLOSE)


@few
@given(scale=st.floats(1e-3, 1e3))
def test_scaling_the_loss_scales_every_gradient_magnitude_and_leaves_their_ranks(scale: float) -> None:
    model = Transformer(**SIZES).double()
    plain = gradient_norms(model, WIRING, batches())
    with pytest.MonkeyPatch.context() as patch:
        loss = torch.nn.functional.cross_entropy
        patch.setattr("torch.nn.functional.cross_entropy", lambda *a, **k: scale * loss(*a, **k))
        scaled = gradient_norms(model, WIRING, batches())
    torch.testing.assert_close(scaled, scale * plain, **CLOSE)
    assert torch.equal(scaled.mean(1).argsort(), plain.mean(1).argsort())


def test_the_loss_is_a_mean_over_sequences_and_scored_tokens() -> None:
    model = Transformer(**SIZES).double()
    (batch,) = batches(1)
    inputs, targets, scored = (torch.cat([part, part]) for part in batch[:3])
    twice = Batch(inputs, targets, scored, 2 * batch.world_scored)
    noise = batch.targets.clone()
    noise[~batch.scored] = 1
    plain = gradient_norms(model, WIRING, [batch])
    torch.testing.assert_close(gradient_norms(model, WIRING, [twice]), plain, **CLOSE)
    assert torch.equal(gradient_norms(model, WIRING, [batch._replace(targets=noise)]), plain)


def test_a_batch_has_the_norms_that_it_has_alone() -> None:
    model = Transformer(**SIZES).double()
    together = gradient_norms(model, WIRING, batches())
    assert torch.equal(together, torch.cat([gradient_norms(model, WIRING, [batch]) for batch in batches()], dim=1))


def test_both_attention_paths_give_the_same_magnitudes() -> None:
    fused, plain = (Transformer(**SIZES, attention=path).double() for path in ("fused", "math"))
    torch.testing.assert_close(gradient_norms(plain, WIRING, batches()), gradient_norms(fused, WIRING, batches()), **CLOSE)


def test_a_head_that_writes_nothing_has_no_gradient() -> None:
    model = Transformer(**SIZES).double()
    with torch.no_grad():
        model.blocks[1].attention.W_O.weight[:, 8:] = 0
    silent = WIRING.find(["L1_H1"])[0]
    norms = gradient_norms(model, WIRING, batches())
    assert norms[silent].tolist() == [0.0] * 3
    assert (norms[[i for i in range(6) if i != silent]] > 0).all()


def test_gradients_are_taken_where_gradients_are_off_and_where_weights_are_frozen() -> None:
    model = Transformer(**SIZES).double()
    plain = gradient_norms(model, WIRING, batches())
    model.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(gradient_norms(model, WIRING, batches()), plain, **CLOSE)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def broken(model: Transformer, name: str) -> Transformer:
    """The model with one weight that makes gradients NaN while they flow through it."""
    parameter: Tensor = model.get_parameter(name)
    parameter.register_hook(lambda gradient: gradient * torch.nan)
    return model


def test_a_gradient_that_is_not_finite_is_an_error_that_names_its_component() -> None:
    for name, component in {"blocks.1.mlp.W_out.weight": "L1_MLP", "blocks.0.attention.W_V.weight": "L0_H0"}.items():
        with pytest.raises(FloatingPointError, match=f"The gradient of {component} is not finite"):
            gradient_norms(broken(Transformer(**SIZES), name), WIRING, batches())


def test_taking_gradients_leaves_the_model_as_it_was_after_success_and_after_an_exception(unchanged: Unchanged) -> None:
    model = Transformer(**SIZES)
    with unchanged(model):
        gradient_norms(model, WIRING, batches())
    outside = batches(1)[0]._replace(inputs=batches(1)[0].inputs + 10_000)
    with unchanged(model), pytest.raises(IndexError):
        gradient_norms(model, WIRING, [*batches(), outside])
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="L0_H0"):
        gradient_norms(model, WIRING, batches())


def test_gradients_are_taken_in_evaluation_mode_and_full_precision() -> None:
    model = Transformer(**SIZES)
    plain = gradient_norms(model.eval(), WIRING, batches())
    modes: list[bool] = []
    model.norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(gradient_norms(model.train(), WIRING, batches()), plain)
    assert modes == [False] * 3
