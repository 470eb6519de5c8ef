"""Copying records beside a report, small enough to be kept with it: checkpoints packed, one record on each line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gcgap.attribution.record import FOLDER
from gcgap.records import PACKED, Record, pack
from gcgap.study.groups import Group, Run
from gcgap.study.methods import MethodGroup


def ship(groups: Sequence[Group], out: Path) -> None:
    """Copy the records of every run to <out>/<protocol>/<run>/gap, as they lay below <protocol>/<run>.

    Raises:
        ValueError: Two different runs would go to the same place.
    """
    taken: dict[Path, Run] = {}
    for run in (run for group in groups for run in group.runs):
        place = destination(run.final, out)
        if (other := taken.setdefault(place, run)) is not run:
            raise ValueError(
                f"`{run.final.path}` and `{other.final.path}` would both be copied to `{place}`; rename one of their folders."
            )
    for place, run in taken.items():
        run.final.write(place, compact=True)
        if run.tracked:
            pack(run.tracked, place.with_name(PACKED))


def ship_methods(groups: Sequence[MethodGroup], out: Path) -> None:
    """Copy attribution records to <out>/<protocol>/<run>/attribution, as they lay below <protocol>/<run>.

    Raises:
        ValueError: Two records would go to the same place.
    """
    taken: dict[Path, Path] = {}
    for record in (record for group in groups for record in group.records):
        path = (record.path or Path(f"{record['run']}.json")).resolve()
        run = path.parent.parent
        place = out / run.parent.name / run.name / FOLDER / path.name
        if (other := taken.setdefault(place, path)) != path:
            raise ValueError(f"`{path}` and `{other}` would both be copied to `{place}`; rename one of their folders.")
        record.write(place, compact=True)


def destination(record: Record, out: Path) -> Path:
    """Where a record is copied: from its protocol's folder on, its path stays what it was."""
    path = (record.path or Path("final.json")).resolve()
    gap = next((folder for folder in path.parents if folder.name == "gap"), path.parent)
    return out / gap.parent.parent.name / gap.parent.name / "gap" / path.relative_to(gap)
