"""The number format that a model is measured in, whatever format it was trained in.

`bf16` is mixed: products of matrices inside the layers, where nearly all arithmetic is, and attention are bfloat16; the residual
stream, LayerNorm, the unembedding and everything after it stay float32, because a logit of bfloat16 has two or three digits and
ties decide exact match.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

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


FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_formats(weights: Iterable[tuple[str, Any]]) -> None:
    """Raise a ValueError that names the first weight that is not a dense tensor of floating point.

    PyTorch copies anything into a weight: integers and quantised numbers become others, complex ones lose their imaginary part.
    """
    for name, weight in weights:
        if type(weight) not in (Tensor, nn.Parameter):
            raise ValueError(f"`{name}` must be a plain tensor; got a {type(weight).__name__}")
        if weight.is_meta:
            raise ValueError(f"`{name}` must be in memory; got a tensor without numbers")
        if weight.dtype not in FORMATS or weight.layout != torch.strided or weight.is_quantized or weight.is_nested:
            told = ", ".join(_plain(dtype) for dtype in FORMATS)
            form = "" if weight.layout == torch.strided else f" in the layout {_plain(weight.layout)}"
            raise ValueError(f"`{name}` must be dense and of floating point ({told}); got {_plain(weight.dtype)}{form}")
        repeats = any(size > 1 and not step for size, step in zip(weight.shape, weight.stride(), strict=True))
        if repeats or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(f"`{name}` must hold {weight.numel()} numbers; got fewer, which are repeated")


def check_one_format(weights: Iterable[tuple[str, Tensor]]) -> None:
    """Raise a ValueError that names the first weight of another number format than most have."""
    dtypes = {name: weight.dtype for name, weight in weights}
    usual = max(dtypes.values(), key=list(dtypes.values()).count)
    for name, dtype in dtypes.items():
        if dtype != usual:
            raise ValueError(f"the weights must be of one number format, {_plain(usual)}; got {_plain(dtype)} in `{name}`")


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that holds NaN or Inf; None if there is none."""
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), None)


def _plain(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
