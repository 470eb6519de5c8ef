"""Screen-Flag-Fix: screen, flag, fix, verify (arXiv:2606.09899; thresholds and order are this project's reading).

    large     an effect of at least tau = |D(1)| / n, an even share of what ablating everything costs: one forward pass
    screen    attribution patching, joint HVP, and the gradient at xi = 1: two backward passes, and one through the first, for all
    flag      |AP| or |joint HVP| large; a curvature term that exceeds the tangent and could make the effect large; a gradient
              that is exactly zero; or a slope that changes by 2 tau from xi = 0 to xi = 1, so the tangent may be wrong by tau
    fix       the exact effects of flagged components while the budget lasts, first where a slope or the joint HVP is largest
    verify    the exact effects of some unflagged components at random: if none is large, few of the others are

Curvature and last slope are those of the joint path. A component's own would cost a double backward each, several times the exact
effects that the screen is there to save. For the same reason an own-path method never stands in for an exact effect. Flagged
components beyond the budget are named, and keep the score of the screen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.sets import set_drops

VERIFIED_SHARE = 0.3  # of the budget that verification keeps for itself, where that many components are unflagged


@dataclass(frozen=True)
class Workflow:
    """What the workflow did.

    Args:
        scores: Exact effects where they were computed, the joint HVP elsewhere.
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
        return {"tau": self.tau, "flags": flags} | lists | {"limit": self.limit, "rule_of_three": self.rule_of_three}


def screen_flag_fix(drop: Drop, metric: str, budget: int, random: np.random.Generator) -> Workflow:
    """Screen-Flag-Fix with `budget` forward passes for exact effects.

    Args:
        drop: The drop.
        metric: Name of its metric.
        budget: Exact effects that may be computed, those of the verification included.
        random: Draws the components that are verified.
    """
    zero = drop.zero_gates()
    g, h = drop.hessian_product(zero, zero + 1)
    end = drop.gradient(zero + 1)
    scores = g + h / 2
    tau = float(drop.value(zero + 1).mean().abs()) / drop.components
    flags = flagged(g.mean(-1).numpy(), h.mean(-1).numpy(), end.mean(-1).numpy(), tau)
    size = torch.stack([g, scores, end]).mean(-1).abs().amax(0)
    waiting = sorted(flags, key=lambda i: -float(size[i]))
    rest = [i for i in range(drop.components) if i not in flags]
    kept = min(len(rest), max(int(VERIFIED_SHARE * budget), budget - len(waiting)))
    fixed, verified = waiting[: budget - kept], sorted(random.permutation(rest)[:kept].tolist())
    if chosen := [*fixed, *verified]:
        scores[chosen] = getattr(set_drops(drop, [frozenset([i]) for i in chosen]), metric)
    above = tuple(i for i in verified if abs(float(scores[i].mean())) >= tau)
    return Workflow(
        scores=scores,
        tau=tau,
        flags=flags,
        fixed=tuple(fixed),
        unresolved=tuple(waiting[len(fixed) :]),
        verified=tuple(verified),
        above=above,
        limit=upper_limit(len(above), len(verified), len(rest)) if verified else None,
        rule_of_three=min(1.0, 3 / len(verified)) if verified and not above else None,
    )


def flagged(
    tangent: Float[np.ndarray, " component"],
    curvature: Float[np.ndarray, " component"],
    end: Float[np.ndarray, " component"],
    tau: float,
) -> dict[int, tuple[str, ...]]:
    """Why each component is flagged, from tangent and joint curvature at xi = 0 and slope at xi = 1; the others are left out."""
    reasons = {
        "large tangent": np.abs(tangent) >= tau,
        "large joint HVP": np.abs(tangent + curvature / 2) >= tau,
        "unreliable": (np.abs(curvature) > 2 * np.abs(tangent)) & (np.abs(tangent) + np.abs(curvature) / 2 >= tau),
        "zero gradient": tangent == 0,
        "slope changes": np.abs(end - tangent) >= 2 * tau,
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
