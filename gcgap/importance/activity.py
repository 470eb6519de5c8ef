"""What a component does while it is left alone: how much it writes, and how widely a head looks.

Neither says what the component causes. They are recorded beside G and C because they cost one forward pass.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.batches import Batch
from gcgap.components import Wiring
from gcgap.gates import recorded, undisturbed
from gcgap.model import Transformer


@torch.no_grad()
def activation_norms(model: Transformer, wiring: Wiring, batch: Batch) -> Float[Tensor, " component"]:
    """Mean Euclidean norm of what each component adds to the residual stream (a head: z_h W_O[h]), over rows and positions."""
    with undisturbed(model), recorded(model, wiring) as seen:
        model(batch.inputs.to(next(model.parameters()).device))
    norms = []
    for layer, (z, mlp) in enumerate(zip(seen.heads, seen.mlps, strict=True)):
        weight = wiring.module(model, wiring.out_projection, layer).weight
        assert isinstance(weight, Tensor)
        writes = torch.einsum("b p h d, m h d -> b p h m", z, weight.unflatten(1, (wiring.n_heads, -1)))
        norms += [*writes.norm(dim=-1).double().mean((0, 1)), mlp.norm(dim=-1).double().mean()]
    return torch.stack(norms).cpu()


@torch.no_grad()
def mean_patterns(model: Transformer, batch: Batch) -> Float[Tensor, "layer head query key"]:
    """Every head's attention pattern, averaged over the rows of a batch of one length."""
    with undisturbed(model):
        patterns = model.patterns(batch.inputs.to(next(model.parameters()).device))
    return torch.stack([pattern.double().mean(0) for pattern in patterns]).cpu()


@torch.no_grad()
def attention_entropies(model: Transformer, batch: Batch) -> Float[Tensor, "layer head"]:
    """Entropy of each head's attention as a share of the largest possible, log(number of visible keys), in [0, 1].

    The mean over rows and over the query positions that see two keys or more. 1 is uniform attention, 0 looks at one position.
    """
    with undisturbed(model):
        patterns = torch.stack(model.patterns(batch.inputs.to(next(model.parameters()).device))).double()
    entropy = -torch.special.xlogy(patterns, patterns).sum(-1)[..., 1:]
    most = torch.arange(2, patterns.shape[-1] + 1, device=entropy.device).log()
    return (entropy / most).mean((1, 3)).cpu()
