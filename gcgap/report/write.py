"""Files of gcgap's results: a report with its tables and figures, those of one attribution record, and copies of records.

A `Manifest` lists the files of a folder that gcgap wrote: it replaces and removes no others. The list lies in the folder, a hash
and a name on each line, as `sha256sum --check` reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from gcgap.records.atomic import write_whole
from gcgap.records.attribution_record import FOLDER, AttributionRecord
from gcgap.records.record_file import encode, with_checksum
from gcgap.report.blocks import Drawing, Section, Table
from gcgap.report.circuit_tables import auc_figure, auc_table, summary_table
from gcgap.report.figures_methods import FIGURES, NEEDS
from gcgap.report.page import markdown, page, to_csv
from gcgap.report.panels import plain_figure
from gcgap.study.groups import Group
from gcgap.study.methods_over_seeds import MethodGroup

PAGES, COPIES = "report.sha256", "records.sha256"
"""Which files of a folder are a report, and which are copies of records; these may be the only ones, and none is ever removed."""
LIST = "files.sha256"
"""Which files of a folder show one attribution record."""
OF_RECORD = ("methods.csv", "components.csv", *(f"{name}.{ending}" for name in FIGURES for ending in ("png", "pdf")))
OF_TRUTH = ("known-summary.csv", "known-auc.csv", "auc.png", "auc.pdf")
DPI = 144  # of PNG files
COLOURS = 256  # of a PNG's palette: a third of the size of true colour, and the eye sees no difference in these figures


def write_report(
    directory: Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    copies: Mapping[str, bytes],
    advance: Callable[[], None],
    force: bool,
) -> None:
    """Write a whole report in place of an earlier one, the page last, and copies of records beside it.

    `copies` has the content of copies of records by name, `advance` is called after each figure, and `force` replaces also what
    was changed in the earlier report.

    Raises:
        ValueError: The report would replace what is not gcgap's; nothing is drawn or written then.
    """
    blocks = [block for section in sections for block in section.blocks if not isinstance(block, str)]
    endings = {Table: ("csv",), Drawing: ("png", "pdf")}
    names = [f"{block.path}.{ending}" for block in blocks for ending in endings[type(block)]]
    Manifest(directory / PAGES).check(dict.fromkeys([*names, "report.md", "index.html"]), force)
    if copies:
        Manifest(directory / COPIES, clears=False).write(dict(copies), force)
    files: dict[str, bytes] = {}
    for block in blocks:
        if isinstance(block, Table):
            files[f"{block.path}.csv"] = to_csv(block).encode()
        else:
            files |= drawn(block.draw(), block.path)
            advance()
    pictures = {block.path: files[f"{block.path}.png"] for block in blocks if isinstance(block, Drawing)}
    files["report.md"] = markdown(title, sections, lead).encode()
    files["index.html"] = page(title, sections, pictures, lead).encode()
    Manifest(directory / PAGES).write(files, force)


def drawn(figure: Figure, name: str) -> dict[str, bytes]:
    """The files of a figure by their names."""
    return {f"{name}.png": png(figure), f"{name}.pdf": pdf(figure)}


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


def check_files(directory: Path, names: Sequence[str], force: bool = False) -> None:
    """Raise a ValueError if files of these names would replace what is not gcgap's, or was changed since."""
    Manifest(directory / LIST).check(dict.fromkeys(names), force)


def write_files(record: AttributionRecord, directory: Path, force: bool = False) -> None:
    """Write everything that an attribution record shows, in place of what an earlier record showed there."""
    tables = {"methods.csv": record.table(), "components.csv": record.scores()}
    files = {name: table.to_csv(index=False).encode() for name, table in tables.items()}
    for name, draw in FIGURES.items():
        if NEEDS.get(name, "methods") in record.data:
            files |= drawn(draw(record), name)
    Manifest(directory / LIST).write(files, force)


def write_truth(truth: dict[str, Any], directory: Path, force: bool = False) -> None:
    """Write known.json, the record of known circuits, and below known/ what it shows."""
    write_whole(directory / "known.json", (json.dumps(with_checksum(truth), ensure_ascii=False) + "\n").encode())
    files = {f"{table.key}.csv": to_csv(table).encode() for table in (summary_table(truth), auc_table(truth))}
    Manifest(directory / "known" / LIST).write(files | drawn(auc_figure(truth), "auc"), force)


def copy_records(groups: Sequence[Group], methods: Sequence[MethodGroup], known: Sequence[Path]) -> dict[str, bytes]:
    """The content of copies of all records by name: <protocol>/<run>/gap or /attribution and what lay below.

    Raises:
        ValueError: Two records would go to the same place.
    """
    found, taken = dict[str, bytes](), dict[str, Path]()
    for name, path, content in _copies(groups, methods, known):
        if (other := taken.setdefault(name, path)) != path:
            raise ValueError(f"`{path}` and `{other}` would both be copied to `{name}`; rename one of their folders.")
        found[name] = content
    return found


