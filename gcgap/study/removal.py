"""What the runs of a group say of the claims about removing components: pruning and redundancy.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcgap.study.arrays import measured, with_roles
from gcgap.study.evidence import NAMES, Evidence, above, below, every, points, told, too_few
from gcgap.study.groups import Group, Run
from gcgap.study.seeds import Summary, ratio, summary
from gcgap.study.selection import single_costs, single_costs_by_selection

NEGLIGIBLE = 0.05  # exact-match drop below which the removal of a component counts as harmless


def superadditivity(group: Group) -> Evidence:
    """Does removing all Bloats of sorting together cost more than the sum of their single drops?"""
    found = _joint(group, "sort")
    if len(found) < 2:
        return too_few("sorting runs with two Bloats or more")
    whole, total, mean = ([one[key] for one in found] for key in ("joint", "individual_sum", "individual_mean"))
    to_sum, to_mean, pairs = (
        _ratio(whole, total),
        _ratio(whole, mean),
        _pair_ratio(with_roles(group.measured("sort"), group.baselines[0]), group),
    )
    text = (
        f"Removed together the Bloats of sorting cost {100 * np.mean(whole):.1f} points, the sum of their single drops is "
        f"{100 * np.mean(total):.1f}: a ratio of {told(to_sum)} over {len(found)} seeds with two Bloats or more; of pairs of "
        f"random components it is {told(pairs)}. The paper's ratio, to the mean single drop, is {told(to_mean, 1)}, and would be "
        f"{np.sum(total) / np.sum(mean) if np.sum(mean) > 0 else np.nan:.1f} for drops that add up."
    )
    return Evidence(
        above(to_sum, 1), text, {"joint / sum": to_sum, "joint / mean": to_mean, "joint / sum of random pairs": pairs}
    )


def _ratio(above: Sequence[float], below: Sequence[float]) -> Summary:
    return ratio(above, below, np.random.default_rng(0))


def _pair_ratio(runs: Sequence[Run], group: Group) -> Summary:
    """Joint drop of random pairs over the sum of their single drops."""
    whole, total = [], []
    for run in runs:
        pairs = run.final["random_pairs"].get(group.baselines[0])
        if pairs and pairs["members"]:
            alone = dict(zip((one := measured(run.final, group.baselines[0])).names, one.C.tolist(), strict=True))
            whole.append(pairs["ood_drop"]["value"])
            total.append(float(np.mean([sum(alone[name] for name in pair) for pair in pairs["members"]])))
    return _ratio(whole, total)


def heroes_destroy(group: Group) -> Evidence:
    """Does removing the top two Heroes of reversal cost more than two Bloats, two random ones, and what selection explains?"""
    cost = {label: _top_two(group, "reverse", label) for label in ("heroes", "bloats")}
    random = _random(group, "reverse")
    selected = _beyond_selection(group, "reverse", "hero")
    more = {
        "two Bloats": _paired(cost["heroes"], cost["bloats"]),
        "two random components": _paired(cost["heroes"], random),
        "components chosen likewise by a shuffled gradient (summed single drops)": summary(selected),
    }
    if min(one.n for one in more.values()) < 2:
        return too_few("reversal runs with two Heroes and two Bloats")
    said = "; ".join(f"than {name} {points(one)}" for name, one in more.items())
    text = f"On reversal the top two Heroes cost, in points of OOD accuracy, more {said}. {_costs(group)}"
    return Evidence(
        every(*(above(one, 0) for one in more.values())), text, {f"Heroes minus {name}": one for name, one in more.items()}
    )


def bloats_are_dispensable(group: Group) -> Evidence:
    """Can the top two Bloats be removed at less than five points of OOD accuracy each, on both tasks?"""
    cost = {NAMES[task]: summary(list(_top_two(group, task, "bloats").values())) for task in ("sort", "reverse")}
    if min(one.n for one in cost.values()) < 2:
        return too_few("runs of both tasks with two Bloats")
    text = f"{_costs(group)} Bloats are chosen by a small C, so that any ranking would name cheap ones."
    return Evidence(
        every(*(below(one, 2 * NEGLIGIBLE) for one in cost.values())),
        text,
        {f"two Bloats, {name}": one for name, one in cost.items()},
    )


def _costs(group: Group) -> str:
    """What removing two of each class costs, task by task."""
    said = []
    for task in group.tasks:
        means = {label: summary(list(_top_two(group, task, label).values())) for label in ("heroes", "bloats")}
        base = summary([run.final["accuracy"]["by_length"][str(run.final["length"])] for run in group.measured(task)])
        each = [f"two {label.capitalize()} {points(mean)} ({mean.n} seeds)" for label, mean in means.items()]
        each.append(f"two random components {points(summary(list(_random(group, task).values())))}")
        said.append(f"On {NAMES.get(task, task)}, of {100 * (base.mean or 0):.1f} points, are lost to {', '.join(each)}.")
    return " ".join(said)


def _top_two(group: Group, task: str, label: str) -> dict[int, float]:
    """OOD drop of a class's top two, by seed, of runs whose class has two members."""
    found = {run.seed: run.final["pruning"][group.baselines[0]][label]["top2"] for run in group.measured(task)}
    return {seed: one["ood_drop"]["value"] for seed, one in found.items() if len(one["members"]) == 2}


def _random(group: Group, task: str) -> dict[int, float]:
    """OOD drop of two random components, by seed."""
    found = {run.seed: run.final["random_pairs"].get(group.baselines[0]) for run in group.measured(task)}
    return {seed: one["ood_drop"]["value"] for seed, one in found.items() if one is not None}


def _paired(first: dict[int, float], second: dict[int, float]) -> Summary:
    """Mean difference over the seeds that have both."""
    return summary([first[seed] - second[seed] for seed in first.keys() & second.keys()])


def _beyond_selection(group: Group, task: str, role: str) -> list[float]:
    """Summed single drops of a role's top two minus what selection by a shuffled gradient gives, for each seed."""
    rng, found = np.random.default_rng(0), []
    for run in with_roles(group.measured(task), group.baselines[0]):
        one = measured(run.final, group.baselines[0])
        real, chance = single_costs(one, role), single_costs_by_selection(one, role, rng)
        found += [real - chance] if real is not None and chance is not None else []
    return found


def negligible(group: Group) -> Evidence:
    """Is the single drop of a sorting Bloat negligible?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    drops = [one["individual_mean"] for run in runs if (one := run.final["joint"][group.baselines[0]]["bloats"])["members"]]
    if len(drops) < 2:
        return too_few("sorting runs with Bloats")
    found = summary(drops)
    text = f"Removed alone a Bloat of sorting costs {points(found)} points on average ({found.n} seeds)."
    return Evidence(below(found, NEGLIGIBLE), text, {"single drop": found})


def _joint(group: Group, task: str) -> list[dict[str, Any]]:
    found = [run.final["joint"][group.baselines[0]]["bloats"] for run in with_roles(group.measured(task), group.baselines[0])]
    return [one for one in found if len(one["members"]) >= 2]
