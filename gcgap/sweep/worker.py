"""One run of a sweep in a process of its own: train or resume it, then measure its final model again.

Owns what is left to do in a run directory. Light to import: both engines start workers with `launch`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock

from gcgap.records.record import Record
from gcgap.training.cluster import without_launcher


@dataclass(frozen=True)
class SweepJob:
    """What a worker does.

    Args:
        name: Name of the run within the sweep.
        directory: Its directory, an absolute path like every other one here.
        log: File that takes what the worker prints.
        fit: Arguments of `gcgap fit`.
        again: Options of `gcgap measure` for each further measurement of the final model.
        records: The records of those measurements, within the directory.
    """

    name: str
    directory: str
    log: str
    fit: list[str]
    again: list[list[str]]
    records: list[str]

    @property
    def run(self) -> Path:
        """The directory."""
        return Path(self.directory)

    @property
    def last(self) -> Path:
        """The checkpoint that the run can be resumed from."""
        return self.run / "checkpoints" / "last.ckpt"

    def is_trained(self) -> bool:
        """Whether training and the final measurement are done."""
        return _readable(self.run / "gap" / "final.json")

    def is_done(self) -> bool:
        """Whether nothing is left to do."""
        return self.is_trained() and all(_readable(self.run / record) for record in self.records)


def _readable(record: Path) -> bool:
    try:
        return record.exists() and bool(Record.read(record))
    except ValueError:
        return False


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
    if not job.is_trained() and (code := command(["fit", *job.fit, *["--ckpt_path=last"] * job.last.exists()])):
        return code
    for options, record in zip(job.again, job.records, strict=True):
        if not _readable(job.run / record) and (code := command(["measure", str(job.last), "--force", *options])):
            return code
    return 0


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
    with FileLock(job.run / ".lock", timeout=60):  # the worker of a sweep that was killed may take a moment to end
        sys.exit(work(job, main))
