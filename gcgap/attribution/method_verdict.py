"""What the table of known circuits says in short: each method over all models and baselines, and one sentence by fixed rules.

Takes the plain values of `gcgap.attribution.truth`, or of the file made of them; imports no torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

KIND, SCHEMA = "known_truth", 1
LOWER_IS_WORSE = {"auc": True, "clear_auc": True, "cpr": True, "cmd": False, "cpr_exact_match": True, "cmd_exact_match": False}
ASKED = ("attribution_patching", "exact", "hvp")  # the methods of which the sentence says where they fail

Models = Mapping[str, Mapping[str, Any]]


def cells(models: Models, method: str) -> dict[tuple[str, str], dict[str, Any]]:
    """A method's numbers by model and baseline."""
    return {(name, baseline): found[method] for name, model in models.items() for baseline, found in model["baselines"].items()}


def summary(models: Models, method: str) -> dict[str, float]:
    """Mean and worst of a method's numbers over models and baselines, and its median cost."""
    found = list(cells(models, method).values())
    told: dict[str, float] = {}
    for key, lower in LOWER_IS_WORSE.items():
        values = [one[key] for one in found]
        told |= {f"mean_{key}": statistics.fmean(values), f"worst_{key}": min(values) if lower else max(values)}
    return told | {"forward_equivalents": statistics.median(one["cost"]["forward_equivalents"] for one in found)}


def failures(models: Models, method: str, key: str = "auc") -> dict[str, dict[str, float]]:
    """Areas below 1 by model and baseline: where a method does not put the circuit first.

    Args:
        models: The `models` of the table.
        method: Name of the method.
        key: `auc`, or `clear_auc` to count a lead by a hair as none.
    """
    found: dict[str, dict[str, float]] = {}
    for (name, baseline), numbers in cells(models, method).items():
        if numbers[key] < 1:
            found.setdefault(name, {})[baseline] = numbers[key]
    return found


def verdict(record: Mapping[str, Any]) -> str:
    """Which methods recover every circuit, by a clear lead or a hair, and where the usual methods fail."""
    models, methods = record["models"], record["methods"]
    clear = [name for name in methods if not failures(models, name, "clear_auc")]
    hair = [name for name in methods if name not in clear and not failures(models, name)]
    baselines = " and ".join(next(iter(models.values()))["baselines"])
    told = f"Of {len(methods)} methods on {len(models)} known circuits under {baselines} ablation, {_listed(clear)} "
    told += f"put{'s' * (len(clear) <= 1)} every circuit first by a clear lead (AUC 1)"
    told += f", {_listed(hair)} only by a hair." if hair else "."
    return " ".join([told, *(_where(models, name) for name in ASKED if name in methods)])


def _where(models: Models, method: str) -> str:
    """Where a method fails, and where only a lead by a hair keeps it from failing."""
    fails, clear = failures(models, method), failures(models, method, "clear_auc")
    hair = {name: {by: area for by, area in areas.items() if by not in fails.get(name, {})} for name, areas in clear.items()}
    parts = [
        f"{text} {_places(areas)}"
        for text, areas in (("fails on", fails), ("leads only by a hair on", hair))
        if any(areas.values())
    ]
    return f"{method} {' and '.join(parts) or 'fails nowhere'}."


def _places(areas: Mapping[str, Mapping[str, float]]) -> str:
    named = {name: ", ".join(f"{area:.2f} under {by}" for by, area in of.items()) for name, of in areas.items() if of}
    return _listed([f"{name} (AUC {told})" for name, told in named.items()])


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names) or "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"
