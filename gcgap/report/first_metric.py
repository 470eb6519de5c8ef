"""The metric by which a record of a measurement is shown first: for prompts the logit difference, else exact match."""

from __future__ import annotations

from typing import Any

from gcgap.records.record import Record

OF_PROMPTS = "logit_difference"


def first_metric(record: Record) -> tuple[Record, str]:
    """The record with gap, rank differences and roles by the metric that is shown first in place of exact match, and its name.

    Records of prompts from before there were logit differences are shown by exact match, as all others are.
    """
    if "prompts" not in record.data or any(OF_PROMPTS not in gap["by_metric"] for gap in record["gap"].values()):
        return record, "exact_match"
    components = [one | {key: _by_baseline(one[key]) for key in ("delta", "role")} for one in record["components"]]
    return Record(record.to_dict() | {"components": components, "gap": _by_baseline(record["gap"])}), OF_PROMPTS


def _by_baseline(entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Entries with those by the first metric outside, and those by exact match among the others."""
    found = {}
    for baseline, entry in entries.items():
        others = dict(entry["by_metric"])
        first = others.pop(OF_PROMPTS)
        exact = {key: value for key, value in entry.items() if key != "by_metric"}
        found[baseline] = first | {"by_metric": {"exact_match": exact} | others}
    return found
