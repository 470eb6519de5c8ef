"""Where the batches of prompts come from: to a measurement what `gcgap.data.batches.Source` is for the tasks of this project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcgap.data.batches import Batch, Purpose, Source, check_seed, generator
from gcgap.data.prompt_tokens import as_batch
from gcgap.data.prompts import Encoded

Draw = Callable[[Purpose, int, int, int], Sequence[Encoded]]
"""Gives the prompts of a batch by its purpose, size and index, and the number of batches that there are to be."""
EVALUATED = (Purpose.EVALUATION, Purpose.HELD_OUT)
FEWEST_PROMPTS = 6
"""Prompts of a file: two for each part, so that each has another one."""


@dataclass(frozen=True)
class Parts:
    """The prompts of a file in three parts of equal size, up to one: for evaluation, for its repetition, for everything else.

    So no prompt that is evaluated also makes means or gradients. The repetition also holds out: sets that one part chose are
    measured on the other.

    Args:
        prompts: All of them, none twice.
        seed: Seed of all streams.
        file: What a record says of the file that they are from.
        places: Where each stands in it.

    Raises:
        ValueError: There are too few.
    """

    prompts: tuple[Encoded, ...]
    seed: int
    file: dict[str, Any] = field(default_factory=dict)
    places: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.prompts) < FEWEST_PROMPTS:
            raise ValueError(
                f"there must be at least {FEWEST_PROMPTS} prompts, since evaluation, its repetition and means and gradients get "
                f"a third each; got {len(self.prompts)}. Write more."
            )

    def __call__(self, purpose: Purpose, size: int, index: int, count: int = 1) -> list[Encoded]:
        """The first `size` prompts of the part of an evaluation or of held-out ones; else one of `count` that share no prompt.

        There are fewer than `size` where the part has fewer.

        Raises:
            ValueError: The part has fewer prompts than batches.
        """
        part = self._part(purpose, index)
        if purpose in EVALUATED:
            return [self.prompts[i] for i in part[:size]]
        if (each := min(size, len(part) // count)) < 1:
            raise ValueError(
                f"a file must have a prompt for each of {count} batches among the third that means and gradients get; got "
                f"{len(part)}. Write more, or lower `protocol.gradient_batches` and `protocol.mean_batches`."
            )
        part = generator(self.seed, purpose, 0, 0).permutation(part)
        return [self.prompts[i] for i in part[index * each : (index + 1) * each]]

    def evaluated(self, size: int) -> list[str]:
        """Where the first prompts of the evaluation stand in the file, in their order."""
        return [self.places[i] for i in self._part(Purpose.EVALUATION, 0)[:size]] if self.places else []

    @property
    def most_batches(self) -> int:
        """Batches of means or gradients at most, each of one prompt."""
        return len(self._part(Purpose.MEAN, 0))

    def _part(self, purpose: Purpose, index: int) -> np.ndarray:
        order = generator(self.seed, Purpose.ORDER, 0).permutation(len(self.prompts))
        first, other, rest = np.array_split(order, 3)
        return rest if purpose not in EVALUATED else first if (purpose, index) == (Purpose.EVALUATION, 0) else other


@dataclass(frozen=True, kw_only=True)
class PromptSource(Source):
    """What fixes every batch of prompts but its purpose and index. All prompts of a source have one length.

    Args:
        task: Its name.
        seed: Seed of all streams.
        draw: Gives the prompts of a batch; equal arguments give equal ones.
        given_length: Filler sentences of every prompt, 0 where there are none.
        file_sha256: Hash of the file that the prompts are from, if they are from one.
        around: What was put around the prompts, and of which kind their twins are, where that was asked for.

    Raises:
        ValueError: A seed below 0 or of more than 32 bits.
    """

    lengths: tuple[int, int] = field(default=(0, 0), init=False)
    ood_lengths: tuple[int, ...] = field(default=(), init=False)
    draw: Draw
    given_length: int = 0
    file_sha256: str | None = None
    around: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_seed(self.seed, "seed")
        object.__setattr__(self, "lengths", (self.given_length, self.given_length))

    @property
    def only_length(self) -> int | None:
        """That of all prompts."""
        return self.given_length

    @property
    def most_batches(self) -> int | None:
        """Batches at most that share no prompt; None where there is no limit."""
        return self.draw.most_batches if isinstance(self.draw, Parts) else None

    def as_record(self) -> dict[str, Any]:
        """What the protocol of a record says of the data."""
        return super().as_record() | {"prompts_sha256": self.file_sha256} | self.around

    def describe_file(self, size: int) -> dict[str, Any]:
        """What a record says of the file of the prompts, and where the first ones of the evaluation stand in it."""
        if not isinstance(self.draw, Parts) or not self.draw.file:
            return {}
        return {"file": self.draw.file | {"evaluation": self.draw.evaluated(size)}}

    def check_ood(self, lengths: Iterable[int], key: str) -> None:
        """Raise a ValueError unless every length is the source's own: prompts have no other, and no training lengths."""
        for length in lengths:
            if length != self.given_length:
                raise ValueError(f"`{key}` must be {self.given_length}, that of the prompts; got {length}.")

    def check_context(self, lengths: Iterable[int], n_ctx: int | None, key: str) -> None:
        """Pass: how many tokens prompts have is known when they are made, and the model refuses too many."""

    def training_batch(self, index: int, size: int) -> Batch:
        """Raise a TypeError: prompts train nothing."""
        raise TypeError("prompts are for measuring; models are trained on a task")

    def batch(self, purpose: Purpose, length: int, size: int, index: int = 0) -> Batch:
        """Batch `index` of prompts; fewer than `size` if a file has no more for this purpose.

        Raises:
            ValueError: Another length than that of the prompts, or a size below 1.
        """
        self.check_ood([length], "length")
        if size < 1:
            raise ValueError(f"`size` must be at least 1; got {size}.")
        return as_batch(self.draw(purpose, size, index, 1))

    def batches(self, purpose: Purpose, length: int, count: int, size: int) -> list[Batch]:
        """So many batches; those of a file share no prompt, and are smaller than `size` if it has no more."""
        self.check_ood([length], "length")
        return [as_batch(self.draw(purpose, size, index, count)) for index in range(count)]

    def length_of(self, batch: Batch) -> int:
        """That of all prompts."""
        return self.given_length
