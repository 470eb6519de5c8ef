"""The figures published for arXiv:2602.01442, as the data file beside this module holds them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from gcgap.study.groups import RELEASED, Group, default_settings
from gcgap.study.seeds import Summary

TASKS = ("reverse", "sort")


@cache
def published() -> dict[str, Any]:
    """The whole data file: `v3`, `v1` and `page`, in percent of sequences where it speaks of accuracies and drops."""
    return json.loads(files("gcgap.study").joinpath("published.json").read_text(encoding="utf-8"))


def is_papers(group: Group) -> bool:
    """Whether runs are those of the paper: its tasks, model, training and window, measured as its text or its code does."""
    same = {key: value for key, value in published()["v3"]["configuration"].items() if key != "vocabulary"}
    either = {key: (default_settings()[key], value) for key, value in RELEASED.items() if key in ("layout", "site")}
    either |= {"positions": ("none", "learned"), "length": (None,), "name": (None,)}
    return (
        any(task in TASKS for task in group.tasks)
        and all(group.settings.get(key) == value for key, value in same.items())
        and all(group.settings.get(key) in values for key, values in either.items())
    )


def of_paper(group: Group, text: str, task: str | None = None) -> str:
    """A text that speaks of the paper, such as the number of a figure in it; nothing where runs or task are not the paper's."""
    return text if is_papers(group) and (task is None or task in TASKS) else ""


def seeds(version: str, task: str) -> int:
    """Over how many seeds a sum of a task was published."""
    return len(published()["v3"]["seeds"]) - len(published()[version].get("skipped", {}).get(task, ()))


def figure(group: Group, *keys: str) -> Any:
    """One published figure by its place in the data file, such as "v3", "rho", "sort"; None where nothing was published.

    Nothing was published for runs that are not the paper's, so these have no figure to stand beside.
    """
    if not is_papers(group):
        return None
    found: Any = published()
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def spread(group: Group, version: str, *keys: str, scale: float = 1) -> Summary | None:
    """A published mean and standard deviation over seeds, times `scale`."""
    found = figure(group, version, *keys)
    if found is None:
        return None
    task = next((key for key in keys if key in TASKS), "")
    return Summary(seeds(version, task), scale * found["mean"], abs(scale) * found["std"])
