"""A report on disk: the page, the tables as Markdown and CSV, the figures as PNG and PDF."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gcgap.records.manifest import Manifest
from gcgap.report.page import page
from gcgap.report.render import ALL, to_csv, to_markdown
from gcgap.report.table_parts import Drawing, Section, Table, slug
from gcgap.report.wording import plain_figure, plain_text

PAGES, COPIES = "report.sha256", "records.sha256"
"""Which files of a folder are a report, and which are copies of records; these may be the only ones, and none is ever removed."""
DPI = 144  # of PNG files
COLOURS = 256  # of a PNG's palette: a third of the size of true colour, and the eye sees no difference in these figures


def check(directory: Path, sections: Sequence[Section], force: bool = False) -> None:
    """Raise a ValueError, before anything is drawn or written, if the report would replace what is not gcgap's."""
    endings = {Table: ("csv",), Drawing: ("png", "pdf")}
    names = [f"{_place(block)}.{ending}" for block in _blocks(sections) for ending in endings[type(block)]]
    Manifest(directory / PAGES).check(dict.fromkeys([*names, "report.md", "index.html"]), force)


def write(
    directory: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    advance: Callable[[], None] = lambda: None,
    force: bool = False,
) -> None:
    """Write the whole report in place of an earlier one, the page last.

    Args:
        directory: Where to; made if it is not there.
        title: Heading of the report.
        lead: The paragraph below it.
        sections: Its content.
        advance: Called after each figure.
        force: Replace also what was changed in the earlier report.
    """
    found: dict[str, bytes] = {}
    pictures: dict[tuple[str, str], bytes] = {}
    for block in _blocks(sections):
        place = _place(block)
        if isinstance(block, Table):
            found[f"{place}.csv"] = to_csv(block).encode()
        else:
            figure = block.draw()
            found[f"{place}.png"] = pictures[block.group, block.name] = png(figure)
            found[f"{place}.pdf"] = pdf(figure)
            advance()
    found["report.md"] = markdown(title, lead, sections).encode()
    found["index.html"] = page(title, sections, pictures, lead).encode()
    Manifest(directory / PAGES).write(found, force)


def _blocks(sections: Sequence[Section]) -> Iterator[Table | Drawing]:
    """Those that have files."""
    yield from (block for section in sections for block in section.blocks if not isinstance(block, str))


def _place(block: Table | Drawing) -> str:
    """The name of its files without their ending."""
    if isinstance(block, Table):
        return f"tables/{slug(block.group)}/{slug(block.key)}"
    return f"figures/{slug(block.group)}/{slug(block.name)}"


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
    path = _place(block)
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
