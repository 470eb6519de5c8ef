"""A process that imports gcgap once and forks the processes of each command: tests of several processes need many of them.

`Forks` is what tests hold; run as a script, this file is the process. Instead of starting Python anew for a further rank, which
takes some seconds, a command uses a process that was forked before it began and has waited for its environment since.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

LONGEST = 150.0  # seconds that a command may take


class Forks:
    """Runs commands of gcgap, each in processes of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )

    def __call__(self, arguments: list[str], output: Path, patience: float = 0) -> tuple[int, bool]:
        """Run a command; its exit code (or minus the signal that ended it), and whether all its processes have ended with it.

        Args:
            arguments: Those of `gcgap`.
            output: File that takes stdout and stderr.
            patience: Seconds for which the other processes may outlive the first one.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps([arguments, str(output), patience]), file=self.process.stdin, flush=True)
        code, alone = json.loads(self.process.stdout.readline())
        return code, alone

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


class Standby:
    """A forked process that runs the command when it is given its environment: what the launcher needs of a Popen."""

    def __init__(self, arguments: list[str]) -> None:
        self.returncode: int | None = None
        reading, self.writing = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(reading)
            return
        os.close(self.writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        if told:
            os.environ.update(json.loads(told))
            leave(arguments)
        os._exit(0)

    def start(self, command: list[str], env: dict[str, str], cwd: str | None) -> Standby:
        """Let it go on as the process of a rank."""
        with os.fdopen(self.writing, "w") as pipe:
            pipe.write(json.dumps(env))
        return self

    def poll(self) -> int | None:
        """The exit code if it has ended."""
        return self._waited(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code once it has ended."""
        return self._waited(0)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: int) -> None:
        """Send it a signal unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def _waited(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode


def leave(arguments: list[str]) -> None:
    """Run a command, and end this process with its exit code; one that would wait for ever is a failure."""
    from gcgap.cli import main

    faulthandler.dump_traceback_later(LONGEST, exit=True)

    sys.argv = ["gcgap", *arguments]
    try:
        code: Any = main()
    except SystemExit as leaving:
        code = leaving.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


def command(arguments: list[str], output: str) -> None:
    """Run a command whose second rank is a standby, and which draws no figures, since they would take most of its time."""
    import lightning.pytorch.strategies.launchers.subprocess_script as launcher
    from pictures import draw_quickly

    os.setsid()
    written = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, written), (2, written)):
        os.dup2(source, number)
    draw_quickly()
    launcher.subprocess = SimpleNamespace(Popen=Standby(arguments).start)  # type: ignore[assignment]
    leave(arguments)


def serve() -> None:
    """For each line of stdin fork a command, and answer how it ended and whether it left no process behind."""
    import gcgap.training.lightning_cli  # noqa: F401

    for line in sys.stdin:
        *told, patience = json.loads(line)
        living, held = os.pipe()  # every process of the command holds it open until it ends
        pid = os.fork()
        if not pid:
            os.close(living)
            command(*told)
        os.close(held)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        alone = bool(select.select([living], [], [], patience)[0])
        if not alone:
            os.killpg(pid, signal.SIGKILL)
        os.close(living)
        print(json.dumps([code, alone]), flush=True)


if __name__ == "__main__":
    serve()
