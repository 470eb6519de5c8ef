"""Many records: finding them below a folder, and the table of them all."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gcgap.records.attribution_record import KIND, TEXTS, AttributionRecord
from gcgap.records.record import NO_INTERVAL, Record
from gcgap.records.record_file import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

HELD_OUT = ("accuracy_held_out", "accuracy_held_out_low", "accuracy_held_out_high")
SLOW = 2.0  # seconds after which reading shows how far it is
Columns = dict[str, Any]
"""Lists of texts and arrays of numbers, by name."""
Part = tuple[dict[str, Any], Columns, int]
"""What some rows of the table have in common, the columns in which they differ, and their number."""


def find_records(where: str | Path) -> list[Record]:
    """Every record at or below a path that has the name of a run's record, by folder and step.

    Raises:
        ValueError: A file of that name is not a readable record, or there is none.
    """
    where = Path(where)
    if where.is_file():
        return [Record.read(where)]
    _refuse_packed(where)
    paths = {path for pattern in ("final.json", "step=*.json") for path in where.rglob(pattern)}
    if not paths:
        raise _no_records(where)
    return [Record.read(path) for path in sorted(paths, key=in_order)]


def _refuse_packed(where: Path) -> None:
    """Earlier reports packed the records of a run's checkpoints: to leave them out would show a run without its course."""
    if packed := next(where.rglob("steps.jsonl.xz"), None):
        raise ValueError(f"`{packed}` is a file of an earlier version, which is not read. Make that report again, or remove it.")


def in_order(path: Path) -> tuple[Path, int, str]:
    """What sorts files of records by folder, and within it by the steps that their names say; other names come first."""
    return path.parent, -1 if (step := named_step(path)) is None else step, path.name


def named_step(path: Path) -> int | None:
    """The optimiser step that the name of a file says, such as 250 for step=000250.ckpt; None if it says none."""
    found = re.fullmatch(r"step=(\d+)", path.stem)
    return None if found is None else int(found[1])


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
    import pandas as pd

    was = gc.isenabled()
    gc.disable()  # records hold no cycles; the search for some would take a sixth of the time of reading many
    try:
        found = every_record(Path(where)) if repeats else _once(every_record(Path(where)))
        parts = [part for record in found for part in _parts(record)]
    finally:
        if was:
            gc.enable()
    heads, blocks, counts = zip(*parts, strict=True)
    left = pd.DataFrame(list(heads)).take(np.repeat(np.arange(len(heads)), counts)).reset_index(drop=True)
    right = {name: _stacked(name, blocks, counts) for name in dict.fromkeys(name for block in blocks for name in block)}
    return pd.concat([left, pd.DataFrame(right)], axis=1)


def _stacked(name: str, blocks: Sequence[Columns], counts: Sequence[int]) -> Any:
    """A column of all blocks below each other, empty where one has none of that name."""
    parts = [block.get(name, ()) for block in blocks]
    text = any(isinstance(part, list) for part in parts)
    filled: list[Any] = [
        part if len(part) else [None if text else np.nan] * count for part, count in zip(parts, counts, strict=True)
    ]
    return list(chain.from_iterable(filled)) if text else np.concatenate(filled)


def every_record(where: Path) -> Iterator[Record | AttributionRecord]:
    """Every record of either kind at or below a path, in the order of the paths; with progress where that takes a while.

    A record may have any name that ends in .json: it is an object with `schema` and `components`, or of the kind `attribution`.
    Other JSON is left out.

    Raises:
        ValueError: A file that has the name of a record or begins as one cannot be read, or there is none.
    """
    named = (path for path in where.rglob("*.json") if _is_named(path) or not _is_hidden(path, where))
    paths = [where] if where.is_file() else sorted(named, key=in_order)
    _refuse_packed(where)
    found = False
    for path in _with_progress(paths):
        if (record := _record_in(path)) is not None:
            found = True
            yield record
    if not found:
        raise _no_records(where)


def _no_records(where: Path) -> ValueError:
    return ValueError(f"`{where}` holds no records; expected files such as gap/final.json below it. Run `gcgap fit` first.")


def _is_named(path: Path) -> bool:
    """Whether a file has the name of a record of a run."""
    return path.name == "final.json" or (path.suffix == ".json" and named_step(path) is not None)


def _is_hidden(path: Path, where: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(where).parts)


def _record_in(path: Path) -> Record | AttributionRecord | None:
    """The record in a file; None if it holds something else."""
    content, named = path.read_bytes(), _is_named(path)
    if not named and b'"schema"' not in content:
        return None
    try:
        data, verified = read_json(content)
    except ValueError as error:
        raise ValueError(f"`{path}` is not a record: {error}. Measure again, or move it elsewhere.") from error
    if isinstance(data, dict) and data.get("kind") == KIND:
        return AttributionRecord.of(data, path, verified)
    if named or (isinstance(data, dict) and {"schema", "components"} <= data.keys()):
        return Record.of(data, path, verified)
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
            if time.monotonic() - begun > SLOW and progress.console.is_terminal:
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


def _parts(record: Record | AttributionRecord) -> list[Part]:
    return _of_attribution(record) if isinstance(record, AttributionRecord) else _of_measurement(record)


def _of_measurement(record: Record) -> list[Part]:
    """For each baseline what its rows have in common, the columns of the components, and the number of rows."""
    data = record.data
    head = _head(record, "measurement")
    head |= {"accuracy_in_distribution": data["accuracy"]["in_distribution"], "window_length": data["window"]["length"]}
    head |= {f"accuracy_length_{length}": value for length, value in data["accuracy"]["by_length"].items()}
    held_out = data["accuracy"].get("held_out")
    head |= dict(zip(HELD_OUT, (held_out["value"], *held_out["ci"]) if held_out else (None, *NO_INTERVAL), strict=True))
    head |= {"final": bool(data.get("final", record.path is not None and record.path.name == "final.json"))}
    components, parts = dict(record.component_columns()), []
    count = max(1, len(data["components"]))  # one of a skipped run
    for baseline, gap in data["gap"].items():
        low, high = gap["ci"] or NO_INTERVAL
        below, above = gap.get("ceiling_ci") or NO_INTERVAL
        ends = {key: gap[key] for key in ("p_value", "ceiling", "corrected", "reason")}
        shared = {"baseline": baseline, "rho": gap["rho"], "rho_low": low, "rho_high": high} | ends
        shared |= {"ceiling_low": below, "ceiling_high": above}
        parts.append((head | shared, components | dict(record.baseline_columns(baseline)), count))
    return parts


def _of_attribution(record: AttributionRecord) -> list[Part]:
    """What the methods have in common, the columns of the methods, and their number."""
    rows = record.method_rows()
    columns: Columns = {name: [row[name] for row in rows] for name in TEXTS}
    numbers = dict.fromkeys(name for row in rows for name in row if name not in TEXTS)
    columns |= {name: np.array([row.get(name) for row in rows], float) for name in numbers}
    return [(_head(record, KIND) | {"final": False} | _texts(record["setup"]), columns, len(rows))]


def _head(record: Record | AttributionRecord, kind: str) -> dict[str, Any]:
    """What every row of a record begins with."""
    head: dict[str, Any] = {"record": kind, "path": str(record.path)}
    head |= {key: record.data.get(key) for key in ("run", "task", "seed", "step", "length")}
    return head | _texts(record["protocol"])


def _texts(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as cells of a table."""
    return {key: str(value) if isinstance(value, list | dict) else value for key, value in settings.items()}
