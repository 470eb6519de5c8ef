"""Batches as pure functions of (seed, purpose, index).

How examples are drawn and laid out as tokens. Any batch can be regenerated at any time, on any rank, after any restart, and there
is no generator state to save. Loaders are in `gcgap.training.datamodule`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gcgap.data.tasks import END, LARGEST, PAD, SEP, START, Sentences, Task, find_task


class Layout(StrEnum):
    """Where PAD goes when a batch mixes lengths. Batches of one length have no PAD, and the layouts agree on them."""

    CONTIGUOUS = "contiguous"
    """`START x SEP y END PAD..`: PAD on the right, where with a causal model nothing real can attend to it."""
    RELEASED = "released"
    """`START x SEP PAD.. y END PAD..`: the first public pipeline's. PAD is attended to, and the first target of a short
    example is predicted from a PAD."""


class Purpose(StrEnum):
    """What a stream of batches is for; two purposes never share a stream."""

    TRAIN = "train"
    VALIDATION = "validation"
    GRADIENT = "gradient"
    MEAN = "mean"
    EVALUATION = "evaluation"
    PARTNER = "partner"
    STATISTICS = "statistics"
    CORRUPTION = "corruption"
    ORDER = "order"
    GAUGES = "gauges"
    HELD_OUT = "held_out"


LARGEST_SEED = 2**32 - 1
NOTHING = -1
"""Stands in `inputs` where a row has no token, on its left or on its right; only pretrained models can read such rows."""
STREAM = {purpose: number for number, purpose in enumerate(Purpose, start=1)}  # append only: it names the random stream


class Batch(NamedTuple):
    """Examples as tokens. `inputs[:, t]` predicts `targets[:, t]`.

    Only positions where `scored` is true (y and END) count. `world_scored` is the number of scored tokens of the whole
    global batch, so that ranks that hold slices of it can form the exact global mean.

    Prompts may also have a wrong answer, the token that the scored one is held against, and a corrupted twin of `inputs`. Where
    several answers are right, `sets` has for each scored position the right tokens, then the wrong ones if there are any, filled
    up with NOTHING. They count if the tokens of the scored positions before are the targets.
    """

    inputs: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"]
    world_scored: int
    wrong: Int[Tensor, " batch"] | None = None
    corrupted: Int[Tensor, "batch pos"] | None = None
    sets: Int[Tensor, "batch last kinds most"] | None = None

    def rows(self, which: slice) -> Batch:
        """Some rows of the same global batch."""
        more = (None if part is None else part[which] for part in (self.wrong, self.corrupted, self.sets))
        return Batch(self.inputs[which], self.targets[which], self.scored[which], self.world_scored, *more)

    @property
    def last(self) -> int:
        """Scored positions at the end of every row, where all rows have as many."""
        return int(self.scored[0].sum())

    def answers(self, which: slice, device: torch.device, times: int = 1) -> tuple[Tensor, ...]:
        """Targets (row, last) at the scored positions, of which every row has as many; and the sets, or the wrong answers (row,).

        Args:
            which: Rows.
            device: Where they are needed.
            times: The rows are repeated, all of them, so many times.
        """
        targets = self.targets[which][self.scored[which]].unflatten(0, (-1, self.last)).to(device).repeat(times, 1)
        against = self.wrong if self.sets is None else self.sets
        return (targets,) if against is None else (targets, torch.cat([against[which].to(device)] * times))


def check_seed(seed: Any, key: str) -> int:
    """The seed, if Lightning, numpy and torch all take it.

    Raises:
        ValueError: It is no integer of 32 bits.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"`{key}` must be between 0 and {LARGEST_SEED}; got {'null' if seed is None else seed}.")
    return seed


