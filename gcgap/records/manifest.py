"""Which files of a folder gcgap wrote: it replaces and removes no others.

The list lies in the folder, a hash and a name on each line, as `sha256sum --check` reads it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gcgap.records.atomic import write_whole

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
