"""A report on disk: the page, the tables as Markdown and CSV, the figures as PNG and PDF."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gcgap.report.page import page
from gcgap.report.parts import Drawing, Section, Table, slug
from gcgap.report.plain import plain_figure, plain_text
from gcgap.report.tables.render import ALL, to_csv, to_markdown

DPI = 144  # of PNG files
COLOURS = 256  # of a PNG's palette: a third of the size of true colour, and the eye sees no difference in these figures


def write(
    directory: Path, title: str, lead: str, sections: Sequence[Section], advance: Callable[[], None] = lambda: None
) -> None:
    """Write the whole report; files that are there are replaced, the page last.

    Args:
        directory: Where to; made if it is not there.
        title: Heading of the report.
        lead: The paragraph below it.
        sections: Its content.
        advance: Called after each figure.
    """
    if (directory / "report.md").exists():  # of an earlier report, whose other runs must not stay beside this one's
        for folder in ("tables", "figures"):
            shutil.rmtree(directory / folder, ignore_errors=True)
    pictures: dict[tuple[str, str], bytes] = {}
    for block in (block for section in sections for block in section.blocks):
        if isinstance(block, Table):
            save(directory / "tables" / slug(block.group) / f"{slug(block.key)}.csv", to_csv(block).encode())
        elif isinstance(block, Drawing):
            figure = block.draw()
            pictures[block.group, block.name] = png(figure)
            path = directory / "figures" / slug(block.group) / slug(block.name)
            save(path.with_name(f"{path.name}.png"), pictures[block.group, block.name])
            save(path.with_name(f"{path.name}.pdf"), pdf(figure))
            advance()
    save(directory / "report.md", markdown(title, lead, sections).encode())
    save(directory / "index.html", page(title, sections, pictures, lead).encode())


def markdown(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The report as Markdown, which shows the PNG files beside it."""
    lines = [f"# {title}", "", lead, ""]
    for section in sections:
        lines += [f"## {plain_text(section.title)}", ""]
        for block in section.blocks:
            lines += [_block(block), ""]
    return "\n".join(lines)


def _block(block: str | Table | Drawing) -> str:
    if isinstance(block, Table):
        return to_markdown(block)
    if isinstance(block, str):
        return plain_text(block)
    path = f"figures/{slug(block.group)}/{slug(block.name)}"
    runs = "Runs of several groups" if block.group == ALL else f"Runs: {block.group}"
    return f"![{slug(block.name)}]({path}.png)\n\n{plain_text(f'{block.caption} {runs}')}; [PDF]({path}.pdf)"


def png(figure: Figure) -> bytes:
    """A figure as a PNG file with a palette."""
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(plain_figure(figure))
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    buffer = BytesIO()
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def pdf(figure: Figure) -> bytes:
    """A figure as a PDF file; equal figures give equal bytes."""
    buffer = BytesIO()
    plain_figure(figure).savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return buffer.getvalue()


def save(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same directory, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
