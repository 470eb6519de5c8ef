"""The verdict: each claim of the paper, the rule by which runs decide it, and the answer that follows; and the published figures.

A rule is met, refuted (the whole interval lies on the other side), or undecided. The answer follows from that alone: `holds` if
the default protocol meets the rule; else `holds only under the released protocol` if that one does; else `holds only with the
released site` if the default's own weights do when ablated there, the site surely adds to the number that decides (the
interaction), and the whole released protocol decides nothing; else `does not hold`, or for layers `not more than random pairing`,
if the default protocol refutes it, and `inconclusive` if not. What was published for arXiv:2602.01442 stands in `published.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from typing import Any

from gcgap.study import bloat_kinds, evidence
from gcgap.study.evidence import Evidence
from gcgap.study.groups import RELEASED, Group, default_settings
from gcgap.study.seeds import Summary, holm

PROTOCOLS = ("default", "released", "site=released")
"""Groups that answer: gcgap's protocol, the released one as a whole, and its site alone on the weights of the default."""
ANSWERS = (
    "holds",
    "holds only under the released protocol",
    "holds only with the released site",
    "not more than random pairing",
    "does not hold",
    "inconclusive",
)


@dataclass(frozen=True)
class Claim:
    """One claim, as it was published.

    Args:
        title: The claim in a few words.
        published: What was published.
        rule: When it holds.
        evidence: What one group of runs says of it.
        added: What the released site adds, on the weights of the default, to the number that decides; None where several
            do.
        refuted: The answer where the default protocol refutes it.
        removes_sets: Whether it needs what removing Heroes or Bloats costs, which is measured for the roles as trained alone.
    """

    title: str
    published: str
    rule: str
    evidence: Callable[[Group], Evidence]
    added: Callable[[Group, Group], Summary] | None = None
    refuted: str = "does not hold"
    removes_sets: bool = False


@dataclass(frozen=True)
class Verdict:
    """The answer to one claim.

    Args:
        claim: The claim.
        by_protocol: What the default says, and the released protocol and its site alone where they were run.
        answer: One of `ANSWERS`.
        adjusted: The p-values of `by_protocol` after Holm's correction over all claims and protocols.
    """

    claim: Claim
    by_protocol: dict[str, Evidence]
    answer: str
    adjusted: dict[str, float | None] = field(default_factory=dict)

    @property
    def protocol(self) -> str:
        """The protocol that the answer is of: the default's, unless another one alone meets the rule or was asked."""
        only = {"holds only under the released protocol": "released", "holds only with the released site": "site=released"}
        return only.get(self.answer, next(iter(self.by_protocol)))


CLAIMS = (
    Claim(
        "Rank correlation collapses from reversal to sorting",
        "v3: mean ρ 0.72 on reversal, 0.27 on sorting.",
        "The interval of the difference of the mean ρ, reversal minus sorting, lies above 0.",
        evidence.collapse,
        evidence.added_to_collapse,
    ),
    Claim(
        "Some sorting seeds are ranked inversely",
        "v3: ρ reaches -0.18 in individual seeds.",
        "In at least one seed ρ is negative, with a permutation p below 0.05 / number of seeds; refuted if none of "
        "five or more is negative.",
        evidence.inversion,
    ),
    Claim(
        "The gap on sorting is no noise of measurement",
        "v3: the failure is not random noise.",
        "The interval of the noise ceiling minus ρ, over sorting seeds, lies above 0.",
        evidence.beyond_noise,
        evidence.added_to_shortfall,
    ),
    Claim(
        "The gradient misses most of the important components",
        "Project page: up to 70 % of causally important components of sorting are missed.",
        "The interval of the share missed among the five causally largest lies above one half.",
        evidence.missed,
        evidence.added_to_missed,
    ),
    Claim(
        "Bloats lie early, Heroes late",
        "v3: Layer 1 accumulates Bloats and Layer 3 Heroes.",
        "Of all components of sorting: the interval of mean Hero layer minus mean Bloat layer lies above 0, and random pairing "
        "of G and C within each run gives as much with p < 0.05; not more than random pairing if half of the pairings or "
        "more give as much. Five seeds must have Heroes, and five Bloats.",
        evidence.layers,
        refuted="not more than random pairing",
    ),
    Claim(
        "Among heads, Bloats lie early and Heroes late",
        "v3, counting heads only: 21 Bloats in Layer 1, 17 Heroes in Layer 3.",
        "The same rule, counting heads only.",
        evidence.layers_of_heads,
        refuted="not more than random pairing",
    ),
    Claim(
        "Roles recur in the same components, beyond chance",
        "v3: L3_H3 is a Hero in 7 of 10 sorting seeds, L1_H1 and L1_H3 are Bloats in 6.",
        "Two seeds share more Heroes, and more Bloats, than when labels are permuted among heads and among MLPs (p < 0.025 "
        "each); refuted if for one of them half of the permutations or more share as many, in five seeds or more.",
        evidence.identities,
    ),
    Claim(
        "It is single heads that keep their roles, not only layers",
        "v3: specific heads occupy stable roles, such as L3_H3.",
        "Two seeds share more Heroes, or more Bloats, than when labels are exchanged among the heads of each layer, which "
        "only their number distinguishes before training: as heads of one number, or, where heads were matched (gcgap match), "
        "as heads that look at the same. p below 0.05 / number of these tests, two or four; refuted if p is 0.5 or more "
        "in each, in five seeds or more.",
        evidence.heads_not_layers,
    ),
    Claim(
        "Bloats are harmless one by one",
        "v3: a Bloat of sorting costs 3.1 % alone.",
        "The interval of the mean single drop of sorting Bloats lies below 5 points.",
        evidence.negligible,
        removes_sets=True,
    ),
    Claim(
        "Bloats are superadditive: together they cost more than their sum",
        "v3: joint ablation of the Bloats of sorting costs 14.1 times the mean single drop: 4 times the sum, for its 3.5 Bloats "
        "per seed (heads, v3's Table 5).",
        "The interval of joint drop / sum of single drops, over sorting seeds with two Bloats or more, lies above 1.",
        evidence.superadditivity,
        removes_sets=True,
    ),
    Claim(
        "Removing Heroes costs more than their being chosen for it explains",
        "v3: removing the top two costs 36.4 ± 22.8 points on reversal (Bloats 10.1 ± 10.4) and 13.9 ± 9.4 on sorting (Bloats "
        "25.4 ± 23.2).",
        "On reversal the top two Heroes cost more than the top two Bloats, than two random components, and than what the same "
        "choice by a shuffled gradient finds: the intervals of all three paired differences lie above 0.",
        evidence.heroes_destroy,
        removes_sets=True,
    ),
    Claim(
        "Bloats are dispensable",
        "v3: high gradient, negligible functional impact.",
        "On both tasks the interval of what the top two Bloats cost lies below 10 points of OOD accuracy, 5 for each.",
        evidence.bloats_are_dispensable,
        removes_sets=True,
    ),
    Claim(
        "Bloats are of two kinds, optimisation noise and overfitting circuits",
        "v1: pruning the Bloats of sorting changes in-distribution accuracy by 2.9 ± 14.4 points.",
        "On sorting, at least two seeds' sets of Bloats cost more than 5 points in distribution, and at least two do not, each "
        "by its own interval; refuted if all sets but one are surely of one kind.",
        bloat_kinds.two_kinds,
        removes_sets=True,
    ),
    Claim(
        "Nothing before pruning predicts which kind a Bloat is",
        "v1: no gradient-based signal distinguishes them (an open question).",
        "On each task with five single Bloats of either kind, a predictor tested on seeds it has not seen, from what is seen "
        "before anything is ablated, has an AUC whose interval ends below 0.7; refuted if on one task it lies above 0.5 and "
        "shuffled labels do as well with p < 0.025.",
        bloat_kinds.kind_is_unpredictable,
    ),
    Claim(
        "Early Bloats are a signature of shortcut circuits",
        "v3 asks it as its third open question.",
        "Over the checkpoints of a sorting run the number of Bloats in the lower half of the layers rises with in-distribution "
        "minus OOD accuracy: the interval over seeds of the rank correlation lies above 0.",
        evidence.shortcut,
    ),
)


