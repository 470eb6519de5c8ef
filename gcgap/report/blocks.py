"""What a report is made of, before it is written in some form: sections of texts, tables and figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar

from matplotlib.figure import Figure

from gcgap.study.seeds import Summary

Cell = str | float | int | Summary | None
ALL = "all"  # stands for the name of a group where several are compared


def slug(name: str) -> str:
    """A name as a name of a folder on any file system; one that had to be changed ends with a hash of it."""
    plain = re.sub(r"[^A-Za-z0-9=.+-]+", "-", name).strip("-.") or "group"
    if len(plain) <= 80 and plain == name.replace(", ", "-"):
        return plain
    return f"{plain[:60]}-{sha256(name.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Column:
    """One column of a table: its heading with the unit, and a cell for each row, None where a number is missing.

    `form` is the format of its numbers in print, `foot` has its cells in the rows below the table, such as the mean, and `paper`
    marks published figures.
    """

    name: str
    cells: Sequence[Cell]
    form: str = ".2f"
    foot: Sequence[Cell] = ()
    paper: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return any(isinstance(cell, int | float | Summary) for cell in self.cells)


def columns_of(rows: Sequence[Sequence[Cell]], names: Sequence[str], forms: Mapping[str, str] | None = None) -> list[Column]:
    """The columns of a table that was made row by row; `forms` has the formats that are not the usual one."""
    return [Column(name, [row[i] for row in rows], (forms or {}).get(name, ".2f")) for i, name in enumerate(names)]


def beside(
    name: str,
    ours: Sequence[Cell],
    theirs: Sequence[Cell],
    form: str = ".2f",
    foot: Sequence[Cell] = (),
    their_foot: Sequence[Cell] = (),
    source: str = "paper",
) -> list[Column]:
    """gcgap's column of a quantity, and the published one beside it."""
    return [Column(f"{name}: gcgap", ours, form, foot), Column(f"{name}: {source}", theirs, form, their_foot, paper=True)]


class Block:
    """A table or figure of a group of runs, with a key that is unique among those of its kind in the group."""

    key: str
    group: str
    folder: ClassVar[str]

    @property
    def name(self) -> str:
        """Its id in the page."""
        return f"{'figure-' * (self.folder == 'figures')}{slug(self.group)}-{slug(self.key)}"

    @property
    def path(self) -> str:
        """The name of its files without their ending."""
        return f"{self.folder}/{slug(self.group)}/{slug(self.key)}"


@dataclass(frozen=True)
class Table(Block):
    """One table of a group of runs, with a key such as `v3-table-1`.

    Of `all_columns` those for published figures that hold none are left out. `notes` are sentences below the table: reasons of
    what is missing, and how numbers were made.
    """

    folder = "tables"
    key: str
    title: str
    group: str
    all_columns: Sequence[Column]
    notes: Sequence[str] = ()

    @property
    def columns(self) -> list[Column]:
        """The columns that are shown."""
        return [column for column in self.all_columns if not column.paper or any(cell is not None for cell in column.cells)]

    @property
    def rows(self) -> list[tuple[Cell, ...]]:
        """The cells of each row."""
        return list(zip(*(column.cells for column in self.columns), strict=True))

    @property
    def foot(self) -> list[tuple[Cell, ...]]:
        """The cells of the rows below the table."""
        height = max(len(column.foot) for column in self.columns)
        return list(zip(*([*column.foot, *[""] * (height - len(column.foot))] for column in self.columns), strict=True))


@dataclass(frozen=True)
class Drawing(Block):
    """One figure of a group of runs, drawn when it is asked for."""

    folder = "figures"
    key: str
    caption: str
    group: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Section:
    """A part of a report under its own heading; a text among its blocks is a paragraph."""

    title: str
    blocks: Sequence[str | Table | Drawing] = ()
