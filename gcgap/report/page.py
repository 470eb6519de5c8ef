"""The report as one self-contained HTML page: nothing in it has an address outside it but its own CSV and PDF files."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files

from gcgap.report.render import anchor, of_group, to_html
from gcgap.report.table_parts import Drawing, Section, Table, slug
from gcgap.report.wording import html_text, without_ticks

Pictures = Mapping[tuple[str, str], bytes]
"""The PNG of each figure, by group and name."""
WIDE = 600  # pixels of width from which a phone shows a figure in a box that scrolls


def page(title: str, sections: Sequence[Section], pictures: Pictures, lead: str = "") -> str:
    """The whole page; `lead` is the paragraph below its title."""
    style, script = (files("gcgap.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    links = "".join(f'<li><a href="#{slug(section.title)}">{html_text(section.title)}</a></li>' for section in sections)
    content = "".join(_section(section, pictures) for section in sections)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(without_ticks(title))}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<link rel="icon" href="data:,">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<h1>{html_text(title)}</h1>\n<p>{html_text(lead)}</p>\n<nav><ul>{links}</ul></nav>\n"
        f"<main>\n{content}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def _section(section: Section, pictures: Pictures) -> str:
    return f'<h2 id="{slug(section.title)}">{html_text(section.title)}</h2>\n' + "".join(
        _block(one, pictures) for one in section.blocks
    )


def _block(block: str | Table | Drawing, pictures: Pictures) -> str:
    if isinstance(block, str):
        return f"<p>{html_text(block)}</p>\n"
    if isinstance(block, Table):
        return to_html(block, f"tables/{slug(block.group)}/{slug(block.key)}.csv")
    png = pictures[block.group, block.name]
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))  # where a PNG file has its size
    data = b64encode(png).decode("ascii")
    pdf = f"figures/{slug(block.group)}/{slug(block.name)}.pdf"
    text = escape(without_ticks(block.caption))
    kind = "wide" if width > WIDE else "narrow"
    return (
        f'<figure class="{kind}" id="figure-{escape(anchor(block.group, block.name))}">'
        f'<img alt="{text}" width="{width}" height="{height}" src="data:image/png;base64,{data}">\n'
        f'<figcaption>{html_text(block.caption)} {of_group(block.group)}; <a href="{escape(pdf)}">PDF</a></figcaption></figure>\n'
    )
