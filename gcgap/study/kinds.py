"""What the runs of a group say of the two kinds of Bloats: optimisation noise and overfitting circuits.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

import numpy as np

from gcgap.study.arrays import with_roles
from gcgap.study.bloats import OBSERVED, OVERFITTING, Prediction, examples, predict
from gcgap.study.evidence import NAMES, Evidence, points, told, too_few
from gcgap.study.groups import Group
from gcgap.study.seeds import Summary, summary

SURE = 0.05  # p-value below which chance is ruled out, over both tasks together
FEW = 5  # Bloats of each kind below which a prediction decides nothing
WEAK = 0.7  # area under the ROC curve up to which a prediction is as good as none


def two_kinds(group: Group) -> Evidence:
    """Are some sets of sorting Bloats surely overfitting circuits and some surely optimisation noise?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    sets = [run.final["pruning"][group.baselines[0]]["bloats"]["all"]["in_distribution_drop"] for run in runs]
    drops = [one for one in sets if one["value"] is not None]
    if len(drops) < 4:
        return too_few("sorting runs with Bloats", 4)
    fit, noise = sum(one["ci"][0] > OVERFITTING for one in drops), sum(one["ci"][1] <= OVERFITTING for one in drops)
    drop = summary([one["value"] for one in drops])
    text = (
        f"Removing all Bloats of sorting costs {points(drop)} points in distribution (std {100 * (drop.std or 0):.1f}): of "
        f"{len(drops)} sets {fit} surely cost more than {100 * OVERFITTING:.0f} points (overfitting circuits), {noise} surely do "
        f"not (optimisation noise), and of {len(drops) - fit - noise} the interval holds {100 * OVERFITTING:.0f}."
    )
    return Evidence(True if min(fit, noise) >= 2 else False if len(drops) - max(fit, noise) < 2 else None, text, {"drop": drop})


def foretold(group: Group) -> Evidence:
    """Can the kind of a single Bloat not be told from what is seen before anything is ablated, on either task?"""
    said, numbers, holds = [], {}, []
    for task in group.tasks:
        known = examples(with_roles(group.measured(task), group.baselines[0]), group.baselines[0])
        watched = predict(known, np.random.default_rng(0), OBSERVED)
        every = predict(known, np.random.default_rng(0), shuffles=0)
        name, holds = NAMES.get(task, task), [*holds, _untold(watched)]
        if watched.auc is None or every.auc is None:
            said.append(f"on {name} there is nothing to learn: {watched.reason}")
            continue
        seeds = len({one.seed for one in known})
        numbers[f"AUC, {name}"] = Summary(seeds, watched.auc, ci=watched.ci)
        numbers[f"AUC with log-probability drop, {name}"] = Summary(seeds, every.auc, ci=every.ci)
        said.append(
            f"on {name}, where {watched.overfitting} of {watched.bloats} single Bloats cost more than {100 * OVERFITTING:.0f} "
            f"points in distribution, one of these is ranked above another Bloat with probability "
            f"{told(numbers[f'AUC, {name}'])} (p = {watched.p_value:.3f}); knowing the log-probability drop, itself an ablation, "
            f"with {told(numbers[f'AUC with log-probability drop, {name}'])}"
        )
    seen = "G's course, activation norm, attention entropy and being an MLP"
    text = f"Of seeds left out, from {seen} (guessing: 0.5): {'; '.join(said)}."
    return Evidence(False if False in holds else True if True in holds and None not in holds else None, text, numbers)


def _untold(found: Prediction) -> bool | None:
    """Whether a prediction shows that the kinds cannot be told: False if it tells them, None if it decides nothing."""
    if found.ci is None or min(found.overfitting, found.bloats - found.overfitting) < FEW:
        return None
    if found.ci[0] > 0.5 and (found.p_value or 1) < SURE / 2:
        return False
    return True if found.ci[1] < WEAK else None
