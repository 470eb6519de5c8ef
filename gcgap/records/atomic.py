"""Files that are written atomically, whatever ends the process that writes them."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

_UNFINISHED = re.compile(r"\..+\.\d+\.gcgap")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a temporary name beside it, bring it to the disk, then rename it: no reader ever sees half of it.

    Raises:
        OSError: It cannot be written. The message names the file, and an earlier one of that name is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{secrets.randbits(32)}.gcgap")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def remove_unfinished(directory: Path) -> None:
    """Remove what a process that was killed while it wrote has left in a directory: only gcgap's files have such names."""
    for path in directory.glob(".*"):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink()


def check_folder(path: Path, option: str) -> None:
    """Raise a ValueError that names the option unless a path is a folder, or can be made one."""
    place = next((place for place in (path, *path.parents) if os.path.lexists(place)), None)
    if place is not None and not place.is_dir():
        raise ValueError(f"`{option}`: `{place}` is a file; give a directory.")
