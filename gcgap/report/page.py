"""A report in words: one self-contained HTML page and one Markdown file by templates, and each table as CSV.

Names and reasons that others wrote are text and nothing else in each of them. CSV and Markdown stay without pandas, which would
load for longer than it takes to write them and needs `tabulate` for Markdown.
"""

from __future__ import annotations

import csv
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import StringIO

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gcgap.report.blocks import ALL, Cell, Column, Section, Table, slug
from gcgap.report.describe import without_ticks
from gcgap.study.seeds import Summary

MISSING = "–"
WIDE = 600  # pixels of width from which a phone shows a figure in a box that scrolls
WORDS = 90  # characters from which a cell is a text to be read, not a label


def page(title: str, sections: Sequence[Section], pictures: Mapping[str, bytes], lead: str = "") -> str:
    """The whole page; nothing in it has an address outside it but its own CSV and PDF files.

    `pictures` has the PNG of each figure by the figure's path; `lead` is the paragraph below the heading.
    """
    embedded = {path: _embedded(png) for path, png in pictures.items()}
    return _html().get_template("page.html").render(title=title, lead=lead, sections=sections, pictures=embedded, ALL=ALL)


def _embedded(png: bytes) -> dict[str, str | int]:
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # where a PNG file has its size
    kind = "wide" if width > WIDE else "narrow"
    return {"width": width, "height": height, "kind": kind, "data": b64encode(png).decode("ascii")}


def markdown(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """The report as Markdown, which shows the PNG files beside it."""
    environment = _html().overlay(autoescape=False, finalize=lambda found: plain_text(str(found)))
    return environment.get_template("report.md").render(title=title, lead=lead, sections=sections, ALL=ALL)


def _html() -> Environment:
    environment = Environment(
        loader=PackageLoader("gcgap", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.tests["table"] = lambda block: isinstance(block, Table)
    environment.filters |= {
        "code": lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))),
        "without_ticks": without_ticks,
        "slug": slug,
        "cell": format_cell,
        "sort_key": sort_key,
    }
    environment.globals |= {"zip": zip, "has_words": has_words}
    return environment


def has_words(table: Table) -> bool:
    """Whether a table has cells that are read as sentences."""
    return any(isinstance(cell, str) and len(cell) > WORDS for row in table.rows for cell in row)


def format_cell(cell: Cell, form: str = ".2f") -> str:
    """A cell as a reader sees it; a Summary as mean ± std over seeds [interval] (n), or its mean (n: each seed)."""
    if cell is None or (isinstance(cell, Summary) and cell.mean is None):
        return MISSING
    if isinstance(cell, Summary):
        if cell.each:
            return f"{cell.mean:{form}} (n = {cell.n}: {', '.join(f'{one:{form}}' for one in cell.each)})"
        spread = f" ± {cell.std:{form}}" if cell.std is not None and cell.n > 1 else ""
        ends = "" if cell.ci is None else f" [{cell.ci[0]:{form}}, {cell.ci[1]:{form}}]"
        return f"{cell.mean:{form}}{spread}{ends} (n = {cell.n})"
    return f"{cell:{form}}" if isinstance(cell, float) else str(cell)


def sort_key(cell: Cell) -> str:
    """The number that a column is sorted by, with every digit; the text where there is no number."""
    value = cell.mean if isinstance(cell, Summary) else cell
    return "" if value is None else str(value)


def to_csv(table: Table) -> str:
    """Comma-separated values, numbers with every digit, nothing where one is missing; the rows below the table come last.

    A Summary becomes mean, std, low, high and n, each with a column of its own.
    """
    columns = [_flat(column, len(table.foot)) for column in table.columns]
    rows = zip(*(part for parts in columns for part in parts), strict=True)
    text = StringIO()
    safe = ([plain_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(safe)
    return text.getvalue()


def _flat(column: Column, foot: int) -> list[list[Cell]]:
    """A column as one or five of plain values, each below its heading."""
    cells = [*column.cells, *column.foot, *[""] * (foot - len(column.foot))]
    means = [cell.mean if isinstance(cell, Summary) else cell for cell in cells]
    if not any(isinstance(cell, Summary) for cell in cells):
        return [[column.name, *means]]
    whole = [cell if isinstance(cell, Summary) else None for cell in cells]
    parts = {
        "std": [one and one.std for one in whole],
        "low": [one and one.ci and one.ci[0] for one in whole],
        "high": [one and one.ci and one.ci[1] for one in whole],
        "n": [one and one.n for one in whole],
    }
    return [[column.name, *means], *([f"{column.name}: {part}", *values] for part, values in parts.items())]


def plain_text(text: str) -> str:
    """Text in which Markdown finds no table border, no tag and no link."""
    plain = escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return " ".join(plain.splitlines())


def plain_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