def generator(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """The random generator of batch `index` of a purpose: equal arguments give equal draws.

    Draws of other arguments are independent, as long as a purpose always uses the same number of indices.
    """
    return np.random.default_rng([seed, STREAM[purpose], *index])


def encode(
    task: Task, n: Int[np.ndarray, " batch"], values: Int[np.ndarray, "batch most"], layout: Layout
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Tokens of examples, of which example i has the first n_i of its values, and which of them are scored: y and END."""
    longest, parts = int(n.max()), []
    for length in map(int, np.unique(n)):  # a task takes examples of one length together
        rows = np.flatnonzero(n == length)
        x = values[rows, :length]
        y = task.checked_target(torch.from_numpy(x)).numpy()
        first = (length if layout == Layout.CONTIGUOUS else longest) + 2
        parts.append((rows, x, y, length + 1, first, first + y.shape[1]))
    tokens = np.full((len(n), max(end for *_, end in parts) + 1), PAD)
    scored = np.zeros(tokens.shape, dtype=bool)
    for rows, x, y, sep, first, end in parts:
        tokens[rows, 0], tokens[rows, sep], tokens[rows, end] = START, SEP, END
        tokens[rows, 1:sep], tokens[rows, first:end], scored[rows, first : end + 1] = x, y, True
    return torch.from_numpy(tokens), torch.from_numpy(scored)


def as_batch(tokens: Int[Tensor, "batch tokens"], scored: Bool[Tensor, "batch tokens"]) -> Batch:
    """Shift tokens by one position into what is read and what is predicted."""
    return Batch(tokens[:, :-1], tokens[:, 1:], scored[:, 1:], int(scored.sum()))


def _draw(task: Task, random: np.random.Generator, n: Int[np.ndarray, " batch"], most: int, layout: Layout, every: bool) -> Batch:
    """Examples of these lengths, `most` at most; of sentences the last token alone is scored, unless `every` one is."""
    if isinstance(task, Sentences):
        return _sentences(task, random, n, every)
    return as_batch(*encode(task, n, random.integers(1, LARGEST + 1, (len(n), most)), layout))


def _sentences(task: Sentences, random: np.random.Generator, n: Int[np.ndarray, " batch"], every: bool) -> Batch:
    """Sentences of these lengths, padded on the right."""
    rows = [task.row(random, int(length)) for length in n]
    ends = torch.tensor([len(row.clean) for row in rows])
    clean, corrupted = (torch.full((len(rows), int(ends.max()) + 1), task.pad) for _ in range(2))
    for i, row in enumerate(rows):
        clean[i, : len(row.clean) + 1] = torch.tensor([*row.clean, row.answer])
        corrupted[i, : len(row.clean)] = torch.tensor(row.corrupted)
    place = torch.arange(clean.shape[1])
    scored = (place <= ends[:, None]) & ((place > 0) if every else (place == ends[:, None]))
    return as_batch(clean, scored)._replace(wrong=torch.tensor([row.wrong for row in rows]), corrupted=corrupted[:, :-1])


def rank_slice(batch: Batch, rank: int, world: int, key: str) -> Batch:
    """The rows of a global batch that belong to one of `world` processes; `key` is the setting that sized the batch.

    Raises:
        ValueError: The rows cannot be divided evenly.
    """
    rows = len(batch.inputs)
    if rows % world:
        raise ValueError(f"`{key}` must be divisible by the number of processes, {world}; got {rows}.")
    return batch.rows(slice(rank * rows // world, (rank + 1) * rows // world))


def partner_rows(batch: Batch, seed: int, length: int) -> Int[Tensor, " batch"]:
    """For each row another one with as many tokens: all such rows form a uniformly random cycle.

    Raises:
        ValueError: No other row has as many tokens as one of them.
    """
    tokens = (batch.inputs != NOTHING).sum(1)
    random, partner = generator(seed, Purpose.PARTNER, length), torch.empty_like(tokens)
    for count in tokens.unique().tolist():
        rows = torch.from_numpy(random.permutation((tokens == count).nonzero().squeeze(1).numpy()))
        if len(rows) < 2:
            raise ValueError(
                f"`resample` needs two examples of each number of tokens; only one has {count}. Raise `protocol.sequences`, or "
                "use another baseline."
            )
        partner[rows] = rows.roll(1)
    return partner


@dataclass(frozen=True)
class Source:
    """What fixes every batch but its purpose and index: the task, its lengths and the seed.

    Args:
        task: Name of the task.
        seed: Seed of all streams.
        layout: Where PAD goes in training batches.
        lengths: Shortest and longest training example (integers per example; for sentences fillers between first and last).
        ood_lengths: Lengths beyond training at which models are measured, in any order; of sentences any lengths.

    Raises:
        ValueError: An unknown task, or lengths that cannot be.
    """

    task: str
    seed: int = 42
    layout: Layout = Layout.CONTIGUOUS
    lengths: tuple[int, int] = (3, 7)
    ood_lengths: tuple[int, ...] = (8, 9, 10, 11)

    @property
    def only_length(self) -> int | None:
        """The length of all examples, where they have but one, so that no window rule picks it."""
        return None

    @property
    def most_batches(self) -> int | None:
        """Batches of one kind that share no example, at most; None where there is no limit."""
        return None

    def __post_init__(self) -> None:
        find_task(self.task)
        if self.layout == Layout.RELEASED and isinstance(find_task(self.task), Sentences):
            raise ValueError(f"`data.layout` released is for tasks on integers; `{self.task}` has sentences.")
        check_seed(self.seed, "seed_everything")
        low, high = self.lengths
        if not 1 <= low <= high:
            raise ValueError(f"`data.lengths` must be [shortest, longest] with 1 <= shortest <= longest; got [{low}, {high}].")
        if not self.ood_lengths or len(set(self.ood_lengths)) < len(self.ood_lengths):
            raise ValueError(f"`data.ood_lengths` must be different lengths; got {list(self.ood_lengths)}.")
        object.__setattr__(self, "ood_lengths", tuple(sorted(self.ood_lengths)))  # the window rule takes the first one inside
        self.check_ood(self.ood_lengths, "data.ood_lengths")

    def as_record(self) -> dict[str, Any]:
        """What the protocol of a record says of the data."""
        return {"layout": str(self.layout), "lengths": list(self.lengths), "ood_lengths": list(self.ood_lengths)}

    def check_ood(self, lengths: Iterable[int], key: str) -> None:
        """Raise a ValueError unless every length lies above the training lengths.

        Sentences can be measured at training lengths too, on sentences of their own: learned positions know no other lengths.
        """
        low, high = self.lengths
        high = 0 if isinstance(find_task(self.task), Sentences) else high
        for length in lengths:
            if length <= high:
                if not high:
                    raise ValueError(f"`{key}` must be at least 1, the number of filler sentences; got {length}.")
                raise ValueError(
                    f"`{key}` must lie above the training lengths {low}..{high}; got {length}. "
                    "Choose a longer one, or lower `data.lengths`."
                )

    def check_context(self, lengths: Iterable[int], n_ctx: int | None, key: str) -> None:
        """Raise a ValueError unless every length can be read by a model with room for `n_ctx` tokens (None: for any number)."""
        needed = find_task(self.task).input_tokens
        for length in lengths:
            if n_ctx is None or (1 <= length <= n_ctx and needed(length) <= n_ctx):
                continue
            longest = bisect_right(range(1, n_ctx + 1), n_ctx, key=needed)
            advice = ""
            if length > longest:
                room = f" to {needed(length)} or more" if length <= n_ctx else ""
                advice = f" Raise `model.n_ctx`{room}, or lower `{key}`."
            raise ValueError(f"`{key}` must be between 1 and {longest}, the model's context; got {length}.{advice}")

    @property
    def training_lengths(self) -> range:
        """Every length that training can draw."""
        return range(self.lengths[0], self.lengths[1] + 1)

    def training_batch(self, index: int, size: int) -> Batch:
        """Global training batch `index`: lengths uniform on `lengths`, padded as `layout` says; of sentences all is scored."""
        random, (low, high) = generator(self.seed, Purpose.TRAIN, index), self.lengths
        n = random.integers(low, high + 1, size)
        return _draw(find_task(self.task), random, n, high, self.layout, every=True)

    def batch(self, purpose: Purpose, length: int, size: int, index: int = 0) -> Batch:
        """Batch `index` of examples of one length: no PAD, and the target and END at the end are scored."""
        random = generator(self.seed, purpose, length, index)
        return _draw(find_task(self.task), random, np.full(size, length), length, Layout.CONTIGUOUS, every=False)

    def length_of(self, batch: Batch) -> int:
        """The length of the examples of a batch of one length."""
        task = find_task(self.task)
        if isinstance(task, Sentences):
            return (batch.inputs.shape[1] - task.tokens[0]) // task.tokens[1]
        return batch.inputs.shape[1] - batch.last - 1  # without START x SEP y; END is scored and not read

    def batches(self, purpose: Purpose, length: int, count: int, size: int) -> list[Batch]:
        """The first `count` batches of one length."""
        return [self.batch(purpose, length, size, index) for index in range(count)]
