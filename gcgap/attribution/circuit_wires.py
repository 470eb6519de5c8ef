"""The residual stream of the hand-set models: which channels carry what, and how weights read and write them.

LayerNorm stands before everything that reads. The pin, +A and -A at every position, is by far the largest thing in the stream, so

    LayerNorm(x) = (x - mean(x)) / SCALE,   SCALE = A sqrt(2 / WIDTH),   up to a share |the rest of x|^2 / (4 A^2) below 1 %

Weights that read carry the factor SCALE. What they put on the channel BALANCE, where nobody writes, makes each row sum to zero,
and thereby cancels mean(x). So `reads` sets a plain linear function of the stream. Owns no component: see
`gcgap.attribution.circuit_parts`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcgap.data.tasks import END, LARGEST, VOCABULARY
from gcgap.models.transformer import Transformer

WIDTH, HEADS, D_HEAD, HIDDEN, LAYERS, CONTEXT = 128, 4, 32, 64, 2, 16
DIGITS = 20  # ten channels for the tens and ten for the units of an integer: a head must carry them all, and D_HEAD is 32

PIN, BALANCE = slice(0, 2), slice(2, 3)
TOKEN = slice(3, 23)  # the digits of the token that stands here
POSITION = slice(23, 39)  # one-hot
JUNK = slice(39, 68)  # where idle components write, and what they read; the unembedding hears it faintly
OPEN = slice(3, 68)  # the three above: what idle components read
SCRATCH = slice(68, 88)  # digits on their way from one component of a circuit to the next
ANSWER = slice(88, 108)  # the digits that the unembedding reads
VOID = slice(108, 128)  # where decoys write; nobody reads it

A = 256.0
SCALE = A * math.sqrt(2 / WIDTH)
MARGIN = 7.0  # of the logit, per digit: the target has log-probability -0.016, and its gradient is far from underflow


def digits() -> Float[Tensor, "vocabulary digit"]:
    """One-hot tens beside one-hot units of every integer, and zero for the special tokens."""
    code = torch.zeros(VOCABULARY, DIGITS)
    values = torch.arange(LARGEST + 1)
    code[values, values // 10] = 1
    code[values, 10 + values % 10] = 1
    return code


@torch.no_grad()
def reads(linear: nn.Linear, rows: slice, wire: slice, matrix: Float[Tensor, "row channel"]) -> None:
    """Add matrix @ x[wire] to what some rows of a layer behind a LayerNorm give, where x is the stream before it."""
    linear.weight[rows, wire] += SCALE * matrix
    linear.weight[rows, BALANCE] -= SCALE * matrix.sum(1, keepdim=True)


@torch.no_grad()
def writes(linear: nn.Linear, wire: slice, columns: slice, matrix: Float[Tensor, "channel column"]) -> None:
    """Add matrix @ (some inputs of a layer that writes to the stream) to x[wire]."""
    linear.weight[wire, columns] += matrix


@torch.no_grad()
def blank(end: int | None) -> Transformer:
    """A transformer that embeds tokens and positions, says what stands in ANSWER, and has no working component.

    Args:
        end: The input position after which END follows, which the position alone tells; None: nowhere.
    """
    model = Transformer(LAYERS, HEADS, WIDTH, HIDDEN, positions="learned", n_ctx=CONTEXT)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    assert model.position is not None
    model.embedding.weight[:, PIN] = torch.tensor([A, -A])
    model.embedding.weight[:, TOKEN] = digits()
    model.position.weight[:, POSITION] = torch.eye(CONTEXT)
    reads(model.unembedding, slice(None), ANSWER, MARGIN * digits())
    if end is not None:
        reads(model.unembedding, slice(END, END + 1), POSITION, 2 * MARGIN * torch.eye(CONTEXT)[end : end + 1])
    return model
