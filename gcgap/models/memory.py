"""How many rows fit into memory together: measured on one row of the model itself, not guessed from its architecture.

What one row needs is counted where autograd saves it, which is every activation that a backward pass reads. A forward pass alone
holds those of about one layer, and the outputs of all components twice where a corrupted run is patched in; a backward pass holds
all of them and their gradients; a backward pass through it, the graph of the first one too. The factors are upper limits that a
test holds to counted allocations.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gcgap.models.eval_mode import undisturbed
from gcgap.models.transformer import Kind

GIB = 2**30
FACTORS: dict[Kind, float] = {"forward": 1.0, "backward": 2.0, "double": 6.0}
"""Bytes that a row needs, as shares of what autograd saves for it."""


def saved_bytes(model: nn.Module, tokens: int, kind: Kind) -> int:
    """Bytes that autograd saves for one row of so many tokens, weights left out, with the attention that a kind of pass takes."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    asking = [weight for weight in model.parameters() if not weight.requires_grad]
    seen: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(value)  # else its place may be taken by another one
        return value

    kept: list[Tensor] = []
    device = next(model.parameters()).device
    try:
        for weight in asking:
            weight.requires_grad_(True)
        path = sdpa_kernel(SDPBackend.MATH) if kind == "double" else nullcontext()
        with undisturbed(model), path, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            model(torch.ones(1, tokens, dtype=torch.long, device=device), 1)
    finally:
        for weight in asking:
            weight.requires_grad_(False)
    return sum(seen.values())


def rows_within(limit: float, row: int, kind: Kind) -> int:
    """Rows that fit into `limit` GiB, where autograd saves `row` bytes for one.

    Raises:
        ValueError: Not even one does.
    """
    each = row * FACTORS[kind]
    if (rows := int(limit * GIB // each)) < 1:
        raise ValueError(f"`--memory` must be at least {each / GIB:.2g} GiB, what one prompt takes; got {limit:g}.")
    return rows
