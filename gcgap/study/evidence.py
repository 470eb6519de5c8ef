"""What the runs of a group say of each claim, but those on the two kinds of Bloats.

One function a claim, all under the group's first ablation baseline; the sentences are made from the numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gcgap.study.emergence import following
from gcgap.study.groups import Group, MeasuredRun
from gcgap.study.roles import (
    ComponentArrays,
    component_arrays,
    layer_gap,
    layer_index_rho,
    stability,
    top_two_cost,
    top_two_cost_by_selection,
)
from gcgap.study.seeds import CORRELATION, DROP, FEW, SHARE, Summary, difference, ratio, summary

NAMES = {"reverse": "reversal", "sort": "sorting"}
ROLES = {"hero": "Heroes", "bloat": "Bloats"}
SURE = 0.05  # p-value below which chance is ruled out
MISSED = "5"  # how many of the causally largest components the share of missed ones counts
NEGLIGIBLE = 0.05  # exact-match drop below which the removal of a component counts as harmless
MATCHED_BY = "looks"  # attention alone, which knows nothing of G and C, and so of roles
PUBLISHED = {"hero": ("L3_H3",), "bloat": ("L1_H1", "L1_H3")}
"""Heads that the paper names for keeping a role over seeds."""


@dataclass(frozen=True)
class Evidence:
    """What one group of runs says of one claim.

    Args:
        holds: Whether the claim's rule is met; None where the runs are inconclusive.
        text: The numbers as a sentence.
        numbers: The numbers by name, for tables.
        p: The p-value of the test that the rule makes, small where the claim holds; None where it makes none, or runs
            are too few.
    """

    holds: bool | None
    text: str
    numbers: dict[str, Summary] = field(default_factory=dict)
    p: float | None = None


def every(*parts: bool | None) -> bool | None:
    """Whether all parts of a rule are met: False if one is refuted, None if one is inconclusive."""
    return False if False in parts else None if None in parts else True


def together(*parts: float | None) -> float | None:
    """The p-value of a rule that needs all parts: the largest; None if one is missing."""
    return None if None in parts else max(part for part in parts if part is not None)


def too_few(what: str, least: int = 2) -> Evidence:
    """Evidence that is inconclusive because there are too few runs."""
    return Evidence(None, f"There are fewer than {least} {what}.")


def collapse(group: Group) -> Evidence:
    """Is rho lower on sorting than on reversal?"""
    rho = {task: [gap["rho"] for gap in _gaps(group, task).values()] for task in NAMES}
    if min(map(len, rho.values())) < 2:
        return too_few("runs of both tasks")
    gap = difference(rho["reverse"], rho["sort"])
    numbers = {NAMES[task]: summary(values, CORRELATION) for task, values in rho.items()}
    said = " and ".join(f"ρ is {number.text()} on {name} ({number.n} seeds)" for name, number in numbers.items())
    return Evidence(gap.above(0), f"{said}; the difference is {gap.text()}.", numbers | {"difference": gap}, gap.p_above(0))


def added_collapse(default: Group, other: Group) -> Evidence:
    """Is the collapse larger when the same weights are measured otherwise?"""
    by_task = [_added(default, other, task, lambda gap: gap["rho"]) for task in NAMES]
    if min(map(len, by_task)) < 2:
        return too_few("runs of both tasks whose weights were measured in both ways")
    reverse, sort = (summary(values) for values in by_task)
    added = difference(*by_task)
    text = (
        f"On the same weights the other measurement changes ρ by {reverse.text()} on reversal and {sort.text()} on sorting, and "
        f"so the difference between them by {added.text()} ({added.n} seeds)."
    )
    numbers = {"added to the difference": added, "on reversal": reverse, "on sorting": sort}
    return Evidence(added.above(0), text, numbers, added.p_above(0))


def added_to_collapse(default: Group, other: Group) -> Summary:
    """What the other measurement adds to the difference of the mean rho, reversal minus sorting, on the same weights."""
    return difference(*(_added(default, other, task, lambda gap: gap["rho"]) for task in NAMES))


def added_to_shortfall(default: Group, other: Group) -> Summary:
    """What it adds to the noise ceiling minus rho of sorting."""
    return summary(_added(default, other, "sort", lambda gap: (gap["ceiling"] or 0.0) - gap["rho"]))


def added_to_missed(default: Group, other: Group) -> Summary:
    """What it adds to the share of missed components of sorting."""
    return summary(_added(default, other, "sort", lambda gap: gap["missed"][MISSED]))


def _added(default: Group, other: Group, task: str, number: Callable[[dict[str, Any]], float]) -> list[float]:
    """The number of the other measurement minus that of the default, of runs of a task with the same weights."""

    def by_weights(group: Group) -> dict[str | None, float]:
        return {run.final["checkpoint_sha256"]: number(run.final["gap"][group.baselines[0]]) for run in group.ranked(task)}

    first, second = by_weights(default), by_weights(other)
    return [second[weights] - first[weights] for weights in first if weights is not None and weights in second]


def inversion(group: Group) -> Evidence:
    """Does any sorting seed rank its components inversely, beyond random pairing and the number of seeds tried?"""
    gaps = _gaps(group, "sort")
    if len(gaps) < 2:
        return too_few("runs of sorting")
    negative = [seed for seed, gap in gaps.items() if gap["rho"] < 0]
    sure = [seed for seed in negative if gaps[seed]["p_value"] < SURE / len(gaps)]
    least = min(gaps, key=lambda seed: gaps[seed]["rho"])
    text = (
        f"The lowest ρ on sorting is {gaps[least]['rho']:.2f} (seed {least}, p = {gaps[least]['p_value']:.2g}); ρ is negative in "
        f"{len(negative)} of {len(gaps)} seeds, and in {len(sure)} beyond random pairing."
    )
    holds = True if sure else None if negative or len(gaps) < FEW else False
    p = min((1.0, *(len(gaps) * gaps[seed]["p_value"] for seed in negative)))
    return Evidence(holds, text, {"lowest rho": Summary(len(gaps), gaps[least]["rho"])}, p)


def beyond_noise(group: Group) -> Evidence:
    """Is rho on sorting lower than the noise of measurement would let it be?"""
    gaps = _gaps(group, "sort")
    if len(gaps) < 2:
        return too_few("runs of sorting")
    noise = {seed: gap["ceiling"] or 0.0 for seed, gap in gaps.items()}  # none: repeated halves do not agree at all
    ceiling, short = summary(list(noise.values()), SHARE), summary([noise[seed] - gap["rho"] for seed, gap in gaps.items()])
    text = f"On sorting noise alone would allow ρ = {ceiling.text()}; ρ stays {short.text()} below that ({short.n} seeds)."
    if none := [str(seed) for seed, gap in gaps.items() if gap["ceiling"] is None]:
        text += f" Seeds {', '.join(none)} have no ceiling, counted as 0: their halves do not agree."
    return Evidence(short.above(0), text, {"ceiling": ceiling, "ceiling minus rho": short}, short.p_above(0))


def missed(group: Group) -> Evidence:
    """Does the gradient miss the causally largest components of sorting as often as published, and what would chance miss?"""
    shares = [gap["missed"] for gap in _gaps(group, "sort").values() if gap["missed"]]
    found = [one[MISSED] for one in shares if MISSED in one]
    if len(found) < 2:
        return too_few("runs of sorting")
    share, chance = summary(found, SHARE), 1 - int(MISSED) / len(group.ranked("sort")[0].final["components"])
    text = (
        f"Of the {MISSED} causally largest components of sorting {100 * (share.mean or 0):.0f} %{share.brackets(100, 0)} are not "
        f"among the {MISSED} largest gradients; a random ranking would miss {100 * chance:.0f} %."
    )
    return Evidence(share.above(0.5), text, {"missed": share, "by chance": Summary(share.n, chance)}, share.p_above(0.5))


def layers(group: Group, heads_only: bool = False) -> Evidence:
    """Do Bloats lie in earlier layers than Heroes, beyond chance, counting all components?"""
    runs = _arrays(group, "sort")
    if len(runs) < 2:
        return too_few("runs of sorting")
    found = layer_gap(runs, np.random.default_rng(0), heads_only)
    counts = {
        label: [int((one.roles()[role] & (one.is_head if heads_only else True)).sum()) for one in runs]
        for role, label in ROLES.items()
    }
    members = " and ".join(f"{sum(each)} {label} in {np.count_nonzero(each)} seeds" for label, each in counts.items())
    among = f"Among the {'heads' if heads_only else 'components'} of {len(runs)} sorting seeds there are {members}"
    gap, beyond = found.found, found.beyond_index
    if gap.mean is None or beyond is None or found.by_chance is None or found.p_value is None:
        return Evidence(None, f"{among}: no layers to compare.")
    index = [rho for one in runs if (rho := layer_index_rho(one)) is not None]
    with_cause, with_gradient = (summary([rho[side] for rho in index], CORRELATION) for side in (0, 1))
    by_index = Summary(len(runs), found.by_layer_index)
    text = (
        f"{among}; the Heroes lie {gap.text()} layers above the Bloats{_without_interval(gap)}. Random pairing of G and C would "
        f"give {found.by_chance:.2f} (p = {found.p_value:.2g}), the layer's number in place of G "
        f"{'none' if by_index.mean is None else by_index.text()} (difference{beyond.brackets(1, 2) or ' unknown'}). "
        f"The layer's number alone ranks C with ρ = {with_cause.text()}, and G with {with_gradient.text()}."
    )
    by_chance = True if found.p_value < SURE else False if found.p_value >= 0.5 and gap.n >= FEW else None
    numbers = {"layers": gap, "by chance": Summary(len(runs), found.by_chance), "by layer number": by_index}
    return Evidence(every(gap.above(0), by_chance), text, numbers, together(gap.p_above(0), found.p_value))


def _without_interval(number: Summary) -> str:
    """Why a statistic has no interval, where its seeds are too few."""
    return f" (no interval: {number.n} seeds determine it, at least {FEW} are needed)" if number.n < FEW else ""


def layers_of_heads(group: Group) -> Evidence:
    """The same among heads, which is what the paper counts."""
    return layers(group, heads_only=True)


def identities(group: Group) -> Evidence:
    """Do the same components take the same roles in every sorting seed, beyond chance?"""
    runs, said, numbers, p_values = _arrays(group, "sort"), [], {}, []
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
        p_values.append(found.p_value)
        if heads := [f"{name} in {found.counts[name]}" for name in PUBLISHED[role] if name in found.counts]:
            said.append(f"Published {label}: {', '.join(heads)}")
    sure = (_beyond_chance(p_value, len(runs)) for p_value in p_values)
    return Evidence(every(*sure), f"{'. '.join(said)}.", numbers, min(1.0, 2 * max(p_values)))


def heads_not_layers(group: Group) -> Evidence:
    """Do single heads keep their roles over sorting seeds, beyond what their layer says?"""
    runs = _arrays(group, "sort")
    found = {label: stability(runs, role, np.random.default_rng(0)) for role, label in ROLES.items()}
    each = {label: one.within_layer_p_value for label, one in found.items() if one is not None}
    if len(each) < 2:
        return too_few("runs of sorting")
    said = " and ".join(f"p = {value:.2g} for {label}" for label, value in each.items())
    text = f"When the heads of each layer exchange their labels, two seeds share as many members with {said} ({len(runs)} seeds)."
    p_values, numbers = list(each.values()), {}
    for matching in (one for one in group.matchings if one["task"] == "sort"):
        count, by_role = len(matching["runs"]), {ROLES[role]: one for role, one in matching.roles(MATCHED_BY).items()}
        said = " and ".join(
            f"{one['shared']:.2f} {label}, by chance {one['by_chance']:.2f} (p = {one['p_value']:.2g})"
            for label, one in by_role.items()
        )
        known = {run.final["checkpoint_sha256"] for run in group.measured("sort")}
        which = "these" if known >= {one["checkpoint_sha256"] for one in matching["runs"]} else "other trainings than these"
        text += f" Matched by where they look, whatever their number, heads of two seeds share {said} ({count} runs, {which})."
        p_values += [one["p_value"] for one in by_role.values()]
        numbers |= {f"{label} shared by matched heads": Summary(count, one["shared"]) for label, one in by_role.items()}
    p = min(1.0, len(p_values) * min(p_values))
    found_beyond = [_beyond_chance(value, len(runs), len(p_values)) for value in p_values]
    return Evidence(True if True in found_beyond else None if None in found_beyond else False, text, numbers, p)


def _beyond_chance(p_value: float, runs: int, tests: int = 2) -> bool | None:
    """Whether agreement is beyond chance: True if it surely is; False if chance gives as much mostly, in enough runs."""
    return True if p_value < SURE / tests else False if p_value >= 0.5 and runs >= FEW else None


def negligible(group: Group) -> Evidence:
    """Is the single drop of a sorting Bloat negligible?"""
    drops = [one["individual_mean"] for one in _joint(group, "sort") if one["members"]]
    if len(drops) < 2:
        return too_few("sorting runs with Bloats")
    found = summary(drops, DROP)
    text = f"Removed alone a Bloat of sorting costs {found.points()} points on average ({found.n} seeds)."
    text += selection_note(group.ranked("sort"))
    return Evidence(found.below(NEGLIGIBLE), text, {"single drop": found}, found.p_below(NEGLIGIBLE))


def superadditivity(group: Group) -> Evidence:
    """Does removing all Bloats of sorting together cost more than the sum of their single drops?"""
    found = [one for one in _joint(group, "sort") if len(one["members"]) > 1]
    if len(found) < 2:
        return too_few("sorting runs with two Bloats or more")
    whole, total = ([one[key] for one in found] for key in ("joint", "individual_sum"))
    to_sum, pairs = ratio(whole, total), _pair_ratio(group)
    unbounded = " (no interval: what it is divided by is not surely above 0)"
    why = unbounded if to_sum.n >= FEW and not to_sum.ci else _without_interval(to_sum)
    text = (
        f"Removed together the Bloats of sorting cost {100 * np.mean(whole):.1f} points, the sum of their single drops is "
        f"{100 * np.mean(total):.1f}: a ratio of {to_sum.text()} over {len(found)} seeds with two Bloats or more"
        f"{why}; of pairs of random components it is {pairs.text()}.{selection_note(group.ranked('sort'))}"
    )
    more = summary([one - other for one, other in zip(whole, total, strict=True)])  # the ratio is 1 where this is 0
    numbers = {"joint / sum": to_sum, "joint / sum of random pairs": pairs}
    return Evidence(to_sum.above(1), text, numbers, more.p_above(0) if to_sum.ci else None)


def _pair_ratio(group: Group) -> Summary:
    """Joint drop of random pairs over the sum of their single drops."""
    whole, total = [], []
    for run in group.ranked("sort"):
        pairs = run.final["random_pairs"].get(group.baselines[0])
        if pairs and pairs["members"]:
            whole.append(pairs["ood_drop"]["value"])
            total.append(pairs.get("individual_sum", _summed_causes(run, group.baselines[0], pairs["members"])))
    return ratio(whole, total)


def _summed_causes(run: MeasuredRun, baseline: str, pairs: list[list[str]]) -> float:
    """The mean over pairs of the sum of both C, as older records say it."""
    one = component_arrays(run.final, baseline)
    alone = dict(zip(one.names, one.C.tolist(), strict=True))
    return float(np.mean([sum(alone[name] for name in pair) for pair in pairs]))


def heroes_destroy(group: Group) -> Evidence:
    """Does removing the top two Heroes of reversal cost more than two Bloats, two random ones, and what selection explains?"""
    heroes = _top_two(group, "reverse", "heroes")
    more = {
        "two Bloats": _paired(heroes, _top_two(group, "reverse", "bloats")),
        "two random components": _paired(heroes, _random(group, "reverse")),
        "components chosen likewise by a shuffled gradient (summed single drops)": _beyond_selection(group, "reverse", "hero"),
    }
    if min(one.n for one in more.values()) < 2:
        return too_few("reversal runs with two Heroes and two Bloats")
    said = "; ".join(f"than {name} {one.points()}" for name, one in more.items())
    text = f"On reversal the top two Heroes cost, in points of OOD accuracy, more {said}. {_costs(group)}"
    numbers = {f"Heroes minus {name}": one for name, one in more.items()}
    p = together(*(one.p_above(0) for one in more.values()))
    return Evidence(every(*(one.above(0) for one in more.values())), text, numbers, p)


def bloats_are_dispensable(group: Group) -> Evidence:
    """Can the top two Bloats be removed at less than five points of OOD accuracy each, on both tasks?"""
    cost = {NAMES[task]: summary(list(_top_two(group, task, "bloats").values()), DROP) for task in ("sort", "reverse")}
    if min(one.n for one in cost.values()) < 2:
        return too_few("runs of both tasks with two Bloats")
    text = f"{_costs(group)} Bloats are chosen by a small C, so that any ranking would name cheap ones."
    numbers = {f"two Bloats, {name}": one for name, one in cost.items()}
    p = together(*(one.p_below(2 * NEGLIGIBLE) for one in cost.values()))
    return Evidence(every(*(one.below(2 * NEGLIGIBLE) for one in cost.values())), text, numbers, p)


def _costs(group: Group) -> str:
    """What removing two of each class costs, task by task."""
    said = []
    for task in group.tasks:
        means = {label: summary(list(_top_two(group, task, label.lower()).values()), DROP) for label in ROLES.values()}
        base = summary([run.final.ood_accuracy for run in group.measured(task)])
        each = [f"two {label} {mean.points()} ({mean.n} seeds)" for label, mean in means.items()]
        each.append(f"two random components {summary(list(_random(group, task).values()), DROP).points()}")
        said.append(
            f"On {NAMES.get(task, task)} (accuracy {100 * (base.mean or 0):.1f} points) removal costs: {', '.join(each)}."
        )
    return " ".join(said) + selection_note([run for task in group.tasks for run in group.measured(task)])


def selection_note(runs: Sequence[MeasuredRun]) -> str:
    """For runs whose records say what sets cost on the sequences that chose them: that they do; a sentence after a space."""
    older = [run for run in runs if not run.final.is_held_out]
    if not older:
        return ""
    which = "all runs" if len(older) == len(runs) else f"{', '.join(f'{run.task} seed {run.seed}' for run in older)}"
    return (
        f" Of {which} the drops of sets, and accuracies, are of the very sequences that chose the sets and the length (older "
        "records): Bloats come out too cheap there, alone and added up, and Heroes too costly."
    )


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
    return summary([first[seed] - second[seed] for seed in first if seed in second])


def _beyond_selection(group: Group, task: str, role: str) -> Summary:
    """Summed single drops of a role's top two minus what selection by a shuffled gradient gives, over seeds."""
    rng, found = np.random.default_rng(0), []
    for one in _arrays(group, task):
        real, chance = top_two_cost(one, role), top_two_cost_by_selection(one, role, rng)
        found += [real - chance] if real is not None and chance is not None else []
    return summary(found)


