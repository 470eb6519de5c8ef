"""The text of record files: strict JSON, sealed with a checksum.

A changed digit is still a number, and would be believed. So every record file has a key `sha256`: the hash of everything else
in it, in one canonical form in which spaces and the order of keys do not count. It finds accidents, and is no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import orjson

from gcgap.data.strict_text import parsed

SEAL = "sha256"
_EXPONENT = re.compile(rb"e-(\d)(?!\d)")  # 1.5e-7, which Python writes as 1.5e-07
_SMALL = re.compile(rb"0\.0000([1-9])(\d*)")  # 0.000015, which Python writes as 1.5e-05
_ESCAPED = re.compile(r"[^\x00-\x7e]")


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


def read_json(content: bytes) -> tuple[Any, bool]:
    """What a JSON file holds, and whether its checksum says that it is as it was written; if not, `check_seal` judges it.

    Raises:
        ValueError: As `parsed` does.
    """
    data = _as_written(content)
    return (parsed(content.decode()), False) if data is None else (data, True)


def _as_written(content: bytes) -> dict[str, Any] | None:
    """What a sealed file holds if its checksum is right and no key is there twice, ten times faster than `parsed` finds it.

    None if anything else than the usual is in it: `parsed` and `check_seal` judge that.
    """
    try:
        data = orjson.loads(content)  # refuses NaN, infinity and text that is no Unicode
        if not isinstance(data, dict) or SEAL not in data or (b"\\" in content and b"\\u" in content):
            return None
        text = orjson.dumps({key: value for key, value in data.items() if key != SEAL}, option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    twice = content.count(b'"') != text.count(b'"') + 4  # the checksum and its key have four; a key that is lost had two
    return None if twice or hashlib.sha256(_canonical(text)).hexdigest() != data[SEAL] else data


def _canonical(text: bytes) -> bytes:
    """JSON of orjson in the form of Python's, which `_checksum` hashes."""
    text = _SMALL.sub(_exponential, _EXPONENT.sub(rb"e-0\1", text))
    return text if text.isascii() else _ESCAPED.sub(lambda found: json.dumps(found[0])[1:-1], text.decode()).encode()


def _exponential(found: re.Match[bytes]) -> bytes:
    """Of 0.000015: 1.5e-05; the middle of 10.000015 stays."""
    if found.string[found.start() - 1 : found.start()].isdigit():
        return found[0]
    return found[1] + b"." * bool(found[2]) + found[2] + b"e-05"


def _checksum(rest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
