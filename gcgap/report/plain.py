"""Text that others wrote (names of runs, tasks and components, reasons) as text alone, wherever it is shown.

HTML has `html.escape`, the terminal `rich.text.Text`. Here are Markdown, CSV and figures.
"""

from __future__ import annotations

import re
from html import escape

from matplotlib.figure import Figure
from matplotlib.text import Text

TRUSTED = re.compile(r"\$\\mathdefault\{[^$]*\}\$|[^$]*\$W_V\$[^$]*")  # ticks of logarithmic axes, and a label of this project


def plain_text(text: str) -> str:
    """Text in which Markdown finds no table border, no tag and no link."""
    plain = escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return " ".join(plain.splitlines())


def counted(number: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {what}" + "s" * (number != 1)


def plain_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def plain_figure(figure: Figure) -> Figure:
    """The figure, in which a dollar sign is no mathematics."""
    for text in figure.findobj(Text):
        if isinstance(text, Text) and text.get_text() and not TRUSTED.fullmatch(text.get_text()):  # ticks get theirs when drawn
            text.set_parse_math(False)
    return figure
