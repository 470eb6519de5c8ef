"""Screen-Flag-Fix: screen, flag, fix, verify (arXiv:2606.09899; thresholds and order are this project's reading).

    large     an effect of at least tau = |D(1)| / n, an even share of what ablating everything costs: two forward passes
    screen    attribution patching g, and own curvatures c by probes: a backward pass, and one through it for each probe
    flag      |g| or |g + c/2| large; a correction that is large by itself, |c|/2, or exceeds the tangent (R > 1) and could make
              the effect large; or a gradient that is exactly zero
    fix       the exact effects of flagged components while the budget lasts, first where |c| is largest
    verify    the exact effects of some unflagged components at random: if none is large, few of the others are

The rest keeps its tangent: the correction by noisy curvatures is used to find errors, not to mend them. An own-path method never
stands in for an exact effect, since it costs several times as much. Flagged components beyond the budget are named.
`exact_for_largest` is what all this must beat: the same budget for the largest |g|, without a flag.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.probes import curvatures
from gcgap.attribution.sets import set_drops
from gcgap.importance.protocol import Attribution

VERIFIED_SHARE = 0.3  # of the budget that verification keeps for itself, where that many components are unflagged


@dataclass(frozen=True)
class Workflow:
    """What the workflow did.

    Args:
        scores: Exact effects where they were computed, attribution patching elsewhere.
        screened: Mean slope and own curvature of every component, and the standard error of the curvature from the probes.
        tau: Effect from which on one counts as large, in the metric's units.
        flags: Why each flagged component is flagged.
        fixed: Flagged components with an exact effect.
        unresolved: Flagged components that the budget did not reach.
        verified: Unflagged components with an exact effect.
        above: Those of them whose effect is large: what the screen missed.
        limit: Upper 95 % limit on the share of unflagged components whose effect is large; None if none was verified.
        rule_of_three: 3 / n, the same limit for an endless population in which none of n was large; None otherwise.
    """

    scores: Float[Tensor, "component sequence"]
    screened: Sequence[Mapping[str, Any]]
    tau: float
    flags: Mapping[int, tuple[str, ...]]
    fixed: tuple[int, ...]
    unresolved: tuple[int, ...]
    verified: tuple[int, ...]
    above: tuple[int, ...]
    limit: float | None
    rule_of_three: float | None

    def to_dict(self, names: Sequence[str]) -> dict[str, Any]:
        """Plain values, components by name; without the scores."""
        lists = {key: [names[i] for i in getattr(self, key)] for key in ("fixed", "unresolved", "verified", "above")}
        flags = {names[i]: list(why) for i, why in self.flags.items()}
        screened = dict(zip(names, map(dict, self.screened), strict=True))
        found = {"tau": self.tau, "flags": flags, "screened": screened} | lists
        return found | {"limit": self.limit, "rule_of_three": self.rule_of_three}


def screen_flag_fix(drop: Drop, settings: Attribution, random: np.random.Generator) -> Workflow:
    """Screen-Flag-Fix within the budget of the settings, exact effects of the verification included.

    Args:
        drop: The drop.
        settings: The name of its metric, the budget, and the number of probes.
        random: Draws the signs of the probes and the components that are verified.
    """
    slope, own, error = curvatures(drop, settings.probes, random)
    tangent, curvature = slope.mean(-1).numpy(), own.mean(-1).numpy()
    tau = float(drop.value(drop.zero_gates() + 1).mean().abs()) / drop.components
    flags, budget = flagged(tangent, curvature, tau), settings.exact_effects(drop.components)
    waiting = sorted(flags, key=lambda i: -abs(curvature[i]))
    rest = [i for i in range(drop.components) if i not in flags]
    kept = min(len(rest), max(int(VERIFIED_SHARE * budget), budget - len(waiting)))
    fixed, verified = waiting[: budget - kept], sorted(random.permutation(rest)[:kept].tolist())
    scores = _fixed(drop, settings.metric, slope, [*fixed, *verified])
    above = tuple(i for i in verified if abs(float(scores[i].mean())) >= tau)
    errors = [None] * drop.components if error is None else error.tolist()
    screened = zip(tangent.tolist(), curvature.tolist(), errors, strict=True)
    return Workflow(
        scores=scores,
        screened=[dict(zip(("slope", "curvature", "error"), one, strict=True)) for one in screened],
        tau=tau,
        flags=flags,
        fixed=tuple(fixed),
        unresolved=tuple(waiting[len(fixed) :]),
        verified=tuple(verified),
        above=above,
        limit=upper_limit(len(above), len(verified), len(rest)) if verified else None,
        rule_of_three=min(1.0, 3 / len(verified)) if verified and not above else None,
    )


def exact_for_largest(drop: Drop, settings: Attribution) -> Float[Tensor, "component sequence"]:
    """Attribution patching, and the exact effects of the largest |g|, as many as Screen-Flag-Fix may compute."""
    slope = drop.gradient(drop.zero_gates())
    largest = slope.mean(-1).abs().argsort(descending=True, stable=True)
    return _fixed(drop, settings.metric, slope, largest[: settings.exact_effects(drop.components)].tolist())


def _fixed(
    drop: Drop, metric: str, scores: Float[Tensor, "component sequence"], members: list[int]
) -> Float[Tensor, "component sequence"]:
    """The scores, with the exact effects of some components in their place."""
    scores = scores.clone()
    if members:
        scores[members] = getattr(set_drops(drop, [frozenset([i]) for i in members]), metric)
    return scores


def flagged(
    tangent: Float[np.ndarray, " component"], curvature: Float[np.ndarray, " component"], tau: float
) -> dict[int, tuple[str, ...]]:
    """Why each component is flagged, from tangent and own curvature at xi = 0; the others are left out."""
    size, correction = np.abs(tangent), np.abs(curvature) / 2
    reasons = {
        "large tangent": size >= tau,
        "large HVP": np.abs(tangent + curvature / 2) >= tau,
        "large correction": correction >= tau,
        "unreliable": (correction > size) & (size + correction >= tau),
        "zero gradient": tangent == 0,
    }
    found = {i: tuple(reason for reason, of in reasons.items() if of[i]) for i in range(len(tangent))}
    return {i: why for i, why in found.items() if why}


def upper_limit(above: int, checked: int, population: int, confidence: float = 0.95) -> float:
    """Upper confidence limit on the share of a finite population that is large, of which `checked` were drawn and `above` were.

    The largest number of large ones under which so few in the draw are not improbable (hypergeometric). With none found in a
    large population it is about 3 / checked, the rule of three.
    """
    counts = np.arange(above, population - (checked - above) + 1)
    likely = stats.hypergeom.cdf(above, population, counts, checked) > 1 - confidence
    return float(counts[likely].max() / population)
