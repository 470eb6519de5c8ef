"""The file of a record: strict JSON of one form, with a checksum.

`record.schema.json` describes the form. The checksum, under the key `sha256`, is the hash of everything else in the file, in one
canonical form in which spaces and the order of keys do not count. It finds accidents, and is no signature.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Self

import jsonschema_rs
import numpy as np
import orjson

from gcgap.data.strict_text import check_numbers, parsed
from gcgap.records.atomic import write_whole

SCHEMA = 1
CHECKSUM = "sha256"
SHOWN = 60  # characters of a value that an error shows
_EXPONENT = re.compile(rb"e-(\d)(?!\d)")  # 1.5e-7, which Python writes as 1.5e-07
_SMALL = re.compile(rb"0\.0000([1-9])(\d*)")  # 0.000015, which Python writes as 1.5e-05
_ESCAPED = re.compile(r"[^\x00-\x7e]")


@dataclass(frozen=True, repr=False)
class RecordFile:
    """A record of either kind.

    Args:
        data: The dictionary of the record; unknown keys are kept.
        path: The file that it was read from or written to.

    Raises:
        ValueError: The dictionary has not the form of such a record.
    """

    data: dict[str, Any]
    path: Path | None = None

    form: ClassVar[str]
    """Its definition in `record.schema.json`."""
    label: ClassVar[str]
    """What messages call it, with its article."""
    remedy: ClassVar[str]
    """What to do about a broken one."""

    def __post_init__(self) -> None:
        name = str(self.path or "this record")
        if not isinstance(self.data, dict) or "schema" not in self.data:
            raise ValueError(f"`{name}` is not {self.label}: it has no `schema`.")
        if self.data["schema"] != SCHEMA:
            versions = self.data.get("versions")
            by = versions.get("gcgap", "unknown") if isinstance(versions, dict) else "unknown"
            found = f"schema {self.data['schema']!r}, written by gcgap {by}"
            raise ValueError(
                f"`{name}` is not {self.label} that can be read: it has {found}; this version reads schema {SCHEMA}."
            )
        if self.path is None:  # of a file `parsed` has looked at every number
            check_numbers(self.data, name)
        self._check_form(name)
        if self.path is None:  # plain keys and lists, as a file of it has them
            object.__setattr__(self, "data", json.loads(json.dumps(self.data)))

    def _check_form(self, name: str) -> None:
        try:
            _validator(self.form).validate(self.data)
        except jsonschema_rs.ValidationError as error:
            place = ".".join(map(str, error.instance_path))
            if isinstance(error.kind, jsonschema_rs.ValidationErrorKind.Required):
                self._refuse_missing(name, f"{place}.{error.kind.property}".lstrip("."))
            raise ValueError(f"`{name}`: `{place}`{error.message}; got {error.instance!r:.80}. {self.remedy}") from None
        except ValueError as error:  # a value that JSON has not
            raise ValueError(f"`{name}` is not {self.label}: {error}.") from error

    def _refuse_missing(self, name: str, place: str) -> None:
        what = self.label.split(" ", 1)[1]
        raise ValueError(f"`{name}` is not a whole {what}: `{place}` is missing. {self.remedy}") from None

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def _describe(self, counted: str) -> str:
        said = ", ".join(f"{key}={self.data[key]!r}" for key in ("task", "seed", "step", "length"))
        return f"{type(self).__name__}({said}, {len(self.data[counted])} {counted})"

    @property
    def is_held_out(self) -> bool:
        """Whether accuracy and drops of chosen sets are of sequences that chose neither; those of older records are not."""
        return "held_out" in self.data["accuracy"]

    @property
    def ood_accuracy(self) -> float:
        """Exact match at the measured length: on held-out sequences, or of an older record on those that chose it."""
        accuracy = self.data["accuracy"]
        return accuracy["held_out"]["value"] if self.is_held_out else accuracy["by_length"][str(self.data["length"])]

    def to_dict(self) -> dict[str, Any]:
        """Exactly the dictionary of the JSON file that it was read from or written to."""
        return self.data

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read and check one file.

        Raises:
            ValueError: The file is not a record that this version can read, or was changed after it was written.
        """
        try:
            data, verified = read_json(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"`{path}` is not {cls.label}: {error}. {cls.remedy}") from error
        return cls.of(data, Path(path), verified)

    @classmethod
    def of(cls, data: Any, path: Path, verified: bool) -> Self:
        """The record in a file that holds this; `verified` if its checksum is known to be right."""
        try:
            record = cls(data, path)
            if not verified:
                check_checksum(data, str(path))
        except RecursionError as error:
            raise ValueError(f"`{path}` is not {cls.label}: it is nested too deeply.") from error
        return record

    def write(self, path: str | Path, compact: bool = False) -> Self:
        """Add the checksum and write the file atomically.

        Args:
            path: The file.
            compact: All on one line, at half the size.
        """
        data = with_checksum(self.data)
        write_whole(Path(path), encode(data, compact))
        return type(self)(data, Path(path))


