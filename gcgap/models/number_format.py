"""The number format that a model is measured in, whatever format it was trained in.

`bf16` is mixed: products of matrices inside the layers, where nearly all arithmetic is, and attention are bfloat16; the residual
stream, LayerNorm, the unembedding and everything after it stay float32, because a logit of bfloat16 has two or three digits and
ties decide exact match.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from gcgap.models.transformer import Decoder, Transformer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}


class Rounded(nn.LayerNorm):
    """A float32 LayerNorm whose output is bfloat16."""

    def forward(self, input: Tensor) -> Tensor:
        """As LayerNorm."""
        return super().forward(input).bfloat16()


def in_precision(model: Decoder, name: str) -> Decoder:
    """The model itself, or a converted copy where it has another number format than the one named.

    A pretrained model is wholly of one format, up to its logits, which are float32 at least.

    Args:
        model: Left as it is.
        name: A key of `DTYPES`.
    """
    dtype = DTYPES[name]
    mixed = dtype == torch.bfloat16 and isinstance(model, Transformer)
    if not mixed and {parameter.dtype for parameter in model.parameters()} == {dtype}:
        return model
    converted = copy.deepcopy(model)
    if isinstance(converted, Transformer):
        return _mixed(converted.float()) if mixed else converted.to(dtype)
    for weight in converted.parameters():  # alone: the tables of rotary positions stay as precise as they are
        weight.data = weight.data.to(dtype)
    converted.settings = converted.settings | {"dtype": str(dtype).removeprefix("torch.")}
    return converted


def _mixed(model: Transformer) -> Transformer:
    for block in model.blocks:
        block.attention.bfloat16()
        block.mlp.bfloat16()
        block.norm_attention, block.norm_mlp = (_rounded(norm) for norm in (block.norm_attention, block.norm_mlp))
    return model


def _rounded(norm: nn.LayerNorm) -> Rounded:
    made = Rounded(list(norm.normalized_shape), eps=norm.eps)
    made.load_state_dict(norm.state_dict())
    return made.to(norm.weight.device).train(norm.training)
