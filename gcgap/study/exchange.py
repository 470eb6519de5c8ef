"""Labels exchanged among what has no names: how often chance alone gives as much agreement between runs.

In every run the labels of a kind, such as the Heroes among the heads of a layer, are put on any of its places with equal
probability, independently of other runs and kinds. How often places are then labelled has a distribution that adds up run by run,
since only the number of places with each count matters: exactly, as ratios of integers. Where there are too many such numbers,
permutations are drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cache
from math import comb, prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcgap.study.seeds import permutation_p

Mask = NDArray[np.bool_]
PERMUTATIONS = 10_000
MOST_STATES = 20_000  # of an exact distribution: the next run would take many seconds
State = tuple[int, ...]
"""How many places have 0, 1, 2.. labels."""


class Chance(NamedTuple):
    """What exchanged labels give.

    Args:
        agreement: Mean number of labelled places that two runs share.
        p_value: Probability that they share as many as found, or more.
        most_p_value: Probability that some place is labelled in as many runs as the most frequent one, or in more.
        exact: Whether the probabilities are exact, and not shares of permutations.
    """

    agreement: float
    p_value: float
    most_p_value: float
    exact: bool


def chance(has: Mask, kind: NDArray[np.int64], rng: np.random.Generator) -> Chance:
    """What labels (run, place) give when they are exchanged within each kind of place.

    Args:
        has: Which places have the label in each run; two runs or more.
        kind: The kind of each place.
        rng: Draws permutations, where there is no exact distribution.
    """
    runs, counts = len(has), has.sum(0)
    members = [(tuple(sorted(has[:, kind == one].sum(1).tolist())), int((kind == one).sum())) for one in np.unique(kind)]
    agreement = sum((sum(each) ** 2 - sum(k * k for k in each)) / places for each, places in members) / (runs * (runs - 1))
    shared, most = int((counts * (counts - 1)).sum()), int(counts.max())
    kinds = [_exact(*one) for one in members]
    if any(one is None for one in kinds):
        drawn = permuted_counts(has, kind, rng)
        p_values = (permutation_p((drawn * (drawn - 1)).sum(-1) >= shared), permutation_p(drawn.max(-1) >= most))
        return Chance(agreement, *p_values, exact=False)
    ways = Counter({(0, 0): 1})
    for one in kinds:
        ways = _together(ways, one or Counter())
    total = sum(ways.values())
    as_much = sum(count for (value, _), count in ways.items() if value >= shared)
    as_frequent = sum(count for (_, largest), count in ways.items() if largest >= most)
    return Chance(agreement, as_much / total, as_frequent / total, exact=True)


def permuted_counts(has: Mask, kind: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Counts by place after permuting each run's labels within each kind, shape (permutation, place)."""
    total = np.zeros((PERMUTATIONS, has.shape[1]), dtype=np.int64)
    for labels in has:
        total += permuted_within(np.tile(labels, (PERMUTATIONS, 1)), kind, rng)
    return total


def permuted_within(values: NDArray, kind: NDArray[np.int64], rng: np.random.Generator) -> NDArray:
    """Every row of values (row, place) with the places of each kind in a random order."""
    shuffled = values.copy()
    for one in np.unique(kind):
        shuffled[:, kind == one] = rng.permuted(values[:, kind == one], axis=1)
    return shuffled


@cache
def _exact(members: tuple[int, ...], places: int) -> Counter[tuple[int, int]] | None:
    """In how many ways labels give each (sum of c (c - 1) over counts c, largest count); None with too many states.

    Args:
        members: The number of labels in each run.
        places: The places of one kind.
    """
    states: Counter[State] = Counter({(places,): 1})
    for labels in members:
        if len(states) > MOST_STATES:
            return None
        after: Counter[State] = Counter()
        for state, ways in states.items():
            for taken in _choices(state, labels):
                new = tuple(have - lost + got for have, lost, got in zip((*state, 0), (*taken, 0), (0, *taken), strict=True))
                after[new] += ways * prod(map(comb, state, taken))
        states = after
    found: Counter[tuple[int, int]] = Counter()
    for state, ways in states.items():
        found[sum(n * c * (c - 1) for c, n in enumerate(state)), max(c for c, n in enumerate(state) if n)] += ways
    return found


def _choices(state: State, labels: int) -> Iterator[State]:
    """How many of the places with each count get one of the labels, in every possible way."""
    if labels == 0:
        yield (0,) * len(state)
        return
    for first in range(max(0, labels - sum(state[1:])), min(state[0], labels) + 1):
        for rest in _choices(state[1:], labels - first):
            yield (first, *rest)


def _together(first: Counter[tuple[int, int]], second: Counter[tuple[int, int]]) -> Counter[tuple[int, int]]:
    """The ways of two kinds at once: sums add up, and the larger count is the largest."""
    found: Counter[tuple[int, int]] = Counter()
    for (value, largest), ways in first.items():
        for (other, also), count in second.items():
            found[value + other, max(largest, also)] += ways * count
    return found
