"""What the runs of a group say of the claims about ranks, layers and identities.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

import numpy as np

from gcgap.study.arrays import Measured, measured, with_roles
from gcgap.study.evidence import NAMES, Evidence, above, ends, every, plain, told, too_few
from gcgap.study.groups import Group, Run
from gcgap.study.identity import stability
from gcgap.study.layers import layer_gap, layer_index_rho
from gcgap.study.over_training import following
from gcgap.study.seeds import FEW, Summary, difference, summary

SURE = 0.05  # p-value below which chance is ruled out
MISSED = "5"  # how many of the causally largest components the share of missed ones counts
ROLES = {"hero": "Heroes", "bloat": "Bloats"}
PUBLISHED = {"hero": ("L3_H3",), "bloat": ("L1_H1", "L1_H3")}
"""Heads that the paper names for keeping a role over seeds."""


def collapse(group: Group) -> Evidence:
    """Is rho lower on sorting than on reversal?"""
    rho = {task: _rhos(group, task) for task in ("reverse", "sort")}
    if min(map(len, rho.values())) < 2:
        return too_few("runs of both tasks")
    gap = difference(rho["reverse"], rho["sort"])
    numbers = {NAMES[task]: summary(values) for task, values in rho.items()} | {"difference": gap}
    said = [f"ρ is {told(numbers[name])} on {name} ({numbers[name].n} seeds)" for name in ("reversal", "sorting")]
    return Evidence(above(gap, 0), f"{said[0]} and {said[1]}; the difference is {told(gap)}.", numbers)


def added_collapse(default: Group, other: Group) -> Evidence:
    """Is the collapse larger when the same weights are measured otherwise?"""
    by_task = []
    for task in ("reverse", "sort"):
        first, second = (
            {run.final["checkpoint_sha256"]: rho for run, rho in _with_rho(group, task)} for group in (default, other)
        )
        by_task.append([second[weights] - first[weights] for weights in first.keys() & second.keys() if weights is not None])
    if min(map(len, by_task)) < 2:
        return too_few("runs of both tasks whose weights were measured in both ways")
    each, added = [summary(values) for values in by_task], difference(*by_task)
    text = (
        f"On the same weights the other measurement changes ρ by {told(each[0])} on reversal and {told(each[1])} on sorting, and "
        f"so the difference between them by {told(added)} ({added.n} seeds)."
    )
    return Evidence(above(added, 0), text, {"added to the difference": added, "on reversal": each[0], "on sorting": each[1]})


def inversion(group: Group) -> Evidence:
    """Does any sorting seed rank its components inversely, beyond random pairing and the number of seeds tried?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    if len(runs) < 2:
        return too_few("runs of sorting")
    gaps = {run.seed: run.final["gap"][group.baselines[0]] for run in runs}
    negative = [seed for seed, gap in gaps.items() if gap["rho"] < 0]
    sure = [seed for seed in negative if gaps[seed]["p_value"] < SURE / len(runs)]
    least = min(gaps, key=lambda seed: gaps[seed]["rho"])
    text = (
        f"The lowest ρ on sorting is {gaps[least]['rho']:.2f} (seed {least}, p = {gaps[least]['p_value']:.2g}); ρ is negative in "
        f"{len(negative)} of {len(gaps)} seeds, and in {len(sure)} beyond random pairing."
    )
    holds = True if sure else None if negative or len(runs) < FEW else False
    return Evidence(holds, text, {"lowest rho": Summary(len(gaps), gaps[least]["rho"])})


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
    members = " and ".join(f"{_members(runs, role, heads_only)} {label}" for role, label in ROLES.items())
    among = f"Among the {kind} of {len(runs)} sorting seeds there are {members}"
    if found.value is None or found.by_chance is None or found.p_value is None:
        return Evidence(None, f"{among}: no layers to compare.")
    index = [rho for one in runs if (rho := layer_index_rho(one)) is not None]
    gap, beyond = Summary(len(runs), found.value, ci=found.ci), Summary(len(runs), None, ci=found.beyond_index)
    text = (
        f"{among}; the Heroes lie {told(gap)} layers above the Bloats. Random pairing of G and C would give "
        f"{found.by_chance:.2f} (p = {found.p_value:.2g}), the layer's number in place of G {plain(found.by_layer_index)} "
        f"(difference{ends(beyond, 1, 2) or ' unknown'}). The layer's number alone ranks C with "
        f"ρ = {told(summary([one[0] for one in index]))}, and G with {told(summary([one[1] for one in index]))}."
    )
    holds = every(above(gap, 0), True if found.p_value < SURE else False if above(gap, found.by_chance) is False else None)
    by_index = Summary(len(runs), found.by_layer_index)
    return Evidence(holds, text, {"layers": gap, "by chance": Summary(len(runs), found.by_chance), "by layer number": by_index})


