"""A callback with which one process of a run fails in a chosen way, for tests of what the others do then."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import pytest

import gcgap.importance.experiment
import gcgap.training.processes
from gcgap.records.record import Record


class Saboteur(L.Callback):
    """Fails once: a resumed run goes on.

    Args:
        rank: The process that fails; -1 is every one, the first a second later.
        place: `starting`, `training` (at step 3), `measuring` (in the midst of step 2's), `writing` (its record) or `ending`.
        how: `raise`, or the name of a signal.
        deaf: Whether the other process no longer listens by then: it is busy for ever.
    """

    def __init__(self, rank: int, place: str, how: str, deaf: bool = False) -> None:
        self.rank, self.place, self.how, self.deaf = rank, place, how, deaf

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        gcgap.training.processes.GRACE = 2.0
        if trainer.global_rank != self.rank or trainer.ckpt_path:  # pyright: ignore[reportAttributeAccessIssue]
            return
        if self.place == "starting":
            self.fail()
        patch = pytest.MonkeyPatch()
        if self.place == "measuring":
            own = gcgap.importance.experiment.gauged_norms

            def broken(*args: Any) -> Any:
                if trainer.global_step == 2:
                    self.fail()
                return own(*args)

            patch.setattr(gcgap.importance.experiment, "gauged_norms", broken)
        if self.place == "writing":
            write = Record.write

            def full(record: Record, path: Path) -> Record:
                if trainer.global_step == 2:
                    self.fail()
                return write(record, path)

            patch.setattr(Record, "write", full)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        resumed = trainer.ckpt_path  # pyright: ignore[reportAttributeAccessIssue]
        if self.place == "training" and trainer.global_step == 3 and not resumed:
            if self.rank == -1 and trainer.global_rank == 0:
                time.sleep(1)
            if self.rank in (-1, trainer.global_rank):
                self.fail()
            elif self.deaf:
                threading.Event().wait()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.place == "ending" and trainer.global_rank == self.rank:
            self.fail()

    def fail(self) -> None:
        if self.how == "raise":
            raise ArithmeticError(f"sabotage while {self.place}")
        os.kill(os.getpid(), signal.Signals[self.how])
