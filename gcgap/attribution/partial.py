"""What an attribution that was interrupted had done already: the arrays of each finished method, until the record is written.

Arrays lie in a folder beside the record, named after it, with what they are of; those of anything else are not taken.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from gcgap.records.atomic import write_whole

Arrays = dict[str, np.ndarray]


class Partial:
    """A folder of arrays by name.

    Args:
        folder: Where they lie; None keeps nothing.
        of: All that decides their numbers.
    """

    def __init__(self, folder: Path | None = None, of: Mapping[str, Any] | None = None) -> None:
        told = json.dumps(of or {}, sort_keys=True, default=str)
        self.folder = None if folder is None else folder / hashlib.sha256(told.encode()).hexdigest()[:16]

    def __call__(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        """What is kept under a name, or else what `make` gives, which is kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{name.replace(' ', '_')}.npz"
        if (found := _read(path)) is None:
            found, buffer = make(), BytesIO()
            np.savez(buffer, allow_pickle=False, **found)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, buffer.getvalue())
        return found


def discard(folder: Path) -> None:
    """Remove the arrays that `Partial` keeps in a folder, of whatever they are, and the folders if nothing else is in them."""
    for path in folder.glob(f"{'[0-9a-f]' * 16}/*.npz"):
        path.unlink()
    for place in (*folder.glob("[0-9a-f]" * 16), folder):
        if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
            place.rmdir()


def _read(path: Path) -> Arrays | None:
    """The arrays of a file; None if it cannot be read, and must be computed again."""
    try:
        with np.load(BytesIO(path.read_bytes()), allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception:  # of a corrupted file numpy and zipfile raise nearly anything, and nothing but time is lost with it
        return None
