"""Which tensor holds NaN or Inf."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor that holds NaN or Inf; None if there is none."""
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), None)
