"""What the runs of a group say of the claims about removing components: pruning, redundancy, and the two kinds of Bloats.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gcgap.study.arrays import with_roles
from gcgap.study.bloats import OBSERVED, OVERFITTING, examples, predict
from gcgap.study.groups import Group, Run
from gcgap.study.seeds import Summary, ratio, summary
from gcgap.study.tell import NAMES, Evidence, above, below, points, told, too_few

SURE = 0.05  # p-value below which chance is ruled out
NEGLIGIBLE = 0.05  # exact-match drop below which the removal of a component counts as harmless


def superadditivity(group: Group) -> Evidence:
    """Does removing all Bloats of sorting together cost more than the sum of their single drops?"""
    found = _joint(group, "sort")
    if len(found) < 2:
        return too_few("sorting runs with two Bloats or more")
    whole, total, mean = ([one[key] for one in found] for key in ("joint", "individual_sum", "individual_mean"))
    to_sum, to_mean = (ratio(whole, below, np.random.default_rng(0)) for below in (total, mean))
    members = np.mean([len(one["members"]) for one in found])
    text = (
        f"Removed together the Bloats of sorting cost {100 * np.mean(whole):.1f} points, the sum of their single drops is "
        f"{100 * np.mean(total):.1f}: a ratio of {told(to_sum)} over {len(found)} seeds with two Bloats or more ({members:.1f} "
        f"on average). The paper's ratio, to the mean single drop, is {told(to_mean, 1)}, and would be {members:.1f} without any "
        "redundancy."
    )
    return Evidence(above(to_sum, 1), text, {"joint / sum": to_sum, "joint / mean": to_mean})


def heroes_destroy(group: Group) -> Evidence:
    """Does removing the top two Heroes of reversal cost more OOD accuracy than removing two random components?"""
    return _against_random(group, "heroes", "reverse", above)


def bloats_are_dispensable(group: Group) -> Evidence:
    """Does removing the top two Bloats of sorting cost less OOD accuracy than removing two random components?"""
    return _against_random(group, "bloats", "sort", below)


def _against_random(group: Group, label: str, task: str, rule: Callable[[Summary, float], bool | None]) -> Evidence:
    pairs = _top_two(group, task, label)
    if len(pairs) < 2:
        return too_few(f"{NAMES[task]} runs with two {label.capitalize()}")
    more = summary([top - random for top, random in pairs])
    text = (
        f"OOD accuracy lost on {NAMES[task]}, top two {label.capitalize()} minus two random components of the same run: "
        f"{points(more)} points ({more.n} seeds). Points lost: {'; '.join(_costs(group, one) for one in group.tasks)}."
    )
    return Evidence(rule(more, 0), text, {f"{label} minus random": more})


def _costs(group: Group, task: str) -> str:
    """What removing two of each class costs on one task."""
    means = {label: summary([top for top, _ in _top_two(group, task, label)]) for label in ("heroes", "bloats")}
    means["random components"] = summary([value for run in group.measured(task) if (value := _random(run, group)) is not None])
    told_each = [f"two {name} {points(mean)} ({mean.n} seeds)" for name, mean in means.items()]
    return f"on {NAMES.get(task, task)} to {', '.join(told_each)}"


def _top_two(group: Group, task: str, label: str) -> list[tuple[float, float]]:
    """OOD drops of a class's top two, each with that of random pairs in the same run, of runs whose class has two members."""
    found = []
    for run in group.measured(task):
        top, random = run.final["pruning"][group.baselines[0]][label]["top2"], _random(run, group)
        if len(top["members"]) == 2 and random is not None:
            found.append((top["ood_drop"]["value"], random))
    return found


def _random(run: Run, group: Group) -> float | None:
    """OOD drop of two random components of a run."""
    pairs = run.final["random_pairs"].get(group.baselines[0])
    return None if pairs is None else pairs["ood_drop"]["value"]


def negligible(group: Group) -> Evidence:
    """Is the single drop of a sorting Bloat negligible?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    drops = [one["individual_mean"] for run in runs if (one := run.final["joint"][group.baselines[0]]["bloats"])["members"]]
    if len(drops) < 2:
        return too_few("sorting runs with Bloats")
    found = summary(drops)
    text = f"Removed alone a Bloat of sorting costs {points(found)} points on average ({found.n} seeds)."
    return Evidence(below(found, NEGLIGIBLE), text, {"single drop": found})


def two_kinds(group: Group) -> Evidence:
    """Are some sets of Bloats overfitting circuits and some optimisation noise?"""
    runs = [run for task in group.tasks for run in with_roles(group.measured(task), group.baselines[0])]
    sets = [run.final["pruning"][group.baselines[0]]["bloats"]["all"] for run in runs]
    readings = [one["reading"] for one in sets if one["reading"] is not None]
    if len(readings) < 2:
        return too_few("runs with Bloats")
    drop = summary([one["in_distribution_drop"]["value"] for one in sets if one["reading"] is not None])
    fit, noise = readings.count("overfitting circuit"), readings.count("optimisation noise")
    text = (
        f"Removing all Bloats costs {points(drop)} points in distribution (std {100 * (drop.std or 0):.1f}): of {len(readings)} "
        f"sets {fit} cost more than {100 * OVERFITTING:.0f} points (overfitting circuits), {noise} do not (optimisation noise)."
    )
    return Evidence(min(fit, noise) >= 2, text, {"in-distribution drop": drop})


def foretold(group: Group) -> Evidence:
    """Can the kind of a Bloat not be told before it is pruned, on either task?"""
    said, numbers, told_apart = [], {}, []
    for task in group.tasks:
        known = examples(with_roles(group.measured(task), group.baselines[0]), group.baselines[0])
        found, watched = (predict(known, np.random.default_rng(0), columns) for columns in (None, OBSERVED))
        name = NAMES.get(task, task)
        if found.auc is None or watched.auc is None:
            said.append(f"on {name} nothing can be learned: {found.reason}")
            continue
        numbers[f"AUC, {name}"] = Summary(found.bloats, found.auc, ci=found.ci)
        numbers[f"AUC without ablation, {name}"] = Summary(watched.bloats, watched.auc, ci=watched.ci)
        said.append(
            f"on {name}, where {found.overfitting} of {found.bloats} single Bloats cost more than {100 * OVERFITTING:.0f} points "
            f"in distribution, a held-out one of these is ranked above another Bloat with probability "
            f"{told(numbers[f'AUC, {name}'])} (p = {found.p_value:.2g}), without the log-probability drop "
            f"{told(numbers[f'AUC without ablation, {name}'])}"
        )
        told_apart.append(found.ci is not None and found.ci[0] > 0.5 and (found.p_value or 1) < SURE)
    if not said:
        return too_few("runs with Bloats", 1)
    text = f"From what training records (guessing has probability 0.5): {'; '.join(said)}."
    return Evidence(not any(told_apart) if told_apart else None, text, numbers)


def _joint(group: Group, task: str) -> list[dict[str, Any]]:
    found = [run.final["joint"][group.baselines[0]]["bloats"] for run in with_roles(group.measured(task), group.baselines[0])]
    return [one for one in found if len(one["members"]) >= 2]
