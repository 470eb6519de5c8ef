"""A process that imports gcgap once and forks a child for each command: tests of faults need dozens of short processes.

`Zygote` is what tests hold; run as a script, this file is the process. Its children draw quick pictures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

HERE, PATH = str(Path(__file__).parent), filter(None, [os.environ.get("PYTHONPATH")])


class Zygote:
    """Runs commands of gcgap, each in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([HERE, *PATH])},
        )

    def __call__(self, arguments: list[str], output: Path, **settings: Any) -> int:
        """Run a command; its exit code, or minus the signal that ended it.

        Args:
            arguments: Those of `gcgap`.
            output: File that stdout and stderr are added to.
            settings: `faults`: the arguments of `faults.Faults`; `seen`: a file that takes the names of all events;
                `environment`: variables; `called`: whether `main` has a caller, and is not the program.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        told = {"arguments": arguments, "output": str(output), **settings}
        print(json.dumps(told), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def child(told: dict[str, Any]) -> int:
    """What a forked process does."""
    from faults import Faults

    from gcgap.cli import main

    output = os.open(told["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, output), (2, output)):
        os.dup2(source, number)
    faults = Faults(**told["faults"]) if "faults" in told else None
    if faults:
        faults.install()
    os.environ.update(told.get("environment", {}))
    sys.argv = ["gcgap", *told["arguments"]]
    try:
        return main(told["arguments"] if told.get("called") else None)
    except SystemExit as leaving:
        return int(leaving.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if "seen" in told and faults:
            Path(told["seen"]).write_text("\n".join(faults.seen))


def serve() -> None:
    """Fork a child for each line of stdin, and answer how it ended."""
    import signal

    import torch.utils.tensorboard  # noqa: F401
    from pictures import draw_quickly

    draw_quickly()
    for line in sys.stdin:
        if pid := os.fork():
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests ignore it
        try:
            os._exit(child(json.loads(line)))
        except BaseException:
            traceback.print_exc()
            os._exit(70)


if __name__ == "__main__":
    serve()