def _copies(groups: Sequence[Group], methods: Sequence[MethodGroup], known: Sequence[Path]) -> Iterator[tuple[str, Path, bytes]]:
    """The name of each copy, the file that it is of, and its content."""
    for run in (run for group in groups for run in group.runs):
        for record in (run.final, *run.tracked):
            path = (record.path or Path("final.json")).resolve()
            yield _of_run(path), path, encode(with_checksum(record.data), compact=True)
    for record in (record for group in methods for record in group.records):
        path = (record.path or Path(f"{record['run']}.json")).resolve()
        yield Path(*path.parts[-4:-2], FOLDER, path.name).as_posix(), path, encode(with_checksum(record.data), compact=True)
    for path in known:
        yield path.name, path.resolve(), path.read_bytes()


def _of_run(path: Path) -> str:
    """Where a record is copied: from its protocol's folder on, its path stays what it was."""
    gap = next((folder for folder in path.parents if folder.name == "gap"), path.parent)
    return Path(gap.parent.parent.name, gap.parent.name, "gap", path.relative_to(gap)).as_posix()


Hashes = dict[str, set[str]]
"""By the names of files. A file that was being replaced when gcgap was killed has two, of which it holds one."""
LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)")


@dataclass(frozen=True)
class Manifest:
    """The list of the files that one command wrote into a folder.

    Args:
        path: Its file. Names in it are relative to the folder that it lies in.
        clears: Whether files of an earlier time that are not written again are removed.
    """

    path: Path
    clears: bool = True

    def check(self, files: Mapping[str, bytes | None], force: bool = False) -> None:
        """Refuse to write files over others, before any is written.

        Args:
            files: Their content by name; None where it is not made yet.
            force: Replace also those files of gcgap's that were changed since.

        Raises:
            ValueError: A file that would be replaced or removed is not gcgap's, or was changed after gcgap wrote it; or one
                would be written through a link.
        """
        listed = self._read()
        foreign, changed = list[Path](), list[Path]()
        for name in dict.fromkeys([*files, *listed] if self.clears else files):
            self._check_folders(path := self.folder / name)
            if (digest := _digest(path)) is None or digest in listed.get(name, ()) or digest == _of(files.get(name)):
                continue
            (changed if name in listed and not path.is_dir() else foreign).append(path)
        if foreign:
            raise ValueError(f"{_describe(foreign)} not written by gcgap, and so not replaced. Move it, or give another `--out`.")
        if changed and not force:
            raise ValueError(f"{_describe(changed)} changed after gcgap wrote it. Move it, or replace it with `--force`.")

    def write(self, files: Mapping[str, bytes], force: bool = False) -> None:
        """Write files, remove those of an earlier time, and list what is gcgap's; `check` says what is refused."""
        self.check(files, force)
        listed = self._read()
        mine = {name: content for name, content in files.items() if name in listed or _digest(self.folder / name) is None}
        new: Hashes = {name: {str(_of(content))} for name, content in mine.items()}
        kept: Hashes = {} if self.clears else {name: hashes for name, hashes in listed.items() if name not in new}
        self._save({name: listed.get(name, set()) | new.get(name, set()) for name in [*listed, *new]})
        for name, content in mine.items():
            write_whole(self.folder / name, content)
        for name in listed.keys() - new.keys() - kept.keys():
            self._remove(self.folder / name)
        self._save(kept | new)

    @property
    def folder(self) -> Path:
        """The folder that it lies in."""
        return self.path.parent

    def _read(self) -> Hashes:
        listed: Hashes = {}
        text = os.fsdecode(self.path.read_bytes()) if self.path.exists() else ""
        for number, line in enumerate(text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else (), 1):
            found = LINE.fullmatch(line)
            name = "" if found is None else _unescaped(found[3]) if found[1] else found[3]
            if found is None or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"`{self.path}`, line {number}, must be a hash and a name in this folder; got {line!r:.60}.")
            listed.setdefault(name, set()).add(found[2])
        return listed

    def _save(self, listed: Hashes) -> None:
        lines = (_line(digest, name) for name in sorted(listed) for digest in sorted(listed[name]))
        write_whole(self.path, os.fsencode("".join(lines)))

    def _check_folders(self, path: Path) -> None:
        for folder in path.relative_to(self.folder).parents:
            if (place := self.folder / folder) != self.folder and (place.is_symlink() or (place.exists() and not place.is_dir())):
                kind = "a link, which may lead anywhere" if place.is_symlink() else "a file"
                raise ValueError(f"`{place}` must be a folder; it is {kind}. Move it, or give another `--out`.")

    def _remove(self, path: Path) -> None:
        """Remove a file, and the folders that it leaves empty."""
        path.unlink(missing_ok=True)
        for folder in path.relative_to(self.folder).parents:
            place = self.folder / folder
            if place != self.folder and place.is_dir() and not any(place.iterdir()):
                place.rmdir()


def _digest(path: Path) -> str | None:
    """Hash of a plain file, empty for anything else that is there, None for nothing."""
    if not os.path.lexists(path):
        return None
    return _of(path.read_bytes()) if path.is_file() and not path.is_symlink() else ""


def _of(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()


def _describe(paths: Iterable[Path]) -> str:
    first, *more = paths
    return f"`{first}`{f' and {len(more)} more were' if more else ' was'}"


def _line(digest: str, name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return f"{'' if escaped == name else chr(92)}{digest}  {escaped}\n"


def _unescaped(name: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r"}.get(found[1], found[1]), name)
