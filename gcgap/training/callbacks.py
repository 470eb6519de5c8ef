"""The callbacks: save and measure checkpoints while a model trains, and show the steps left.

Owns when something is saved and measured; where it goes is `gcgap.training.run`. Measures from train-side hooks, because tensors
made under Lightning's validation (inference mode) can never have a gradient.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint, StochasticWeightAveraging, TQDMProgressBar, WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector
from rich.console import Console
from torch import Tensor

from gcgap.attribution.methods import find_methods
from gcgap.importance.protocol import Protocol
from gcgap.models.checkpoints import FINAL
from gcgap.models.number_format import not_finite
from gcgap.models.wiring import Wiring
from gcgap.records.atomic import remove_unfinished
from gcgap.report.terminal import table
from gcgap.training.cluster import JOB, DeferredSignals, Interrupted, hand_over, job, requeue
from gcgap.training.datamodule import SequenceData
from gcgap.training.display import showing
from gcgap.training.module import AccuracyTarget, SequenceModel
from gcgap.training.processes import sharing
from gcgap.training.run import AtomicCheckpoints, Run, checkpoint_name

AVERAGING = (WeightAveraging, StochasticWeightAveraging)
SHARDED = (DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy)


class GapTracker(Checkpoint):
    """Save, measure and log the checkpoints that the protocol's tracking names, and the final model under the window rule.

    A step is measured with the weights that train. The final model is what training leaves: where another callback puts averages
    of weights in their place when it ends, those, which `checkpoints/final.ckpt` then holds.

    Files go below the trainer's `default_root_dir`: `checkpoints/step=000250.ckpt` (weights), `checkpoints/last.ckpt` (all that
    resuming needs), `gap/step=000250.json`, `gap/final.json` and `gap/emergence.png`. Observing changes nothing: the weights
    after training are those of an untracked run, bit for bit.

    Args:
        protocol: What is measured, and when.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.measured: int | None = None
        self.trained: dict[str, Tensor] = {}
        self.ended = False
        self.unsaved = False
        self.signals = DeferredSignals()
        self.handlers = CallersHandlers()

    def state_dict(self) -> dict[str, Any]:
        """The step that was measured last: a run that is resumed there does not save and measure it a second time."""
        return {"measured": self.measured}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know which step was measured last."""
        self.measured = state_dict["measured"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note the job of SLURM: when it is requeued, the same command resumes from here."""
        if (number := job()) is not None:
            checkpoint[JOB] = number

    def check(self, model: SequenceModel, data: SequenceData) -> None:
        """Raise a ValueError unless the protocol fits this model and data."""
        length, n_ctx = self.protocol.tracking.length, model.model.n_ctx
        data.source.check_context([length], n_ctx, "protocol.tracking.length")
        data.source.check_ood([length], "protocol.tracking.length")
        Wiring.of(model.model).check_sets(self.protocol.sets)
        find_methods(self.protocol.attribution.methods, self.protocol.baselines[0])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learn what is measured and where files go."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, SequenceModel) or not isinstance(data, SequenceData):
            raise ValueError("`GapTracker` measures a `SequenceModel` that trains on `SequenceData`; give it those.")
        if isinstance(trainer.strategy, SHARDED):
            got = type(trainer.strategy).__name__
            raise ValueError(f"`trainer.strategy` must give every process all weights, which are measured; got {got}. Use ddp.")
        writes = not getattr(trainer, "fast_dev_run", False)
        if not writes:
            self.protocol = self.protocol.smallest()
        self.check(pl_module, data)
        training, settings = training_settings(trainer, pl_module, data), dict(pl_module.hparams) | dict(data.hparams)
        directory = Path(trainer.default_root_dir)
        self.run = Run(directory, data.source, self.protocol, training, settings, trainer.loggers, writes, sharing(trainer))
        trainer.strategy.checkpoint_io = AtomicCheckpoints(training)
        self.handlers.install(trainer)
        if writes and trainer.is_global_zero:
            for folder in (directory, directory / "checkpoints", directory / "gap"):
                remove_unfinished(folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the untrained model; a run that is interrupted meanwhile can be resumed already."""
        self.signals.hold()
        self.trained = _copied(pl_module)
        if self.run.writes and trainer.is_global_zero:
            self.run.settle()
        if trainer.global_step == 0:
            self._save_last(trainer)
            self._track(trainer, pl_module)
            self._save_or_stop(trainer, save=False)
        elif trainer.global_step == self.measured:
            self.run.log_again(trainer.global_step)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        """Save and stop here if either is due: by now Lightning has logged all of the step before.

        Then log at the optimiser step: Lightning is one ahead of it after resuming.
        """
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        with _between_batches(trainer):
            if _has_stepped(trainer):
                self._save_or_stop(trainer, save=self.unsaved)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if this optimiser step is due; `last.ckpt` is saved when Lightning has logged the step and validated."""
        if trainer.global_step != self.measured and self.protocol.tracking.due(trainer.global_step):
            self._track(trainer, pl_module)
            self.unsaved = True

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `last.ckpt` with what the validation has decided."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and _has_stepped(trainer):
            self._save_or_stop(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Note the weights that were trained: when training ends, other callbacks may put averages in their place."""
        self.trained = _copied(pl_module)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the last step at the tracking length, and the final model under the window rule."""
        self.ended = True
        with _weights(pl_module, self.trained):
            self._track_last(trainer, pl_module)
            self._save_or_stop(trainer)
        self.signals.release()
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure a run that was resumed at the most steps it may take: Lightning then trains nothing and calls no other hook."""
        if not self.ended and 0 < trainer.max_steps == trainer.global_step:
            pl_module.to(trainer.strategy.root_device)
            if trainer.global_step == self.measured:
                self.run.log_again(trainer.global_step)
            self._track_last(trainer, pl_module)
            for averaging in (one for one in _callbacks(trainer) if isinstance(one, AVERAGING)):
                averaging.on_train_end(trainer, pl_module)
            self._finish(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say how an interrupted run is resumed, and have its signal handed over when Lightning has cleaned up."""
        self.signals.release()
        self.handlers.install(trainer)  # before `setup` they are Lightning's
        if isinstance(exception, KeyboardInterrupt):
            self.handlers.ended_by = signal.SIGINT
        if not isinstance(exception, Interrupted):
            return
        if not trainer.is_global_zero:
            exception.code, exception.message = 0, ""  # else Lightning would kill the first process for it
            return
        self.handlers.ended_by = exception.number
        if (Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt").exists():
            exception.message = f"Interrupted at step {trainer.global_step}; the same command with `--ckpt_path last` resumes it."
        if asks_to_requeue(trainer, exception.number):
            exception.message += f" {requeue()}"

    def _finish(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, SequenceModel)
        checkpoint = checkpoint_name(trainer.global_step)
        if not trainer.strategy.broadcast(not self.run.writes or self.run.holds(checkpoint, pl_module.model)):
            checkpoint = FINAL
            self._save(trainer, FINAL, weights_only=True)
        record = self.run.finish(pl_module.model, trainer.global_step, checkpoint)
        if trainer.is_global_zero:
            with showing("the table of the final model"):
                Console().print(table(record))
        trainer.strategy.barrier("gcgap final measurement")

    def _track_last(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the last step unless that is done, and not in the directory of another run that this one was resumed from."""
        here = not self.run.writes or self.run.checkpoint(checkpoint_name(trainer.global_step)).exists()
        if trainer.global_step != self.measured or not trainer.strategy.broadcast(here):
            self._track(trainer, pl_module)

    def _track(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save this step's weights and measure them on all processes; the first one writes the record and logs it."""
        assert isinstance(pl_module, SequenceModel)
        self.measured = trainer.global_step
        self._save(trainer, checkpoint_name(trainer.global_step), weights_only=True)
        self.run.track(pl_module.model, trainer.global_step)
        trainer.strategy.barrier("gcgap tracked measurement")

    def _save_or_stop(self, trainer: L.Trainer, save: bool = True) -> None:
        """Save `last.ckpt` if it is due; if any process got a signal meanwhile, stop with it saved."""
        if save:
            self._save_last(trainer)
        if trainer.strategy.reduce_boolean_decision(self.signals.number is not None, all=False):
            if not save:
                self._save_last(trainer)
            own = torch.tensor(self.signals.number or 0, device=trainer.strategy.root_device)
            raise Interrupted(int(trainer.strategy.reduce(own, reduce_op="max")))

    def _save_last(self, trainer: L.Trainer) -> None:
        """Save all that resuming needs, after what is logged: a checkpoint must not know of steps that the loggers do not."""
        self.run.flush()
        self._save(trainer, "last.ckpt")
        self.unsaved = False

    def _save(self, trainer: L.Trainer, name: str, weights_only: bool = False) -> None:
        if weight := not_finite(trainer.lightning_module.named_parameters()):
            raise FloatingPointError(
                f"The weight `{weight}` is not finite at step {trainer.global_step}, and is not saved; "
                "lower `model.learning_rate`."
            )
        if self.run.writes:
            self.run.check_settled()
            trainer.save_checkpoint(self.run.checkpoint(name), weights_only=weights_only)
        trainer.strategy.barrier("gcgap checkpoint")


class StepProgress(TQDMProgressBar):
    """Lightning's progress bar, on a terminal alone, counting optimiser steps up to the most that training may take."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write no bar into a file: it would be a line for every step."""
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()

    @property
    def total_train_batches(self) -> int | float:
        """Steps at most."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin at the step that a resumed run has reached."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("Training")


def training_settings(trainer: L.Trainer, model: SequenceModel, data: SequenceData) -> dict[str, Any]:
    """The settings of training that a record holds."""
    targets = [one.accuracy for one in _callbacks(trainer) if isinstance(one, AccuracyTarget)]
    return {
        "optimizer": "Adam",
        "learning_rate": model.learning_rate,
        "batch_size": data.batch_size,
        "max_steps": trainer.max_steps,
        "target_accuracy": targets[0] if targets else None,
        "precision": trainer.precision,
    }


def _copied(module: L.LightningModule) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


@contextmanager
def _weights(module: L.LightningModule, weights: dict[str, Tensor]) -> Iterator[None]:
    """Put weights into a module for a while."""
    others = _copied(module)
    _fill(module, weights)
    try:
        yield
    finally:
        _fill(module, others)


@torch.no_grad()
def _fill(module: L.LightningModule, weights: dict[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    if other := parameters.keys() ^ weights.keys():
        raise RuntimeError(f"A callback has put other parameters into the model, such as `{min(other)}`. Leave it out.")
    for name, weight in parameters.items():
        weight.copy_(weights[name])


def _has_stepped(trainer: L.Trainer) -> bool:
    """Whether no gradients are being accumulated over batches; no checkpoint would hold them."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches == 0


@contextmanager
def _between_batches(trainer: L.Trainer) -> Iterator[None]:
    """Lightning has counted the batch that is about to begin; a checkpoint must not know of it."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    for counts in (progress.total, progress.current):
        counts.ready -= 1
    try:
        yield
    finally:
        for counts in (progress.total, progress.current):
            counts.ready += 1


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


class CallersHandlers(_SignalConnector):
    """Leaves every handler as it is; when training has been torn down, hands the signal that ended it over to its handler."""

    def __init__(self) -> None:
        self.received_sigterm = False
        self.ended_by: int | None = None
        self.of_sigint = signal.getsignal(signal.SIGINT)

    def install(self, trainer: L.Trainer) -> None:
        """Take the place of a trainer's own connector."""
        trainer._signal_connector = self

    def register_signal_handlers(self) -> None:
        """Install none."""

    def teardown(self) -> None:
        """Hand over the signal, if one has ended training."""
        number, self.ended_by = self.ended_by, None
        if number is None:
            return
        if self.of_sigint is not None:
            self._register_signal(signal.SIGINT, self.of_sigint)  # Lightning ignores it from a KeyboardInterrupt on
        hand_over(number)


def asks_to_requeue(trainer: L.Trainer, number: int) -> bool:
    """Whether a signal is the one by which SLURM asks a job to save, and to requeue itself (by default SIGUSR1)."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue and number == environment.requeue_signal
