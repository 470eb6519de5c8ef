"""Attribution records: one JSON file per checkpoint, baseline and metric; read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from gcgap.records.record_file import RecordFile

if TYPE_CHECKING:
    from pandas import DataFrame

KIND = "attribution"
KNOWN = "known.json"  # the record of known circuits, which may lie anywhere
TEXTS = ("method", "family", "estimates")  # of a method's row; all else are numbers
FOLDER = "attribution"  # of a run, that holds its attribution records


@dataclass(frozen=True, repr=False)
class AttributionRecord(RecordFile):
    """Every method beside the exact effects, for one checkpoint."""

    form: ClassVar[str] = "attribution"
    label: ClassVar[str] = "an attribution record"
    remedy: ClassVar[str] = "Measure it again with `gcgap attribute --force`."

    def _check_form(self, name: str) -> None:
        if (kind := self.data.get("kind")) != KIND:
            raise ValueError(f"`{name}` is not an attribution record: its `kind` is {kind!r}. Run `gcgap attribute`.")
        super()._check_form(name)

    def __repr__(self) -> str:
        return self._describe("methods")

    def table(self) -> DataFrame:
        """One row per method: agreement with the exact effects, cost."""
        import pandas as pd

        return pd.DataFrame(self.method_rows())

    def scores(self) -> DataFrame:
        """One row per component: its exact effects, and its score by every method."""
        import pandas as pd

        return pd.DataFrame([_component_row(entry) for entry in self.data["components"]])

    def method_rows(self) -> list[dict[str, Any]]:
        """The rows of `table`."""
        return [_method_row(name, entry) for name, entry in self.data["methods"].items()]


def _method_row(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A method's numbers with flat names, such as `exact_match_heads_rho`."""
    row: dict[str, Any] = {"method": name, "family": entry["family"], "estimates": entry["estimates"]}
    for effect, groups in entry["agreement"].items():
        for group, found in groups.items():
            row |= {f"{effect}_{group}_{key}": found[key] for key in ("rho", "tau_b", "top_k", "missed", "l1")}
        low, high = groups["all"]["ci"] or (None, None)
        row |= {f"{effect}_rho_low": low, f"{effect}_rho_high": high, f"{effect}_ceiling": groups["all"]["ceiling"]}
    return row | entry["cost"]


def _component_row(entry: dict[str, Any]) -> dict[str, Any]:
    """A component's numbers with their intervals, by flat names."""
    row = {key: entry[key] for key in ("name", "layer", "kind")}
    found = {f"{metric}_drop": of for metric, of in entry["exact"].items()} | entry["scores"]
    for name, of in found.items():
        low, high = of.get("ci") or (None, None)  # there is none from a single sample
        row |= {name: of["value"], f"{name}_low": low, f"{name}_high": high}
    return row | {"reliability": entry.get("trust", {}).get("reliability")}


def find_attributions(where: str | Path) -> list[AttributionRecord]:
    """Every attribution record at or below a path, in the order of the file names; none is no error."""
    where = Path(where)
    inside = [where] if where.is_file() else sorted(where.rglob("*.json"))
    paths = [path for path in inside if path.resolve().parent.name == FOLDER and path.name != KNOWN]
    return [AttributionRecord.read(path) for path in paths]
