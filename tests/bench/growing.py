"""What a checkpoint costs beside its measurement, with few and with many before it; and reading many records at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from lightning.pytorch.loggers import TensorBoardLogger

import gcgap
from bench.subject import REFERENCE
from bench.timing import Rows, ratios, spread
from gcgap.data.batches import Source
from gcgap.importance.protocol import Protocol
from gcgap.records.record import Record
from gcgap.report.figures_run import Checkpoint, is_due
from gcgap.training.run import Run

COUNTS = (10, 496, 1984)  # after which the next checkpoint is drawn
FILES = 100


def growing(repeats: int) -> Rows:
    """The whole table, in CPU seconds."""
    record = Record.read(REFERENCE / "gap" / "step=001000.json")
    turns = [[_checkpoint(record, count) for count in COUNTS] for _ in range(repeats)]
    first, *later = (list(seconds) for seconds in zip(*turns, strict=True))
    with _files(record) as directory:
        reading = [_seconds(lambda: gcgap.read(directory)) for _ in range(repeats)]
        resuming = [_seconds(lambda: _run(directory.parent, [])._history(10**9)) for _ in range(repeats)]
    return [
        (f"a checkpoint after {COUNTS[0]} others, drawn in TensorBoard, without its measurement (CPU s)", spread(first)),
        *((f"  after {count} / that", spread(ratios(one, first))) for count, one in zip(COUNTS[1:], later, strict=True)),
        *((f"  of {count} checkpoints are drawn", str(sum(map(is_due, range(1, count + 1))))) for count in COUNTS),
        (f"a resumed run reads {FILES} records, once (CPU s)", spread(resuming)),
        (f"gcgap.read of {FILES} records of 20 components (CPU s)", spread(reading)),
    ]


def _checkpoint(record: Record, count: int) -> float:
    """What logging and drawing one checkpoint costs after `count` others."""
    column = Checkpoint.of(record)
    with TemporaryDirectory() as place:
        logger = TensorBoardLogger(place, name="", version="", default_hp_metric=False)
        run = _run(Path(place), [replace(column, step=step) for step in range(count)], [logger])
        seconds = _seconds(lambda: run._log(Record(record.data | {"step": count})))
        logger.experiment.close()
    return seconds


def _run(directory: Path, history: list[Checkpoint], loggers: Sequence[TensorBoardLogger] = ()) -> Run:
    return Run(directory, Source("sort"), Protocol(), {}, {}, loggers, history=history or None)


@contextmanager
def _files(record: Record) -> Iterator[Path]:
    """A directory with many records."""
    data = {key: value for key, value in record.data.items() if key != "sha256"}
    with TemporaryDirectory() as place:
        for step in range(FILES):
            Record(data | {"step": step}).write(Path(place) / "gap" / f"step={step:06d}.json")
        yield Path(place) / "gap"


def _seconds(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun
