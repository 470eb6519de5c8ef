from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gcgap
from gcgap.importance.gates import recorded
from gcgap.models.transformer import Transformer
from gcgap.models.wiring import Component, Wiring

few = settings(max_examples=settings().max_examples // 2)  # each of them runs a model
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 4, "d_model": 16, "d_ff": 24, "n_ctx": 14}


def test_the_default_model_has_the_twenty_components_of_the_paper() -> None:
    names = [component.name for component in Wiring.of(Transformer()).components]
    assert names == [f"L{layer}_{what}" for layer in range(4) for what in ("H0", "H1", "H2", "H3", "MLP")]
    assert names == sorted(names)


def test_components_know_their_kind_and_layer() -> None:
    assert (Component(2, 3).kind, Component(2, None).kind) == ("head", "mlp")
    assert [component.layer for component in Wiring(2, 1).components] == [0, 0, 1, 1]


@few
@given(n_layers=st.integers(1, 12), n_heads=st.integers(1, 12))
def test_columns_point_at_the_components_of_their_layer(n_layers: int, n_heads: int) -> None:
    wiring = Wiring(n_layers, n_heads)
    for layer in range(n_layers):
        heads, mlp = wiring.columns(layer)
        assert wiring.components[heads] == [Component(layer, head) for head in range(n_heads)]
        assert wiring.components[mlp] == Component(layer, None)
    assert len(wiring.components) == n_layers * (n_heads + 1)


def test_components_are_found_by_name_in_the_order_asked_for() -> None:
    wiring = Wiring(3, 2)
    assert wiring.find(["L2_MLP", "L0_H0", "L1_H1"]) == [8, 0, 4]
    assert wiring.find([component.name for component in wiring.components]) == list(range(9))


@pytest.mark.parametrize("name", ["L0_H4", "L2_H0", "L0_mlp", "", "H0"])
def test_an_unknown_name_is_refused_with_the_choice(name: str) -> None:
    text = f"unknown component {name!r}; this model has L0_H0 .. L1_H3 and L0_MLP .. L1_MLP"
    with pytest.raises(ValueError, match=text):
        Wiring(2, 4).find(["L0_H0", name])


def test_sets_need_members_that_the_model_has() -> None:
    wiring = Wiring(2, 4)
    wiring.check_sets([["L0_H0"], ["L1_MLP", "L0_H3"]])
    with pytest.raises(ValueError, match="at least one component; got an empty one"):
        wiring.check_sets([["L0_H0"], []])
    with pytest.raises(ValueError, match="unknown component 'L9_H0'"):
        wiring.check_sets([["L0_H0"], ["L9_H0"]])


def test_a_module_that_the_model_lacks_is_an_error_that_names_it() -> None:
    wiring = Wiring(2, 4, out_projection="blocks.{layer}.attention.W_0")
    with pytest.raises(ValueError, match=r"`Transformer` has no module 'blocks\.1\.attention\.W_0'"):
        wiring.module(Transformer(**SIZES), wiring.out_projection, 1)


@few
@given(seed=st.integers(0, 1000), layer=st.integers(0, 1))
def test_the_writes_of_the_heads_add_up_to_the_output_of_attention(seed: int, layer: int) -> None:
    model = Transformer(**SIZES, seed=seed).double()
    wiring = Wiring.of(model)
    tokens = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(seed))
    W_O = wiring.module(model, wiring.out_projection, layer)
    assert isinstance(W_O, nn.Linear)
    written: list[torch.Tensor] = []
    handle = W_O.register_forward_hook(lambda *call: written.append(call[2]))
    with recorded(model, wiring) as seen:
        model(tokens)
    handle.remove()
    writes = [seen.heads[layer][:, :, head] @ W_O.weight[:, 4 * head : 4 * head + 4].T for head in range(4)]
    torch.testing.assert_close(torch.stack(writes).sum(0) + W_O.bias, written[0], atol=1e-12, rtol=1e-12)


def test_the_residual_stream_is_the_embedding_and_what_all_components_write() -> None:
    model = Transformer(**SIZES, seed=3).double()
    tokens = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(1))
    with recorded(model, Wiring.of(model)) as seen:
        logits = model(tokens)
    x = model.embed(tokens)
    for block, z, mlp in zip(model.blocks, seen.heads, seen.mlps, strict=True):
        x = x + block.attention.W_O(z.flatten(2)) + mlp
    torch.testing.assert_close(model.unembedding(model.norm(x)), logits, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("head", range(4))
def test_the_rows_of_a_head_in_w_v_reach_that_head_alone(head: int) -> None:
    model = Transformer(**SIZES, seed=3).double()
    wiring = Wiring.of(model)
    tokens = torch.randint(1, 100, (2, 9), generator=torch.Generator().manual_seed(1))
    with recorded(model, wiring) as before:
        model(tokens)
    with torch.no_grad():
        model.blocks[1].attention.W_V.weight[4 * head : 4 * head + 4] += 1
    with recorded(model, wiring) as after:
        model(tokens)
    moved = [not torch.equal(before.heads[1][:, :, h], after.heads[1][:, :, h]) for h in range(4)]
    assert moved == [h == head for h in range(4)]


def test_a_component_that_stands_twice_in_a_set_is_refused() -> None:
    wiring = Wiring(2, 2)
    assert wiring.find(name for name in ["L0_H0", "L1_MLP"]) == [0, 5]
    with pytest.raises(ValueError, match="twice in L0_H0, L0_H0"):
        wiring.find(["L0_H0", "L0_H0"])


@pytest.mark.parametrize("call", [gcgap.measure, gcgap.attribute, Wiring.of])
def test_a_compiled_model_is_refused_by_everything_that_measures(call: Any) -> None:
    more = {} if call == Wiring.of else {"task": "sort", "length": 8}
    sizes: dict[str, Any] = SIZES | {"n_ctx": 40}
    with pytest.raises(ValueError, match=r"must not be compiled, .* Give the module inside, `compiled._orig_mod`"):
        call(torch.compile(Transformer(**sizes), backend="eager"), **more)
