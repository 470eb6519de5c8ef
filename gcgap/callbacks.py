"""The callbacks: save and measure checkpoints while a model trains, and show the steps left.

Owns when something is measured and where its files go; what is measured is `gcgap.measurement`. Measures from train-side hooks,
because tensors made under Lightning's validation (inference mode) can never have a gradient.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.seed import isolate_rng
from rich.console import Console

from gcgap.attribution.methods import find_methods
from gcgap.batches import check_context
from gcgap.checkpoints import sha256
from gcgap.components import Wiring
from gcgap.compose import Origin
from gcgap.data import SequenceData
from gcgap.measurement import measure
from gcgap.protocol import Protocol
from gcgap.records import Record
from gcgap.report.emergence import emergence
from gcgap.report.logs import layout, png, scalars, write_pictures
from gcgap.report.table import table
from gcgap.training import AccuracyTarget, SequenceModel


class GapTracker(Checkpoint):
    """Save, measure and log the checkpoints that the protocol's tracking names, and the final model under the window rule.

    Files go below the trainer's `default_root_dir`: `checkpoints/step=000250.ckpt` (weights), `checkpoints/last.ckpt` (all that
    resuming needs), `gap/step=000250.json`, `gap/final.json` and `gap/emergence.png`. Observing changes nothing: the weights
    after training are those of an untracked run, bit for bit.

    Args:
        protocol: What is measured, and when.
    """

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.measured: int | None = None

    def check(self, model: SequenceModel, data: SequenceData) -> None:
        """Raise a ValueError unless the protocol fits this model and data."""
        length, n_ctx = self.protocol.tracking.length, model.model.n_ctx
        check_context([length], n_ctx, "protocol.tracking.length")
        data.source.check_ood([length], "protocol.tracking.length")
        Wiring.of(model.model).check_sets(self.protocol.sets)
        find_methods(self.protocol.attribution.methods)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learn what is measured and where files go."""
        data = getattr(trainer, "datamodule", None)
        if not isinstance(pl_module, SequenceModel) or not isinstance(data, SequenceData):
            raise ValueError("`GapTracker` measures a `SequenceModel` that trains on `SequenceData`; give it those.")
        self.writes = not getattr(trainer, "fast_dev_run", False)
        if not self.writes:
            self.protocol = self.protocol.smallest()
        self.check(pl_module, data)
        self.source, self.run = data.source, Path(trainer.default_root_dir)
        self.training = _training(trainer, pl_module, data)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the untrained model; a run that is interrupted meanwhile can be resumed already."""
        if trainer.global_step == 0:
            self._save(trainer, "last.ckpt")
            self._track(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure if this optimiser step is due.

        Where a validation follows, `last.ckpt` is saved after it, so that a resumed run knows of its outcome.
        """
        if trainer.global_step != self.measured and self.protocol.tracking.due(trainer.global_step):
            self._track(trainer, pl_module)
            if not _validation_follows(trainer):
                self._save(trainer, "last.ckpt")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save `last.ckpt` with what the validation has decided."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure the last step at the tracking length, and the final model under the window rule."""
        if trainer.global_step != self.measured:
            self._track(trainer, pl_module)
        self._save(trainer, "last.ckpt")
        if trainer.is_global_zero:
            record = self._measured(trainer, pl_module, "final.json", length=None, protocol=self.protocol)
            self._log_final(trainer, pl_module, record)
            Console().print(table(record))
        trainer.strategy.barrier("gcgap final measurement")

    def _track(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save this step's weights, measure them on the first process, write the record and log it."""
        self.measured = trainer.global_step
        name = f"step={trainer.global_step:06d}"
        self._save(trainer, f"{name}.ckpt", weights_only=True)
        if trainer.is_global_zero:
            with isolate_rng():  # gcgap draws from generators of its own, but a logger or a plotting library might not
                tracking = self.protocol.tracking
                record = self._measured(trainer, pl_module, f"{name}.json", tracking.length, self.protocol.tracked())
                self._log(trainer, record)
        trainer.strategy.barrier("gcgap tracked measurement")

    def _measured(
        self, trainer: L.Trainer, pl_module: L.LightningModule, name: str, length: int | None, protocol: Protocol
    ) -> Record:
        assert isinstance(pl_module, SequenceModel)
        weights = self.run / "checkpoints" / f"step={trainer.global_step:06d}.ckpt"
        digest = sha256(weights) if self.writes else None
        origin = Origin(self.source, self.run.name, trainer.global_step, digest, self.training)
        record = measure(pl_module.model, length=length, protocol=protocol, origin=origin)
        record = Record(record.to_dict() | {"final": name == "final.json"})
        return record.write(self.run / "gap" / name) if self.writes else record

    def _save(self, trainer: L.Trainer, name: str, weights_only: bool = False) -> None:
        """Save under a temporary name beside the last one: a kill in the middle must leave the earlier file whole."""
        if self.writes:
            path = self.run / "checkpoints" / name
            unfinished = path.with_name(f".{name}.unfinished")
            trainer.save_checkpoint(unfinished, weights_only=weights_only)
            if trainer.is_global_zero:
                unfinished.replace(path)
            trainer.strategy.barrier("gcgap checkpoint")

    def _history(self, step: int) -> list[Record]:
        """The tracked records of this run up to a step."""
        records = [Record.read(path) for path in sorted((self.run / "gap").glob("step=*.json"))]
        return [record for record in records if record["step"] <= step]

    def _log(self, trainer: L.Trainer, record: Record) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(scalars(record), step=record["step"])
        if not self.writes:
            return
        history = self._history(record["step"])
        raster = png(emergence(history))
        (self.run / "gap" / "emergence.png").write_bytes(raster)
        for logger in _tensorboards(trainer.loggers):
            if len(history) == 1:
                logger.experiment.add_custom_scalars(layout(record))
            write_pictures(logger.experiment, record, raster)

    def _log_final(self, trainer: L.Trainer, pl_module: L.LightningModule, record: Record) -> None:
        """The config and the final numbers, for TensorBoard's HPARAMS."""
        first = record["gap"][record.baselines[0]]
        numbers = {"final/rho": first["rho"], "final/heroes": first["heroes"], "final/bloats": first["bloats"]}
        numbers |= {"final/accuracy_in_distribution": record["accuracy"]["in_distribution"], "final/steps": trainer.global_step}
        known = {tag: float(value) for tag, value in numbers.items() if value is not None}
        data = getattr(trainer, "datamodule", None)
        assert isinstance(data, SequenceData)
        settings = dict(pl_module.hparams) | dict(data.hparams)
        settings |= {f"protocol.{key}": str(value) for key, value in self.protocol.to_dict().items()}
        settings |= {f"protocol.tracking.{key}": value for key, value in asdict(self.protocol.tracking).items()}
        target = self.training["target_accuracy"]
        settings |= {} if target is None else {"target.accuracy": target}
        for logger in _tensorboards(trainer.loggers):
            logger.log_hyperparams(settings, known, step=trainer.global_step)


class StepProgress(TQDMProgressBar):
    """Lightning's progress bar, counting optimiser steps up to the most that training may take."""

    @property
    def total_train_batches(self) -> int | float:
        """Steps at most."""
        return self.trainer.max_steps * self.trainer.accumulate_grad_batches if self.trainer.max_steps > 0 else float("inf")

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Begin at the step that a resumed run has reached."""
        super().on_train_epoch_start(trainer)
        self.train_progress_bar.set_description("Training")


def _training(trainer: L.Trainer, model: SequenceModel, data: SequenceData) -> dict[str, Any]:
    """The settings of training that a record tells."""
    targets = [one.accuracy for one in _callbacks(trainer) if isinstance(one, AccuracyTarget)]
    return {
        "optimizer": "Adam",
        "learning_rate": model.learning_rate,
        "batch_size": data.batch_size,
        "max_steps": trainer.max_steps,
        "target_accuracy": targets[0] if targets else None,
    }


def _validation_follows(trainer: L.Trainer) -> bool:
    """Whether Lightning validates right after this training step."""
    every = trainer.val_check_batch  # pyright: ignore[reportAttributeAccessIssue]
    done = trainer.fit_loop.epoch_loop.total_batch_idx + 1
    return isinstance(every, int) and done % every == 0


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


def _tensorboards(loggers: list[Logger]) -> list[TensorBoardLogger]:
    return [logger for logger in loggers if isinstance(logger, TensorBoardLogger)]
