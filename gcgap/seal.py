"""The text of record files: strict JSON, sealed with a checksum.

A changed digit is still a number, and would be believed. So every record file has a key `sha256`: the hash of everything else
in it, in one canonical form in which spaces and the order of keys do not count. It finds accidents, and is no signature.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, NoReturn

SEAL = "sha256"


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """What a JSON file of this dictionary holds: first the checksum of everything else in it; an older one is dropped."""
    rest = json.loads(json.dumps({key: value for key, value in data.items() if key != SEAL}, allow_nan=False))
    return {SEAL: _checksum(rest)} | rest


def encoded(data: dict[str, Any], compact: bool = False) -> bytes:
    """The content of the file of a record; `compact` puts all on one line, at half the size."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return (json.dumps(sealed(data), ensure_ascii=False, **form) + "\n").encode()


def check_seal(data: dict[str, Any], name: str) -> None:
    """Raise a ValueError if a file of this name was changed after it was written; one without a checksum is believed."""
    if SEAL in data and data[SEAL] != _checksum({key: value for key, value in data.items() if key != SEAL}):
        raise ValueError(f"`{name}` was changed after it was written: its `{SEAL}` is not that of its content. Measure it again.")


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, or holds what no record does: NaN, infinity, text that is no Unicode, or too deep a nesting.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "\\u" in text:  # half a surrogate pair cannot be written anywhere
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _checksum(rest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}, and a missing number must be null")
