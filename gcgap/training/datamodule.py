"""The LightningDataModule: which batch each loader gives at which step on which rank.

Every batch comes from `gcgap.data.batches` and is a pure function of its index, so the training stream starts at the optimiser
step that a checkpoint holds and resuming needs no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, Literal

import lightning as L  # noqa: N812

from gcgap.data.batches import Batch, Layout, Purpose, Source, rank_slice


class Stream:
    """Items `make(i)`, mostly batches: for i below `stop`, or without end from the number that `start` gives at its beginning."""

    def __init__(self, make: Callable[[int], Any], stop: int | None = None, start: Callable[[], int] = int) -> None:
        self.make, self.stop, self.start = make, stop, start

    def __iter__(self) -> Iterator[Any]:
        return map(self.make, count(self.start()) if self.stop is None else range(self.stop))

    def __len__(self) -> int:
        if self.stop is None:
            raise TypeError("a stream without end has no length")
        return self.stop


class SequenceData(L.LightningDataModule):
    """Training batches of mixed lengths; validation, test and prediction batches of one length each.

    Args:
        task: What the model learns: `sort`, `reverse`, `copy`, or any task that registers itself.
        layout: `contiguous` puts PAD on the right; `released` puts it before the target, as the first public pipeline does.
        batch_size: Training examples per optimiser step, over all processes together.
        lengths: Shortest and longest training example (integers per example).
        ood_lengths: Lengths beyond training at which models are measured; of sentences any lengths.
        validation_sequences: Sequences per training length in the fixed validation set.
        seed: Seed of every stream of examples (linked to `seed_everything`).

    Raises:
        ValueError: An unknown task or lengths that cannot be.
    """

    def __init__(
        self,
        task: str = "sort",
        layout: Literal["contiguous", "released"] = "contiguous",
        batch_size: int = 64,
        lengths: tuple[int, int] = (3, 7),
        ood_lengths: tuple[int, ...] = (8, 9, 10, 11),
        validation_sequences: int = 200,
        seed: int = 42,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "validation_sequences": validation_sequences}.items():
            if value < 1:
                raise ValueError(f"`data.{name}` must be at least 1; got {value}.")
        self.source = Source(task, seed, Layout(layout), tuple(lengths), tuple(ood_lengths))  # pyright: ignore[reportArgumentType]
        self.batch_size, self.validation_sequences = batch_size, validation_sequences
        self.save_hyperparameters(
            {
                "task": task,
                "layout": layout,
                "batch_size": batch_size,
                "lengths": list(lengths),
                "ood_lengths": list(ood_lengths),
                "validation_sequences": validation_sequences,
                "seed": seed,
            }
        )

    def _mine(self, batch: Batch, key: str) -> Batch:
        """This process's rows of a global batch; `key` is the setting that sized it."""
        if self.trainer is None:
            return batch
        return rank_slice(batch, self.trainer.global_rank, self.trainer.world_size, key)

    def _one_length_each(self, lengths: list[int]) -> Stream:
        def make(index: int) -> Batch:
            batch = self.source.batch(Purpose.VALIDATION, lengths[index], self.validation_sequences)
            return self._mine(batch, "data.validation_sequences")

        return Stream(make, len(lengths))

    def train_dataloader(self) -> Stream:
        """Mixed lengths without end, from the step that training has reached."""

        def make(index: int) -> Batch:
            return self._mine(self.source.training_batch(index, self.batch_size), "data.batch_size")

        def reached() -> int:
            return 0 if self.trainer is None else self.trainer.global_step * self.trainer.accumulate_grad_batches

        return Stream(make, start=reached)

    def val_dataloader(self) -> Stream:
        """The fixed validation set: one batch for each training length."""
        return self._one_length_each(list(self.source.training_lengths))

    def test_dataloader(self) -> Stream:
        """One batch for each OOD length."""
        return self._one_length_each(list(self.source.ood_lengths))

    def predict_dataloader(self) -> Stream:
        """The batches of the test set."""
        return self.test_dataloader()
