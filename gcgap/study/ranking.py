"""What the runs of a group say of the claims about ranks, layers and identities.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gcgap.study.arrays import measured, with_roles
from gcgap.study.emergence import following
from gcgap.study.groups import Group
from gcgap.study.identity import stability
from gcgap.study.layers import layer_gap, layer_index_rho
from gcgap.study.seeds import Summary, difference, summary
from gcgap.study.tell import NAMES, Evidence, above, ends, plain, told, too_few

SURE = 0.05  # p-value below which chance is ruled out
MISSED = "5"  # how many of the causally largest components the share of missed ones counts
PUBLISHED_MISSED = 0.70


def collapse(group: Group) -> Evidence:
    """Is rho lower on sorting than on reversal?"""
    rho = {task: _rhos(group, task) for task in ("reverse", "sort")}
    if min(map(len, rho.values())) < 2:
        return too_few("runs of both tasks")
    gap = difference(rho["reverse"], rho["sort"])
    numbers = {NAMES[task]: summary(values) for task, values in rho.items()} | {"difference": gap}
    said = [f"ρ is {told(numbers[name])} on {name} ({numbers[name].n} seeds)" for name in ("reversal", "sorting")]
    return Evidence(above(gap, 0), f"{said[0]} and {said[1]}; the difference is {told(gap)}.", numbers)


def inversion(group: Group) -> Evidence:
    """Does any sorting seed rank its components inversely, beyond the noise of its own measurement?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    if not runs:
        return too_few("runs of sorting", 1)
    gaps = {run.seed: run.final["gap"][group.baselines[0]] for run in runs}
    negative = [seed for seed, gap in gaps.items() if gap["rho"] < 0]
    sure = [seed for seed, gap in gaps.items() if gap["ci"] is not None and gap["ci"][1] < 0]
    least = min(gaps, key=lambda seed: gaps[seed]["rho"])
    text = (
        f"The lowest ρ on sorting is {gaps[least]['rho']:.2f} (seed {least}); ρ is negative in {len(negative)} of {len(gaps)} "
        f"seeds, and in {len(sure)} its own interval excludes 0."
    )
    return Evidence(bool(sure), text, {"lowest rho": Summary(len(gaps), gaps[least]["rho"])})


def layers(group: Group) -> Evidence:
    """Do Bloats lie in earlier layers than Heroes, beyond chance, counting all components?"""
    return _layers(group, heads_only=False)


def layers_of_heads(group: Group) -> Evidence:
    """The same among heads, which is what the paper counts."""
    return _layers(group, heads_only=True)


def _layers(group: Group, heads_only: bool) -> Evidence:
    runs = _arrays(group, "sort")
    if len(runs) < 2:
        return too_few("runs of sorting")
    found = layer_gap(runs, np.random.default_rng(0), heads_only)
    kind = "heads" if heads_only else "components"
    if found.value is None or found.p_value is None:
        counts = {role: sum(int((one.roles()[role] & one.is_head).sum()) for one in runs) for role in ("hero", "bloat")}
        return Evidence(
            False, f"Among the heads of {len(runs)} seeds there are {counts['hero']} Heroes and {counts['bloat']} Bloats."
        )
    index = [rho for one in runs if (rho := layer_index_rho(one)) is not None]
    gap = Summary(len(runs), found.value, ci=found.ci)
    text = (
        f"On sorting the Heroes among {kind} lie {told(gap)} layers above the Bloats; random pairing of G and C would give "
        f"{found.by_chance:.2f} (p = {found.p_value:.2g}), and the layer's number in place of G {plain(found.by_layer_index)}. "
        f"The layer's number alone ranks C with ρ = {told(summary([one[0] for one in index]))}, and G with "
        f"{told(summary([one[1] for one in index]))}."
    )
    holds = found.ci is not None and found.ci[0] > 0 and found.p_value < SURE
    by_index = Summary(len(runs), found.by_layer_index)
    return Evidence(holds, text, {"layers": gap, "by chance": Summary(len(runs), found.by_chance), "by layer number": by_index})


