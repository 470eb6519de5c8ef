"""Records: one JSON file per measured checkpoint, schema 1, and the tables made from them.

Owns the form of a record, its reading, checking and writing, alone or packed with others. Knows nothing of torch or
Lightning, so that reports start fast.
"""

from __future__ import annotations

import gc
import json
import lzma
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern
from typing import TYPE_CHECKING, Any

from gcgap.data.strict_text import check_numbers, parsed
from gcgap.records.atomic import write_whole
from gcgap.records.attribution_record import KIND, AttributionRecord
from gcgap.records.checksum import SEAL, check_seal, encoded, read_json, sealed
from gcgap.records.schema import check_form, record_check

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
PACKED = "steps.jsonl.xz"
"""The records of a run's checkpoints in one file, one on each line; each stands for the file step=<step>.json beside it."""
LARGEST = 2**29  # bytes of them: a thousand checkpoints of a model of a hundred components
METRICS = ("exact_match", "log_prob", "token_accuracy")
OF_PROMPTS = "logit_difference"  # beside those, in records of prompts
AGAIN = "Measure its checkpoint again with `--force`."
_DROPS = {metric: (f"{metric}_drop", f"{metric}_drop_low", f"{metric}_drop_high") for metric in (*METRICS, OF_PROMPTS)}
_SHARED = ("component", "layer", "kind", "gradient", "gradient_low", "gradient_high")  # by all baselines
_NO_INTERVAL = (None, None)
SLOW = 2.0  # seconds after which reading shows how far it is


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
    rows: dict[str, list[dict[str, Any]]] = field(init=False, compare=False)
    """For each baseline the numbers of every component, by flat names."""

    def __post_init__(self) -> None:
        name = str(self.path or "this record")
        object.__setattr__(self, "rows", check(self.data, name))
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
            data, as_written = read_json(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"`{path}` is not a record: {error}. {AGAIN}") from error
        return cls.of(data, Path(path), as_written)

    @classmethod
    def of(cls, data: Any, path: Path, as_written: bool) -> Record:
        """The record in a file that holds this; `as_written` if its checksum is known to be right."""
        try:
            record = cls(data, path)
            if not as_written:
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
        write_whole(Path(path), encoded(self.data, compact))
        return Record(sealed(self.data), Path(path))

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

        return pd.DataFrame([_wide(rows, self.baselines) for rows in zip(*self.rows.values(), strict=True)])


def _wide(rows: Sequence[dict[str, Any]], baselines: Sequence[str]) -> dict[str, Any]:
    """The rows of a component under every baseline in one."""
    shared = {"name": rows[0]["component"]} | {key: rows[0][key] for key in _SHARED[1:]}
    return shared | {f"{b}_{key}": row[key] for b, row in zip(baselines, rows, strict=True) for key in row if key not in _SHARED}


def _row(component: dict[str, Any], baseline: str) -> dict[str, Any]:
    """The numbers of a component under a baseline with their intervals, by flat names."""
    gradient, causal = component["gradient"], component["causal"][baseline]
    delta, role = component["delta"][baseline], component["role"][baseline]
    row = {"component": intern(component["name"]), "layer": component["layer"], "kind": intern(component["kind"])}
    row["gradient"] = gradient["value"]
    row["gradient_low"], row["gradient_high"] = gradient["ci"]
    for metric in _DROPS if OF_PROMPTS in causal else METRICS:
        drop, low, high = _DROPS[metric]
        row[drop] = causal[metric]["value"]
        row[low], row[high] = causal[metric]["ci"] or _NO_INTERVAL
    row["delta"] = delta["value"]
    row["delta_low"], row["delta_high"] = delta["ci"] or _NO_INTERVAL
    row["role"], row["role_probability"] = role["name"] and intern(role["name"]), role["probability"]
    return row


