"""Files that are there whole or not at all, whatever ends the process that writes them."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNFINISHED = re.compile(r"\..+\.(ckpt|json|png|xz|yaml)\.\d+")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, bring it to the disk, then rename it: no reader ever sees half of it.

    Raises:
        OSError: It cannot be written. The message names the file, and an earlier one of that name is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def remove_unfinished(directory: Path) -> None:
    """Remove what a process that was killed while it wrote has left in a directory."""
    for path in directory.glob(".*"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()