SITE = "The collapse is made by the measurement: by the site of the ablation"


def verdicts(groups: Sequence[Group], claims: Sequence[Claim] | None = None) -> list[Verdict]:
    """The answer to every claim, or to these, from the groups of `PROTOCOLS`; none without the default's."""
    named = {name: group for name in PROTOCOLS for group in groups if group.name == name}
    if "default" not in named:
        return []
    found = [_verdict(claim, named) for claim in (CLAIMS if claims is None else claims)]
    found += [_verdict_on_site(named["default"], named["site=released"])] if "site=released" in named else []
    tests = [(i, name, one.p) for i, verdict in enumerate(found) for name, one in verdict.by_protocol.items()]
    adjusted: list[dict[str, float | None]] = [{} for _ in found]
    for (i, name, _), p in zip(tests, holm([p for *_, p in tests]), strict=True):
        adjusted[i][name] = p
    return [replace(verdict, adjusted=of) for verdict, of in zip(found, adjusted, strict=True)]


def _verdict(claim: Claim, named: dict[str, Group]) -> Verdict:
    by_protocol = {name: claim.evidence(group) for name, group in named.items()}
    site = by_protocol.get("site=released")
    interacts = False
    if claim.added and site and site.holds and not by_protocol["default"].holds:
        added = claim.added(named["default"], named["site=released"])
        interacts = bool(added.above(0))
        text = f"{site.text} On the same weights the site adds {added.text()} to the number that decides ({added.n} seeds)."
        p = evidence.together(site.p, added.p_above(0))
        by_protocol["site=released"] = replace(site, text=text, numbers=site.numbers | {"added by the site": added}, p=p)
    return Verdict(claim, by_protocol, _answer(claim, by_protocol, interacts))


def _answer(claim: Claim, by_protocol: dict[str, Evidence], interacts: bool) -> str:
    holds, only_released, only_site, *_, inconclusive = ANSWERS
    default, released, site = (by_protocol[name].holds if name in by_protocol else None for name in PROTOCOLS)
    if default:
        return holds
    if released:
        return only_released
    if site and interacts and released is None:
        return only_site
    return claim.refuted if default is False else inconclusive


def _verdict_on_site(default: Group, site: Group) -> Verdict:
    """What the two sites say of the very same weights, which no single protocol can answer."""
    claim = Claim(
        SITE,
        "Neither version; method: the first public code overwrites a slice of W_O's output instead of a head.",
        "On the same weights, the difference of mean ρ (reversal minus sorting) is larger with the released site than with whole "
        "heads: the interval over seeds of what the site adds to it lies above 0.",
        lambda group: evidence.added_collapse(default, group),
    )
    found = claim.evidence(site)
    return Verdict(claim, {"site=released": found}, _answer(claim, {"default": found}, False))


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
