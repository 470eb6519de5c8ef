"""Transformers whose circuit is known, because every weight was set by hand.

They are ordinary models of `gcgap.models.transformer`, two layers of four heads and an MLP, so gates, metrics and attribution
methods run on them as on any other. What is not in the circuit is active all the same: idle components with random weights, one
head and one MLP that write loudly to where nobody reads, and a look-alike that does what a head of the circuit does, unread as
well. Each works for sequences of one length only, since its heads look by position.

What a note says of effects holds for zero and for mean ablation. A replacement that itself carries an answer is another question:
two answers at once spoil each other in the OR, and any answer keeps the backup silent (resample, patching; for the backup the
mean by position too). The circuit is the same.

LayerNorm stands before everything that reads the residual stream. The pin, +A and -A at every position, is by far the largest
thing in it, so

    LayerNorm(x) = (x - mean(x)) / SCALE,   SCALE = A sqrt(2 / WIDTH),   up to a share |the rest of x|^2 / (4 A^2) below 1 %

Weights that read carry the factor SCALE. What they put on the channel BALANCE, where nobody writes, makes each row sum to zero,
and thereby cancels mean(x). So `reads` sets a plain linear function of the stream.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcgap.data.batches import Batch, Purpose, Source, as_batch, generator
from gcgap.data.tasks import END, LARGEST, START, VOCABULARY
from gcgap.models.transformer import MLP, Attention, Transformer

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
EVERYTHING = slice(None)

A = 256.0
SCALE = A * math.sqrt(2 / WIDTH)
MARGIN = 7.0  # of the logit, per digit: the target has log-probability -0.016, and its gradient is far from underflow
SHARP = 12.0  # attention score of the place to look at above all others: e^-12 is left for each of them
SEED = 0  # of the weights of what is idle

LENGTH = 6  # integers of an example of a task
HALF = 7  # tokens of a sequence that is then repeated
COPY = {LENGTH + 1 + i: 1 + i for i in range(LENGTH)}
REVERSE = {LENGTH + 1 + i: LENGTH - i for i in range(LENGTH)}
BEFORE = {position: position - 1 for position in range(1, CONTEXT)}


@dataclass(frozen=True)
class Known:
    """A model and the truth about it.

    Args:
        name: Its name in `KNOWN`.
        model: The transformer.
        batch: Draws (size, seed) sequences that it gets right.
        circuit: Names of its true components; all others can be ablated together at no cost.
        note: What the truth is, and in which sense.
    """

    name: str
    model: Transformer
    batch: Callable[[int, int], Batch]
    circuit: tuple[str, ...]
    note: str


def task_batch(task: str) -> Callable[[int, int], Batch]:
    """Draws (size, seed) examples of a task, all of LENGTH integers."""
    return lambda size, seed: Source(task, seed).batch(Purpose.EVALUATION, LENGTH, size)


def repeated_batch(size: int, seed: int) -> Batch:
    """START and HALF different random integers, twice; scored where the second time shows what follows."""
    random = generator(seed, Purpose.EVALUATION, HALF, 0)
    half = random.permuted([range(1, LARGEST + 1)] * size, axis=1)[:, :HALF]
    tokens = torch.full((size, 1 + 2 * HALF), START)
    tokens[:, 1:] = torch.from_numpy(half).repeat(1, 2)
    scored = torch.zeros(tokens.shape, dtype=torch.bool)
    scored[:, HALF + 2 :] = True
    return as_batch(tokens, scored)


# What single components do.


@torch.no_grad()
def reads(linear: nn.Linear, rows: slice, wire: slice, matrix: Float[Tensor, "row channel"]) -> None:
    """Add matrix @ x[wire] to what some rows of a layer behind a LayerNorm give, where x is the stream before it."""
    linear.weight[rows, wire] += SCALE * matrix
    linear.weight[rows, BALANCE] -= SCALE * matrix.sum(1, keepdim=True)


@torch.no_grad()
def writes(linear: nn.Linear, wire: slice, columns: slice, matrix: Float[Tensor, "channel column"]) -> None:
    """Add matrix @ (some inputs of a layer that writes to the stream) to x[wire]."""
    linear.weight[wire, columns] += matrix


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


def moves(attention: Attention, head: int, source: slice, target: slice) -> None:
    """Carry the digits in `source`, where the head looks, to `target`, where it stands."""
    reads(attention.W_V, rows_of(head, 0, DIGITS), source, torch.eye(DIGITS))
    writes(attention.W_O, target, rows_of(head, 0, DIGITS), torch.eye(DIGITS))


def carry(model: Transformer, layer: int, head: int, places: Mapping[int, int], target: slice) -> None:
    """Make a head that brings the token at places[p] (START if p is not named) to position p, on the wire `target`."""
    attention, route = model.blocks[layer].attention, torch.zeros(CONTEXT, CONTEXT)
    for query in range(CONTEXT):
        route[places.get(query, 0), query] = 1
    clear(attention, head)
    looks(attention, head, (POSITION, route), (POSITION, torch.eye(CONTEXT)))
    moves(attention, head, TOKEN, target)


@torch.no_grad()
def either(mlp: MLP, source: slice, target: slice, low: float = 0.1, high: float = 0.5, slope: float = 3.5) -> None:
    """Make an MLP that adds to `target` the digits in `source`, clipped: about 0 up to `low` and 1 from `high` on, so 1 + 1 = 1.

        clip(s) = (gelu(slope (s - low)) - gelu(slope (s - high))) / (slope (high - low))

    With this slope clip(1) = 1.05 clip(2), and the derivative at s = 2 is 2e-6 of that at 0.3, which float32 still resolves.
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


