"""Attribution records: one JSON file per checkpoint, baseline and metric; read without torch."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcgap.seal import check_seal, read_json, sealed

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
KIND = "attribution"
KNOWN = "known.json"  # the record of known circuits, which may lie anywhere
FOLDER = "attribution"  # of a run, that holds its attribution records
_TOP: dict[str, type] = dict.fromkeys(("step", "length", "length_given", "training"), object)
_TOP |= {"task": str, "seed": int, "components": list, "advice": str}
_TOP |= dict.fromkeys(("model", "protocol", "setup", "methods", "patching", "sets", "trust", "workflow", "versions"), dict)


@dataclass(frozen=True, repr=False)
class AttributionRecord:
    """Every method beside the exact effects, for one checkpoint.

    Args:
        data: The dictionary of the record.
        path: The file that it was read from or written to.

    Raises:
        ValueError: The dictionary is no attribution record of this schema.
    """

    data: dict[str, Any]
    path: Path | None = None

    def __post_init__(self) -> None:
        name = str(self.path or "this record")
        if self.data.get("kind") != KIND or self.data.get("schema") != SCHEMA:
            found = f"kind {self.data.get('kind')!r}, schema {self.data.get('schema')!r}"
            raise ValueError(f"`{name}` is not an attribution record of schema {SCHEMA}: it has {found}. Run `gcgap attribute`.")
        for key, kind in _TOP.items():
            if key not in self.data:
                raise ValueError(f"`{name}` is not a whole attribution record: `{key}` is missing. Measure it again.")
            if not isinstance(self.data[key], kind):
                raise ValueError(f"`{name}`: `{key}` must be a {kind.__name__}; got {self.data[key]!r:.60}. Measure it again.")
        try:
            for rows in (self.method_rows(), self.component_rows()):
                assert all(value is None or isinstance(value, int | float | str) for row in rows for value in row.values())
        except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
            told = f"{type(error).__name__}: {error}"
            raise ValueError(f"`{name}` is not a whole attribution record ({told}). Measure it again.") from error

    def __getitem__(self, key: str) -> Any:
        return self.data[key]

    def __repr__(self) -> str:
        told = ", ".join(f"{key}={self.data[key]!r}" for key in ("task", "seed", "step", "length"))
        return f"AttributionRecord({told}, {len(self.data['methods'])} methods)"

    def to_dict(self) -> dict[str, Any]:
        """Exactly the dictionary of the JSON file that it was read from or written to."""
        return self.data

    @classmethod
    def read(cls, path: str | Path) -> AttributionRecord:
        """Read and check one file.

        Raises:
            ValueError: The file is not an attribution record that this version can read, or was changed after it was written.
        """
        try:
            data, as_written = read_json(Path(path).read_bytes())
        except ValueError as error:
            raise ValueError(f"`{path}` is not an attribution record: {error}. Run `gcgap attribute --force`.") from error
        return cls.of(data, Path(path), as_written)

    @classmethod
    def of(cls, data: Any, path: Path, as_written: bool) -> AttributionRecord:
        """The record in a file that holds this; `as_written` if its checksum is known to be right."""
        if not isinstance(data, dict):
            raise ValueError(f"`{path}` is not an attribution record: it holds a {type(data).__name__}.")
        if not as_written:
            check_seal(data, str(path))
        return cls(data, path)

    def write(self, path: str | Path, compact: bool = False) -> AttributionRecord:
        """Seal, write under a temporary name, then rename; `compact` puts all on one line."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        form: dict[str, Any] = {"separators": (",", ":")} if compact else {"indent": 1}
        data = sealed(self.data)
        temporary.write_text(json.dumps(data, ensure_ascii=False, **form) + "\n", encoding="utf-8")
        temporary.replace(path)
        return AttributionRecord(data, path)

    def table(self) -> DataFrame:
        """One row per method: agreement with the exact effects, cost."""
        import pandas as pd

        return pd.DataFrame(self.method_rows())

    def scores(self) -> DataFrame:
        """One row per component: its exact effects, and its score by every method."""
        import pandas as pd

        return pd.DataFrame(self.component_rows())

    def method_rows(self) -> list[dict[str, Any]]:
        """The rows of `table`."""
        return [method_row(name, entry) for name, entry in self.data["methods"].items()]

    def component_rows(self) -> list[dict[str, Any]]:
        """The rows of `scores`."""
        return [component_row(entry) for entry in self.data["components"]]


def method_row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A method's numbers with flat names, such as `exact_match_heads_rho`."""
    row: dict[str, Any] = {"method": name, "family": entry["family"], "estimates": entry["estimates"]}
    for effect, groups in entry["agreement"].items():
        for group, found in groups.items():
            row |= {f"{effect}_{group}_{key}": found[key] for key in ("rho", "tau_b", "top_k", "missed", "l1")}
        low, high = groups["all"]["ci"] or (None, None)
        row |= {f"{effect}_rho_low": low, f"{effect}_rho_high": high, f"{effect}_ceiling": groups["all"]["ceiling"]}
    return row | entry["cost"]


def component_row(entry: dict[str, Any]) -> dict[str, Any]:
    """A component's numbers with their intervals, by flat names."""
    row = {key: entry[key] for key in ("name", "layer", "kind")}
    found = {f"{metric}_drop": of for metric, of in entry["exact"].items()} | entry["scores"]
    for name, of in found.items():
        low, high = of.get("ci") or (None, None)  # there is none from a single sample
        row |= {name: of["value"], f"{name}_low": low, f"{name}_high": high}
    return row | {"reliability": entry["trust"]["reliability"]}


def find_attributions(where: str | Path) -> list[AttributionRecord]:
    """Every attribution record at or below a path, in the order of the file names; none is no error."""
    where = Path(where)
    inside = [where] if where.is_file() else sorted(where.rglob("*.json"))
    paths = [path for path in inside if path.resolve().parent.name == FOLDER and path.name != KNOWN]
    return [AttributionRecord.read(path) for path in paths]
