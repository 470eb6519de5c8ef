"""Pretrained models of every family: the bare model when gates are closed, and the exact tests of the gated one."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from families import CONFIGS, SHAPE, config, network
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from gcgap.data.batches import NOTHING, Batch
from gcgap.importance.gates import Activations, NotFiredError, gated, recorded
from gcgap.importance.gradient import gradient_norms, weight_sizes
from gcgap.models.families import FAMILIES, find_wiring
from gcgap.models.number_format import in_precision
from gcgap.models.pretrained import Pretrained
from gcgap.models.wiring import Slices, Wiring

EVERY = pytest.mark.parametrize("name", CONFIGS)
TOKENS = torch.randint(3, SHAPE["vocab_size"], (3, 7), generator=torch.Generator().manual_seed(1))
NONE = torch.full((3, 2), NOTHING)


def made(name: str) -> Pretrained:
    return Pretrained(network(name), find_wiring(config(name)))


def zeros(model: Pretrained) -> Activations:
    heads = [torch.zeros(1, 1, model.n_heads, model.d_head) for _ in range(model.n_layers)]
    return Activations(heads, [torch.zeros(1, 1, model.d_model) for _ in range(model.n_layers)])


@contextmanager
def opened(model: Pretrained, members: list[int], replacement: Activations, rows: int = 3) -> Iterator[None]:
    gates = torch.zeros(rows, len(model.wiring.components))
    gates[:, members] = 1
    with gated(model, model.wiring, gates, replacement):
        yield


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_every_declared_family_is_tested() -> None:
    assert {config(name).model_type for name in CONFIGS} == set(FAMILIES)


@EVERY
def test_with_closed_gates_the_logits_are_those_of_the_bare_model_bit_for_bit(name: str) -> None:
    model = made(name)
    bare = model.network(input_ids=TOKENS).logits
    before = hooks(model)
    gates = torch.zeros(3, len(model.wiring.components))
    with torch.no_grad(), gated(model, model.wiring, gates, zeros(model), layers=range(model.n_layers)):
        assert hooks(model) == before + 2 * model.n_layers
        assert torch.equal(model(TOKENS), bare)
    assert hooks(model) == before
    assert torch.equal(model(TOKENS, 3), bare[:, -3:])


@EVERY
def test_replacing_components_by_their_own_output_changes_nothing(name: str) -> None:
    model = made(name)
    with torch.no_grad(), recorded(model, model.wiring) as seen:
        bare = model(TOKENS)
    with torch.no_grad(), opened(model, list(range(len(model.wiring.components))), seen):
        assert torch.equal(model(TOKENS), bare)


@EVERY
def test_a_head_whose_part_of_the_out_projection_is_zero_has_no_effect(name: str) -> None:
    """And the others have one: the gates are at this head, and at no other."""
    model = made(name)
    for layer in range(model.n_layers):
        with torch.no_grad():
            model.wiring.output.of(model.wiring.weight(model, model.wiring.output.module, layer), 2, 4).zero_()
    with torch.no_grad():
        bare = model(TOKENS)
        for number, component in enumerate(model.wiring.components):
            with opened(model, [number], zeros(model)):
                change = (model(TOKENS) - bare).abs().max()
            assert (change == 0) == (component.head == 2), component.name


@EVERY
def test_a_replaced_mlp_adds_its_replacement_to_the_residual_stream(name: str) -> None:
    """It is what a last matrix of zeros gives with the replacement added above the layer, whatever norm comes between."""
    model = made(name)
    mlp, other = model.wiring.columns(1)[1], zeros(model)
    other.mlps[1][:] = torch.randn(model.d_model, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), opened(model, [mlp], other):
        ablated = model(TOKENS)
    silent = copy.deepcopy(model)
    block = silent.get_submodule(silent.wiring.mlp.format(layer=1).rpartition(".")[0])
    with torch.no_grad():
        down = silent.wiring.module(silent, silent.wiring.mlp_down, 1)
        for parameter in down.parameters():
            parameter.zero_()
        block.register_forward_hook(lambda *passed: added(passed[2], other.mlps[1]))
        torch.testing.assert_close(silent(TOKENS), ablated)
        assert not torch.allclose(model(TOKENS), ablated)


def added(output: Any, value: Tensor) -> Any:
    return (output[0] + value, *output[1:]) if isinstance(output, tuple) else output + value


@EVERY
def test_rows_do_not_see_each_other_and_carry_gates_of_their_own(name: str) -> None:
    model = made(name)
    gates = torch.eye(len(model.wiring.components))[[0, 4, 7]]
    with torch.no_grad(), gated(model, model.wiring, gates, zeros(model)):
        together = model(TOKENS)
    for row in range(3):
        with torch.no_grad(), gated(model, model.wiring, gates[row : row + 1], zeros(model)):
            torch.testing.assert_close(model(TOKENS[row : row + 1]), together[row : row + 1], rtol=1e-4, atol=1e-5)


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_no_number(name: str, side: str) -> None:
    model, members = made(name), [1, 4, 8]
    parts = [NONE, TOKENS] if side == "left" else [TOKENS, NONE]
    padded = torch.cat(parts, 1)
    padded[0] = torch.cat([TOKENS[0], TOKENS[1, :2]])  # a row that has no padding
    for replaced in ([], members):
        with torch.no_grad(), opened(model, replaced, zeros(model)):
            found, bare = model(padded, 3), model(TOKENS, 3)
        with torch.no_grad(), opened(model, replaced, zeros(model), rows=1):
            alone = model(padded[:1], 3)
        torch.testing.assert_close(found, torch.cat([alone, bare[1:]]), rtol=1e-4, atol=1e-5)


def test_the_context_is_that_of_tokens_and_not_of_what_pads_them() -> None:
    model = made("gpt2")
    assert model.n_ctx == 32
    wide = torch.cat([torch.full((3, 30), NOTHING), TOKENS], 1)
    torch.testing.assert_close(model(wide, 3), model(TOKENS, 3), rtol=1e-4, atol=1e-5)
    assert model(torch.ones(1, 32, dtype=torch.long)).shape[1] == 32
    with pytest.raises(ValueError, match="at most 32 per row, the model's context; got 33"):
        model(torch.ones(1, 33, dtype=torch.long))


def test_rows_that_are_too_short_or_have_gaps_are_refused() -> None:
    model = made("gpt2")
    gap = TOKENS.clone()
    gap[1, 3] = NOTHING
    with pytest.raises(ValueError, match="a gap between two tokens"):
        model(gap)
    with pytest.raises(ValueError, match="the shortest row, 5; got 6"):
        model(torch.cat([NONE, TOKENS[:, :5]], 1), 6)


@EVERY
@pytest.mark.parametrize("heads", ["value", "output"])
def test_gradient_magnitudes_are_those_of_autograd_on_the_raw_weights(name: str, heads: Any) -> None:
    model = made(name).double()
    scored = torch.zeros(3, 6, dtype=torch.bool)
    scored[:, -2:] = True
    batch = Batch(TOKENS[:, :-1], TOKENS[:, 1:], scored, 6)
    model.requires_grad_(False)
    norms = gradient_norms(model, model.wiring, [batch], normalise=False, heads=heads)[:, 0]
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    bare = model.network.requires_grad_(True)
    F.cross_entropy(bare(input_ids=batch.inputs).logits[:, -2:].flatten(0, 1), batch.targets[:, -2:].flatten()).backward()
    assert norms.tolist() == pytest.approx([float(part.norm()) for part in raw(name, bare, heads)], rel=1e-9)
    if heads == "value":
        assert weight_sizes(model, model.wiring) == [part.numel() for part in raw(name, bare, heads)]


def raw(name: str, bare: Any, heads: str) -> list[Tensor]:
    """Gradients of W_i cut out by hand from the family's own parameters."""
    found: list[Tensor] = []
    for layer in range(2):
        if name == "gpt_neo":
            block = bare.transformer.h[layer]
            value, output = (getattr(block.attn.attention, part).weight.grad for part in ("v_proj", "out_proj"))
            parts, down = value.split(6, 0) if heads == "value" else output.split(6, 1), block.mlp.c_proj.weight.grad
        elif name.startswith("gpt2"):
            block = bare.transformer.h[layer]
            attention, down = (block.attn.c_attn.weight.grad[:, 48:], block.attn.c_proj.weight.grad), block.mlp.c_proj.weight.grad
            parts = attention[0].split(6, 1) if heads == "value" else attention[1].split(6, 0)
        elif name.startswith("gpt_neox"):
            block = bare.gpt_neox.layers[layer]
            triples = block.attention.query_key_value.weight.grad.view(4, 3, 6, 24)
            parts = triples[:, 2] if heads == "value" else block.attention.dense.weight.grad.split(6, 1)
            down = block.mlp.dense_4h_to_h.weight.grad
        elif name == "phi":
            block = bare.model.layers[layer]
            value, output = block.self_attn.v_proj.weight.grad, block.self_attn.dense.weight.grad
            shared = [part for part in value.split(6, 0) for _ in range(2)]
            parts, down = shared if heads == "value" else output.split(6, 1), block.mlp.fc2.weight.grad
        else:
            block = bare.get_submodule("model.language_model" if name == "gemma3" else "model").layers[layer]
            width = block.self_attn.head_dim
            own = block.self_attn.v_proj.weight.grad.split(width, 0)
            shared = [part for part in own for _ in range(4 // len(own))]
            parts = shared if heads == "value" else block.self_attn.o_proj.weight.grad.split(width, 1)
            down = block.mlp.down_proj.weight.grad
        found += [*parts, down]
    return found


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_of_a_run_for_those_who_look_on_the_last_logits_alone_are_made(name: str) -> None:
    model, shapes = made(name), list[torch.Size]()
    head: Any = model.network.get_submodule("lm_head")
    head.register_forward_hook(lambda *passed: shapes.append(passed[2].shape))
    model.run(TOKENS)
    model(TOKENS, 2)
    model(TOKENS)
    assert [shape[1] for shape in shapes] == [1, 2, 7]


def test_a_record_is_told_what_the_model_is() -> None:
    keys = ("architecture", "positions", "d_model", "d_head", "d_ff", "heads_per_value", "attention", "attention_for_curvature")
    found = {name: [made(name).settings[key] for key in keys] for name in ("gpt2", "gpt_neox", "llama", "qwen3", "gemma3")}
    assert found == {
        "gpt2": ["gpt2", "learned", 24, 6, 20, 1, "sdpa", "math"],
        "gpt_neox": ["gpt_neox", "rotary", 24, 6, 20, 1, "sdpa", "math"],
        "llama": ["llama", "rotary", 24, 6, 20, 2, "sdpa", "math"],
        "qwen3": ["qwen3", "rotary", 24, 8, 20, 2, "sdpa", "math"],
        "gemma3": ["gemma3", "rotary", 24, 8, 20, 2, "sdpa", "math"],
    }
    eager = Pretrained(network("gpt2", attn_implementation="eager"), find_wiring(config("gpt2"))).settings
    assert (eager["attention"], eager["attention_for_curvature"]) == ("eager", "eager")


def test_attention_without_second_derivatives_is_refused() -> None:
    own: Any = network("gpt2")
    own.config._attn_implementation = "flex_attention"
    with pytest.raises(ValueError, match=r"eager or sdpa, which have second derivatives; this network has 'flex_attention'"):
        Pretrained(own, find_wiring(own.config))


def test_bfloat16_weights_give_logits_of_float32() -> None:
    model = made("llama").bfloat16()
    bare = model.network(input_ids=TOKENS).logits
    assert bare.dtype == torch.bfloat16
    assert torch.equal(model(TOKENS), bare.float())
    with torch.no_grad(), opened(model, [0, 4], zeros(model)):
        assert model(TOKENS).dtype == torch.float32


def test_another_precision_is_that_of_a_copy_whose_weights_alone_are_rounded() -> None:
    model = made("llama")
    before = model(TOKENS)
    converted = in_precision(model, "bf16")
    assert {weight.dtype for weight in converted.parameters()} == {torch.bfloat16}
    assert {table.dtype for table in converted.buffers()} == {torch.float32}, "of rotary positions"
    assert (model.settings["dtype"], converted.settings["dtype"]) == ("float32", "bfloat16")
    assert not torch.equal(converted(TOKENS), before)
    assert torch.equal(model(TOKENS), before)
    assert in_precision(model, "float32") is model


class Own(nn.Module):
    """A module of a user's own: one head, one MLP, and a way round them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.W_V, self.W_O = nn.Embedding(40, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.up, self.down = nn.Linear(6, 6), nn.Linear(6, 40)
        self.around = False

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embed(input_ids)
        return self.down(self.up(x if self.around else x + self.W_O(self.W_V(x))))


def test_a_module_of_the_users_own_needs_a_wiring_and_nothing_else() -> None:
    wiring = Wiring(1, 2, "W_O", "up", Slices("W_V"), Slices("W_O", axis=1), "up")
    own = Own()
    model = Pretrained(own, wiring)
    bare = model(TOKENS)
    with torch.no_grad(), opened(model, [1], zeros(model)):
        assert not torch.equal(model(TOKENS), bare)
    own.around = True
    with pytest.raises(NotFiredError, match="heads of layer 0"), torch.no_grad(), opened(model, [1], zeros(model)):
        model(TOKENS)
    assert hooks(model) == 0


@pytest.mark.parametrize(
    ("wiring", "told"),
    [
        (Wiring(1, 2, "W_o", "up", Slices("W_V"), Slices("W_O", axis=1), "up"), "no module 'network.W_o'"),
        (Wiring(1, 2, "W_O", "up", Slices("W_V"), Slices("W_O", axis=1), "other"), "no module 'network.other'"),
        (Wiring(1, 4, "W_O", "up", Slices("W_V"), Slices("W_O", axis=1), "up"), "no part of head 3: axis 0 has 6 entries for 4"),
        (Wiring(1, 2, "W_O", "up", Slices("W_V", first=1), Slices("W_O", axis=1), "up"), "no part of head 1"),
    ],
)
def test_a_wrong_wiring_is_refused_when_the_model_is_made(wiring: Wiring, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Pretrained(Own(), wiring)


def compiled_whole(own: Any) -> Any:
    return torch.compile(own, backend="eager")


def compiled_in_place(own: Any) -> Any:
    own.compile(backend="eager")
    return own


def compiled_layer(own: Any) -> Any:
    own.transformer.h[1] = torch.compile(own.transformer.h[1], backend="eager")
    return own


def compiled_forward(own: Any) -> Any:
    own.transformer.h[0].mlp.forward = torch.compile(own.transformer.h[0].mlp.forward, backend="eager")
    return own


@pytest.mark.parametrize(
    ("compiled", "told"),
    [
        (compiled_whole, r"this model was, by torch.compile. Give the module inside, `compiled._orig_mod`"),
        (compiled_in_place, "this model was, by its method `compile`"),
        (compiled_layer, r"the part `transformer.h.1` of this model was, by torch.compile. Give the module inside"),
        (compiled_forward, r"the part `transformer.h.0.mlp` of this model was, by torch.compile of its `forward`"),
    ],
)
def test_a_network_that_torch_compiled_is_refused_in_whole_and_in_part(compiled: Any, told: str) -> None:
    with pytest.raises(ValueError, match="the model must not be compiled, .*" + told):
        Pretrained(compiled(network("gpt2")), find_wiring(config("gpt2")))
    model = made("gpt2")
    model.network = compiled(model.network)
    with pytest.raises(ValueError, match="the model must not be compiled"):
        Wiring.of(model)


def test_a_module_of_torchscript_is_refused() -> None:
    class Doubled(nn.Module):
        def forward(self, input_ids: Tensor) -> Tensor:
            return 2 * input_ids

    with pytest.warns(DeprecationWarning, match="torch.jit"):
        scripted: Any = torch.jit.trace(Doubled(), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"must not be compiled, .* by torch.jit. Give the module that was scripted or traced"):
        Pretrained(scripted, Wiring(1, 2))
