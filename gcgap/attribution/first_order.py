"""First-order attribution: what one backward pass says, at the gates or at the weights.

    attribution patching   dD/dxi_i at 0        (Nanda 2023; here the drop, so positive means needed)
    gate gradient          E_x |dD/dxi_i|, a = 0   (Michel et al. 2019, without their normalisation per layer)
    Fisher trace           E_x || dL_x / dW_i ||^2 (empirical: at the true targets)
    |weight x gradient|    sum over the entries of W_i of |w dL_b/dw|   (Lee et al. 2019)

The paper's own gradient magnitude is `gcgap.importance.gradient`. W_i is the same slice of weights there and here. L is the mean
cross entropy per scored token; of one sequence x or of a batch b. None of the four knows how far the component would move.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.data.batches import Batch
from gcgap.importance.gradient import over_batches
from gcgap.models.transformer import Decoder
from gcgap.models.wiring import Wiring


def attribution_patching(drop: Drop) -> Float[Tensor, "component sequence"]:
    """dD/dxi_i at xi = 0, the drop that the tangent promises."""
    return drop.gradient(drop.closed())


def gate_gradient(drop: Drop) -> Float[Tensor, "component sequence"]:
    """|dD/dxi_i| per sequence; with zero replacements it is the head importance of Michel et al. 2019."""
    return attribution_patching(drop).abs()


def fisher_trace(model: Decoder, wiring: Wiring, batches: Sequence[Batch]) -> Float[Tensor, "component sequence"]:
    """|| dL_x / dW_i ||_F^2 of every sequence x of the batches: one backward pass each, and its mean is the trace."""
    single = [batch.rows(slice(row, row + 1)) for batch in batches for row in range(len(batch.inputs))]
    return over_batches(model, wiring, single, lambda gradient, _: gradient.square().sum())


def weight_times_gradient(model: Decoder, wiring: Wiring, batches: Sequence[Batch]) -> Float[Tensor, "component batch"]:
    """Sum over the entries of W_i of |w dL_b/dw|, the connection sensitivity of Lee et al. 2019."""
    return over_batches(model, wiring, batches, lambda gradient, weight: (weight * gradient).abs().sum())
