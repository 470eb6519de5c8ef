"""Text that users or other programs wrote: UTF-8 without a byte order mark, and strict JSON."""

from __future__ import annotations

import codecs
import json
from sys import float_info
from typing import Any, NoReturn

_BOMS = {  # that of UTF-32 begins with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}


def user_text(content: bytes) -> str:
    """The text of a file that a user wrote in UTF-8; a BOM of UTF-8 before it, as Windows writes, is left out.

    Raises:
        ValueError: It is not UTF-8. The message begins with the number of the line.
    """
    for name, boms in _BOMS.items():
        if content.startswith(boms):
            raise ValueError(f"line 1: it must be UTF-8; got the BOM (byte order mark) of {name}. Save the file as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line, got = error.object[: error.start].count(b"\n") + 1, error.object[error.start]
        raise ValueError(f"line {line}: it must be UTF-8; got the byte {got:#04x}. Save the file as UTF-8.") from error


TOO_LONG = 400  # digits of an integer, which is too large for a float by far


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
    why = "which a float cannot hold" if number[-1].isdigit() else "and a missing number must be null"
    raise ValueError(f"it holds {number:.40}, {why}")
