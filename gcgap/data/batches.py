"""Batches as pure functions of (seed, purpose, index).

Owns how examples are drawn and laid out as tokens. Any batch can be made again at any time, on any rank, after any restart,
and there is no generator state to save. Owns no loader: see `gcgap.training.datamodule`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
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


LARGEST_SEED = 2**32 - 1
NOTHING = -1
"""Stands in `inputs` where a row has no token, on its left or on its right; only pretrained models can read such rows."""
STREAM = {purpose: number for number, purpose in enumerate(Purpose, start=1)}  # append only: it names the random stream


class Batch(NamedTuple):
    """Examples as tokens. `inputs[:, t]` predicts `targets[:, t]`.

    Only positions where `scored` is true (y and END) count. `world_scored` is the number of scored tokens of the whole
    global batch, so that ranks that hold slices of it can form the exact global mean.

    Prompts may also have a wrong answer, the token that the scored one is held against, and a corrupted twin of `inputs`.
    """

    inputs: Int[Tensor, "batch pos"]
    targets: Int[Tensor, "batch pos"]
    scored: Bool[Tensor, "batch pos"]
    world_scored: int
    wrong: Int[Tensor, " batch"] | None = None
    corrupted: Int[Tensor, "batch pos"] | None = None

    def rows(self, which: slice) -> Batch:
        """Some rows of the same global batch."""
        wrong, corrupted = (None if part is None else part[which] for part in (self.wrong, self.corrupted))
        return Batch(self.inputs[which], self.targets[which], self.scored[which], self.world_scored, wrong, corrupted)

    @property
    def last(self) -> int:
        """Scored positions at the end of every row, where all rows have as many."""
        return int(self.scored[0].sum())

    def answers(self, which: slice, device: torch.device, times: int = 1) -> tuple[Tensor, ...]:
        """Targets (row, last) at the scored positions, of which every row has as many, and the wrong answers (row,), if known.

        Args:
            which: Rows.
            device: Where they are needed.
            times: The rows are repeated, all of them, so many times.
        """
        targets = self.targets[which][self.scored[which]].unflatten(0, (-1, self.last)).to(device).repeat(times, 1)
        return (targets,) if self.wrong is None else (targets, self.wrong[which].to(device).repeat(times))


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
    task: Task,
    n: Int[np.ndarray, " batch"],
    values: Int[np.ndarray, "batch most"],
    longest: Int[np.ndarray, " batch"],
    layout: Layout,
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """Tokens of examples, and which of them are scored.

    Example i is the first n_i of its values, laid out in the room that a batch whose longest example has longest_i needs; what
    other examples need beyond that is PAD on the right.
    """
    m, targets = _targets(task, n, values)
    first = n + 2 if layout == Layout.CONTIGUOUS else longest + 2
    tokens = np.full((len(n), int((first + m).max()) + 1), PAD)
    tokens[:, 0], every = START, np.arange(len(n))
    tokens[every, n + 1], tokens[every, first + m] = SEP, END
    rows, places = np.nonzero(np.arange(values.shape[1]) < n[:, None])
    tokens[rows, places + 1] = values[rows, places]
    rows, places = np.nonzero(np.arange(targets.shape[1]) < m[:, None])
    tokens[rows, places + first[rows]] = targets[rows, places]
    after = np.arange(tokens.shape[1]) - first[:, None]
    return torch.from_numpy(tokens), torch.from_numpy((after >= 0) & (after <= m[:, None]))


def _targets(
    task: Task, n: Int[np.ndarray, " batch"], values: Int[np.ndarray, "batch most"]
) -> tuple[Int[np.ndarray, " batch"], Int[np.ndarray, "batch widest"]]:
    """How many targets each example has, and the targets; a task takes examples of one length together."""
    of = {int(length): np.flatnonzero(n == length) for length in np.unique(n)}
    found = {length: task.checked_target(torch.from_numpy(values[rows, :length])).numpy() for length, rows in of.items()}
    m, targets = np.zeros_like(n), np.full((len(n), max(one.shape[1] for one in found.values())), PAD)
    for length, rows in of.items():
        m[rows] = width = found[length].shape[1]
        targets[rows, :width] = found[length]
    return m, targets


def as_batch(tokens: Int[Tensor, "batch tokens"], scored: Bool[Tensor, "batch tokens"]) -> Batch:
    """Shift tokens by one position into what is read and what is predicted."""
    return Batch(tokens[:, :-1], tokens[:, 1:], scored[:, 1:], int(scored.sum()))


def mixed_tokens(
    task: Task, seeds: Sequence[int], purpose: Purpose, index: int, size: int, lengths: tuple[int, int], layout: Layout
) -> tuple[Int[Tensor, "seed batch tokens"], Bool[Tensor, "seed batch tokens"]]:
    """Tokens of batch `index` of every seed, and which are scored: each as its own `mixed_batch`, but PAD to a common length."""
    drawn = [_drawn(generator(seed, purpose, index), size, lengths) for seed in seeds]
    longest = np.repeat([n.max() for n, _ in drawn], size)
    n, values = (np.concatenate(part) for part in zip(*drawn, strict=True))
    tokens, scored = encode(task, n, values, longest, layout)
    return tokens.unflatten(0, (len(seeds), size)), scored.unflatten(0, (len(seeds), size))


def _drawn(random: np.random.Generator, size: int, lengths: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of examples, and values for the longest that could be."""
    return random.integers(lengths[0], lengths[1] + 1, size), random.integers(1, LARGEST + 1, (size, lengths[1]))


