"""Text that others wrote (names of runs, tasks and components, reasons) as text alone, wherever it is shown.

The terminal has `rich.text.Text`. Here are HTML, Markdown, CSV and figures.
"""

from __future__ import annotations

import re
from html import escape

from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

TRUSTED = re.compile(r"\$\\mathdefault\{[^$]*\}\$|[^$]*\$W_V\$[^$]*")  # ticks of logarithmic axes, and a label of this project


def plain_text(text: str) -> str:
    """Text in which Markdown finds no table border, no tag and no link."""
    plain = escape(text, quote=False).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return " ".join(plain.splitlines())


def html_text(text: str) -> str:
    """Text as HTML, in which what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def without_ticks(text: str) -> str:
    """Text for a terminal, a figure or an attribute, where there is no code to mark."""
    return re.sub(r"`([^`]+)`", r"\1", text)


def counted(number: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{number} {what}" + "s" * (number != 1)


def plain_cell(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def plain_figure(figure: Figure) -> Figure:
    """The figure, in which a dollar sign is no mathematics and a backtick no sign."""
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_locator(), FixedLocator):
            names = [text.get_text() for text in axis.get_ticklabels()]
            if any("`" in name for name in names):  # such labels are set anew at every draw
                axis.set_ticklabels([without_ticks(name) for name in names])
    for text in figure.findobj(Text):
        if isinstance(text, Text) and "`" in text.get_text():
            text.set_text(without_ticks(text.get_text()))
        if isinstance(text, Text) and text.get_text() and not TRUSTED.fullmatch(text.get_text()):  # ticks get theirs when drawn
            text.set_parse_math(False)
    return figure