@torch.no_grad()
def with_decoys(end: int | None, head: tuple[int, int], mlp: int) -> Transformer:
    """A transformer that says what stands in ANSWER, and whose components are idle, one head and one layer's MLP loudly.

    Args:
        end: The input position after which END follows, by the position alone; None: nowhere.
        head: Layer and head of the loud head.
        mlp: Layer of the loud MLP.
    """
    model, random = Transformer(LAYERS, HEADS, WIDTH, HIDDEN, positions="learned", n_ctx=CONTEXT), torch.Generator()
    random.manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    digits, values = torch.zeros(VOCABULARY, DIGITS), torch.arange(LARGEST + 1)  # tens beside units; special tokens have none
    digits[values, values // 10] = 1
    digits[values, 10 + values % 10] = 1
    assert model.position is not None
    model.embedding.weight[:, PIN] = torch.tensor([A, -A])
    model.embedding.weight[:, TOKEN] = digits
    model.position.weight[:, POSITION] = torch.eye(CONTEXT)
    reads(model.unembedding, EVERYTHING, ANSWER, MARGIN * digits)
    if end is not None:
        reads(model.unembedding, slice(END, END + 1), POSITION, 2 * MARGIN * torch.eye(CONTEXT)[end : end + 1])
    idle(model, random)
    loud(model.blocks[head[0]].attention.W_O, rows_of(head[1]), random)
    loud(model.blocks[mlp].mlp.W_out, EVERYTHING, random)
    return model


# The circuits.


def copy_head() -> Known:
    """L0_H1 copies; L1_H0 copies to where nobody reads."""
    model = with_decoys(2 * LENGTH + 1, head=(0, 3), mlp=1)
    carry(model, 0, 1, COPY, ANSWER)
    carry(model, 1, 0, COPY, VOID)
    return Known("copy_head", model, task_batch("copy"), ("L0_H1",), "One head does all the work; its effect is full.")


def reversal_head() -> Known:
    """L1_H2 reverses; L0_H3 reverses to where nobody reads."""
    model = with_decoys(2 * LENGTH + 1, head=(0, 0), mlp=0)
    carry(model, 1, 2, REVERSE, ANSWER)
    carry(model, 0, 3, REVERSE, VOID)
    return Known("reversal_head", model, task_batch("reverse"), ("L1_H2",), "One head does all the work; its effect is full.")


def induction_pair() -> Known:
    """L0_H2 notes the token before; L1_H1 looks for what followed the present token last time. L0_H0 notes it for nobody.

    Both digits score 5 each: enough to look at one place, and little enough for the tangent to see the first head at all.
    """
    model = with_decoys(None, head=(1, 3), mlp=0)
    carry(model, 0, 2, BEFORE, SCRATCH)
    carry(model, 0, 0, BEFORE, VOID)
    attention = model.blocks[1].attention
    clear(attention, 1)
    looks(attention, 1, (TOKEN, torch.eye(DIGITS)), (SCRATCH, torch.eye(DIGITS)), score=5.0)
    moves(attention, 1, TOKEN, ANSWER)
    note = "An AND: either head off costs everything, and both off costs no more."
    return Known("induction_pair", model, repeated_batch, ("L0_H2", "L1_H1"), note)


def redundant_pair() -> Known:
    """L0_H0 and L0_H3 both copy; L1_MLP passes on what at least one of them brings. L1_H2 copies to where nobody reads."""
    model = with_decoys(2 * LENGTH + 1, head=(0, 1), mlp=0)
    carry(model, 0, 0, COPY, SCRATCH)
    carry(model, 0, 3, COPY, SCRATCH)
    carry(model, 1, 2, COPY, VOID)
    either(model.blocks[1].mlp, SCRATCH, ANSWER)
    note = "An OR: the effect of each head alone is 0 and that of both is full; the MLP that joins them is needed by itself."
    return Known("redundant_pair", model, task_batch("copy"), ("L0_H0", "L0_H3", "L1_MLP"), note)


def backup_head() -> Known:
    """L0_H1 copies; L1_H2 copies too, but looks at START instead where an answer is there already. L0_H2 copies for nobody."""
    model = with_decoys(2 * LENGTH + 1, head=(1, 0), mlp=1)
    carry(model, 0, 1, COPY, ANSWER)
    carry(model, 0, 2, COPY, VOID)
    carry(model, 1, 2, COPY, ANSWER)
    present = torch.tensor([[1.0] * 10 + [0.0] * 10])  # the tens of an answer sum to 1, those of no answer to 0
    attention = model.blocks[1].attention
    looks(attention, 2, (ANSWER, present), (POSITION, torch.eye(CONTEXT)[:1]), 1.5 * SHARP, first=CONTEXT)
    note = (
        "The backup acts only when the first head is off: the effect of each alone is about 0 and that of both is full. "
        "Left alone, the backup puts out nothing."
    )
    return Known("backup_head", model, task_batch("copy"), ("L0_H1", "L1_H2"), note)


KNOWN: dict[str, Callable[[], Known]] = {
    build.__name__: build for build in (copy_head, induction_pair, redundant_pair, backup_head, reversal_head)
}
