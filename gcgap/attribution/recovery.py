"""How well scores of components recover a known circuit, or at least one that works; and the verdict on a table of methods.

The area under the ROC curve needs the true circuit; CPR and CMD need only the metric M of the circuits made of the k
highest-scoring components. These two are those of MIB (Mueller et al. 2025, arXiv:2504.13151), which takes edges, at ten chosen
shares of them. Here they are over components, at every size. Runs no model; imports no torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata

KIND, SCHEMA = "known_truth", 1
LOWER_IS_WORSE = {"auc": True, "clear_auc": True, "cpr": True, "cmd": False, "cpr_exact_match": True, "cmd_exact_match": False}
USUAL_METHODS = ("attribution_patching", "exact", "hvp")  # of which the verdict says where they fail

Models = Mapping[str, Mapping[str, Any]]
"""The `models` of the table that `gcgap.attribution.truth` makes: plain values."""


def area_under_roc(scores: Float[ndarray, " component"], true: Bool[ndarray, " component"]) -> float:
    """AUC: the probability that a random component of the circuit scores above a random other one; a tie counts half.

    (sum of the ranks of the m true ones - m (m + 1) / 2) / (m (n - m)), the statistic of Mann and Whitney. 1 is perfect, 0.5 is
    chance. It sees the order only: a method that puts the circuit first by a hair gets 1.

    Raises:
        ValueError: Sizes that differ, a score that is NaN, or a circuit that holds nothing or everything.
    """
    if scores.shape != true.shape:
        raise ValueError(f"`true` must say of each of the {scores.size} scores whether it is true; got {true.size}.")
    if np.isnan(scores).any():
        raise ValueError(f"`scores` must be numbers; number {int(np.isnan(scores).argmax())} is NaN.")
    m, n = int(true.sum()), true.size
    if not 0 < m < n:
        raise ValueError(f"`true` must hold some components and leave out others; it holds {m} of {n}.")
    return float((rankdata(scores)[true].sum() - m * (m + 1) / 2) / (m * (n - m)))


def clear_area(scores: Float[ndarray, " component"], true: Bool[ndarray, " component"], hair: float) -> float:
    """Clear AUC: scores that differ by no more than `hair` tie, and so count half.

    It distinguishes a circuit that is found from one that happens to lie first among scores that are all next to nothing.
    """
    ahead = scores[true][:, None] - scores[~true]
    return float(np.mean((ahead > hair) + 0.5 * (np.abs(ahead) <= hair)))


def faithfulness(values: Float[ndarray, " size"]) -> Float[ndarray, " size"]:
    """f_k = (M(C_k) - M(empty)) / (M(full) - M(empty)): the share of the performance that a circuit of k components keeps.

    Above 1 the circuit does better than the model, below 0 worse than nothing at all.

    Args:
        values: M of the circuits C_0 .. C_n, where C_k is the k highest-scoring components and all others are ablated: first
            M(empty), everything ablated, and last M(full), the untouched model.

    Raises:
        ValueError: A value is not finite; or ablating everything changes nothing, so that there is no performance to keep.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"`values` must be finite; that of size {int(np.isfinite(values).argmin())} is not.")
    empty, full = values[0], values[-1]
    if full == empty:
        raise ValueError(f"`values` must differ between no component and all of them; both are {full:g}. Take another metric.")
    return (values - empty) / (full - empty)


def cpr(f: Float[ndarray, " size"]) -> float:
    """CPR, circuit performance ratio: the integral of f over the share k / n of kept components, by the trapezoid rule.

    Larger is better: components that help come early. One that hurts, kept late, raises it, even above 1. MIB integrates over the
    share of edges, at ten shares from 0.1 % to 100 %.
    """
    return float(np.trapezoid(f, dx=1 / (len(f) - 1)))


def cmd(f: Float[ndarray, " size"]) -> float:
    """CMD, circuit-model distance: the integral of |1 - f| likewise. 0 is best: a circuit of any size does what the model does.

    Components at every size cannot reach it, since f = 0 where nothing is kept: a circuit of one component, put first, leaves
    1 / (2 n).
    """
    return cpr(np.abs(1 - f))


def cells(models: Models, method: str) -> dict[tuple[str, str], dict[str, Any]]:
    """A method's numbers by model and baseline."""
    return {(name, baseline): found[method] for name, model in models.items() for baseline, found in model["baselines"].items()}


def summary(models: Models, method: str) -> dict[str, float]:
    """Mean and worst of a method's numbers over models and baselines, and its median cost."""
    found, entry = list(cells(models, method).values()), dict[str, float]()
    for key, lower in LOWER_IS_WORSE.items():
        values = [one[key] for one in found]
        entry |= {f"mean_{key}": statistics.fmean(values), f"worst_{key}": min(values) if lower else max(values)}
    return entry | {"forward_equivalents": statistics.median(one["cost"]["forward_equivalents"] for one in found)}


def failures(models: Models, method: str, key: str = "auc") -> dict[str, dict[str, float]]:
    """Areas below 1 by model and baseline: where a method does not put the circuit first.

    `key` is `auc`, or `clear_auc` to count a lead by a hair as none.
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
    text = f"Of {len(methods)} methods on {len(models)} known circuits under {baselines} ablation, {_listed(clear)} "
    text += f"put{'s' * (len(clear) <= 1)} every circuit first by a clear lead (AUC 1)"
    text += f", {_listed(hair)} only by a hair." if hair else "."
    return " ".join([text, *(_weaknesses(models, name) for name in USUAL_METHODS if name in methods)])


def _weaknesses(models: Models, method: str) -> str:
    """Where a method fails, and where only a lead by a hair keeps it from failing."""
    fails, clear = failures(models, method), failures(models, method, "clear_auc")
    hair = {name: {by: area for by, area in areas.items() if by not in fails.get(name, {})} for name, areas in clear.items()}
    parts = []
    for text, places in (("fails on", fails), ("leads only by a hair on", hair)):
        named = {name: ", ".join(f"{area:.2f} under {by}" for by, area in of.items()) for name, of in places.items() if of}
        parts += [f"{text} {_listed([f'{name} (AUC {areas})' for name, areas in named.items()])}"] if named else []
    return f"{method} {' and '.join(parts) or 'fails nowhere'}."


def _listed(names: list[str]) -> str:
    if len(names) < 2:
        return "".join(names) or "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"
