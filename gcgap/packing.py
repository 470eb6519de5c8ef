"""Training logits from the real tokens alone: what a batch of mixed lengths has behind the end of an example is never computed.

Owns no mathematics: every product is the model's own. Only attention needs rows of equal length; everything else works on a flat
row of tokens, and the last layer on those whose next token is scored. It saves arithmetic, which counts on a CPU; a GPU is busier
with starting kernels than with running them, and takes the plain pass.
"""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from gcgap.model import Transformer


def scored_logits(
    model: Transformer, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """Logits at the scored positions, row by row: `model(inputs)[scored]`."""
    return packed_logits(model, inputs, scored) if inputs.device.type == "cpu" else model(inputs)[scored]


def packed_logits(
    model: Transformer, inputs: Int[Tensor, "batch pos"], scored: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "scored vocabulary"]:
    """The same, without the tokens that stand behind the last scored one of their row."""
    real = scored.flip(1).cumsum(1).flip(1) > 0
    place = real.flatten().nonzero().squeeze(1)
    x = model.embed(inputs).flatten(0, 1)[place].unsqueeze(0)  # one long row: (1, real, d_model)

    def in_rows(flat: Float[Tensor, "1 real d_model"]) -> Float[Tensor, "batch pos d_model"]:
        rows = flat.new_zeros(real.numel(), flat.shape[-1]).index_copy(0, place, flat[0])
        return rows.unflatten(0, real.shape)

    for layer, block in enumerate(model.blocks):
        read, attention = block.norm_attention(x), block.attention
        q, k, v = (in_rows(project(read)) for project in (attention.W_Q, attention.W_K, attention.W_V))
        kept = scored.flatten()[place] if layer == model.n_layers - 1 else slice(None)
        z = attention.attend(q, k, v).flatten(0, 1)[place][kept]
        x = block.write(x[:, kept], z.unsqueeze(0))
    return model.unembedding(model.norm(x[0]))
