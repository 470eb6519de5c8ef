"""`gcgap measure --verify`: measure again what records say, and show what differs; writes nothing.

On the same machine, with the same library versions and number of threads, every number comes out bit for bit. Elsewhere sums
round differently, and whatever stands on a comparison (a sequence that is just right, a rank, a p-value) can jump.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.progress import Progress
from rich.text import Text

from gcgap.commands.options import COLUMNS
from gcgap.commands.targets import run_of
from gcgap.importance.protocol import Protocol
from gcgap.measurement.measure import measure
from gcgap.models.checkpoints import sha256
from gcgap.records.read_records import find_records, named_step
from gcgap.records.record import Record
from gcgap.records.record_file import CHECKSUM
from gcgap.report.whole_table import WholeTable
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
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Verifying", total=len(known))
        for case in known:
            again = repeat(case, make)
            unlike = differences(*comparable(case.record.data, again), tolerance)
            differ += bool(unlike)
            progress.console.print(comparison(case.record, again, unlike), highlight=False, crop=False)
            if not case.record.is_held_out and not case.record.skipped:
                _warn(f"`{case.record.path}` is older than held-out sequences: its drops of sets are not compared.")
            progress.advance(task)
    return 1 if differ or misnamed else 2 * bool(replaced)


@dataclass(frozen=True)
class Case:
    """A record with what it was measured on.

    Args:
        record: The record.
        checkpoint: The file with the hash that the record holds; None if there is none.
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
    run = run_of(path)
    files = sorted((path / "checkpoints").glob("*.ckpt")) if path.is_dir() else [path]
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

    Settings of training are compared where the record holds them: older ones hold fewer.

    Raises:
        ValueError: The record's settings cannot be measured; names its file.
    """
    record, known = case.record, {field.name for field in fields(Protocol)}
    assert case.checkpoint is not None
    model, recorded = load_of_run(case.checkpoint), record.data.get("training") or {}
    training = {key: value for key, value in (model.origin.training or recorded).items() if key in recorded}
    model.origin = replace(model.origin, training=training or None)
    given = record.data.get("length_given", record["length"] != record["window"]["length"])
    try:
        settings = make({key: value for key, value in record["protocol"].items() if key in known})
        found = measure(model, length=record["length"] if given else None, protocol=settings).to_dict()
    except (ValueError, UsageError) as error:
        raise ValueError(f"`{record.path}` cannot be measured again: {error}") from error
    name = "" if record.path is None else record.path.name
    return found | ({"final": name == "final.json"} if "final" in record.data else {})


def comparable(recorded: dict[str, Any], repeated: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both without what an older record does not say: gauges, and what sets cost on sequences that did not choose them.

    Of what it says instead, drops on the sequences that chose the sets and intervals drawn with them, nothing is measured now.
    """
    older = "held_out" not in recorded["accuracy"] and not recorded.get("skipped")
    left_out = ({"gauges"} - recorded.keys()) | (OF_SETS if older else set())

    def kept(one: dict[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in one.items() if key not in left_out}
        if older:
            found["accuracy"] = {key: value for key, value in one["accuracy"].items() if key != "held_out"}
            found["components"] = [{key: of[key] for key in of if key not in OF_SINGLES} for of in one["components"]]
        return found

    return kept(recorded), kept(repeated)


def _named(record: Record) -> int | None:
    return None if record.path is None else named_step(record.path)


def _warn(text: str) -> None:
    print(f"gcgap: warning: {text}", file=sys.stderr)


OWN = ("created", "versions", "run", CHECKSUM)  # of one measurement, and not of what it measured
TIMES = ("seconds", "forward_equivalents")  # of the clock, wherever they stand
OF_SETS = {"pruning", "random_pairs", "joint", "sets"}
OF_SINGLES = {"held_out", "in_distribution"}
SHOWN = 8  # differences of a record that are listed


ABSENT: Any = object()
"""Stands for a value that one side does not have, which is not null."""


@dataclass(frozen=True)
class Difference:
    """A value that came out otherwise.

    Args:
        key: Where it stands, such as gap.mean.rho or components.L0_H1.gradient.value.
        recorded: What the record says; ABSENT if it says nothing.
        repeated: What came out now; ABSENT if nothing did.
    """

    key: str
    recorded: Any
    repeated: Any

    @property
    def relative(self) -> float:
        """Difference of two numbers over the larger one; infinite where there are no two numbers."""
        both = (self.recorded, self.repeated)
        return _relative(*both) if all(_is_number(value) for value in both) else math.inf


def differences(recorded: Any, repeated: Any, tolerance: float = 0.0, key: str = "") -> list[Difference]:
    """Every value of two records that is not the same, in the order of the first one; nothing of clocks and names of runs counts.

    Args:
        recorded: A record as it was written.
        repeated: The same measurement again.
        tolerance: Largest relative difference at which two numbers still count as the same; 0: bit for bit.
        key: Where in the records the two stand.
    """
    if isinstance(recorded, dict) and isinstance(repeated, dict):
        names = [name for name in {**recorded, **repeated} if name not in TIMES and (key or name not in OWN)]
        pairs = [(name, recorded.get(name, ABSENT), repeated.get(name, ABSENT)) for name in names]
    elif isinstance(recorded, list) and isinstance(repeated, list) and len(recorded) == len(repeated):
        pairs = [(_name(old, i), old, new) for i, (old, new) in enumerate(zip(recorded, repeated, strict=True))]
    else:
        return [] if _same(recorded, repeated, tolerance) else [Difference(key, recorded, repeated)]
    below = (differences(old, new, tolerance, f"{key}.{name}".lstrip(".")) for name, old, new in pairs)
    return [one for found in below for one in found]


def values(data: Any, key: str = "") -> int:
    """How many numbers and texts of a record are compared."""
    if isinstance(data, dict):
        return sum(values(data[name], name) for name in data if name not in TIMES and (key or name not in OWN))
    return sum(values(one, key) for one in data) if isinstance(data, list) else 1


def _name(item: Any, place: int) -> str:
    return str(item.get("name", place)) if isinstance(item, dict) else str(place)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _relative(one: float, other: float) -> float:
    return 0.0 if one == other else abs(one - other) / max(abs(one), abs(other))


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if _is_number(one) and _is_number(other):
        return _relative(one, other) <= tolerance
    return type(one) is type(other) and one == other


def comparison(record: Record, repeated: dict[str, Any], found: list[Difference]) -> Group:
    """What came out, for a terminal: one line, and where anything differs a table and what may explain it."""
    name, every = record.path, values(comparable(record.data, repeated)[0])
    if not found:
        return Group(_line(f"{name}: the same in every number ({every} values)."))
    numbers = [one for one in found if math.isfinite(one.relative)]
    largest = max(numbers, key=lambda one: one.relative, default=None)
    text = f"{name}: {len(found)} of {every} values differ"
    text += "." if largest is None else f"; of numbers at most by {largest.relative:.2g} of the larger one ({largest.key})."
    grid = WholeTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("value", overflow="fold")
    for heading in ("recorded", "repeated", "relative"):
        grid.add_column(heading, no_wrap=True)
    for one in sorted(found, key=lambda one: -one.relative)[:SHOWN]:
        relative = f"{one.relative:.2g}" if math.isfinite(one.relative) else ""
        grid.add_row(*(Text(cell) for cell in (one.key, _format_value(one.recorded), _format_value(one.repeated), relative)))
    more = [Text(f"and {len(found) - SHOWN} more")] if len(found) > SHOWN else []
    return Group(_line(text), grid, *more, Text(_reason(record["versions"], repeated["versions"])))


def _line(text: str) -> Text:
    """A text that begins with a path: the terminal may break it where it must, nobody else, so that it can be searched for."""
    return Text(text, no_wrap=True, overflow="ignore")


def _format_value(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _reason(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What of the libraries and threads was another, which may explain small differences."""
    changed = [f"{name} {then.get(name, 'unknown')} then, {now[name]} now" for name in now if then.get(name) != now[name]]
    if not changed:
        return "The versions and the number of threads are those of the record, so they do not explain it."
    return f"What was another and may explain small differences: {'; '.join(changed)}."
