"""Records: one JSON file per measured checkpoint, schema 1, and the tables made from them.

Owns the form of a record, its reading, checking and writing, alone or packed with others. Knows nothing of torch or
Lightning, so that reports start fast.
"""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcgap.files import write_whole
from gcgap.form import check_form, record_check
from gcgap.seal import SEAL, check_numbers, check_seal, parsed, sealed

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
PACKED = "steps.jsonl.xz"
"""The records of a run's checkpoints in one file, one on each line; each stands for the file step=<step>.json beside it."""
LARGEST = 2**29  # bytes of them: a thousand checkpoints of a model of a hundred components
METRICS = ("exact_match", "log_prob", "token_accuracy")
OF_PROMPTS = "logit_difference"  # beside those, in records of prompts
AGAIN = "Measure its checkpoint again with `--force`."


@dataclass(frozen=True, repr=False)
class Record:
    """One measurement of one checkpoint.

    Args:
        data: The dictionary of the record; unknown keys are kept.
        path: The file that it was read from or written to.

    Raises:
        ValueError: The dictionary is no record of schema 1.
    """

    data: dict[str, Any]
    path: Path | None = None

    def __post_init__(self) -> None:
        name = str(self.path or "this record")
        check(self.data, name)
        if self.path is None:  # of a file `parsed` has looked at every number
            check_numbers(self.data, name)

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __repr__(self) -> str:
        told = ", ".join(f"{key}={self.data[key]!r}" for key in ("task", "seed", "step", "length"))
        return f"Record({told}, {len(self.data['components'])} components)"

    def to_dict(self) -> dict[str, Any]:
        """Exactly the dictionary of the JSON file that it was read from or written to."""
        return self.data

    @classmethod
    def read(cls, path: str | Path) -> Record:
        """Read and check one file.

        Raises:
            ValueError: The file is not a record that this version can read, or was changed after it was written.
        """
        try:
            data = parsed(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"`{path}` is not a record: {error}. {AGAIN}") from error
        try:
            record = cls(data, Path(path))
            check_seal(data, str(path))
        except RecursionError as error:
            raise ValueError(f"`{path}` is not a record: it is nested too deeply.") from error
        return record

    def write(self, path: str | Path, compact: bool = False) -> Record:
        """Seal, write to a temporary name in the same directory, then rename: a reader never sees half a record.

        Args:
            path: The file.
            compact: All on one line, at half the size.
        """
        form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
        data = sealed(self.data)
        write_whole(Path(path), (json.dumps(data, ensure_ascii=False, **form) + "\n").encode())
        return Record(data, Path(path))

    @property
    def baselines(self) -> list[str]:
        """The ablation baselines of this record, in the order of the protocol."""
        return list(self.data["gap"])

    @property
    def skipped(self) -> str | None:
        """Why nothing was measured, or None: no OOD length had an accuracy inside the window."""
        return self.data.get("skipped")

    @property
    def attribution(self) -> dict[str, Any]:
        """The attribution methods that were run beside G and C, by name; empty if none was."""
        return self.data.get("attribution", {}).get("methods", {})

    def roles(self, baseline: str) -> dict[str, list[str]]:
        """Names of the components of each role."""
        found: dict[str, list[str]] = {"hero": [], "bloat": [], "aligned": []}
        for component in self.data["components"]:
            if (name := component["role"][baseline]["name"]) is not None:
                found[name].append(component["name"])
        return found

    def table(self) -> DataFrame:
        """One row per component: G, then drops, rank difference, role and its probability for every baseline."""
        import pandas as pd

        return pd.DataFrame([dict(_wide(component, self.baselines)) for component in self.data["components"]])


def _wide(component: dict[str, Any], baselines: list[str]) -> Iterator[tuple[str, Any]]:
    yield from ((key, component[key]) for key in ("name", "layer", "kind"))
    yield "gradient", component["gradient"]["value"]
    yield from zip(("gradient_low", "gradient_high"), component["gradient"]["ci"], strict=True)
    for baseline in baselines:
        for metric in _metrics(component, baseline):
            yield f"{baseline}_{metric}_drop", component["causal"][baseline][metric]["value"]
        yield f"{baseline}_delta", component["delta"][baseline]["value"]
        yield f"{baseline}_role", component["role"][baseline]["name"]
        yield f"{baseline}_role_probability", component["role"][baseline]["probability"]


def _metrics(component: dict[str, Any], baseline: str) -> list[str]:
    """Those that every record has, and that of prompts where it is there."""
    return [*METRICS, *(metric for metric in (OF_PROMPTS,) if metric in component["causal"][baseline])]


def find_records(where: str | Path) -> list[Record]:
    """Every record at or below a path, in the order of the file names; packed ones as if they lay beside their file.

    Raises:
        ValueError: A file of that form is not a readable record, or there is none.
    """
    where = Path(where)
    if where.is_file():
        return unpack(where) if where.name == PACKED else [Record.read(where)]
    paths = {path for pattern in ("final.json", "step=*.json") for path in where.rglob(pattern)}
    packed = [record for path in sorted(where.rglob(PACKED)) for record in unpack(path) if record.path not in paths]
    if not paths and not packed:
        raise ValueError(f"`{where}` holds no records; expected files such as gap/final.json below it. Run `gcgap fit` first.")
    return sorted([Record.read(path) for path in sorted(paths)] + packed, key=lambda record: record.path or where)


