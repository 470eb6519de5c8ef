"""The text of record files: strict JSON, sealed with a checksum.

A changed digit is still a number, and would be believed. So every record file has a key `sha256`: the hash of everything else
in it, in one canonical form in which spaces and the order of keys do not count. It finds accidents, and is no signature.
"""

from __future__ import annotations

import hashlib
import json
from sys import float_info
from typing import Any, NoReturn

SEAL = "sha256"
TOO_LONG = 400  # digits of an integer, which is too large for a float by far


def sealed(data: dict[str, Any]) -> dict[str, Any]:
    """What a JSON file of this dictionary holds: first the checksum of everything else in it; an older one is dropped."""
    rest = json.loads(json.dumps({key: value for key, value in data.items() if key != SEAL}, allow_nan=False))
    return {SEAL: _checksum(rest)} | rest


def check_seal(data: dict[str, Any], name: str) -> None:
    """Raise a ValueError if a file of this name was changed after it was written; one without a checksum is believed."""
    if SEAL in data and data[SEAL] != _checksum({key: value for key, value in data.items() if key != SEAL}):
        raise ValueError(f"`{name}` was changed after it was written: its `{SEAL}` is not that of its content. Measure it again.")


def parsed(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is no JSON, or holds what no record does: NaN, a number too large for a float, a key twice, text that is no
            Unicode, or too deep a nesting.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_float, parse_int=_int, object_pairs_hook=_dictionary)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if "\\u" in text:  # half a surrogate pair cannot be written anywhere
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _checksum(rest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def fits_float(value: Any) -> bool:
    """Whether a value is no number, or one that a float can hold."""
    return not isinstance(value, int | float) or -float_info.max <= value <= float_info.max


def check_numbers(value: Any, name: str) -> None:
    """Raise a ValueError for a number anywhere in a value that is NaN, infinite or too large for a float."""
    if not fits_float(value):
        raise ValueError(f"`{name}` holds {value!r:.40}; a missing number must be null, with a reason.")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        check_numbers(inner, name)


def _float(text: str) -> float:
    return value if fits_float(value := float(text)) else _refuse(text)


def _int(text: str) -> int:
    return value if len(text) < TOO_LONG and fits_float(value := int(text)) else _refuse(text)


def _dictionary(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"it holds the key `{twice:.60}` twice")
    return found


def _refuse(number: str) -> NoReturn:
    told = "which a float cannot hold" if number[-1].isdigit() else "and a missing number must be null"
    raise ValueError(f"it holds {number:.40}, {told}")
