"""`gcgap measure --verify`: measure again what records say, and tell what differs; writes nothing.

On the same machine, with the same library versions and number of threads, every number comes out bit for bit. Elsewhere sums
round differently, and whatever stands on a comparison (a sequence that is just right, a rank, a p-value) can jump.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from gcgap.commands.compare import differences, told
from gcgap.importance.protocol import Protocol
from gcgap.measurement.measure import measure
from gcgap.models.checkpoints import run_directory, sha256
from gcgap.records.read_records import find_records, named_step
from gcgap.records.record import Record
from gcgap.training.config_file import load_of_run
from gcgap.training.usage import UsageError

Make = Callable[[dict[str, Any]], Protocol]
"""Makes a protocol of settings."""


def verify(paths: list[Path], tolerance: float, make: Make) -> int:
    """Measure again what the records of runs or checkpoints say: 0 if all is the same, 1 if anything differs or is misnamed.

    Args:
        paths: Run directories, or .ckpt files.
        tolerance: Largest relative difference at which two numbers still count as the same; 0: bit for bit.
        make: Makes a protocol of settings.

    Returns:
        2 if nothing differs but the checkpoint of a record was replaced by another one.

    Raises:
        ValueError: Nothing can be verified.
    """
    read = cache(find_records)  # once for all checkpoints of a run
    found = [case for path in paths for case in cases(path, read)]
    known, replaced = [case for case in found if case.checkpoint], [case for case in found if case.other]
    for case in replaced:
        _warn(f"`{case.record.path}` cannot be verified: `{case.other}` has another hash than the file that it was measured on.")
    misnamed = [case for case in known if _named(case.record) not in (None, case.record["step"])]
    for case in misnamed:
        _warn(f"`{case.record.path}` is a record of step {case.record['step']}, another than its name says.")
    if absent := [case.record.path for case in found if not case.checkpoint and not case.other]:
        _warn(f"{len(absent)} of {len(found)} records cannot be verified, their checkpoints are not here: `{absent[0]}`, ..")
    if not known:
        raise UsageError(f"`{', '.join(map(str, paths))}` holds no checkpoint of a record; there is nothing to verify.")
    console, differ = Console(), 0
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("Verifying", total=len(known))
        for case in known:
            again = repeat(case, make)
            unlike = differences(case.record.data, again, tolerance)
            differ += bool(unlike)
            progress.console.print(told(case.record, again, unlike), highlight=False, crop=False)
            progress.advance(task)
    return 1 if differ or misnamed else 2 * bool(replaced)


@dataclass(frozen=True)
class Case:
    """A record with what it was measured on.

    Args:
        record: The record.
        checkpoint: The file with the hash that the record tells; None if there is none.
        other: A file in its place that holds other bytes.
        run: Directory of the run.
    """

    record: Record
    checkpoint: Path | None
    other: Path | None
    run: Path


def cases(path: Path, read: Callable[[Path], list[Record]] = find_records) -> list[Case]:
    """Every record of a run directory with its checkpoint, or the records of one .ckpt file; `read` gives those of a directory.

    Raises:
        ValueError: There is no readable record, or none of that checkpoint.
    """
    if not path.exists():
        raise UsageError(f"`{path}` does not exist; give a run directory or a .ckpt file.")
    run, files = (path, sorted((path / "checkpoints").glob("*.ckpt"))) if path.is_dir() else (run_directory(path), [path])
    by_hash, by_name = {sha256(file): file for file in files}, {file.name: file for file in files}
    found = []
    for record in read(run / "gap"):
        checkpoint = by_hash.get(record["checkpoint_sha256"])
        name = "" if record["step"] is None else f"step={record['step']:06d}.ckpt"
        found.append(Case(record, checkpoint, None if checkpoint else by_name.get(name), run))
    found = [case for case in found if path.is_dir() or case.checkpoint or case.other]
    if not found:
        raise UsageError(f"`{run / 'gap'}` holds no record of `{path}`; measure it with `gcgap measure` first.")
    return found


def repeat(case: Case, make: Make) -> dict[str, Any]:
    """The dictionary of the same measurement of the same checkpoint.

    Settings of training are compared where the record tells them: older ones tell fewer.

    Raises:
        ValueError: The record's settings cannot be measured; names its file.
    """
    record, known = case.record, {field.name for field in fields(Protocol)}
    assert case.checkpoint is not None
    model, told = load_of_run(case.checkpoint), record.data.get("training") or {}
    training = {key: value for key, value in (model.origin.training or told).items() if key in told}
    model.origin = replace(model.origin, training=training or None)
    given = record.data.get("length_given", record["length"] != record["window"]["length"])
    try:
        settings = make({key: value for key, value in record["protocol"].items() if key in known})
        found = measure(model, length=record["length"] if given else None, protocol=settings).to_dict()
    except (ValueError, UsageError) as error:
        raise ValueError(f"`{record.path}` cannot be measured again: {error}") from error
    name = "" if record.path is None else record.path.name
    return found | ({"final": name == "final.json"} if "final" in record.data else {})


def _named(record: Record) -> int | None:
    return None if record.path is None else named_step(record.path)


def _warn(text: str) -> None:
    print(f"gcgap: warning: {text}", file=sys.stderr)
