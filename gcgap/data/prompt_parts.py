"""The prompts of a file dealt out into parts, so that no prompt that is evaluated also makes means or gradients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gcgap.data.batches import Purpose, generator
from gcgap.data.prompt_tokens import Encoded

FEWEST = 6
"""Prompts of a file: two for each part, so that each has another one."""


@dataclass(frozen=True)
class Parts:
    """Prompts in three parts of equal size, up to one: for evaluation, for evaluation on others, and for everything else.

    Args:
        prompts: All of them, none twice.
        seed: Seed of all streams.

    Raises:
        ValueError: There are too few.
    """

    prompts: tuple[Encoded, ...]
    seed: int

    def __post_init__(self) -> None:
        if len(self.prompts) < FEWEST:
            raise ValueError(
                f"there must be at least {FEWEST} prompts, since evaluation, its repetition and means and gradients get a third "
                f"each; got {len(self.prompts)}. Write more."
            )

    def __call__(self, purpose: Purpose, size: int, index: int, count: int = 1) -> list[Encoded]:
        """The first `size` prompts of the part of an evaluation; of everything else one of `count` batches that share no prompt.

        Never one twice, so that there are fewer than `size` where the part has fewer.

        Raises:
            ValueError: The part has fewer prompts than batches.
        """
        part = self._part(purpose, index)
        if purpose == Purpose.EVALUATION:
            return [self.prompts[i] for i in part[:size]]
        if (each := min(size, len(part) // count)) < 1:
            raise ValueError(
                f"a file must have a prompt for each of {count} batches among the third that means and gradients get; got "
                f"{len(part)}. Write more, or lower `protocol.gradient_batches` and `protocol.mean_batches`."
            )
        part = generator(self.seed, purpose, 0, 0).permutation(part)
        return [self.prompts[i] for i in part[index * each : (index + 1) * each]]

    @property
    def most_batches(self) -> int:
        """Batches of means or gradients at most, each of one prompt."""
        return len(self._part(Purpose.MEAN, 0))

    def _part(self, purpose: Purpose, index: int) -> np.ndarray:
        order = generator(self.seed, Purpose.ORDER, 0).permutation(len(self.prompts))
        first, other, rest = np.array_split(order, 3)
        return rest if purpose != Purpose.EVALUATION else other if index else first
