"""How often intervals over seeds hold the truth: `python -m calibrate.seeds`, from tests/; its table is in docs/calibration.md.

Each population has a truth that is known from many draws, and sizes and spreads like those of the shipped runs. "Before" is what
gcgap did until this was measured: a percentile bootstrap over seeds for ratios and layer gaps, Student's t for all means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from gcgap.study.seeds import CORRELATION, SHARE, Interval, Summary, jackknife, ratio, summary

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
TRUTH = 400_000  # draws behind a true value
RESAMPLES = 1000


class Row(NamedTuple):
    """Coverage of one statistic: name, seeds, shares of intervals that hold the truth, its standard error, share without one."""

    name: str
    seeds: int
    before: float
    now: float
    error: float
    none: float


def correlations(mean: float, spread: float) -> Draw:
    """Rank correlations whose Fisher z is normal."""
    return lambda rng, n: np.tanh(rng.normal(np.arctanh(mean), spread, n))


def shares(first: float, second: float, members: int) -> Draw:
    """Shares of a few members, with a probability that differs between seeds: zeros and ones among them."""
    return lambda rng, n: rng.binomial(members, rng.beta(first, second, n)) / members


def accuracies(first: float, second: float) -> Draw:
    """Shares of sequences."""
    return lambda rng, n: rng.beta(first, second, n)


def joint_drops(rng: np.random.Generator, n: int) -> Array:
    """Joint drop and sum of single drops of the Bloats of sorting, shape (seed, 2)."""
    total = np.exp(rng.normal(np.log(0.1), 0.5, n))
    return np.stack([total * np.exp(rng.normal(np.log(1.5), 0.5, n)), total], -1)


def random_pairs(rng: np.random.Generator, n: int) -> Array:
    """The same of pairs of random components, which nearly add up."""
    total = np.exp(rng.normal(np.log(0.4), 0.15, n))
    return np.stack([total * np.exp(rng.normal(np.log(1.1), 0.15, n)), total], -1)


def layer_sums(rng: np.random.Generator, n: int) -> Array:
    """Sum of the layers of Heroes, their number, and the same of Bloats, shape (seed, 4)."""
    sides = []
    for likely, least, more in (((0.4, 0.4, 0.1, 0.1), 2, 0.7), ((0.75, 0.12, 0.08, 0.05), 1, 2.3)):
        counts = rng.multinomial(least + rng.poisson(more, n), rng.dirichlet(4 * np.array(likely), n))
        sides += [counts @ np.arange(4.0), counts.sum(1)]
    return np.stack(sides, -1)


def mean(sample: Array) -> Array:
    return sample.mean(-1)


def ratio_of_means(sample: Array) -> Array:
    return sample[..., 0].mean(-1) / sample[..., 1].mean(-1)


def layer_gap(sample: Array) -> Array:
    heroes, hero_count, bloats, bloat_count = np.moveaxis(sample.mean(-2), -1, 0)
    return heroes / hero_count - bloats / bloat_count


def student(sample: Array, rng: np.random.Generator) -> Interval | None:
    """Student's interval, which may leave the range."""
    if not np.ptp(sample):
        return None
    low, high = stats.ttest_1samp(sample, 0).confidence_interval()  # pyright: ignore[reportAttributeAccessIssue]
    return float(low), float(high)


def bootstrap(statistic: Callable[[Array], Array]) -> Callable[[Array, np.random.Generator], Interval | None]:
    """A percentile bootstrap over seeds."""

    def interval(sample: Array, rng: np.random.Generator) -> Interval | None:
        drawn = statistic(sample[rng.integers(0, len(sample), (RESAMPLES, len(sample)))])
        low, high = np.nanpercentile(drawn, [2.5, 97.5])
        return float(low), float(high)

    return interval


class Case(NamedTuple):
    """One statistic of one population: how it is drawn, what is estimated, and both intervals."""

    name: str
    draw: Draw
    statistic: Callable[[Array], Array]
    before: Callable[[Array, np.random.Generator], Interval | None]
    now: Callable[[Array], Summary]


def cases() -> Iterator[Case]:
    """Every case of the table."""
    of_correlations = [(0.43, 0.16), (0.0, 0.55), (0.86, 0.5)]
    for value, spread in of_correlations:
        name = f"mean of correlations near {value:g}"
        yield Case(name, correlations(value, spread), mean, student, lambda sample: summary(sample.tolist(), CORRELATION))
    of_shares = {
        "exact match near 0.43": accuracies(10, 13),
        "exact match near 0.02": accuracies(1, 40),
        "noise ceiling near 0.97": accuracies(58, 1.8),
        "share missed, of five": shares(8, 11, 5),
        "share of Bloats that stay, near 0.18": shares(0.9, 4, 3),
        "share of Heroes that stay, near 0.9": shares(9, 1, 3),
    }
    for name, draw in of_shares.items():
        yield Case(name, draw, mean, student, lambda sample: summary(sample.tolist(), SHARE))
    for name, draw in {"joint / sum of Bloats": joint_drops, "joint / sum of random pairs": random_pairs}.items():
        yield Case(name, draw, ratio_of_means, bootstrap(ratio_of_means), lambda sample: ratio(*sample.T.tolist()))
    yield Case(
        "layer gap",
        layer_sums,
        layer_gap,
        bootstrap(layer_gap),
        lambda sample: jackknife(lambda rows: float(layer_gap(sample[rows])), len(sample)),
    )


def coverage(case: Case, seeds: int, rng: np.random.Generator, trials: int) -> Row:
    """How often both intervals of a case hold the truth, of those that there are."""
    truth = float(case.statistic(case.draw(rng, TRUTH)))
    held: dict[str, list[bool]] = {"before": [], "now": []}
    for _ in range(trials):
        sample = case.draw(rng, seeds)
        for name, interval in (("before", case.before(sample, rng)), ("now", case.now(sample).ci)):
            if interval is not None:
                held[name].append(interval[0] <= truth <= interval[1])
    now = float(np.mean(held["now"]))
    error = float(np.sqrt(now * (1 - now) / len(held["now"])))
    return Row(case.name, seeds, float(np.mean(held["before"])), now, error, 1 - len(held["now"]) / trials)


def table(trials: int = 2000, sizes: Sequence[int] = (5, 10)) -> list[Row]:
    """Every case at every number of seeds."""
    rng = np.random.default_rng(0)
    return [coverage(case, n, rng, trials) for case in cases() for n in sizes]


if __name__ == "__main__":
    print("| statistic | seeds | coverage before | coverage now | standard error | no interval |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for row in table():
        print(f"| {row.name} | {row.seeds} | {row.before:.3f} | {row.now:.3f} | {row.error:.3f} | {row.none:.2f} |")
