"""Replay: what it gives is what whole passes give, in every family, and a network that cannot be entered runs whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from families import CONFIGS, SHAPE, config, network
from torch import Tensor, nn

from gcgap.attribution.drop import Drop
from gcgap.data.answer_sets import Step
from gcgap.data.batches import NOTHING, Batch
from gcgap.data.prompt_tokens import as_batch
from gcgap.data.prompts import Encoded
from gcgap.importance.ablation import Intervention, ablated_scores
from gcgap.importance.baselines import activations_on
from gcgap.importance.scores import logit_difference, probability_difference
from gcgap.models.families import find_wiring
from gcgap.models.pretrained import Pretrained
from gcgap.models.wiring import Wiring

ROWS, TOKENS = 3, 9


class Whole(Pretrained):
    """The same model, always run whole."""

    @property
    def keeps_tokens(self) -> bool:
        return False


def prompts(since: int, padded: bool) -> tuple[Batch, Tensor]:
    """Right answers behind rows, of unequal lengths if they are padded, and other rows that begin with the same tokens."""
    generator = torch.Generator().manual_seed(since)
    inputs, other = torch.randint(3, SHAPE["vocab_size"], (2, ROWS, TOKENS), generator=generator)
    other = torch.cat([inputs[:, :since], other[:, since:]], 1)
    ends = torch.tensor([TOKENS, TOKENS - 1, TOKENS - 2]) if padded and since < TOKENS - 2 else torch.full((ROWS,), TOKENS)
    there = torch.arange(TOKENS) < ends[:, None]
    scored = torch.arange(TOKENS) == ends[:, None] - 1
    targets = torch.randint(3, SHAPE["vocab_size"], (ROWS, TOKENS), generator=generator)
    return Batch(inputs.where(there, NOTHING), targets, scored, ROWS), other.where(there, NOTHING)


def both(name: str, dtype: torch.dtype = torch.float64) -> tuple[Pretrained, Pretrained]:
    made = network(name).to(dtype)
    return Pretrained(made, find_wiring(config(name))), Whole(made, find_wiring(config(name)))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("since", "padded"), [(0, True), (4, True), (TOKENS - 1, False)])
def test_replayed_effects_are_those_of_whole_passes(name: str, since: int, padded: bool) -> None:
    batch, other = prompts(since, padded)
    found = []
    for model in both(name):
        n = len(model.wiring.components)
        assert model.keeps_tokens is (type(model) is Pretrained), model.not_replayed
        given = activations_on(model, model.wiring, other, batch.last, batch.inputs)
        assert given(slice(None)).since == since
        sets = [frozenset(members) for size in (1, 2, n) for members in combinations(range(n), size)]
        base, ablated = ablated_scores(model, model.wiring, batch, [Intervention(one, given) for one in sets])
        drop = Drop(model, model.wiring, batch, given, logit_difference)
        slopes, curvatures = drop.path_derivatives(0.3, curvature=True)
        gates = torch.rand(ROWS, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gates[:, : model.n_heads] = 0  # nothing of the first layer
        joint = [drop.level(gates), *drop.hessian_product(gates, gates[0])]
        found.append([torch.stack(base), torch.stack(ablated), slopes, curvatures, *joint])
    near = 1e-7 if name == "gpt_neo" else 1e-12  # whose attention is float32 in any format
    for replayed, whole in zip(*found, strict=True):
        torch.testing.assert_close(replayed, whole, rtol=near, atol=near)


def test_effects_at_chosen_tokens_are_those_of_whole_passes() -> None:
    batch, other = prompts(2, True)
    where, found = torch.arange(TOKENS) == 5, []
    for model in both("llama"):
        given = activations_on(model, model.wiring, other, batch.last)
        asked = [Intervention(frozenset([member]), given) for member in range(len(model.wiring.components))]
        found.append(torch.stack(ablated_scores(model, model.wiring, batch, asked, where=where)[1]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    assert found[0].std(1).max() > 0


def test_answers_of_several_tokens_are_scored_as_in_whole_passes() -> None:
    """Of one row two positions are scored, of the other one, and a token that counts for nothing stands behind it."""
    steps = Step((12, 13), (14,)), Step((10,), (11, 15))
    rows = [
        Encoded((5, 6, 7, 8, 3), (5, 6, 4, 8, 3), 10, 11, steps),
        Encoded((5, 6, 8), (5, 6, 4), 10, 11, (Step((10, 12), (11,)),)),
    ]
    batch, found = as_batch(rows), []
    assert batch.corrupted is not None
    for model in both("llama"):
        given = activations_on(model, model.wiring, batch.corrupted, batch.last, batch.inputs)
        asked = [Intervention(frozenset([member]), given) for member in range(len(model.wiring.components))]
        slopes, curvatures = Drop(model, model.wiring, batch, given, probability_difference).path_derivatives(0.3, curvature=True)
        found.append([*map(torch.stack, ablated_scores(model, model.wiring, batch, asked)), slopes, curvatures])
    for replayed, whole in zip(*found, strict=True):
        torch.testing.assert_close(replayed, whole, rtol=1e-12, atol=1e-12)
        assert replayed.isfinite().all()


def test_layers_run_for_the_tokens_that_can_change_and_not_below_what_changes() -> None:
    model, _ = both("llama", torch.float32)
    batch, other = prompts(5, False)
    assert model.keeps_tokens
    seen: list[tuple[int, int]] = []
    for number in range(model.n_layers):
        mlp = model.get_submodule(model.wiring.mlp.format(layer=number))
        mlp.register_forward_hook(lambda _, args, __, number=number: seen.append((number, args[0].shape[1])))
    given = activations_on(model, model.wiring, other, batch.last, batch.inputs)
    ready = given(slice(None))
    seen.clear()
    asked = [Intervention(frozenset([model.wiring.columns(1)[1]]), lambda rows: ready)]
    ablated_scores(model, model.wiring, batch, asked)
    clean = [(0, TOKENS), (1, TOKENS)]
    assert seen == [*clean, (1, 1), *clean, (1, 1)]  # a run that shares layers, the base, one that shares tokens, the replay


class Heads(nn.Module):
    """Heads that sum what all tokens before put out."""

    def __init__(self) -> None:
        super().__init__()
        self.W_V, self.W_O = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.W_O(self.W_V(x).cumsum(1))


class Layer(nn.Module):
    """Heads and an MLP that read the residual stream, and whatever `extra` adds."""

    def __init__(self, extra: Callable[[Tensor], Tensor | int]) -> None:
        super().__init__()
        self.attention, self.mlp, self.extra = Heads(), nn.Linear(8, 8), extra

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.mlp(x) + self.extra(x)


class Foreign(nn.Module):
    """A network of no family; with `reads` the last layer reads what the first one's MLP has read."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(10, 8), nn.LayerNorm(8), nn.Linear(8, 10)
        self.kept = torch.zeros(())
        first, last = Layer(self.keep), Layer(lambda x: self.kept if reads else 0)
        self.blocks = nn.ModuleList([first, last])

    def keep(self, x: Tensor) -> int:
        self.kept = x
        return 0

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