@cache
def _validator(form: str) -> jsonschema_rs.Draft4Validator:
    schema = json.loads(files("gcgap.records").joinpath("record.schema.json").read_text(encoding="utf-8"))
    return jsonschema_rs.Draft4Validator(schema | {"$ref": f"#/definitions/{form}"}, mask="")  # `_check_form` names the value


def with_checksum(data: dict[str, Any]) -> dict[str, Any]:
    """What a JSON file of this dictionary holds: first the checksum of everything else in it; an older one is dropped."""
    rest = json.loads(json.dumps(_without_checksum(data), allow_nan=False))
    return {CHECKSUM: _checksum(rest)} | rest


def encode(data: dict[str, Any], compact: bool = False) -> bytes:
    """The content of a JSON file of this dictionary; `compact` puts all on one line, at half the size."""
    form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
    return (json.dumps(data, ensure_ascii=False, **form) + "\n").encode()


def check_checksum(data: dict[str, Any], name: str) -> None:
    """Raise a ValueError if a file of this name was changed after it was written; one without a checksum is believed."""
    if CHECKSUM in data and data[CHECKSUM] != _checksum(_without_checksum(data)):
        raise ValueError(
            f"`{name}` was changed after it was written: its `{CHECKSUM}` is not that of its content. Measure it again."
        )


def read_json(content: bytes) -> tuple[Any, bool]:
    """What a JSON file holds, and whether its checksum is known to be right; if not, `check_checksum` finds out.

    Raises:
        ValueError: As `parsed` does.
    """
    data = _verified(content)
    return (parsed(content.decode()), False) if data is None else (data, True)


def _verified(content: bytes) -> dict[str, Any] | None:
    """What a file holds if its checksum is right and no key is there twice, ten times faster than `parsed` finds it.

    None if anything else than the usual is in it: `parsed` and `check_checksum` judge that.
    """
    try:
        data = orjson.loads(content)  # refuses NaN, infinity and text that is no Unicode
        if not isinstance(data, dict) or CHECKSUM not in data or (b"\\" in content and b"\\u" in content):
            return None
        text = orjson.dumps(_without_checksum(data), option=orjson.OPT_SORT_KEYS)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    # The checksum and its key have four quotation marks; a key that is lost had two. `bytes.count` takes four times as long.
    before, after = (np.count_nonzero(np.frombuffer(one, np.uint8) == ord('"')) for one in (content, text))
    wrong = before != after + 4 or hashlib.sha256(_canonical(text)).hexdigest() != data[CHECKSUM]
    return None if wrong else data


def _without_checksum(data: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != CHECKSUM}


def _canonical(text: bytes) -> bytes:
    """JSON of orjson in the form of Python's, which `_checksum` hashes."""
    text = _EXPONENT.sub(rb"e-0\1", text)
    text = _SMALL.sub(_exponential, text) if b"0.0000" in text else text  # most have none, which is found out faster
    return text if text.isascii() else _ESCAPED.sub(lambda found: json.dumps(found[0])[1:-1], text.decode()).encode()


def _exponential(found: re.Match[bytes]) -> bytes:
    """Of 0.000015: 1.5e-05; the middle of 10.000015 stays."""
    if found.string[found.start() - 1 : found.start()].isdigit():
        return found[0]
    return found[1] + b"." * bool(found[2]) + found[2] + b"e-05"


def _checksum(rest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_same(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any], block: str = "") -> None:
    """Raise a ValueError unless a record says all that is asked; the message names the first difference.

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
            difference = f"with `{block}{key}` {_short(had)}; asked for {_short(value)}"
            difference = "of other weights" if key == "checkpoint_sha256" else difference
            raise ValueError(f"`{path}` holds a record {difference}. Replace it with `--force`.")


def check_replaceable(path: Path) -> None:
    """Raise a ValueError if a file that `--force` would replace is no record, corrupted or not, but somebody's own file."""
    content = path.read_bytes() if path.is_file() else b""
    try:
        found = parsed(content.decode())
        foreign = not isinstance(found, dict) or "schema" not in found
    except ValueError:
        foreign = content[:1] not in (b"", b"{")  # records are objects, and one that is cut begins as they do
    if foreign:
        raise ValueError(f"`{path}` holds no record, and `--force` replaces records alone. Move it, or give another directory.")


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}.."
