"""One run: its directory, and what is written there about a model that trains.

Owns the names of files and what goes into loggers; when something is written is decided by `gcgap.training.callbacks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.seed import isolate_rng

from gcgap.data.batches import Source
from gcgap.importance.protocol import Protocol
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.measurement.measure import measure
from gcgap.models.checkpoints import PREFIX, read_checkpoint, same_weights, sha256
from gcgap.models.transformer import Decoder, Origin
from gcgap.records.atomic import write_whole
from gcgap.records.read_records import in_order
from gcgap.records.record import Record
from gcgap.report.figures_run import Checkpoint, emergence, is_due
from gcgap.report.tensorboard import layout, png, scalars, write_pictures


class AtomicCheckpoints(TorchCheckpointIO):
    """Lets Lightning write a checkpoint atomically; by itself it writes elsewhere first, perhaps on another disk.

    Args:
        training: The settings of training that a record holds; every checkpoint keeps them for records that are made of it later.
    """

    def __init__(self, training: dict[str, Any]) -> None:
        self.training = training

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write what Lightning has collected."""
        buffer = BytesIO()
        torch.save(checkpoint | {"training": self.training}, buffer)
        write_whole(Path(path), buffer.getvalue())


@dataclass
class Run:
    """One run of one model.

    Args:
        directory: Where its files go: `checkpoints/step=000250.ckpt`, `gap/step=000250.json`, `gap/final.json` and
            `gap/emergence.png`.
        source: The data that the model trains on.
        protocol: What is measured.
        training: The settings of training that a record holds.
        settings: The settings of model and data, for TensorBoard's HPARAMS.
        loggers: Where scalars and pictures go.
        writes: False for a dry run, which leaves no file.
        sharing: The processes that train together: they share the measuring, and the first one writes.
        history: The tracked checkpoints so far; those of an earlier attempt are read once, when they are first needed.
    """

    directory: Path
    source: Source
    protocol: Protocol
    training: dict[str, Any]
    settings: dict[str, Any]
    loggers: Sequence[Logger]
    writes: bool = True
    sharing: Sharing = ALONE
    folders: dict[Path, int] = field(default_factory=dict, init=False)
    configured: bool = field(default=False, init=False)
    history: list[Checkpoint] | None = None

    def checkpoint(self, name: str) -> Path:
        """Where a checkpoint lies."""
        return self.directory / "checkpoints" / name

    def track(self, model: Decoder, step: int) -> None:
        """Measure the model of a step at the tracking length, write the record and log it."""
        with isolate_rng():  # gcgap draws from generators of its own, but a logger or a plotting library might not
            tracked, name = self.protocol.tracked(), f"step={step:06d}.json"
            record = self._measured(model, step, checkpoint_name(step), name, self.protocol.tracking.length, tracked)
            if self.sharing.leads:
                self._log(record)

    def flush(self) -> None:
        """Bring to the files of the loggers what has been logged."""
        for logger in self.loggers:
            logger.save()

    def log_again(self, step: int) -> None:
        """Log a step that an earlier attempt has measured, where TensorBoard drops what that attempt logged from this step on."""
        path = self.directory / "gap" / f"step={step:06d}.json"
        dropping = [logger for logger in self._tensorboards() if logger._kwargs.get("purge_step") == step]
        if self.sharing.leads and dropping and path.exists():
            replace(self, loggers=dropping)._log(Record.read(path))

    def finish(self, model: Decoder, step: int, checkpoint: str) -> Record:
        """Measure the final model under the window rule, write the record, and give TensorBoard its HPARAMS."""
        record = self._measured(model, step, checkpoint, "final.json", length=None, protocol=self.protocol)
        if self.sharing.leads:
            self._log_final(record)
            if self.writes:
                self._draw_last(step)
        return record

    def holds(self, checkpoint: str, model: Decoder) -> bool:
        """Whether a checkpoint is there and has the very weights of a model."""
        if not (path := self.checkpoint(checkpoint)).exists():
            return False
        weights = {f"{PREFIX}{name}": weight for name, weight in model.state_dict().items()}
        return same_weights(read_checkpoint(path)["state_dict"], weights)

    def settle(self) -> None:
        """Make the folders, and note which they are."""
        for folder in (self.directory, self.directory / "checkpoints", self.directory / "gap"):
            folder.mkdir(parents=True, exist_ok=True)
            self.folders[folder] = folder.stat().st_ino
        self.configured = (self.directory / "config.yaml").exists()

    def check_settled(self) -> None:
        """Raise a RuntimeError if the folders, or the config in them, are gone: what is saved then would be of no run."""
        gone = [folder for folder, number in self.folders.items() if not folder.exists() or folder.stat().st_ino != number]
        config = self.directory / "config.yaml"
        if gone or (self.configured and not config.exists()):
            path = gone[0] if gone else config
            raise RuntimeError(f"`{path}` was removed while this run trained; nothing more is saved. Start the run again.")

    def _measured(self, model: Decoder, step: int, checkpoint: str, name: str, length: int | None, protocol: Protocol) -> Record:
        writes, digest = self.writes and self.sharing.leads, None
        if writes:
            if not self.holds(checkpoint, model):
                raise RuntimeError(
                    f"`{self.checkpoint(checkpoint)}` does not hold the weights that are measured: a callback changed them after "
                    "they were saved. Leave it out, or let it act earlier."
                )
            digest = sha256(self.checkpoint(checkpoint))
        origin = Origin(self.source, self.directory.absolute().name, step, digest, self.training)
        record = measure(model, length=length, protocol=protocol, origin=origin, sharing=self.sharing)
        record = Record(record.to_dict() | {"final": name == "final.json"})
        self.check_settled()
        return record.write(self.directory / "gap" / name) if writes else record

    def _history(self, step: int) -> list[Checkpoint]:
        """The tracked checkpoints up to a step."""
        if self.history is None:
            records = (Record.read(path) for path in sorted((self.directory / "gap").glob("step=*.json"), key=in_order))
            self.history = [Checkpoint.of(record) for record in records]
        return [column for column in self.history if column.step <= step]

    def _log(self, record: Record) -> None:
        for logger in self.loggers:
            logger.log_metrics(scalars(record), step=record["step"])
        if not self.writes:
            return
        self.history = [*self._history(record["step"] - 1), Checkpoint.of(record)]
        if len(self.history) == 1:
            for logger in self._tensorboards():
                logger.experiment.add_custom_scalars(layout(record))
        if is_due(len(self.history)):
            self._draw(record)

    def _draw(self, record: Record) -> None:
        """Draw the checkpoints so far, and show them with a tracked record in TensorBoard at its step."""
        raster = png(emergence(self._history(record["step"])))
        write_whole(self.directory / "gap" / "emergence.png", raster)
        for logger in self._tensorboards():
            write_pictures(logger.experiment, record, raster)

    def _draw_last(self, step: int) -> None:
        """Draw the last tracked checkpoint, if it was none of those that are drawn while the model trains."""
        history = self._history(step)
        if history and not is_due(len(history)):
            self._draw(Record.read(self.directory / "gap" / f"step={history[-1].step:06d}.json"))

    def _log_final(self, record: Record) -> None:
        """The config and the final numbers, for TensorBoard's HPARAMS."""
        first = record["gap"][record.baselines[0]]
        numbers = {"final/rho": first["rho"], "final/heroes": first["heroes"], "final/bloats": first["bloats"]}
        numbers |= {"final/accuracy_in_distribution": record["accuracy"]["in_distribution"], "final/steps": record["step"]}
        known = {tag: float(value) for tag, value in numbers.items() if value is not None}
        settings = self.settings | {f"protocol.{key}": str(value) for key, value in self.protocol.to_dict().items()}
        settings |= {f"protocol.tracking.{key}": value for key, value in asdict(self.protocol.tracking).items()}
        target = self.training["target_accuracy"]
        settings |= {} if target is None else {"target.accuracy": target}
        for logger in self._tensorboards():
            logger.log_hyperparams(settings, known, step=record["step"])

    def _tensorboards(self) -> list[TensorBoardLogger]:
        return [logger for logger in self.loggers if isinstance(logger, TensorBoardLogger)]


def checkpoint_name(step: int) -> str:
    """File name of the checkpoint of a step."""
    return f"step={step:06d}.ckpt"