def find_records(where: str | Path) -> list[Record]:
    """Every record at or below a path, by folder and step; packed ones as if they lay beside their file.

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
    return sorted([Record.read(path) for path in sorted(paths)] + packed, key=lambda record: in_order(record.path or where))


def in_order(path: Path) -> tuple[Path, int, str]:
    """What sorts files of records by folder, and within it by the steps that their names say; other names come first."""
    return path.parent, -1 if (step := named_step(path)) is None else step, path.name


def named_step(path: Path) -> int | None:
    """The optimiser step that the name of a file says, such as 250 for step=000250.ckpt; None if it says none."""
    found = re.fullmatch(r"step=(\d+)", path.stem)
    return None if found is None else int(found[1])


def pack(records: Sequence[Record]) -> bytes:
    """The records of a run's checkpoints as one compressed file, which has a checksum of its own.

    Equal records give equal bytes.
    """
    plain = ({key: value for key, value in record.data.items() if key != SEAL} for record in records)
    lines = [json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":")) for data in plain]
    return lzma.compress("".join(f"{line}\n" for line in lines).encode(), preset=9)


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


def read(where: str | Path, repeats: bool = False) -> DataFrame:
    """One long table of every record at or below a path, whatever the names of the files.

    The column `record` says what a row is of. A row of a `measurement` is one component under one baseline; a skipped run has
    one row per baseline, without a component and with the reason. A row of an `attribution` is one method. Every setting of the
    protocol is a column: group by those that differ, since records of two protocols must not be averaged.

    A run measures its last checkpoint twice: while it trains (step=000250.json) and as the final model (final.json, `final` is
    True). The table holds the final measurement of it alone, so that each step of a run counts once.

    Args:
        where: A directory, or the file of a record.
        repeats: Also give the rows of the last checkpoint as it was measured while the model trained.

    Raises:
        ValueError: A record cannot be read, or there is none.
    """
    import numpy as np
    import pandas as pd

    heads, counts, blocks = list[dict[str, Any]](), list[int](), list[dict[str, Any]]()
    found = every_record(Path(where))
    with _no_search_for_cycles():
        for record in found if repeats else _once(found):
            parts = _of_attribution(record) if isinstance(record, AttributionRecord) else _of_measurement(record)
            heads += [head for head, _ in parts]
            counts += [len(rows) for _, rows in parts]
            blocks.append(_columns([row for _, rows in parts for row in rows]))
    left = pd.DataFrame(heads).take(np.repeat(np.arange(len(heads)), counts)).reset_index(drop=True)
    return pd.concat([left, pd.DataFrame(_stacked(blocks))], axis=1)


@contextmanager
def _no_search_for_cycles() -> Iterator[None]:
    """Records hold none, and are freed without it; it would take a third of the time of reading many."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _columns(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of some rows: arrays of numbers, which take little memory, and lists of texts; and under "" their length."""
    names = dict.fromkeys(name for keys in dict.fromkeys(map(tuple, rows)) for name in keys)
    return {"": len(rows)} | {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: list[Any]) -> Any:
    import numpy as np

    found = np.array(values)
    if found.dtype.kind != "O":
        return values if found.dtype.kind == "U" else found
    return values if any(isinstance(value, str) for value in values) else found.astype(float)  # None becomes NaN


