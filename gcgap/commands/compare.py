"""What two records of the same measurement differ in, value by value, and the table that shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Group
from rich.text import Text

from gcgap.records.record import Record
from gcgap.records.record_file import CHECKSUM
from gcgap.report.terminal import WholeTable

OWN = ("created", "versions", "run", CHECKSUM)  # of one measurement, and not of what it measured
TIMES = ("seconds", "forward_equivalents")  # of the clock, wherever they stand
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


def told(record: Record, repeated: dict[str, Any], found: list[Difference]) -> Group:
    """What came out, for a terminal: one line, and where anything differs a table and what may explain it."""
    name, every = record.path, values(record.data)
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
        grid.add_row(*(Text(cell) for cell in (one.key, _printed(one.recorded), _printed(one.repeated), relative)))
    more = [Text(f"and {len(found) - SHOWN} more")] if len(found) > SHOWN else []
    return Group(_line(text), grid, *more, Text(_reason(record["versions"], repeated["versions"])))


def _line(text: str) -> Text:
    """A text that begins with a path: the terminal may break it where it must, nobody else, so that it can be searched for."""
    return Text(text, no_wrap=True, overflow="ignore")


def _printed(value: Any) -> str:
    return "absent" if value is ABSENT else repr(value)


def _reason(then: dict[str, Any], now: dict[str, Any]) -> str:
    """What of the libraries and threads was another, which may explain small differences."""
    changed = [f"{name} {then.get(name, 'unknown')} then, {now[name]} now" for name in now if then.get(name) != now[name]]
    if not changed:
        return "The versions and the number of threads are those of the record, so they do not explain it."
    return f"What was another and may explain small differences: {'; '.join(changed)}."
