"""The number formats that weights may have, and the one that a model is measured in, whatever format it was trained in.

`bf16` is mixed: products of matrices inside the layers, where nearly all arithmetic is, and attention are bfloat16; the residual
stream, LayerNorm, the unembedding and everything after it stay float32, because a logit of bfloat16 has two or three digits and
ties decide exact match.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gcgap.models.transformer import Decoder, Transformer

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.bfloat16}
FORMATS = ("float64", "float32", "bfloat16", "float16")


def check_formats(formats: Mapping[str, str]) -> None:
    """Raise a ValueError that names the first weight that is not of floating point, of 16 bits or more.

    Args:
        formats: By the names of weights, as torch calls them.
    """
    for name, found in formats.items():
        if found not in FORMATS:
            raise ValueError(f"`{name}` must be dense and of floating point ({', '.join(FORMATS)}); got {found}")


def check_one_format(formats: Mapping[str, str]) -> None:
    """Raise a ValueError that names the first weight of another number format than most have."""
    usual = Counter(formats.values()).most_common(1)
    for name, found in formats.items():
        if found != usual[0][0]:
            raise ValueError(f"the weights must be of one number format, {usual[0][0]}; got {found} in `{name}`")


def check_tensors(weights: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """The number formats of weights, each of which must be a dense tensor of floating point with all its numbers.

    PyTorch copies anything into a weight: integers and quantised numbers become others, complex ones lose their imaginary part.

    Raises:
        ValueError: It names the first weight that is none.
    """
    formats = {}
    for name, weight in weights:
        if type(weight) not in (Tensor, nn.Parameter):
            raise ValueError(f"`{name}` must be a plain tensor; got a {type(weight).__name__}")
        if weight.is_meta:
            raise ValueError(f"`{name}` must be in memory; got a tensor without numbers")
        formats[name] = plain(weight.dtype) + (f" in the layout {plain(weight.layout)}" if weight.layout != torch.strided else "")
        check_formats({name: formats[name]})
        repeats = any(size > 1 and not step for size, step in zip(weight.shape, weight.stride(), strict=True))
        if repeats or weight.numel() * weight.element_size() > weight.untyped_storage().nbytes():
            raise ValueError(f"`{name}` must hold {weight.numel()} numbers; got fewer, which are repeated")
    return formats


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that holds NaN or Inf; None if there is none."""
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), None)


def plain(kind: torch.dtype | torch.layout) -> str:
    """The name of a number format or layout: float32, say."""
    return str(kind).removeprefix("torch.")


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
    converted.settings = converted.settings | {"dtype": plain(dtype)}
    return converted


def _mixed(model: Transformer) -> Transformer:
    for block in model.blocks:
        block.attention.bfloat16()
        block.mlp.bfloat16()
        for name in ("norm_attention", "norm_mlp"):
            norm: nn.LayerNorm = getattr(block, name)
            rounded = Rounded(list(norm.normalized_shape), eps=norm.eps)
            rounded.load_state_dict(norm.state_dict())
            setattr(block, name, rounded.to(norm.weight.device).train(norm.training))
    return model
