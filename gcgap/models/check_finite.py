"""Which tensors cannot be weights: those that are not plain numbers of floating point, or hold NaN or Inf."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

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
