"""The LightningModule of a stack: loss, validation and optimiser of all replicas, and what a checkpoint of one of them holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import lightning as L  # noqa: N812
import torch
from torch import Tensor

from gcgap.batches import Purpose
from gcgap.checkpoints import read_checkpoint
from gcgap.stack.replicas import losses, stack, training_batch
from gcgap.stack.seat import PreparedRun, Seat
from gcgap.training import adam


class Stack(L.LightningModule):
    """The models of several runs, trained by one program. Its parameters have a first dimension `replica`.

    The loss is the sum of the runs' losses, so that no gradient mixes, and Adam works element by element: each replica takes the
    steps that its run would take alone, but for rounding.

    Args:
        runs: The runs; they differ only in their seeds.
    """

    def __init__(self, runs: Sequence[PreparedRun]) -> None:
        super().__init__()
        self.seats = [Seat(self, run) for run in runs]
        self.model = stack([run.model.model for run in runs])
        self.losses: list[Tensor] = []
        """Of the steps since they were last looked at, each (replica,): a GPU is not waited for at every step."""
        self.right = torch.tensor(0)
        self.shown: Seat | None = None

    @property
    def seeds(self) -> list[int]:
        """Of the runs."""
        return [seat.datamodule.source.seed for seat in self.seats]

    def training_step(self, index: int, batch_idx: int) -> Tensor:
        """The sum of the replicas' losses, each over its own batch `index`."""
        data = self.seats[0].datamodule
        found = losses(self.model, training_batch(data.source, self.seeds, index, data.batch_size).to(self.device))
        self.losses.append(found.detach())
        return found.sum()

    def on_validation_epoch_start(self) -> None:
        """Nothing is right yet."""
        self.right = torch.zeros(len(self.seats), dtype=torch.long, device=self.device)

    def validation_step(self, length: int, batch_idx: int) -> None:
        """Count what each replica reproduces exactly of its own validation sequences of a length."""
        size, sources = self.seats[0].datamodule.validation_sequences, [seat.datamodule.source for seat in self.seats]
        batches = [source.batch(Purpose.VALIDATION, length, size) for source in sources]
        inputs, targets = (torch.cat(parts).to(self.device) for parts in zip(*(batch[:2] for batch in batches), strict=True))
        right = (self.model(inputs, length + 1).argmax(-1) == targets[:, -length - 1 :]).all(-1)
        self.right += right.unflatten(0, (len(sources), -1)).sum(1)

    def accuracies(self) -> list[float]:
        """Exact match of each replica over the validation set that was just gone through."""
        data = self.seats[0].datamodule
        return (self.right.float() / (data.validation_sequences * len(data.source.training_lengths))).tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return adam(self, self.seats[0].module.learning_rate)

    @torch.no_grad()
    def share(self) -> None:
        """Let each run's own model hold its replica's weights: the same memory, which follows every step."""
        for number, seat in enumerate(self.seats):
            seat.module.to(next(self.model.parameters()))
            for own, stacked in zip(seat.module.model.parameters(), self.model.parameters(), strict=True):
                own.data = stacked.data[number]

    @torch.no_grad()
    def keep(self, numbers: list[int]) -> None:
        """Go on with some of the replicas."""
        (adam,) = self.trainer.optimizers
        for parameter in self.model.parameters():
            state = adam.state[parameter]
            state |= {name: value[numbers] for name, value in state.items() if value.ndim}
            parameter.data, parameter.grad = parameter.data[numbers], None
        self.seats = [self.seats[number] for number in numbers]
        self.share()

    @contextmanager
    def showing(self, seat: Seat) -> Iterator[None]:
        """A checkpoint made meanwhile is that of one run."""
        self.shown = seat
        try:
            yield
        finally:
            self.shown = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make a checkpoint of the run that is shown, as its own trainer would make it."""
        assert self.shown is not None
        seat, number = self.shown, self.seats.index(self.shown)
        weights: dict[str, Tensor] = checkpoint["state_dict"]
        weights.update({name: value[number].clone() for name, value in weights.items()})
        for part in (seat.module, seat.datamodule):
            checkpoint[part.CHECKPOINT_HYPER_PARAMS_NAME] = part._hparams_name
            checkpoint[part.CHECKPOINT_HYPER_PARAMS_KEY] = dict(part.hparams)
        if "optimizer_states" in checkpoint:
            (adam,) = checkpoint["optimizer_states"]
            moments = _mapped(adam["state"], lambda key, name: adam["state"][key][name][number].clone())
            checkpoint["optimizer_states"] = [adam | {"state": moments}]
            states = {callback.state_key: callback.state_dict() for callback in seat.callbacks}
            checkpoint["callbacks"] = {key: state for key, state in states.items() if state}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put those of all runs into the place of the one checkpoint that Lightning has read. All are of the same step.

        The learning rate is the config's, as in a run of its own.
        """
        self.trainer.precision_plugin.convert_module(self)  # else the weights would be rounded on their way
        each = [read_checkpoint(seat.run.resumed_from) for seat in self.seats if seat.run.resumed_from]
        names = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: torch.stack([one["state_dict"][name] for one in each]) for name in names}
        (adam,), states = checkpoint["optimizer_states"], [one["optimizer_states"][0]["state"] for one in each]
        moments = _mapped(adam["state"], lambda key, name: torch.stack([state[key][name] for state in states]))
        groups = [group | {"lr": self.seats[0].module.learning_rate} for group in adam["param_groups"]]
        checkpoint["optimizer_states"] = [adam | {"state": moments, "param_groups": groups}]
        for seat, one in zip(self.seats, each, strict=True):
            for callback in seat.callbacks:
                callback.on_load_checkpoint(seat, seat.module, one)  # pyright: ignore[reportArgumentType]
                if callback.state_key in one["callbacks"]:
                    callback.load_state_dict(one["callbacks"][callback.state_key])
        checkpoint["callbacks"] = {}


def _mapped(state: dict[int, dict[str, Tensor]], change: Callable[[int, str], Tensor]) -> dict[int, dict[str, Tensor]]:
    """Adam's state with everything changed that each replica has of its own; its count of steps is common to all."""
    return {key: {name: change(key, name) if value.ndim else value for name, value in of.items()} for key, of in state.items()}
