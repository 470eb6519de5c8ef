"""Train runs as stacks: prepare each, and train together what has come equally far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from gcgap.checkpoints import read_checkpoint
from gcgap.data import Stream
from gcgap.lightning_cli import SETTINGS, quieten
from gcgap.stack.module import Stack
from gcgap.stack.relay import Relay
from gcgap.stack.seat import PreparedRun, Seat, complain, speaking


def train(runs: Sequence[tuple[list[str], Path]]) -> bool:
    """Train runs that differ only in their seeds, or resume them; whether none has failed.

    Runs that a kill has left at different steps are trained in one stack for each step, one after the other.

    Args:
        runs: For each run the arguments of `gcgap fit`, and the log that takes what is printed about it.
    """
    quieten()
    prepared = [_prepared(arguments, log) for arguments, log in runs]
    seats = sorted((seat for seat in prepared if seat), key=_moment)
    for _, together in groupby(seats, _moment):
        _fit(list(together))
    return len(seats) == len(runs) and not any(seat.failed for seat in seats)


def _prepared(arguments: list[str], log: Path) -> Seat | None:
    try:
        with speaking(log):
            return Seat(PreparedRun(**SETTINGS, args=["fit", *arguments]), log)
    except Exception as error:
        complain(log, error)
        return None


def _moment(seat: Seat) -> tuple[int, str]:
    """How far a run has come: its step, or -1, and whether it has reached its target."""
    if seat.resumed_from is None:
        return -1, ""
    checkpoint = read_checkpoint(seat.resumed_from)
    return checkpoint["global_step"], str(checkpoint["callbacks"])


def _fit(seats: list[Seat]) -> None:
    """Train runs of one moment as one stack. What ends the stack fails every run that is still in it."""
    stack = Stack(seats)
    trainer = seats[0].run.shared_trainer(Relay(stack))
    training = Stream(int, start=lambda: trainer.global_step)
    lengths = list(seats[0].datamodule.source.training_lengths)
    validation = Stream(lengths.__getitem__, len(lengths))
    try:
        trainer.fit(stack, training, validation, ckpt_path=seats[0].resumed_from, weights_only=True)
    except Exception as error:
        for seat in stack.seats:
            if not seat.failed:
                seat.fail(error)
