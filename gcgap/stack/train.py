"""Train runs as stacks: prepare each, and train together what has come equally far."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from gcgap.checkpoints import read_checkpoint
from gcgap.data import Stream
from gcgap.lightning_cli import quieten
from gcgap.stack.module import Stack
from gcgap.stack.relay import Relay
from gcgap.stack.seat import PreparedRun, complain, speaking


def train(runs: Sequence[tuple[list[str], Path]]) -> bool:
    """Train runs that differ only in their seeds, or resume them; whether none has failed.

    Runs that a kill has left at different steps are trained in one stack for each step, one after the other.

    Args:
        runs: For each run the arguments of `gcgap fit`, and the log that takes what is printed about it.
    """
    quieten()
    prepared = [run for arguments, log in runs if (run := _prepared(arguments, log))]
    groups = groupby(sorted(prepared, key=_moment), _moment)
    whole = [_fit(list(together)) for _, together in groups]
    return len(prepared) == len(runs) and all(whole)


def _prepared(arguments: list[str], log: Path) -> PreparedRun | None:
    try:
        with speaking(log):
            return PreparedRun(arguments, log)
    except Exception as error:
        complain(log, error)
        return None


def _moment(run: PreparedRun) -> tuple[int, str]:
    """How far a run has come: its step, or -1, and whether it has reached its target."""
    if run.resumed_from is None:
        return -1, ""
    checkpoint = read_checkpoint(run.resumed_from)
    return checkpoint["global_step"], str(checkpoint["callbacks"])


def _fit(runs: list[PreparedRun]) -> bool:
    """Train runs of one moment as one stack; whether none has failed. An error that ends the stack fails all that are in it."""
    stack = Stack(runs)
    seats, source = stack.seats, runs[0].datamodule.source
    trainer = runs[0].shared_trainer(Relay(stack))
    training = Stream(int, start=lambda: trainer.global_step)
    validation = Stream(list(source.training_lengths).__getitem__, len(source.training_lengths))
    try:
        trainer.fit(stack, training, validation, ckpt_path=runs[0].resumed_from, weights_only=True)
    except Exception as error:
        for seat in stack.seats:
            if not seat.failed:
                seat.fail(error)
    return not any(seat.failed for seat in seats)
