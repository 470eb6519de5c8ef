"""Records of heads that were matched between runs: one JSON file for several checkpoints; read without torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from gcgap.records.record_file import RecordFile

KIND = "matching"
NAMES = "matching*.json"  # of its files, wherever they lie


@dataclass(frozen=True, repr=False)
class MatchingRecord(RecordFile):
    """Heads of several runs, their partners in the other runs, and what is stable between them."""

    form: ClassVar[str] = "matching"
    label: ClassVar[str] = "a record of matched heads"
    remedy: ClassVar[str] = "Match the runs again with `gcgap match --force`."

    def _check_form(self, name: str) -> None:
        if (kind := self.data.get("kind")) != KIND:
            raise ValueError(f"`{name}` is not a record of matched heads: its `kind` is {kind!r}. Run `gcgap match`.")
        super()._check_form(name)

    def __repr__(self) -> str:
        return self._describe("runs")

    def roles(self, by: str) -> dict[str, Any]:
        """How often partners share a role, by role; nothing where roles are not known."""
        return self.data["by"][by]["roles"] or {}


def matching_files(paths: Iterable[Path]) -> list[Path]:
    """Every file at or below the paths, each once, that has the name of a record of matched heads."""
    below = (sorted(path.rglob(NAMES)) if path.is_dir() else [path] for path in paths)
    return list({path.resolve(): path for found in below for path in found if path.match(NAMES)}.values())
