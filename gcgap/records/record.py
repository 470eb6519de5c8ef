"""Records: one JSON file per measured checkpoint. Reading one needs neither torch nor Lightning, so that reports start fast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from gcgap.records.record_file import RecordFile

if TYPE_CHECKING:
    from pandas import DataFrame

METRICS = ("exact_match", "log_prob", "token_accuracy")  # of every record; others may stand beside them
NO_INTERVAL = (None, None)


@dataclass(frozen=True, repr=False)
class Record(RecordFile):
    """One measurement of one checkpoint."""

    form: ClassVar[str] = "measurement"
    label: ClassVar[str] = "a record"
    remedy: ClassVar[str] = "Measure its checkpoint again with `--force`."

    def _check_form(self, name: str) -> None:
        super()._check_form(name)
        baselines = self.data["gap"].keys()
        for number, component in enumerate(self.data["components"]):
            for key in ("causal", "delta", "role"):
                if not baselines <= component[key].keys():
                    self._refuse_missing(name, f"components.{number}.{key}.{min(baselines - component[key].keys())}")
        length = self.data["length"]
        if length is not None and str(length) not in self.data["accuracy"]["by_length"]:
            raise ValueError(f"`{name}`: `accuracy.by_length` must have `length`, {length}. {self.remedy}")

    def __repr__(self) -> str:
        return self._describe("components")

    @property
    def baselines(self) -> list[str]:
        """The ablation baselines of this record, in the order of the protocol."""
        return list(self.data["gap"])

    @property
    def skipped(self) -> str | None:
        """Why nothing was measured, or None: no OOD length had an accuracy inside the window."""
        return self.data.get("skipped")

    @property
    def attribution(self) -> dict[str, Any]:
        """The attribution methods that were run beside G and C, by name; empty if none was."""
        return self.data.get("attribution", {}).get("methods", {})

    def roles(self, baseline: str) -> dict[str, list[str]]:
        """Names of the components of each role."""
        found: dict[str, list[str]] = {"hero": [], "bloat": [], "aligned": []}
        for component in self.data["components"]:
            if (name := component["role"][baseline]["name"]) is not None:
                found[name].append(component["name"])
        return found

    def table(self) -> DataFrame:
        """One row per component: G, then drops, rank difference, role and its probability for every baseline."""
        import pandas as pd

        columns = {"name" if key == "component" else key: values for key, values in self.component_columns()}
        for baseline in self.baselines:
            columns |= {f"{baseline}_{key}": values for key, values in self.baseline_columns(baseline)}
        return pd.DataFrame(columns)

    def component_columns(self) -> Iterator[tuple[str, Any]]:
        """Columns of the components that all baselines share: lists of texts, arrays of numbers."""
        components = self.data["components"]
        yield "component", [component["name"] for component in components]
        yield "layer", np.array([component["layer"] for component in components], int)
        yield "kind", [component["kind"] for component in components]
        yield from _with_ends("gradient", [component["gradient"] for component in components])

    def baseline_columns(self, baseline: str) -> Iterator[tuple[str, Any]]:
        """Columns of the components under a baseline."""
        components = self.data["components"]
        causal, delta, role = ([component[key][baseline] for component in components] for key in ("causal", "delta", "role"))
        others = [key for key in (causal[0] if causal else ()) if all(_is_estimate(one.get(key)) for one in causal)]
        for metric in dict.fromkeys((*METRICS, *others)):
            yield from _with_ends(f"{metric}_drop", [one[metric] for one in causal])
        yield from _with_ends("delta", delta)
        yield "role", [one["name"] for one in role]
        yield "role_probability", np.array([one["probability"] for one in role], float)


def _is_estimate(entry: Any) -> bool:
    """Whether an entry is a value with its interval, and not a key of a later version, which is kept as it is."""
    return isinstance(entry, dict) and {"value", "ci"} <= entry.keys()


def _with_ends(name: str, entries: list[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """A column of values, and those of the ends of their intervals; NaN where there is none."""
    ends = [entry["ci"] or NO_INTERVAL for entry in entries]
    yield name, np.array([entry["value"] for entry in entries], float)
    yield f"{name}_low", np.array([low for low, _ in ends], float)
    yield f"{name}_high", np.array([high for _, high in ends], float)