def shortcut(group: Group) -> Evidence:
    """Do early Bloats come and go with what the model can do in distribution but not beyond it?"""
    followed = [following(run, group.baselines[0]) for run in group.measured("sort")]
    texts = {
        "shortcut": "of early Bloats with the lack of generalisation",
        "level": "of ρ with OOD accuracy",
        "change": "of their changes",
    }
    found = {key: summary([value for one in followed if (value := getattr(one, key)) is not None], CORRELATION) for key in texts}
    if found["shortcut"].n < 2:
        return too_few("tracked runs of sorting")
    said = [f"{text} {found[key].text()} ({found[key].n} seeds)" for key, text in texts.items()]
    text = f"Over the checkpoints of sorting the rank correlation is {'; '.join(said)}."
    numbers = {texts[key]: value for key, value in found.items()}
    return Evidence(found["shortcut"].above(0), text, numbers, found["shortcut"].p_above(0))


def _gaps(group: Group, task: str) -> dict[int, dict[str, Any]]:
    """What the records say of the gap, by seed, of runs that have a rank correlation."""
    return {run.seed: run.final["gap"][group.baselines[0]] for run in group.ranked(task)}


def _arrays(group: Group, task: str) -> list[ComponentArrays]:
    return [component_arrays(run.final, group.baselines[0]) for run in group.ranked(task)]


def _joint(group: Group, task: str) -> list[dict[str, Any]]:
    """What the records say of ablating all Bloats."""
    return [run.final["joint"][group.baselines[0]]["bloats"] for run in group.ranked(task)]
