"""Activation norms and attention, against the second implementation and by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, get_args

import pytest
import reference
import torch
from torch import nn

from gcgap.data.batches import Purpose, Source
from gcgap.importance.activity import activation_norms, attention_entropies, mean_patterns
from gcgap.models.transformer import Positions, Transformer
from gcgap.models.wiring import Wiring

POSITIONS = get_args(Positions)
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "n_ctx": 14, "seed": 5}
WIRING = Wiring(2, 2)
BATCH = Source("sort", seed=7).batch(Purpose.MEAN, 5, 4)


def theirs(model: Transformer, positions: Positions) -> reference.Run:
    return reference.run(model.state_dict(), BATCH.inputs, 2, positions)


@pytest.mark.parametrize("positions", POSITIONS)
def test_activation_norms_agree_with_the_reference(positions: Positions) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    run, found = theirs(model, positions), activation_norms(model, WIRING, BATCH)
    for part, value in zip(WIRING.components, found.tolist(), strict=True):
        write = run.parts[part.layer, None] if part.head is None else run.writes[part.layer, part.head]
        norms = [float(vector.norm()) for row in write for vector in row]
        assert value == pytest.approx(sum(norms) / len(norms), rel=1e-5 if positions == "sinusoidal" else 1e-10)


@pytest.mark.parametrize("positions", POSITIONS)
def test_patterns_and_entropies_agree_with_the_reference(positions: Positions) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    run, patterns, found = theirs(model, positions), mean_patterns(model, BATCH), attention_entropies(model, BATCH)
    tolerance = 1e-5 if positions == "sinusoidal" else 1e-10
    for (layer, head), pattern in run.patterns.items():
        torch.testing.assert_close(patterns[layer, head], pattern.mean(0), atol=tolerance, rtol=tolerance)
        shares = []
        for row in pattern.tolist():
            for query in range(1, len(row)):
                entropy = -sum(weight * math.log(weight) for weight in row[query] if weight > 0)
                shares.append(entropy / math.log(query + 1))
        assert float(found[layer, head]) == pytest.approx(sum(shares) / len(shares), rel=1e-5)


def test_attention_is_what_the_heads_sum_the_values_with() -> None:
    model = Transformer(**SIZES, positions="rotary").double()
    x, attention = torch.randn(3, 6, 16, generator=torch.Generator().manual_seed(0)).double(), model.blocks[1].attention
    values = attention.W_V(x).unflatten(-1, (2, -1)).transpose(1, 2)
    summed = (attention.pattern(x) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(summed, attention.heads(x, 6), atol=1e-12, rtol=1e-12)


def test_uniform_attention_has_all_of_the_entropy_and_a_fixed_look_none() -> None:
    model = Transformer(**SIZES)
    with torch.no_grad():
        first, second = (block.attention for block in model.blocks)
        first.W_Q.weight.zero_()
        first.W_Q.bias.zero_()  # no query prefers any key
        for linear in (second.W_Q, second.W_K):
            linear.weight.mul_(300)  # every query prefers one key by far
    entropies = attention_entropies(model, BATCH)
    torch.testing.assert_close(entropies[0], torch.ones(2, dtype=torch.float64), atol=1e-6, rtol=0)
    assert float(entropies[1].max()) < 0.2


def test_a_head_that_writes_nothing_has_no_norm() -> None:
    model = Transformer(**SIZES)
    with torch.no_grad():
        model.blocks[1].attention.W_O.weight[:, :8] = 0
    norms = dict(zip([part.name for part in WIRING.components], activation_norms(model, WIRING, BATCH).tolist(), strict=True))
    assert norms["L1_H0"] == 0
    assert all(value > 0 for name, value in norms.items() if name != "L1_H0")


def test_looking_changes_nothing(unchanged: Callable[[nn.Module], AbstractContextManager[None]]) -> None:
    model = Transformer(**SIZES).train()
    with unchanged(model):
        activation_norms(model, WIRING, BATCH)
        attention_entropies(model, BATCH)
        mean_patterns(model, BATCH)


def test_neither_a_default_dtype_nor_autocast_of_the_caller_changes_a_number() -> None:
    model = Transformer(**SIZES)
    usual = activation_norms(model, WIRING, BATCH), attention_entropies(model, BATCH)
    with torch.autocast("cpu", torch.bfloat16):
        cast = activation_norms(model, WIRING, BATCH), attention_entropies(model, BATCH)
    torch.set_default_dtype(torch.float16)
    try:
        half = activation_norms(model, WIRING, BATCH), attention_entropies(model, BATCH)
    finally:
        torch.set_default_dtype(torch.float32)
    for found in (cast, half):
        assert all(torch.equal(one, other) for one, other in zip(found, usual, strict=True))
