"""The verdict: each claim of the paper, the rule by which runs decide it, and the answer that follows.

An answer follows from the rules alone: `holds` if the default protocol meets the rule; `holds only under the released protocol`
if it does not, but the released protocol does, or the released site on the default's own weights; `does not hold` if none does;
`cannot be told` where the default protocol has too few runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gcgap.study import ranking, removal
from gcgap.study.groups import Group
from gcgap.study.tell import Evidence

RELEASED_NAMES = ("released", "site=released")
"""Groups of the released protocol: whole, and its site alone on weights of the default layout."""
ANSWERS = ("holds", "holds only under the released protocol", "does not hold", "cannot be told")


@dataclass(frozen=True)
class Claim:
    """One claim, as it was published.

    Args:
        title: The claim in a few words.
        published: What was published.
        rule: When it holds.
        evidence: What one group of runs says of it.
    """

    title: str
    published: str
    rule: str
    evidence: Callable[[Group], Evidence]


@dataclass(frozen=True)
class Verdict:
    """The answer to one claim.

    Args:
        claim: The claim.
        by_protocol: What the default says, and the released protocol and its site alone where they were run.
        answer: One of `ANSWERS`.
    """

    claim: Claim
    by_protocol: dict[str, Evidence]
    answer: str


CLAIMS = (
    Claim(
        "Rank correlation collapses from reversal to sorting",
        "v3: mean ρ 0.72 on reversal, 0.27 on sorting.",
        "The interval of the difference of the mean ρ, reversal minus sorting, lies above 0.",
        ranking.collapse,
    ),
    Claim(
        "Some sorting seeds are ranked inversely",
        "v3: ρ reaches -0.18 in individual seeds.",
        "In at least one seed the bootstrap interval of ρ lies below 0.",
        ranking.inversion,
    ),
    Claim(
        "The gap on sorting is no noise of measurement",
        "v3: the failure is not random noise.",
        "The interval of the noise ceiling minus ρ, over sorting seeds, lies above 0.",
        ranking.beyond_noise,
    ),
    Claim(
        "The gradient misses most of the important components",
        "Project page: up to 70 % of causally important components of sorting are missed.",
        "The interval of the share missed among the five causally largest reaches 70 %.",
        ranking.missed,
    ),
    Claim(
        "Bloats lie early, Heroes late",
        "v3: Layer 1 accumulates Bloats and Layer 3 Heroes.",
        "Of all components of sorting: the interval of mean Hero layer minus mean Bloat layer lies above 0, and random pairing "
        "of G and C within each run gives as much with p < 0.05.",
        ranking.layers,
    ),
    Claim(
        "Among heads, Bloats lie early and Heroes late",
        "v3, counting heads only: 21 Bloats in Layer 1, 17 Heroes in Layer 3.",
        "The same rule, counting heads only; it is not met where the heads of all seeds lack one of the roles.",
        ranking.layers_of_heads,
    ),
    Claim(
        "The same components take the same roles in every seed",
        "v3: L3_H3 is a Hero in 7 of 10 sorting seeds, L1_H1 and L1_H3 are Bloats in 6.",
        "Two seeds share more Heroes, and more Bloats, than when labels are permuted among heads and among MLPs (p < 0.025 "
        "each).",
        ranking.identities,
    ),
    Claim(
        "It is single heads that keep their roles, not only layers",
        "v3: specific heads occupy stable roles, such as L3_H3.",
        "Two seeds share more Heroes, or more Bloats, than when labels are permuted among the heads of each layer, which nothing "
        "but their number tells apart before training (p < 0.025).",
        ranking.heads_not_layers,
    ),
    Claim(
        "Bloats are harmless one by one",
        "v3: a Bloat of sorting costs 3.1 % alone.",
        "The interval of the mean single drop of sorting Bloats lies below 5 points.",
        removal.negligible,
    ),
    Claim(
        "Bloats are redundant: together they cost more than their sum",
        "v3: joint ablation of the Bloats of sorting costs 14 times the mean single drop.",
        "The interval of joint drop / sum of single drops, over sorting seeds with two Bloats or more, lies above 1.",
        removal.superadditivity,
    ),
    Claim(
        "Removing Heroes destroys OOD accuracy",
        "v3: removing the top two costs 36.4 ± 22.8 points on reversal (Bloats 10.1 ± 10.4) and 13.9 ± 9.4 on sorting (Bloats "
        "25.4 ± 23.2).",
        "On reversal the top two Heroes cost more than two random components of the same run: the interval of the difference "
        "lies above 0.",
        removal.heroes_destroy,
    ),
    Claim(
        "Bloats are dispensable",
        "v3: high gradient, negligible functional impact.",
        "On sorting the top two Bloats cost less than two random components of the same run: the interval of the difference "
        "lies below 0.",
        removal.bloats_are_dispensable,
    ),
    Claim(
        "Bloats are of two kinds, optimisation noise and overfitting circuits",
        "v1: pruning the Bloats of sorting changes in-distribution accuracy by 2.9 ± 14.4 points.",
        "At least two sets of Bloats cost more than 5 points in distribution, and at least two do not.",
        removal.two_kinds,
    ),
    Claim(
        "Which kind a Bloat is cannot be told before pruning",
        "v1: no gradient-based signal distinguishes them (an open question).",
        "On neither task does a predictor from what training records rank the Bloats of seeds that it has not seen better than "
        "guessing: the interval of its AUC includes 0.5, or shuffled labels do as well with p ≥ 0.05.",
        removal.foretold,
    ),
    Claim(
        "Early Bloats are a signature of shortcut circuits",
        "v3 asks it as its third open question.",
        "Over the checkpoints of a sorting run the number of Bloats in the lower half of the layers rises with in-distribution "
        "minus OOD accuracy: the interval over seeds of the rank correlation lies above 0.",
        ranking.shortcut,
    ),
)


def verdicts(groups: Sequence[Group]) -> list[Verdict]:
    """The answer to every claim from the default group and those of `RELEASED_NAMES`; none without the first."""
    named = {group.name: group for group in groups if group.name in ("default", *RELEASED_NAMES)}
    if "default" not in named:
        return []
    return [_verdict(claim, {name: claim.evidence(group) for name, group in named.items()}) for claim in CLAIMS]


def _verdict(claim: Claim, by_protocol: dict[str, Evidence]) -> Verdict:
    default = by_protocol["default"].holds
    released = any(by_protocol[name].holds for name in RELEASED_NAMES if name in by_protocol)
    holds, only_released, does_not, unknown = ANSWERS
    if default:
        return Verdict(claim, by_protocol, holds)
    if default is None:
        return Verdict(claim, by_protocol, unknown)
    return Verdict(claim, by_protocol, only_released if released else does_not)
