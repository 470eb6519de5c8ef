"""Attribution records: one JSON file per checkpoint, baseline and metric; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcgap.data.strict_text import check_numbers
from gcgap.records.atomic import write_whole
from gcgap.records.checksum import check_seal, encoded, read_json, sealed
from gcgap.records.schema import attribution_check, check_form

if TYPE_CHECKING:
    from pandas import DataFrame

SCHEMA = 1
KIND = "attribution"
KNOWN = "known.json"  # the record of known circuits, which may lie anywhere
FOLDER = "attribution"  # of a run, that holds its attribution records
AGAIN = "Measure it again with `gcgap attribute --force`."


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
        check_form(self.data, attribution_check(), name, "attribution record", AGAIN)
        if self.path is None:  # of a file `parsed` has looked at every number
            check_numbers(self.data, name)

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
            raise ValueError(f"`{path}` is not an attribution record: {error}. {AGAIN}") from error
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
        """Seal and write atomically; `compact` puts all on one line."""
        write_whole(Path(path), encoded(self.data, compact))
        return AttributionRecord(sealed(self.data), Path(path))

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
