"""The components of the hand-set models: heads that look and move, an MLP that saturates, and those that only seem to matter.

Every function sets the weights of one head or MLP of a model from `gcgap.attribution.circuit_wires.blank`. Owns no circuit: see
`gcgap.attribution.known_circuits`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcgap.attribution.circuit_wires import (
    CONTEXT,
    D_HEAD,
    DIGITS,
    HEADS,
    HIDDEN,
    JUNK,
    OPEN,
    POSITION,
    TOKEN,
    VOID,
    WIDTH,
    reads,
    writes,
)
from gcgap.data.tasks import VOCABULARY
from gcgap.models.transformer import MLP, Attention, Transformer

SHARP = 12.0  # attention score of the place to look at above all others: e^-12 is left for each of them
EVERYTHING = slice(None)


def rows_of(head: int, first: int = 0, count: int = D_HEAD) -> slice:
    """Places of some of a head's own channels among those of all heads."""
    return slice(head * D_HEAD + first, head * D_HEAD + first + count)


@torch.no_grad()
def clear(attention: Attention, head: int) -> None:
    """Set all weights of a head to zero."""
    for linear in (attention.W_Q, attention.W_K, attention.W_V):
        linear.weight[rows_of(head)] = 0
    attention.W_O.weight[:, rows_of(head)] = 0


def looks(
    attention: Attention,
    head: int,
    query: tuple[slice, Float[Tensor, "row query"]],
    key: tuple[slice, Float[Tensor, "row key"]],
    score: float = SHARP,
    first: int = 0,
) -> None:
    """Add score * (matrix @ x[wire] of the query) . (matrix @ x[wire] of the key) to a head's attention scores.

    Several calls for one head add up, each on channels of the head's own from `first` on.
    """
    rows = rows_of(head, first, len(query[1]))
    reads(attention.W_Q, rows, query[0], score * math.sqrt(D_HEAD) * query[1])
    reads(attention.W_K, rows, key[0], key[1])


def route(places: Mapping[int, int]) -> Float[Tensor, "key query"]:
    """1 where a query position looks at a key position; those that are not named look at START."""
    matrix = torch.zeros(CONTEXT, CONTEXT)
    for query in range(CONTEXT):
        matrix[places.get(query, 0), query] = 1
    return matrix


def moves(attention: Attention, head: int, source: slice, target: slice) -> None:
    """Carry the digits in `source`, where the head looks, to `target`, where it stands."""
    reads(attention.W_V, rows_of(head, 0, DIGITS), source, torch.eye(DIGITS))
    writes(attention.W_O, target, rows_of(head, 0, DIGITS), torch.eye(DIGITS))


def carry(model: Transformer, layer: int, head: int, places: Mapping[int, int], target: slice) -> None:
    """Make a head that brings the token at places[p] to position p, on the wire `target`."""
    attention = model.blocks[layer].attention
    clear(attention, head)
    looks(attention, head, (POSITION, route(places)), (POSITION, torch.eye(CONTEXT)))
    moves(attention, head, TOKEN, target)


@torch.no_grad()
def either(mlp: MLP, source: slice, target: slice, low: float = 0.1, high: float = 0.5, slope: float = 3.5) -> None:
    """Make an MLP that adds to `target` the digits in `source`, clipped: about 0 up to `low` and 1 from `high` on, so 1 + 1 = 1.

        clip(s) = (gelu(slope (s - low)) - gelu(slope (s - high))) / (slope (high - low))

    With this slope clip(1) = 1.05 clip(2), and the derivative at s = 2 is 2e-6 of that at 0.3: float32 still tells it from zero.
    """
    mlp.W_in.weight.zero_()
    mlp.W_out.weight.zero_()
    for number, (threshold, sign) in enumerate([(low, 1), (high, -1)]):
        hidden = slice(number * DIGITS, (number + 1) * DIGITS)
        reads(mlp.W_in, hidden, source, slope * torch.eye(DIGITS))
        mlp.W_in.bias[hidden] = -slope * threshold
        writes(mlp.W_out, target, hidden, sign * torch.eye(DIGITS) / (slope * (high - low)))


def idle(model: Transformer, generator: torch.Generator) -> None:
    """Give every component small random weights that read tokens, positions and one another, and write what hardly matters."""

    def random(rows: int, columns: int, deviation: float) -> Tensor:
        return deviation * torch.randn(rows, columns, generator=generator)

    read, junk = OPEN.stop - OPEN.start, JUNK.stop - JUNK.start
    for block in model.blocks:
        for linear in (block.attention.W_Q, block.attention.W_K, block.attention.W_V):
            reads(linear, EVERYTHING, OPEN, random(WIDTH, read, 0.4))
        writes(block.attention.W_O, JUNK, EVERYTHING, random(junk, HEADS * D_HEAD, 0.1))
        reads(block.mlp.W_in, EVERYTHING, OPEN, random(HIDDEN, read, 0.4))
        writes(block.mlp.W_out, JUNK, EVERYTHING, random(junk, HIDDEN, 0.1))
    reads(model.unembedding, EVERYTHING, JUNK, random(VOCABULARY, junk, 0.02))


@torch.no_grad()
def loud(linear: nn.Linear, columns: slice, generator: torch.Generator) -> None:
    """Make a decoy of the idle component behind these columns: several times as loud as a true one, where nobody reads."""
    linear.weight[:, columns] = 0
    size = VOID.stop - VOID.start, linear.weight[:, columns].shape[1]
    writes(linear, VOID, columns, 0.3 * torch.randn(size, generator=generator))