def named_step(path: Path) -> int | None:
    """The optimiser step that the name of a file says, such as 250 for step=000250.ckpt; None if it says none."""
    found = re.fullmatch(r"step=(\d+)", path.stem)
    return None if found is None else int(found[1])


def pack(records: Sequence[Record], path: str | Path) -> None:
    """Write the records of a run's checkpoints into one compressed file, which has a checksum of its own.

    Equal records give equal bytes.
    """
    plain = ({key: value for key, value in record.data.items() if key != SEAL} for record in records)
    lines = [json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")) for data in plain]
    write_whole(Path(path), lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9))


def unpack(path: str | Path) -> list[Record]:
    """The records of a file that `pack` wrote, each with the path that it would have as a file of its own.

    Raises:
        ValueError: The file cannot be read, or a line is no record; the message names the line.
    """
    path, found = Path(path), dict[Path, Record]()
    try:
        lines = _unpacked(path.read_bytes()).decode().removesuffix("\n").split("\n")
    except (lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` does not hold packed records: {error}. Copy it again.") from error
    for number, line in enumerate(lines, 1):
        name = f"{path}, line {number}"
        data = _of_line(line, name)
        own = path.with_name(f"step={data['step'] or 0:06d}.json")
        if own in found or data["step"] is None:
            raise ValueError(f"`{name}`: step {data['step']} is no step, or is there twice; every line needs one of its own.")
        found[own] = Record(data, own)
    return list(found.values())


def _unpacked(content: bytes) -> bytes:
    """What is packed, if that is no more than any run can have."""
    stream = lzma.LZMADecompressor()
    found = stream.decompress(content, max_length=LARGEST)
    if not stream.eof:
        raise lzma.LZMAError(f"it is cut, or would take more than {LARGEST} bytes")
    return found


def _of_line(line: str, name: str) -> dict[str, Any]:
    try:
        data = parsed(line)
    except ValueError as error:
        raise ValueError(f"`{name}` is not a record: {error}. Copy the file again.") from error
    try:
        check(data, name)
        check_seal(data, name)
    except RecursionError as error:
        raise ValueError(f"`{name}` is not a record: it is nested too deeply.") from error
    return data


def read(where: str | Path) -> DataFrame:
    """One long table of every record at or below a path: a row per record, component and baseline.

    A skipped run has one row per baseline, without a component and with the reason. Every setting of the protocol is a column:
    group by those that differ, since records of two protocols must not be averaged.
    """
    import pandas as pd

    return pd.DataFrame([row for record in find_records(where) for row in _long(record)])


def _long(record: Record) -> Iterator[dict[str, Any]]:
    data = record.data
    head = {key: data[key] for key in ("run", "task", "seed", "step", "length")}
    head |= {key: str(value) if isinstance(value, list | dict) else value for key, value in data["protocol"].items()}
    head |= {"accuracy_in_distribution": data["accuracy"]["in_distribution"], "window_length": data["window"]["length"]}
    head |= {f"accuracy_length_{length}": value for length, value in data["accuracy"]["by_length"].items()}
    head |= {"final": data.get("final"), "path": str(record.path)}
    for baseline in record.baselines:
        gap = data["gap"][baseline]
        ends = {"baseline": baseline, **{key: gap[key] for key in ("rho", "p_value", "ceiling", "corrected", "reason")}}
        for component in data["components"] or [None]:
            if component is None:
                yield head | ends
                continue
            causal = {
                f"{metric}_drop": component["causal"][baseline][metric]["value"] for metric in _metrics(component, baseline)
            }
            middle = {"component": component["name"], "layer": component["layer"], "kind": component["kind"]}
            middle |= {
                "gradient": component["gradient"]["value"],
                **causal,
                "delta": component["delta"][baseline]["value"],
            }
            role = {
                "role": component["role"][baseline]["name"],
                "role_probability": component["role"][baseline]["probability"],
            }
            yield head | middle | role | ends


def check(data: Any, name: str) -> None:
    """Raise a ValueError unless `data` has the form of a record."""
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(f"`{name}` is not a record: it has no `schema`.")
    if data["schema"] != SCHEMA:
        by = data["versions"].get("gcgap", "unknown") if isinstance(data.get("versions"), dict) else "unknown"
        raise ValueError(f"`{name}` has schema {data['schema']!r}, written by gcgap {by}; this version reads schema {SCHEMA}.")
    gap = data.get("gap")
    check_form(data, record_check(tuple(gap) if isinstance(gap, dict) else ()), name, "record", AGAIN)
    if data["length"] is not None and str(data["length"]) not in data["accuracy"]["by_length"]:
        raise ValueError(f"`{name}`: `accuracy.by_length` must have `length`, {data['length']}. {AGAIN}")
