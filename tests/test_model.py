from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.data.batches import Source
from gcgap.data.tasks import PAD, VOCABULARY
from gcgap.models.transformer import Positions, Transformer, check_sizes, rotate, sinusoids

POSITIONS = get_args(Positions)
CLOSE: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-11}
TABLE: dict[str, Any] = {"atol": 3e-5, "rtol": 0.0}  # sinusoidal positions are a float32 table
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "n_ctx": 14, "seed": 5}


def with_sizes(**change: Any) -> Transformer:
    return Transformer(**(SIZES | change))


def random_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(9))


def shaken(model: Transformer) -> Transformer:
    """The model with every parameter moved, so that no bias is 0 and no LayerNorm the identity."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("attention", ["fused", "math"])
@pytest.mark.parametrize("positions", POSITIONS)
def test_logits_agree_with_the_reference(positions: Positions, attention: Any) -> None:
    model = shaken(Transformer(**SIZES, positions=positions, attention=attention)).double()
    tokens = random_tokens(3, 14)
    theirs = reference.run(model.state_dict(), tokens, 2, positions).logits
    torch.testing.assert_close(model(tokens), theirs, **(TABLE if positions == "sinusoidal" else CLOSE))


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_math_path_agrees_with_the_fused_one_to_rounding(positions: Positions) -> None:
    fused = shaken(Transformer(**SIZES, positions=positions)).double()
    plain = Transformer(**SIZES, positions=positions, attention="math").double()
    plain.load_state_dict(fused.state_dict())
    tokens = random_tokens(3, 14)
    for last in (None, 5):
        torch.testing.assert_close(plain(tokens, last), fused(tokens, last), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("last", [1, 4, 13, 14])
def test_the_last_positions_have_the_logits_that_they_have_in_a_whole_run(positions: Positions, last: int) -> None:
    model = shaken(Transformer(**SIZES, positions=positions)).double()
    tokens = random_tokens(3, 14)
    assert model(tokens, last).shape == (3, last, VOCABULARY)
    torch.testing.assert_close(model(tokens, last), model(tokens)[:, -last:], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("last", [None, 5])
def test_finishing_from_the_state_of_any_layer_gives_the_logits_of_a_whole_run(positions: Positions, last: int | None) -> None:
    model = shaken(Transformer(**SIZES, positions=positions)).double()
    tokens = random_tokens(3, 14)
    states = model.states(tokens, last)
    assert len(states) == 2
    for layer, (x, z) in enumerate(states):
        assert torch.equal(model.forward_from(layer, (x, z), last), model(tokens, last))


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_position_sees_a_later_token_so_that_padding_on_the_right_is_harmless(positions: Positions) -> None:
    model = shaken(Transformer(**SIZES, positions=positions)).double()
    tokens = random_tokens(3, 14)
    padded = tokens.clone()
    padded[:, 8:] = PAD
    torch.testing.assert_close(model(padded)[:, :8], model(tokens)[:, :8], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(model(tokens[:, :8]), model(tokens)[:, :8], atol=1e-12, rtol=1e-12)
    assert not torch.allclose(model(padded)[:, 8:], model(tokens)[:, 8:])


@pytest.mark.parametrize("positions", POSITIONS)
def test_one_layer_without_positions_reads_a_set_and_with_positions_a_sequence(positions: Positions) -> None:
    model = shaken(with_sizes(n_layers=1, positions=positions)).double()
    tokens = random_tokens(3, 14)
    mixed = torch.cat([tokens[:, :-1].flip(1), tokens[:, -1:]], dim=1)
    same = torch.allclose(model(tokens, 1), model(mixed, 1), atol=1e-12)
    assert same == (positions == "none")


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = Transformer(**SIZES).state_dict()
    torch.manual_seed(2)
    second = Transformer(**SIZES).state_dict()
    other = with_sizes(seed=6).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["blocks.1.attention.W_V.weight"], other["blocks.1.attention.W_V.weight"])


def test_a_forward_pass_leaves_the_global_generators(generators: Callable[[], list[Any]]) -> None:
    model, tokens = Transformer(**SIZES), random_tokens(3, 14)
    before = generators()
    model.train()(tokens)
    assert generators() == before


def test_the_default_size_has_the_parameters_of_the_paper() -> None:
    layer = 4 * (128 * 128 + 128) + (128 * 512 + 512) + (512 * 128 + 128) + 2 * 2 * 128
    whole = 104 * 128 + 4 * layer + 2 * 128 + (128 * 104 + 104)
    assert sum(parameter.numel() for parameter in Transformer().parameters()) == whole == 820_072


def test_the_unembedding_is_not_the_embedding() -> None:
    model = Transformer(**SIZES)
    assert model.unembedding.weight.data_ptr() != model.embedding.weight.data_ptr()
    assert not torch.equal(model.unembedding.weight, model.embedding.weight)


@given(start=st.integers(0, 30), seed=st.integers(0, 1000), half=st.integers(1, 5))
def test_rotation_is_that_of_the_reference_and_keeps_lengths(start: int, seed: int, half: int) -> None:
    x = torch.randn(1, 1, 6, 2 * half, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turned = rotate(x, start)
    longer = torch.cat([x.new_zeros(1, start, 2 * half), x[:, 0]], dim=1)
    torch.testing.assert_close(turned[:, 0], reference.turned(longer)[:, start:], atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-12, rtol=1e-12)


@given(shift=st.integers(1, 40), seed=st.integers(0, 1000))
def test_rotated_queries_and_keys_meet_by_their_distance_alone(shift: int, seed: int) -> None:
    q, k = torch.randn(2, 1, 1, 5, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    near = rotate(q, 0) @ rotate(k, 0).transpose(-1, -2)
    far = rotate(q, shift) @ rotate(k, shift).transpose(-1, -2)
    torch.testing.assert_close(near, far, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("d_model", [1, 5, 16])
def test_sinusoids_are_those_of_the_formula(d_model: int) -> None:
    torch.testing.assert_close(sinusoids(40, d_model).double(), reference.sinusoids(40, d_model), atol=1e-5, rtol=0)


def test_training_batches_are_read_up_to_the_context() -> None:
    source = Source("sort", lengths=(2, 6), ood_lengths=(7,))
    batch = source.training_batch(0, 16)
    assert Transformer(**SIZES)(batch.inputs).shape == (*batch.inputs.shape, VOCABULARY)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"n_layers": 0}, "`model.n_layers` must be at least 1; got 0"),
        ({"n_heads": 0}, "`model.n_heads` must be at least 1; got 0"),
        ({"d_ff": -2}, "`model.d_ff` must be at least 1; got -2"),
        ({"n_ctx": 0}, "`model.n_ctx` must be at least 1; got 0"),
        ({"n_heads": 3}, "`model.d_model` must be divisible by `model.n_heads`; got 16 and 3"),
        ({"n_heads": 16, "positions": "rotary"}, "even d_head; got 16 / 16 = 1"),
        ({"positions": "relative"}, "`model.positions` must be one of none, learned, sinusoidal, rotary; got 'relative'"),
        ({"attention": "flash"}, "`model.attention` must be one of fused, math; got 'flash'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(change: dict[str, Any], text: str) -> None:
    sizes = {**SIZES, "positions": "none", "attention": "fused", "vocabulary": 5} | change
    del sizes["seed"]
    with pytest.raises(ValueError, match=text):
        check_sizes(**sizes)


def test_a_transformer_checks_its_sizes() -> None:
    with pytest.raises(ValueError, match=r"`model\.d_model` must be divisible by `model\.n_heads`"):
        Transformer(n_heads=3)