def identities(group: Group) -> Evidence:
    """Do the same components take the same roles in every sorting seed, beyond chance?"""
    runs, said, numbers, sure = _arrays(group, "sort"), [], {}, []
    for role, label in (("hero", "Heroes"), ("bloat", "Bloats")):
        found = stability(runs, role, np.random.default_rng(0))
        if found is None:
            return too_few("runs of sorting")
        names = [name for name, count in found.counts.items() if count == found.most]
        said.append(
            f"{label}: two seeds share {found.agreement:.2f} of them, by chance {found.by_chance:.2f} (p = {found.p_value:.2g}); "
            f"the most frequent ({', '.join(names[:3])}) in {found.most} of {len(runs)} seeds (p = {found.most_p_value:.2g})"
        )
        numbers[label] = Summary(len(runs), found.agreement)
        numbers[f"{label} by chance"] = Summary(len(runs), found.by_chance)
        sure.append(found.p_value < SURE / 2)
    return Evidence(all(sure), f"{'. '.join(said)}.", numbers)


def heads_not_layers(group: Group) -> Evidence:
    """Do single heads keep their roles over sorting seeds, beyond what their layer says?"""
    runs = _arrays(group, "sort")
    found = {label: stability(runs, role, np.random.default_rng(0)) for role, label in (("hero", "Heroes"), ("bloat", "Bloats"))}
    each = {label: one.within_layer_p_value for label, one in found.items() if one is not None}
    if len(each) < 2:
        return too_few("runs of sorting")
    said = " and ".join(f"p = {value:.2g} for {label}" for label, value in each.items())
    text = f"When the heads of each layer exchange their labels, two seeds share as many members with {said} ({len(runs)} seeds)."
    return Evidence(min(each.values()) < SURE / 2, text)


def beyond_noise(group: Group) -> Evidence:
    """Is rho on sorting lower than the noise of measurement would let it be?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    gaps = [gap for run in runs if (gap := run.final["gap"][group.baselines[0]])["ceiling"] is not None]
    if len(gaps) < 2:
        return too_few("sorting runs with a noise ceiling")
    ceiling, short = summary([gap["ceiling"] for gap in gaps]), summary([gap["ceiling"] - gap["rho"] for gap in gaps])
    text = f"On sorting noise alone would allow ρ = {told(ceiling)}; ρ stays {told(short)} below that."
    return Evidence(above(short, 0), text, {"ceiling": ceiling, "ceiling minus rho": short})


def missed(group: Group) -> Evidence:
    """Does the gradient miss the causally largest components of sorting as often as published, and what would chance miss?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    found = [one[MISSED] for run in runs if MISSED in (one := run.final["gap"][group.baselines[0]]["missed"] or {})]
    if len(found) < 2:
        return too_few("runs of sorting")
    share, chance = summary(found), 1 - int(MISSED) / len(runs[0].final["components"])
    text = (
        f"Of the {MISSED} causally largest components of sorting {100 * (share.mean or 0):.0f} %{ends(share, 100, 0)} are not "
        f"among the {MISSED} largest gradients; a random ranking would miss {100 * chance:.0f} %."
    )
    holds = None if share.ci is None else share.ci[1] >= PUBLISHED_MISSED
    return Evidence(holds, text, {"missed": share, "by chance": Summary(share.n, chance)})


def shortcut(group: Group) -> Evidence:
    """Do early Bloats come and go with what the model can do in distribution but not beyond it?"""
    courses = [following(run, group.baselines[0]) for run in group.measured("sort")]
    found = {key: summary([value for one in courses if (value := getattr(one, key)) is not None]) for key in _COURSES}
    if found["shortcut"].n < 2:
        return too_few("tracked runs of sorting")
    said = [f"{text} {told(found[key])} ({found[key].n} seeds)" for key, text in _COURSES.items()]
    text = f"Over the checkpoints of sorting the rank correlation is {'; '.join(said)}."
    return Evidence(above(found["shortcut"], 0), text, {_COURSES[key]: value for key, value in found.items()})


_COURSES = {
    "shortcut": "of early Bloats with the lack of generalisation",
    "level": "of ρ with OOD accuracy",
    "change": "of their changes",
}


def _rhos(group: Group, task: str) -> list[float]:
    return [run.final["gap"][group.baselines[0]]["rho"] for run in with_roles(group.measured(task), group.baselines[0])]


def _arrays(group: Group, task: str) -> list[Any]:
    return [measured(run.final, group.baselines[0]) for run in with_roles(group.measured(task), group.baselines[0])]
