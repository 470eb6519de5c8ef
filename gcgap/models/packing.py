"""Training logits without work that is done twice or for nothing, on a CPU.

The products are the model's own, those of queries, keys and values made as one. Attention alone needs rows
of equal length; everything else works on a flat row of tokens, from which three kinds are left out:

- what stands behind the end of an example, which no scored token sees;
- tokens that have stood after the same tokens in a row above: START in every row, and some first integers;
- in the last layer, tokens whose next one is not scored.

What the first layer's heads read follows from a token alone where positions are not added to it; it is computed once for each
entry of the vocabulary. All this saves arithmetic, which counts on a CPU; a GPU is busier with starting kernels than with running
them, and takes the plain pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gcgap.models.transformer import Attention, Decoder, Transformer


def scored_logits(
    model: Decoder, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """Logits at the scored positions, row by row: `model(inputs)[scored]`."""
    if isinstance(model, Transformer) and inputs.device.type == "cpu":
        return packed_logits(model, inputs, scored)
    return model(inputs)[scored]


def packed_logits(
    model: Transformer, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """The same, from each token that is needed, once."""
    held, first = _tokens(inputs, scored)
    ends = scored.flatten().nonzero().squeeze(1)
    x = model.embed(inputs).flatten(0, 1).index_select(0, first)
    for layer, block in enumerate(model.blocks):
        attention, by_token = block.attention, layer == 0 and not model.adds_positions
        read = block.norm_attention(model.embedding.weight if by_token else x)
        rows = (inputs if by_token else held).flatten()
        q, k, v = _projected(attention, read).index_select(0, rows).unflatten(0, inputs.shape).chunk(3, -1)
        z, kept = attention.attend(q, k, v).flatten(0, 1), first
        if layer == model.n_layers - 1:
            x, kept = x.index_select(0, held[scored]), ends
        x = block.write(x.unsqueeze(0), z.index_select(0, kept).unsqueeze(0))[0]
    return model.unembedding(model.norm(x))


def _projected(attention: Attention, read: Float[Tensor, "tokens d_model"]) -> Float[Tensor, "tokens three_d_model"]:
    """Queries, keys and values side by side: one product instead of three, and one place to take rows from."""
    parts = (attention.W_Q, attention.W_K, attention.W_V)
    return F.linear(read, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))


def _tokens(inputs: Tensor, scored: Tensor) -> tuple[Tensor, Tensor]:
    """Which token of the flat row stands at each position, (batch, pos), and for each of them where it stands first, (tokens,).

    At positions behind an example stands any token. Sharing ends after two positions, where prefixes are hardly ever the same.
    """
    place = torch.arange(inputs.numel()).view_as(inputs)
    base = int(inputs.max()) + 1
    prefix = place + base * (base + 1)  # a number for each prefix; it is the place where nothing is shared
    prefix[:, 0] = inputs[:, 0]
    prefix[:, 1] = base * (1 + inputs[:, 0]) + inputs[:, 1]
    needed = scored.flip(1).cumsum(1).flip(1) > 0
    prefix = prefix.where(needed, prefix[0, 0])
    kinds, held = prefix.unique(return_inverse=True)
    first = place.new_full(kinds.shape, inputs.numel()).scatter_reduce(0, held.flatten(), place.flatten(), "amin")
    return held, first
