"""Copies of records beside a report, each on one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gcgap.records.attribution_record import FOLDER
from gcgap.records.record_file import encode, with_checksum
from gcgap.study.groups import Group
from gcgap.study.methods_over_seeds import MethodGroup


def ship(groups: Sequence[Group], methods: Sequence[MethodGroup], known: Sequence[Path]) -> dict[str, bytes]:
    """The content of the copies of all records by name: <protocol>/<run>/gap or /attribution, and as they lay below those.

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
