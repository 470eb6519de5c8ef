"""Standard output and standard error on which printing never ends a command, whatever is behind them."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

PLAIN = str.maketrans("Δρτ√–−×", "DrtV--x")  # one letter for one, so that columns stay aligned


class Output:
    """A text stream whose `write` and `flush` never raise; everything else is the wrapped stream's own.

    Characters that its encoding lacks are replaced. Text that cannot be written is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.error: OSError | ValueError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        """Whether it is a terminal; a stream that cannot say is none."""
        return hasattr(self._stream, "isatty") and self._stream.isatty()

    def write(self, text: str) -> int:
        """Write a text as well as possible."""
        try:
            return self._stream.write(text)
        except UnicodeEncodeError:
            return self.write(encodable(text, self._stream.encoding))
        except (OSError, ValueError) as error:  # a full disk, a pipe that nobody reads; a closed file
            self.error = error
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write every line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Bring to the file what waits in memory, if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.error = error

    def finish(self) -> OSError | None:
        """Drop what cannot be written, which Python would try again when it exits; the reason, unless it is that nobody reads."""
        self.flush()
        if not isinstance(self.error, OSError):
            return None
        descriptor, nowhere = self._stream.fileno(), os.open(os.devnull, os.O_WRONLY)
        kept = os.dup(descriptor)
        os.dup2(nowhere, descriptor)
        self.flush()
        os.dup2(kept, descriptor)
        for one in (nowhere, kept):
            os.close(one)
        return None if self.error.errno == errno.EPIPE else self.error


def encodable(text: str, encoding: str | None) -> str:
    """A text in which every character that an encoding lacks is replaced by a similar one or by a question mark."""
    encoding = encoding or "ascii"
    return "".join(
        letter if _has(encoding, letter) else letter.translate(PLAIN).encode(encoding, "replace").decode(encoding)
        for letter in text
    )


def _has(encoding: str, letter: str) -> bool:
    return letter.encode(encoding, "ignore") != b""


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Wrap standard output and standard error while a command runs; a stream that was closed before Python began is replaced."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        wrapped = [Output(nowhere if stream is None or getattr(stream, "closed", False) else stream) for stream in before]
        sys.stdout, sys.stderr = (cast(TextIO, output) for output in wrapped)
        try:
            yield
        finally:
            if error := wrapped[0].finish():
                print(f"gcgap: warning: standard output is incomplete: {error.strerror}.", file=sys.stderr)
            wrapped[1].finish()
            sys.stdout, sys.stderr = before


@contextmanager
def showing(what: str) -> Iterator[None]:
    """Warn where something cannot be shown, and carry on: the files that it is made of are written already."""
    try:
        yield
    except Exception as error:
        print(f"gcgap: warning: {what} cannot be shown ({type(error).__name__}: {error}).", file=sys.stderr)
