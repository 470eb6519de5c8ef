"""The callback of a stack: gives each run's own callbacks the moments of its training, and lets runs leave that have ended."""

from __future__ import annotations

import math
from typing import Any

import lightning as L  # noqa: N812
import torch

from gcgap.finite import not_finite
from gcgap.signals import handled_by, interrupt
from gcgap.stack.module import Stack
from gcgap.stack.seat import Seat


class Relay(L.Callback):
    """What happens to a run that trains alone happens to each run of a stack, at the same steps.

    A run that has reached its target is measured a last time and leaves; so does one that has failed, which stops no other. Its
    callbacks hear of the end of a training step only where the protocol measures.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the callbacks learn what belongs to their run."""
        self._tell("setup", stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the settings of each run, and measure the untrained models."""
        self.stack.share()
        for seat in self.stack.seats:
            with seat.alone():
                for logger in seat.loggers:
                    logger.log_hyperparams(dict(seat.module.hparams_initial) | dict(seat.datamodule.hparams_initial))
                    logger.save()
        with handled_by(interrupt):  # a run alone would hold signals back until it ends; here one that ends is not the last
            self._tell("on_train_start")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Go on without the runs that have ended; where a step was measured, the callbacks save it now that it is logged."""
        if self.stack.seats[0].tracking.due(trainer.global_step):
            self._tell("on_train_batch_start", batch, batch_idx)
        seats = self.stack.seats
        for seat in seats:
            if seat.should_stop:
                self._end(seat)
        if any(seat.should_stop for seat in seats):
            self.stack.keep([number for number, seat in enumerate(seats) if not seat.should_stop])

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log and measure if this optimiser step is due."""
        step, every = trainer.global_step, trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        logs, measures = every and step % every == 0, self.stack.seats[0].tracking.due(step)
        if logs or measures:
            for seat, loss in zip(self.stack.seats, self._look()[-1], strict=True):
                if logs and not seat.failed:
                    seat.write_log({"loss": loss})
        if measures:
            self._tell("on_train_batch_end", outputs, batch, batch_idx)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell each run of its own accuracy."""
        self._look()
        for seat, accuracy in zip(self.stack.seats, self.stack.accuracies(), strict=True):
            if not seat.failed:
                seat.callback_metrics["accuracy/validation"] = accuracy
                seat.write_log(seat.callback_metrics)
        self._tell("on_validation_end")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the runs that are left."""
        self._look()
        for seat in self.stack.seats:
            self._end(seat)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure runs that were resumed at the most steps they may take, for which Lightning calls no other hook."""
        self.stack.share()
        self._tell("on_fit_end")

    def _tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook for all runs that have not failed; when no run wants to go on, training stops."""
        for seat in self.stack.seats:
            if not seat.failed:
                seat.tell(hook, *arguments)
        self.stack.trainer.should_stop |= all(seat.should_stop for seat in self.stack.seats)

    def _look(self) -> list[list[float]]:
        """The losses of every step since the last look. A run whose loss was not always finite has failed."""
        losses = torch.stack(self.stack.losses).tolist() if self.stack.losses else []
        for number, seat in enumerate(self.stack.seats):
            back = next((back for back, of in enumerate(losses) if not math.isfinite(of[number])), None)
            if back is not None:
                step, name = self.stack.trainer.global_step - len(losses) + back, not_finite(seat.module.named_parameters())
                weights = f", and by now so is the weight `{name}`" if name else ""
                told = f"The loss is not finite at step {step}: {losses[back][number]}{weights}"
                seat.fail(FloatingPointError(f"{told}. Lower `model.learning_rate`."))
        self.stack.losses.clear()
        self.stack.trainer.should_stop |= all(seat.should_stop for seat in self.stack.seats)
        return losses

    def _end(self, seat: Seat) -> None:
        """Measure the final model, unless the run has failed, and close the loggers."""
        if not seat.failed:
            with handled_by(interrupt):
                seat.tell("on_train_end")
        with seat.alone():
            for logger in seat.loggers:
                logger.finalize("failed" if seat.failed else "success")
