"""One table in three forms: Markdown and HTML as a reader sees it, CSV with every digit."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from html import escape
from io import StringIO

from gcgap.report.table_parts import Cell, Column, Summary, Table, flat, printed, slug, sort_key
from gcgap.report.wording import html_text, plain_cell, plain_text, without_ticks

WORDS = 90  # characters from which a cell is a text to be read, not a label


def to_csv(table: Table) -> str:
    """Comma-separated values, numbers with every digit, nothing where one is missing; the rows below the table come last."""
    text = StringIO()
    header, rows = flat(table)
    safe = ([plain_cell(cell) if isinstance(cell, str) else cell for cell in row] for row in [header, *rows])
    csv.writer(text, lineterminator="\n").writerows(safe)
    return text.getvalue()


def to_markdown(table: Table) -> str:
    """A pipe table with its title above and its notes below it."""
    columns = table.columns
    lines = [_line([column.name for column in columns]), _line(["---:" if _numeric(one) else "---" for one in columns], raw=True)]
    lines += [_line(_texts(columns, row)) for row in table.rows]
    lines += [_line([f"*{plain_text(text)}*" if text else "" for text in _texts(columns, row)], raw=True) for row in table.foot]
    notes = [f"- {plain_text(note)}" for note in table.notes]
    return "\n".join([f"#### {plain_text(table.title)}", "", *lines, "", *notes, *[""] * bool(notes)])


def to_html(table: Table, csv_path: str) -> str:
    """A sortable table in a box of its own that scrolls, with its group, notes and a link to its CSV file."""
    columns = table.columns
    heads = "".join(
        f'<th scope="col"{_class(one)} aria-sort="none"><button type="button">{html_text(one.name)}</button></th>'
        for one in columns
    )
    body = "".join(f"<tr>{_cells(columns, row)}</tr>\n" for row in table.rows)
    foot = "".join(f"<tr>{_cells(columns, row)}</tr>\n" for row in table.foot)
    notes = "".join(f"<li>{html_text(note)}</li>" for note in table.notes)
    kind = ' class="words"' if any(isinstance(cell, str) and len(cell) > WORDS for row in table.rows for cell in row) else ""
    return (
        f'<section class="table" id="{escape(anchor(table.group, table.key))}">\n<h4>{html_text(table.title)}</h4>\n'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(without_ticks(table.title))}"><table{kind}>\n'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}</tbody>\n"
        + (f"<tfoot>\n{foot}</tfoot>\n" if foot else "")
        + "</table></div>\n"
        f'<ul>{notes}<li>{of_group(table.group)}; <a href="{escape(csv_path)}">CSV</a></li></ul>\n</section>\n'
    )


def of_group(group: str) -> str:
    """The group that a number belongs to, with a link to its protocol."""
    link = f'<a href="#{escape(anchor(group, "protocol"))}">protocol</a>'
    return "Runs: <b>of several groups</b>" if group == ALL else f"Runs: <b>{html_text(group)}</b>, {link}"


ALL = "all"
"""Stands for the name of a group where several are compared."""


def anchor(group: str, key: str) -> str:
    """The id of a table or figure in the page."""
    return f"{slug(group)}-{slug(key)}"


def _class(column: Column) -> str:
    names = ["number"] * _numeric(column) + ["paper"] * column.paper
    return f' class="{" ".join(names)}"' if names else ""


def _cells(columns: Sequence[Column], row: Sequence[Cell]) -> str:
    return "".join(_cell(column, cell) for column, cell in zip(columns, row, strict=True))


def _cell(column: Column, cell: Cell) -> str:
    keys = f'data-key="{escape(sort_key(cell))}" data-label="{escape(without_ticks(column.name))}"'
    return f"<td{_class(column)} {keys}>{html_text(printed(cell, column.form))}</td>"


def _numeric(column: Column) -> bool:
    return any(isinstance(cell, int | float | Summary) for cell in column.cells)


def _texts(columns: Sequence[Column], row: Sequence[Cell]) -> list[str]:
    return [printed(cell, column.form) for column, cell in zip(columns, row, strict=True)]


def _line(texts: Sequence[str], raw: bool = False) -> str:
    return f"| {' | '.join(text if raw else plain_text(text) for text in texts)} |"
