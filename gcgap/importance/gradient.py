"""G, the gradient magnitude of each component (arXiv:2602.01442v3, eq. 1).

    G_i = 1/B sum_b || dL_b / dW_i ||_F / sqrt(N_i)

L_b is the mean cross entropy over the scored tokens of batch b, or the mean of -log P(a right answer) where several are. W_i is a
head's slice of W_V (d_model x d_head), or an MLP's down matrix; N_i is its number of entries; biases are left out, as in the
paper. Where query heads share their values, each of them has the slice of its group, so that they all have the same G; the head's
slice of W_O, which it shares with none, can be taken instead. G is positive and has the units of loss per unit of weight. It
measures sensitivity to the *weights*, not to the component's output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from gcgap.data.batches import Batch
from gcgap.importance.scores import log_prob
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Slices, Wiring

HeadWeight = Literal["value", "output"]
"""Which of a head's weights is looked at: its slice of W_V, as in the paper, or of W_O."""


def gradient_norms(
    model: Decoder, wiring: Wiring, batches: Sequence[Batch], normalise: bool = True, heads: HeadWeight = "value"
) -> Float[Tensor, "component batch"]:
    """|| dL_b / dW_i ||_F (over sqrt(N_i) if `normalise`) of every component and batch; G is the mean over batches (eq. 1).

    Leaves `.grad`, hooks and mode as they are. Batches must be of one length each.

    Raises:
        FloatingPointError: A gradient is not finite.
    """

    def norm(component: int, gradient: Tensor, weight: Tensor) -> Tensor:
        return gradient.norm() / (gradient.numel() ** 0.5 if normalise else 1)

    return over_batches(model, wiring, batches, norm, heads)


def over_batches(
    model: Decoder,
    wiring: Wiring,
    batches: Sequence[Batch],
    measure: Callable[[int, Tensor, Tensor], Tensor],
    heads: HeadWeight = "value",
) -> Float[Tensor, "component batch *numbers"]:
    """A number, or several, made of dL_b / dW_i and W_i, both float64, for every component and batch.

    Args:
        model: The model.
        wiring: Where its components are.
        batches: What L_b is taken over.
        measure: Makes a scalar or a vector of a component's place, its gradient and its weight.
        heads: Which of a head's weights W_i is: its slice of W_V, or of W_O.

    Raises:
        FloatingPointError: A gradient is not finite.
    """
    slices: Slices = getattr(wiring, heads)
    names = (slices.module, wiring.mlp_down)
    weights = [wiring.weight(model, name, layer) for layer in range(wiring.n_layers) for name in names]
    frozen = [weight for weight in weights if not weight.requires_grad]
    own = _by_component(weights, wiring, slices)
    found: list[Tensor] = []
    with eval_mode(model), torch.enable_grad():
        for weight in frozen:
            weight.requires_grad_(True)
        try:
            for batch in batches:
                gradients = _by_component(_gradients(model, batch, weights), wiring, slices)
                made = [measure(i, g, w).cpu() for i, (g, w) in enumerate(zip(gradients, own, strict=True))]
                found.append(torch.stack(made))
        finally:
            for weight in frozen:
                weight.requires_grad_(False)
    numbers = torch.stack(found, 1)
    for component, row in zip(wiring.components, numbers, strict=True):
        if not bool(torch.isfinite(row).all()):
            raise FloatingPointError(f"The gradient of {component.name} is not finite.")
    return numbers


def weight_sizes(model: Decoder, wiring: Wiring) -> list[int]:
    """N_i, the number of entries of W_i, of every component."""
    names = (wiring.value.module, wiring.mlp_down)
    weights = [wiring.weight(model, name, layer) for layer in range(wiring.n_layers) for name in names]
    return [part.numel() for part in _by_component(weights, wiring, wiring.value)]


def _gradients(model: Decoder, batch: Batch, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """dL_b / dW of every weight; of a batch that does not fit into memory, the sum over pieces of their shares of the mean."""
    rows, total = len(batch.inputs), list[Tensor]()
    for piece in model.pieces(rows, batch.inputs.shape[1], "backward"):
        part = batch.rows(piece)
        share = _loss(model, part) * (len(part.inputs) / rows)
        gradients = torch.autograd.grad(share, weights)
        total = [a + b for a, b in zip(total, gradients, strict=True)] if total else list(gradients)
    return total


def _loss(model: Decoder, batch: Batch) -> Tensor:
    logits = model(batch.inputs.to(model.device), batch.last)
    targets, *against = batch.answers(slice(None), logits.device)
    if batch.sets is not None:
        return -log_prob(logits, targets, *against).mean()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def _by_component(tensors: Sequence[Tensor], wiring: Wiring, slices: Slices) -> list[Tensor]:
    """Pieces in the order of the components, from the heads' and the MLP's weight of every layer, in float64, without a graph."""
    pieces: list[Tensor] = []
    for weight, down in zip(tensors[::2], tensors[1::2], strict=True):
        pieces += [*(slices.of(weight, head, wiring.n_heads) for head in range(wiring.n_heads)), down]
    return [piece.detach().double() for piece in pieces]
