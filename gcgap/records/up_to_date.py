"""Whether a record that lies where a new one would go is the one that is asked for, so that it need not be measured again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcgap.data.strict_text import parsed

SHOWN = 60  # characters of a value that an error shows


def check_same(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any], block: str = "") -> None:
    """Raise a ValueError unless a record says all that is asked; the message names the first thing that is otherwise.

    Args:
        path: The record's file.
        found: What it says.
        asked: What it is to say: some of its keys, block by block.
        block: Where in the record the two stand, with a dot behind it.
    """
    for key, value in asked.items():
        had = found.get(key)
        if isinstance(value, Mapping):
            check_same(path, had or {}, value, f"{block}{key}.")
        elif had != value:
            told = f"with `{block}{key}` {_short(had)}; asked for {_short(value)}"
            told = "of other weights" if key == "checkpoint_sha256" else told
            raise ValueError(f"`{path}` holds a record {told}. Replace it with `--force`.")


def check_replaceable(path: Path) -> None:
    """Raise a ValueError if a file that `--force` would replace is no record, corrupted or not, but somebody's own file."""
    content = path.read_bytes() if path.is_file() else b""
    try:
        found = parsed(content.decode())
        own = not isinstance(found, dict) or "schema" not in found
    except ValueError:
        own = content[:1] not in (b"", b"{")  # records are objects, and one that is cut begins as they do
    if own:
        raise ValueError(f"`{path}` holds no record, and `--force` replaces records alone. Move it, or give another directory.")


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."
