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
from gcgap.batches import Source
from gcgap.protocol import Protocol
from gcgap.records import Record
from gcgap.report.emergence import Column
from gcgap.run import Run

COUNTS = (10, 500, 2000)
FILES = 100
NEXT = 64  # checkpoints of which some are drawn and others not


def growing(repeats: int) -> Rows:
    """The whole table, in CPU seconds."""
    record = Record.read(REFERENCE / "gap" / "step=001000.json")
    costs = {count: [_checkpoint(record, count) for _ in range(max(1, repeats // 2))] for count in COUNTS}
    first = costs[COUNTS[0]]
    with _files(record) as directory:
        reading = [_seconds(lambda: gcgap.read(directory)) for _ in range(repeats)]
        resuming = [_seconds(lambda: _run(directory.parent, [])._history(10**9)) for _ in range(repeats)]
    return [
        *((f"a checkpoint after {count} others, without its measurement (CPU s)", spread(costs[count])) for count in COUNTS),
        *((f"  after {count} / after {COUNTS[0]}", spread(ratios(costs[count], first))) for count in COUNTS[1:]),
        (f"a resumed run reads {FILES} records, once (CPU s)", spread(resuming)),
        (f"gcgap.read of {FILES} records of 20 components (CPU s)", spread(reading)),
    ]


def _checkpoint(record: Record, count: int) -> float:
    """What the logging of one checkpoint costs after `count` others, the mean of several."""
    column = Column.of(record)
    with TemporaryDirectory() as place:
        logger = TensorBoardLogger(place, name="", version="", default_hp_metric=False)
        run = _run(Path(place), [replace(column, step=step) for step in range(count)], [logger])
        following = [Record(record.data | {"step": count + number}) for number in range(NEXT)]
        seconds = _seconds(lambda: [run._log(one) for one in following])
        logger.experiment.close()
    return seconds / NEXT


def _run(directory: Path, history: list[Column], loggers: Sequence[TensorBoardLogger] = ()) -> Run:
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
