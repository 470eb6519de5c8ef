"""Signals that end a process: they end a command at once, or after the step that must not break off.

Owns which signals those are, and who answers one in the end: gcgap where it is the program, else the handler of its caller.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

NUMBERS = (  # what terminals, users and batch systems send before they kill; the default of each is to end the process
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # SLURM, Grid Engine, and a limit of CPU time
)


class Interrupted(SystemExit):
    """A signal ends the command; its exit code is 128 and the signal's number, as shells have it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.message = f"Interrupted by {signal.Signals(number).name}."


def interrupt(number: int, frame: Any = None) -> None:
    """Raise `Interrupted`, wherever the program is."""
    raise Interrupted(number)


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have a handler for all these signals; not for one that is ignored, as SIGINT is in the background of a script.

    Only the main thread may do so; in another one nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in NUMBERS if main}
    before = {number: known for number, known in before.items() if known not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def hand_over(number: int) -> None:
    """Give a signal, for which everything is saved, to the handler that is installed now: that of whoever called gcgap.

    It may end the process, raise KeyboardInterrupt, or return. `interrupt` is not called: its command is ending already.
    """
    if signal.getsignal(number) is not interrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.raise_signal(number)


class DeferredSignals:
    """Holds the first signal back, from `hold` to `release` or within a `with`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._holding = ExitStack()

    def hold(self) -> None:
        """Note a signal from now on."""
        self.number = None
        self._holding.enter_context(handled_by(self._note))

    def release(self) -> None:
        """Let signals do again what they did before."""
        self._holding.close()

    def __enter__(self) -> DeferredSignals:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _note(self, number: int, frame: Any = None) -> None:
        if self.number is not None:
            interrupt(number)
        self.number = number
