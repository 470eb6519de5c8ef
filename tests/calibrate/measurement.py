"""How often the intervals of one measurement hold what they should: samples are drawn from a population and measured again."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from calibrate.populations import Population
from gcgap.importance.gap import (
    ROLES,
    Array,
    Judgement,
    delta_intervals,
    draws_of_drops,
    draws_of_means,
    is_role,
    noise_ceiling,
    rank,
    rank_correlation,
    rank_difference,
    rho_interval,
)

BINS = (0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
"""Lower ends of the bins of probabilities."""
QUANTITIES = ("G", "C", "Δ", "ρ", "ceiling")
REPETITIONS = 2000  # independent pairs of measurements behind a true reliability


@dataclass
class Coverage:
    """Of each interval and component whether it held the truth, by quantity; and probabilities of roles beside the true ones.

    The true `ceiling` is that of measurements of this size; `ceilings` are the estimates of it.
    """

    ceiling: float
    held: dict[str, list[NDArray[np.bool_]]] = field(default_factory=lambda: {name: [] for name in QUANTITIES})
    missing: int = 0
    ceilings: list[float] = field(default_factory=list)
    probability: list[Array] = field(default_factory=list)
    true: list[NDArray[np.bool_]] = field(default_factory=list)

    def share(self, quantity: str) -> float:
        """Mean coverage; NaN where no sample had an interval."""
        return float(np.mean(self.held[quantity])) if self.held[quantity] else np.nan

    def worst(self, quantity: str) -> float:
        """Coverage of the component that is covered least often."""
        return float(np.mean(self.held[quantity], axis=0).min())

    def reliability(self) -> list[tuple[float, float] | None]:
        """For every bin of probabilities: their mean, and how often the role was the true one; None if there were none."""
        given, true = np.concatenate(self.probability), np.concatenate(self.true)
        where = np.digitize(given, BINS) - 1
        bins = [where == number for number in range(len(BINS))]
        return [(float(given[here].mean()), float(true[here].mean())) if here.any() else None for here in bins]


def repeated(samples: Array, size: int, rng: np.random.Generator) -> float:
    """Reliability: the mean rank correlation of the component means of two independent draws of so many samples."""
    picks = rng.integers(0, samples.shape[1], (2, REPETITIONS, size))
    first, second = (rank(np.stack([samples[:, one].mean(-1) for one in of])) for of in picks)
    return float(np.nanmean(rank_correlation(first, second)))


def coverage(
    of: Population, sequences: int, batches: int, repeats: int, rng: np.random.Generator, judgement: Judgement
) -> Coverage:
    """That of samples of a population."""
    norms, drops = of.norms, of.drops
    G, C = norms.mean(-1), drops.mean(-1)
    delta, threshold = rank_difference(G, C), judgement.role_threshold(len(G))
    ceiling = float(np.sqrt(repeated(norms, batches, rng) * repeated(drops, sequences, rng)))
    roles, rho = is_role(delta, threshold, strict=False), rank_correlation(rank(G), rank(C))
    found = Coverage(ceiling)
    for _ in range(repeats):
        own = norms[:, rng.integers(0, norms.shape[1], batches)], drops[:, rng.integers(0, drops.shape[1], sequences)]
        star_g = draws_of_means(own[0], judgement.resamples, rng)
        (star_c,) = draws_of_drops(own[1][None], [of.unit], judgement.resamples, rng)
        ranks = rank(star_g, axis=0), rank(star_c, axis=0)
        differences = ranks[0] - ranks[1]
        estimated = rank_difference(own[0].mean(-1), own[1].mean(-1))
        for name, truth, draws in (("G", G, star_g), ("C", C, star_c), ("Δ", delta, differences)):
            ends = delta_intervals(estimated, draws, judgement) if name == "Δ" else np.array([*map(judgement.interval, draws)])
            found.held[name].append(np.logical_and(ends[:, 0] <= truth, truth <= ends[:, 1]))
        interval, _ = rho_interval((rank(own[0].mean(-1)), rank(own[1].mean(-1))), ranks, judgement)
        if interval is None:
            found.missing += 1
        else:
            found.held["ρ"].append(np.array([interval[0] <= rho <= interval[1]]))
        allowed, _ = noise_ceiling(*own, judgement, rng)
        if allowed is not None and allowed.ci is not None:
            found.ceilings.append(allowed.value)
            found.held["ceiling"].append(np.array([allowed.ci[0] <= ceiling <= allowed.ci[1]]))
        named = is_role(differences, threshold, strict=False)
        found.probability.append(np.concatenate([named[role].mean(-1) for role in ROLES]))
        found.true.append(np.concatenate([roles[role] for role in ROLES]))
    return found
