"""Transformers whose circuit is known, because every weight was set by hand.

They are ordinary models of `gcgap.models.transformer`, two layers of four heads and an MLP, so that gates, metrics and
attribution methods run on them as on any other. What is not in the circuit is active all the same: idle components with random
weights, one head and one MLP that write loudly to where nobody reads, and a look-alike, which does what a head of the circuit
does, unread as well.

What a note says of effects holds for zero and for mean ablation. A replacement that itself carries an answer is another question:
two answers at once spoil each other in the OR, and any answer keeps the backup silent (resample, patching; for the backup the
mean by position too). The circuit is the same.

Each works for sequences of one length only, since its heads look by position.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gcgap.attribution.circuit_parts import SHARP, carry, clear, either, idle, looks, loud, moves, rows_of
from gcgap.attribution.circuit_wires import ANSWER, CONTEXT, DIGITS, POSITION, SCRATCH, TOKEN, VOID, blank
from gcgap.data.batches import Batch, Purpose, Source, as_batch, generator
from gcgap.data.tasks import LARGEST, START
from gcgap.models.transformer import Transformer

LENGTH = 6  # integers of an example of a task
HALF = 7  # tokens of a sequence that is then repeated
SEED = 0  # of the weights of what is idle

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
    """START and HALF different random integers, twice; scored where the second time tells what follows."""
    random = generator(seed, Purpose.EVALUATION, HALF, 0)
    half = random.permuted([range(1, LARGEST + 1)] * size, axis=1)[:, :HALF]
    tokens = torch.full((size, 1 + 2 * HALF), START)
    tokens[:, 1:] = torch.from_numpy(half).repeat(1, 2)
    scored = torch.zeros(tokens.shape, dtype=torch.bool)
    scored[:, HALF + 2 :] = True
    return as_batch(tokens, scored)


def with_decoys(end: int | None, head: tuple[int, int], mlp: int) -> Transformer:
    """A model of idle components, of which one head (layer, head) and one layer's MLP are loud."""
    model, random = blank(end), torch.Generator().manual_seed(SEED)
    idle(model, random)
    loud(model.blocks[head[0]].attention.W_O, rows_of(head[1]), random)
    loud(model.blocks[mlp].mlp.W_out, slice(None), random)
    return model


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
