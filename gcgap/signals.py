"""SIGINT and SIGTERM: they end a command at once, or after the step that must not break off."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(SystemExit):
    """A signal ends the command; its exit code is 128 and the signal's number, as shells have it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.told = f"Interrupted by {signal.Signals(number).name}."


def interrupt(number: int, frame: Any = None) -> None:
    """Raise `Interrupted`, wherever the program is."""
    raise Interrupted(number)


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have a handler for both signals; not for one that is ignored, as SIGINT is in the background of a script.

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


class Held:
    """Holds the first signal back, from `hold` to `release` or within a `with`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._holding = ExitStack()

    def hold(self) -> None:
        """Note a signal from now on."""
        self._holding.enter_context(handled_by(self._note))

    def release(self) -> None:
        """Let signals do again what they did before."""
        self._holding.close()

    def __enter__(self) -> Held:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _note(self, number: int, frame: Any = None) -> None:
        if self.number is not None:
            interrupt(number)
        self.number = number
