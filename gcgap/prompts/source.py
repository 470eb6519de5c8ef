"""Where the batches of a prompt task come from: to a measurement what `gcgap.batches.Source` is for tasks on integers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gcgap.batches import Batch, Layout, Purpose
from gcgap.prompts.tokens import Encoded, as_batch

Draw = Callable[[Purpose, int, int, int], Sequence[Encoded]]
"""Gives the prompts of a batch by its purpose, length, size and index."""


@dataclass(frozen=True)
class PromptSource:
    """What fixes every batch of a prompt task but its purpose and index.

    Args:
        task: Its name.
        seed: Seed of all streams.
        draw: Gives the prompts of a batch; equal arguments give equal ones.
        any_length: Whether prompts can be lengthened. The length is the number of filler sentences, 0 for the plain prompt.

    Raises:
        ValueError: A negative seed.
    """

    task: str
    seed: int
    draw: Draw
    any_length: bool = False

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or larger; got {self.seed}.")

    @property
    def lengths(self) -> tuple[int, int]:
        """Shortest and longest length that counts as in distribution: the plain prompt."""
        return (0, 0)

    @property
    def ood_lengths(self) -> tuple[int, ...]:
        """None: no window rule picks a length."""
        return ()

    @property
    def training_lengths(self) -> range:
        """Every length that counts as in distribution."""
        return range(1)

    @property
    def layout(self) -> Layout:
        """Nothing stands inside a prompt."""
        return Layout.CONTIGUOUS

    def check_ood(self, lengths: Iterable[int], key: str) -> None:
        """Raise a ValueError unless the prompts can have every one of these lengths, 0 included."""
        for length in lengths:
            if length < 0:
                raise ValueError(f"`{key}` must be 0 or larger, the number of filler sentences; got {length}.")
            if length and not self.any_length:
                raise ValueError(f"`{key}` must be 0 for {self.task}, whose prompts have no filler sentences; got {length}.")

    def batch(self, purpose: Purpose, length: int, size: int, index: int = 0) -> Batch:
        """Batch `index` of prompts of one length; fewer than `size` if a file has no more for this purpose.

        Raises:
            ValueError: A length that the prompts cannot have, or a size below 1.
        """
        self.check_ood([length], "--length")
        if size < 1:
            raise ValueError(f"`size` must be at least 1; got {size}.")
        return as_batch(self.draw(purpose, length, size, index))

    def batches(self, purpose: Purpose, length: int, count: int, size: int) -> list[Batch]:
        """The first `count` batches of one length."""
        return [self.batch(purpose, length, size, index) for index in range(count)]
