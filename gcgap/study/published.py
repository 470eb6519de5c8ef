"""The figures published for arXiv:2602.01442, as the data file beside this module holds them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from gcgap.study.groups import MODEL, Group
from gcgap.study.seeds import Summary


@cache
def published() -> dict[str, Any]:
    """The whole data file: `v3`, `v1` and `page`, in percent of sequences where it speaks of accuracies and drops."""
    return json.loads(files("gcgap.study").joinpath("published.json").read_text(encoding="utf-8"))


def figure(group: Group, *keys: str) -> Any:
    """One published figure by its place in the data file, such as "v3", "rho", "sort"; None where nothing was published.

    Nothing was published for models of another size, so these have no figure to stand beside.
    """
    if any(group.settings.get(key) != MODEL[key] for key in ("n_layers", "n_heads")):
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
    skipped = published()[version].get("skipped", {})
    seeds = len(published()["v3"]["seeds"]) - sum(len(skipped.get(key, ())) for key in keys)
    return Summary(seeds, scale * found["mean"], abs(scale) * found["std"])
