"""One job of a sweep in a process of its own: the commands whose records are not there yet, one after the other.

Owns what is left to do of a job. Light to import: both engines start workers with `launch`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock

from gcgap.records.attribution_record import FOLDER, AttributionRecord
from gcgap.records.read_records import in_order
from gcgap.records.record import Record
from gcgap.training.cluster import without_launcher


@dataclass(frozen=True)
class SweepJob:
    """What a worker does.

    Args:
        name: Name of the job within the sweep.
        directory: The directory of its run, an absolute path like every other one here.
        log: File that takes what the worker prints.
        commands: What it does in this order, each as the arguments of `gcgap`.
        records: The records that each command leaves, within the directory: those it has left, it need not leave again.
    """

    name: str
    directory: str
    log: str
    commands: list[list[str]]
    records: list[list[str]]

    @property
    def run(self) -> Path:
        """The directory."""
        return Path(self.directory)

    @property
    def last(self) -> Path:
        """The checkpoint that the run can be resumed from."""
        return self.run / "checkpoints" / "last.ckpt"

    @property
    def paths(self) -> list[Path]:
        """All records."""
        return [self.run / record for records in self.records for record in records]

    @property
    def newest(self) -> Path | None:
        """The record that says how far it is: the last step's of a training, otherwise its own."""
        fits = self.commands[0][0] == "fit"
        own = (self.run / "gap").glob("step=*.json") if fits else (self.run / record for record in self.records[0])
        return max((path for path in own if path.exists()), default=None, key=in_order)

    def is_trained(self) -> bool:
        """Whether the first command is done: of a training also the final measurement."""
        return self._is_there(self.records[0])

    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return all(map(self._is_there, self.records))

    def left(self) -> Iterator[list[str]]:
        """The commands that are not done, each asked for when those before it have ended."""
        for command, records in zip(self.commands, self.records, strict=True):
            if not self._is_there(records):
                yield [*command, *["--ckpt_path=last"] * (command[0] == "fit" and self.last.exists())]

    def _is_there(self, records: list[str]) -> bool:
        return all(readable(self.run / record) is not None for record in records)


def readable(path: Path) -> Record | AttributionRecord | None:
    """The record in a file, of either kind; None where there is none that can be read."""
    kind = AttributionRecord if path.parent.name == FOLDER else Record
    try:
        return kind.read(path) if path.exists() else None
    except ValueError:
        return None


def launch(job: SweepJob, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start the worker of a job; it ends at once when its standard input is closed, and so when its parent dies."""
    Path(job.log).parent.mkdir(parents=True, exist_ok=True)
    with Path(job.log).open("ab") as output:
        output.write(f"--- {job.name}, {datetime.now().astimezone().isoformat(timespec='seconds')}\n".encode())
        output.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "gcgap.sweep.worker", json.dumps(asdict(job))],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**without_launcher(os.environ), "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **environment},
            start_new_session=True,  # Ctrl-C reaches the sweep alone, which then ends its workers
        )


def work(job: SweepJob, command: Callable[[list[str]], int]) -> int:
    """Do what is left of a job; the exit code of the first command (as `gcgap.cli.main` runs them) that fails."""
    return next((code for arguments in job.left() if (code := command(arguments))), 0)


def _die_with_parent() -> None:
    """End this process and all that it started when standard input is closed: two of them must never write one run."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread must not hold when the interpreter ends
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    from gcgap.cli import main

    threading.Thread(target=_die_with_parent, daemon=True).start()
    job = SweepJob(**json.loads(sys.argv[1]))
    job.run.mkdir(parents=True, exist_ok=True)
    with FileLock(
        Path(job.log).with_name(f".{Path(job.log).stem}.lock"), timeout=60
    ):  # the worker of a sweep that was killed may take a moment to end
        sys.exit(work(job, main))