def _members(runs: list[Measured], role: str, heads_only: bool) -> int:
    return sum(int((one.roles()[role] & (one.is_head if heads_only else True)).sum()) for one in runs)


def identities(group: Group) -> Evidence:
    """Do the same components take the same roles in every sorting seed, beyond chance?"""
    runs, said, numbers, sure = _arrays(group, "sort"), [], {}, []
    for role, label in ROLES.items():
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
        sure.append(_beyond_chance(found.p_value, len(runs)))
        heads = [f"{name} in {found.counts[name]}" for name in PUBLISHED[role] if name in found.counts]
        said.extend([f"Published {label}: {', '.join(heads)}"] * bool(heads))
    return Evidence(every(*sure), f"{'. '.join(said)}.", numbers)


def heads_not_layers(group: Group) -> Evidence:
    """Do single heads keep their roles over sorting seeds, beyond what their layer says?"""
    runs = _arrays(group, "sort")
    found = {label: stability(runs, role, np.random.default_rng(0)) for role, label in ROLES.items()}
    each = {label: one.within_layer_p_value for label, one in found.items() if one is not None}
    if len(each) < 2:
        return too_few("runs of sorting")
    said = " and ".join(f"p = {value:.2g} for {label}" for label, value in each.items())
    text = f"When the heads of each layer exchange their labels, two seeds share as many members with {said} ({len(runs)} seeds)."
    found_beyond = [_beyond_chance(value, len(runs)) for value in each.values()]
    return Evidence(True if True in found_beyond else None if None in found_beyond else False, text)


def _beyond_chance(p_value: float, runs: int) -> bool | None:
    """Whether agreement is beyond chance: True if it surely is; False if chance gives as much mostly, in enough runs."""
    return True if p_value < SURE / 2 else False if p_value >= 0.5 and runs >= FEW else None


def beyond_noise(group: Group) -> Evidence:
    """Is rho on sorting lower than the noise of measurement would let it be?"""
    runs = with_roles(group.measured("sort"), group.baselines[0])
    gaps = {run.seed: run.final["gap"][group.baselines[0]] for run in runs}
    if len(gaps) < 2:
        return too_few("runs of sorting")
    noise = {seed: gap["ceiling"] or 0.0 for seed, gap in gaps.items()}  # none: repeated halves do not agree at all
    ceiling, short = summary(list(noise.values())), summary([noise[seed] - gap["rho"] for seed, gap in gaps.items()])
    text = f"On sorting noise alone would allow ρ = {told(ceiling)}; ρ stays {told(short)} below that ({short.n} seeds)."
    if none := [str(seed) for seed, gap in gaps.items() if gap["ceiling"] is None]:
        text += f" Seeds {', '.join(none)} have no ceiling, counted as 0: their halves do not agree."
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
    return Evidence(above(share, 0.5), text, {"missed": share, "by chance": Summary(share.n, chance)})


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


def _with_rho(group: Group, task: str) -> list[tuple[Run, float]]:
    runs = with_roles(group.measured(task), group.baselines[0])
    return [(run, run.final["gap"][group.baselines[0]]["rho"]) for run in runs]


def _rhos(group: Group, task: str) -> list[float]:
    return [rho for _, rho in _with_rho(group, task)]


def _arrays(group: Group, task: str) -> list[Measured]:
    return [measured(run.final, group.baselines[0]) for run in with_roles(group.measured(task), group.baselines[0])]