def _stacked(blocks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The columns of blocks below each other, empty where a block has none of that name."""
    import numpy as np

    names = [name for name in dict.fromkeys(name for block in blocks for name in block) if name]
    found = {}
    for name in names:
        parts = [block.get(name) for block in blocks]
        if any(isinstance(part, list) for part in parts):
            filled = ([None] * block[""] if part is None else part for block, part in zip(blocks, parts, strict=True))
            found[name] = [value for part in filled for value in part]
        else:
            empty = (np.full(block[""], np.nan) if part is None else part for block, part in zip(blocks, parts, strict=True))
            found[name] = np.concatenate(list(empty))
    return found


def every_record(where: Path) -> Iterator[Record | AttributionRecord]:
    """Every record of either kind at or below a path, in the order of the paths; with progress where that takes a while.

    A record may have any name that ends in .json: it is an object with `schema` and `components`, or of the kind `attribution`.
    Other JSON is left out.

    Raises:
        ValueError: A file that has the name of a record or begins as one cannot be read, or there is none.
    """
    below = {path for pattern in ("*.json", PACKED) for path in where.rglob(pattern)}
    named = (path for path in below if _is_named(path) or not _is_hidden(path, where))
    paths = [where] if where.is_file() else sorted(named, key=in_order)
    known = set(paths)
    found = False
    for path in _with_progress(paths):
        held = [one for one in unpack(path) if one.path not in known] if path.name == PACKED else [_held(path)]
        for record in held:
            if record is not None:
                found = True
                yield record
    if not found:
        raise ValueError(f"`{where}` holds no records; expected files such as gap/final.json below it. Run `gcgap fit` first.")


def _is_named(path: Path) -> bool:
    """Whether a file has the name of a record of a run."""
    return path.name in ("final.json", PACKED) or (path.suffix == ".json" and named_step(path) is not None)


def _is_hidden(path: Path, where: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(where).parts)


def _held(path: Path) -> Record | AttributionRecord | None:
    """The record in a file; None if it holds something else."""
    content = path.read_bytes()
    if not _is_named(path) and b'"schema"' not in content:
        return None
    try:
        data, as_written = read_json(content)
    except ValueError as error:
        raise ValueError(f"`{path}` is not a record: {error}. Measure again, or move it elsewhere.") from error
    if isinstance(data, dict) and data.get("kind") == KIND:
        return AttributionRecord.of(data, path, as_written)
    if _is_named(path) or (isinstance(data, dict) and {"schema", "components"} <= data.keys()):
        return Record.of(data, path, as_written)
    return None


def _with_progress(paths: Sequence[Path]) -> Iterator[Path]:
    """The paths; with a bar on a terminal's standard error once they have taken more than `SLOW` seconds."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    begun, columns = time.monotonic(), (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True), transient=True)
    task = progress.add_task("Reading records", total=len(paths))
    try:
        for done, path in enumerate(paths):
            if progress.console.is_terminal and time.monotonic() - begun > SLOW:
                progress.start()
                progress.update(task, completed=done)
            yield path
    finally:
        if progress.live.is_started:
            progress.stop()


def _once(records: Iterable[Record | AttributionRecord]) -> Iterator[Record | AttributionRecord]:
    """The records without those of a checkpoint that the final record beside them, which comes first, measures too."""
    finals = set()
    for record in records:
        assert record.path is not None
        of = record.path.parent, record["step"], record.data.get("checkpoint_sha256")
        if record.path.name == "final.json":
            finals.add(of)
        elif of in finals and named_step(record.path) is not None:
            continue
        yield record


def _of_measurement(record: Record) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """For each baseline what its rows have in common, and the rows."""
    data = record.data
    head = _head(record, "measurement")
    head |= {"accuracy_in_distribution": data["accuracy"]["in_distribution"], "window_length": data["window"]["length"]}
    head |= {f"accuracy_length_{length}": value for length, value in data["accuracy"]["by_length"].items()}
    head |= {"final": bool(data.get("final", record.path is not None and record.path.name == "final.json"))}
    parts = []
    for baseline, gap in data["gap"].items():
        low, high = gap["ci"] or _NO_INTERVAL
        ends = {key: gap[key] for key in ("p_value", "ceiling", "corrected", "reason")}
        shared = {"baseline": baseline, "rho": gap["rho"], "rho_low": low, "rho_high": high} | ends
        parts.append((head | shared, record.rows[baseline] or [{}]))
    return parts


def _of_attribution(record: AttributionRecord) -> list[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """What the methods have in common, and the methods."""
    return [(_head(record, KIND) | {"final": False} | _texts(record["setup"]), record.method_rows())]


def _head(record: Record | AttributionRecord, kind: str) -> dict[str, Any]:
    """What every row of a record begins with."""
    head: dict[str, Any] = {"record": kind, "path": str(record.path)}
    head |= {key: record.data.get(key) for key in ("run", "task", "seed", "step", "length")}
    return head | _texts(record["protocol"])


def _texts(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as cells of a table."""
    return {key: str(value) if isinstance(value, list | dict) else value for key, value in settings.items()}


def check(data: Any, name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every baseline; raises a ValueError unless `data` has the form of a record."""
    if not isinstance(data, dict) or "schema" not in data:
        raise ValueError(f"`{name}` is not a record: it has no `schema`.")
    if data["schema"] != SCHEMA:
        by = data["versions"].get("gcgap", "unknown") if isinstance(data.get("versions"), dict) else "unknown"
        raise ValueError(f"`{name}` has schema {data['schema']!r}, written by gcgap {by}; this version reads schema {SCHEMA}.")
    gap = data.get("gap")
    check_form(data, record_check(tuple(gap) if isinstance(gap, dict) else ()), name, "record", AGAIN)
    if data["length"] is not None and str(data["length"]) not in data["accuracy"]["by_length"]:
        raise ValueError(f"`{name}`: `accuracy.by_length` must have `length`, {data['length']}. {AGAIN}")
    return {baseline: [_row(component, baseline) for component in data["components"]] for baseline in data["gap"]}
