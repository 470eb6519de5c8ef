"""What a report is made of: tables, pictures and sections, before any of them is written in some form."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from matplotlib.figure import Figure

from gcgap.study.seeds import Summary

Cell = str | float | int | Summary | None
Flat = str | float | int | None
MISSING = "–"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Args:
        name: Its heading, with the unit.
        cells: One cell for each row; None where a number is missing.
        form: Format of its numbers in print.
        foot: Its cells in the rows below the table, such as the mean.
        paper: Whether it holds published figures.
    """

    name: str
    cells: Sequence[Cell]
    form: str = ".2f"
    foot: Sequence[Cell] = ()
    paper: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        key: Its short name, such as `v3-table-1`, unique in its group.
        title: What it shows.
        group: Name of the group of runs that it speaks of.
        all_columns: Its columns; those of published figures that hold none are left out.
        notes: Sentences below it: reasons of what is missing, and how numbers were made.
    """

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
class Drawing:
    """One figure, drawn when it is asked for.

    Args:
        name: Its file name without ending, unique in its group.
        caption: What it shows, with units.
        group: Name of the group of runs that it speaks of.
        draw: Draws it.
    """

    name: str
    caption: str
    group: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Section:
    """A part of the page: paragraphs, tables and figures in their order.

    Args:
        title: Its heading.
        blocks: Its content; a text is a paragraph.
    """

    title: str
    blocks: Sequence[str | Table | Drawing] = field(default_factory=tuple)


def slug(name: str) -> str:
    """A name as a name of a folder on any file system; long names are cut and told apart by a hash."""
    plain = re.sub(r"[^A-Za-z0-9=.+-]+", "-", name).strip("-.") or "group"
    return (
        plain
        if len(plain) <= 80 and plain == name.replace(", ", "-")
        else f"{plain[:60]}-{sha256(name.encode()).hexdigest()[:8]}"
    )


def printed(cell: Cell, form: str) -> str:
    """A cell as a reader sees it; a Summary as mean ± std over seeds [interval] (n)."""
    if cell is None or (isinstance(cell, Summary) and cell.mean is None):
        return MISSING
    if isinstance(cell, Summary):
        spread = f" ± {cell.std:{form}}" if cell.std is not None and cell.n > 1 else ""
        ends = "" if cell.ci is None else f" [{cell.ci[0]:{form}}, {cell.ci[1]:{form}}]"
        return f"{cell.mean:{form}}{spread}{ends}" + f" (n = {cell.n})"
    return f"{cell:{form}}" if isinstance(cell, float) else str(cell)


def sort_key(cell: Cell) -> str:
    """The number that a column is sorted by, with every digit; the text where there is no number."""
    value = cell.mean if isinstance(cell, Summary) else cell
    return "" if value is None else str(value)


def flat(table: Table) -> tuple[list[str], list[list[Flat]]]:
    """Heading and rows of plain values: a Summary becomes mean, std, low, high and n, each with a column of its own."""
    header: list[str] = []
    parts: list[list[list[Flat]]] = []
    for column in table.columns:
        cells = [*column.cells, *column.foot, *[""] * (len(table.foot) - len(column.foot))]
        whole = any(isinstance(cell, Summary) for cell in cells)
        header += [column.name] + [f"{column.name}: {part}" for part in ("std", "low", "high", "n")] * whole
        parts.append([_flat(cell) if whole else [_flat(cell)[0]] for cell in cells])
    return header, [[value for cell in row for value in cell] for row in zip(*parts, strict=True)]


def _flat(cell: Cell) -> list[Flat]:
    if isinstance(cell, Summary):
        return [cell.mean, cell.std, *(cell.ci or (None, None)), cell.n]
    return [cell, None, None, None, None]