WIRING = Wiring(2, 2, mlp_down="blocks.{layer}.mlp", norms=(("norm", ("head",)),))


@pytest.mark.parametrize(
    ("reads", "wiring", "why"),
    [
        (False, WIRING, ""),
        (True, WIRING, "logits differ by"),
        (False, Wiring(2, 2, mlp_down="blocks.{layer}.mlp"), "names no norm behind the last layer"),
    ],
)
def test_a_network_that_cannot_be_entered_says_why_and_runs_whole(reads: bool, wiring: Wiring, why: str) -> None:
    torch.manual_seed(0)
    made = Foreign(reads).double()
    model, whole = Pretrained(made, wiring), Whole(made, wiring)
    assert model.keeps_tokens == (not why)
    assert why in model.not_replayed
    tokens = torch.randint(0, 10, (4, 6))
    batch = Batch(tokens, tokens, torch.arange(6).expand(4, 6) == 5, 4)
    other = tokens.clone()
    other[:, 3:] = other[:, 3:].flip(0)
    found = []
    for one in (model, whole):
        given = activations_on(one, one.wiring, other, 1, tokens)
        sets = [Intervention(frozenset([member]), given) for member in range(6)]
        found.append(torch.stack(ablated_scores(one, one.wiring, batch, sets)[1]))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