def mixed_batch(
    task: Task, seed: int, purpose: Purpose, index: int, size: int, lengths: tuple[int, int], layout: Layout
) -> Batch:
    """Batch `index` of examples whose lengths are uniform on `lengths` (both ends included), padded as `layout` says.

    Of sentences every token is scored.
    """
    if isinstance(task, Sentences):
        random = generator(seed, purpose, index)
        return _sentences(task, random, random.integers(lengths[0], lengths[1] + 1, size), every=True)
    tokens, scored = mixed_tokens(task, [seed], purpose, index, size, lengths, layout)
    return as_batch(tokens[0], scored[0])


def length_batch(task: Task, seed: int, purpose: Purpose, index: int, size: int, length: int) -> Batch:
    """Batch `index` of `size` examples that all have `length` integers: no PAD, and the target and END at the end are scored."""
    random, n = generator(seed, purpose, length, index), np.full(size, length)
    if isinstance(task, Sentences):
        return _sentences(task, random, n)
    values = random.integers(1, LARGEST + 1, (size, length))
    return as_batch(*encode(task, n, values, n, Layout.CONTIGUOUS))


def _sentences(task: Sentences, random: np.random.Generator, n: Int[np.ndarray, " batch"], every: bool = False) -> Batch:
    """Sentences of these lengths, padded on the right; the last token alone is scored, unless `every` one is."""
    rows = [task.row(random, int(length)) for length in n]
    ends = torch.tensor([len(clean) for clean, *_ in rows])
    clean, corrupted = (torch.full((len(rows), int(ends.max()) + 1), task.pad) for _ in range(2))
    for i, (one, other, answer, _) in enumerate(rows):
        clean[i, : len(one) + 1] = torch.tensor([*one, answer])
        corrupted[i, : len(other)] = torch.tensor(other)
    place = torch.arange(clean.shape[1])
    scored = (place <= ends[:, None]) & ((place > 0) if every else (place == ends[:, None]))
    return as_batch(clean, scored)._replace(wrong=torch.tensor([wrong for *_, wrong in rows]), corrupted=corrupted[:, :-1])


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
    """For each row another one with as many tokens, at random.

    Raises:
        ValueError: No other row has as many tokens as one of them.
    """
    tokens = (batch.inputs != NOTHING).sum(1)
    kinds = tokens.unique().tolist()
    if len(kinds) == 1:
        return partners(seed, length, len(tokens))
    random, found = generator(seed, Purpose.PARTNER, length), torch.empty_like(tokens)
    for kind in kinds:
        rows = torch.from_numpy(random.permutation((tokens == kind).nonzero().squeeze(1).numpy()))
        if len(rows) < 2:
            raise ValueError(f"`resample` needs two prompts of each number of tokens; only one has {kind}. Use another baseline.")
        found[rows] = rows.roll(1)
    return found


def partners(seed: int, length: int, size: int) -> Int[Tensor, " size"]:
    """For each of `size` examples the index of another one: a uniformly random cycle, so no example is its own partner.

    Raises:
        ValueError: There is no other example.
    """
    if size < 2:
        raise ValueError(f"`protocol.sequences` must be at least 2 for resample ablation; got {size}.")
    order = generator(seed, Purpose.PARTNER, length).permutation(size)
    partner = np.empty(size, dtype=np.int64)
    partner[order] = np.roll(order, 1)
    return torch.from_numpy(partner)


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

    def told(self) -> dict[str, Any]:
        """What a record's protocol says of the data."""
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
        check_context(lengths, n_ctx, key, find_task(self.task).input_tokens)

    @property
    def training_lengths(self) -> range:
        """Every length that training can draw."""
        return range(self.lengths[0], self.lengths[1] + 1)

    def training_batch(self, index: int, size: int) -> Batch:
        """Global training batch `index`."""
        return mixed_batch(find_task(self.task), self.seed, Purpose.TRAIN, index, size, self.lengths, self.layout)

    def batch(self, purpose: Purpose, length: int, size: int, index: int = 0) -> Batch:
        """Batch `index` of examples of one length."""
        return length_batch(find_task(self.task), self.seed, purpose, index, size, length)

    def length_of(self, batch: Batch) -> int:
        """The length of the examples of a batch of one length."""
        task = find_task(self.task)
        if isinstance(task, Sentences):
            return (batch.inputs.shape[1] - task.tokens[0]) // task.tokens[1]
        return batch.inputs.shape[1] - batch.last - 1  # without START x SEP y; END is scored and not read

    def batches(self, purpose: Purpose, length: int, count: int, size: int) -> list[Batch]:
        """The first `count` batches of one length."""
        return [self.batch(purpose, length, size, index) for index in range(count)]


def needed_context(length: int) -> int:
    """Input tokens of an example of `length` integers with as many targets: START x SEP y."""
    return 2 * length + 2


def check_context(lengths: Iterable[int], n_ctx: int | None, key: str, needed: Callable[[int], int] = needed_context) -> None:
    """Raise a ValueError unless every length can be read by a model with room for `n_ctx` tokens (None: for any number).

    `needed` says how many input tokens an example has, as `Task.input_tokens` does.
    """
    if n_ctx is None:
        return
    for length in lengths:
        if 1 <= length <= n_ctx and needed(length) <= n_ctx:
            continue
        longest = bisect_right(range(1, n_ctx + 1), n_ctx, key=needed)
        told = f"`{key}` must be between 1 and {longest}, the model's context; got {length}."
        if length > longest:
            room = f" to {needed(length)} or more" if length <= n_ctx else ""
            told += f" Raise `model.n_ctx`{room}, or lower `{key}`."
        raise ValueError(told)
