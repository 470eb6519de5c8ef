"""Print how often intervals of measurements cover: `make calibrate`, or here `python -m calibrate`; about ten minutes."""

from __future__ import annotations

import argparse

import numpy as np

from calibrate.measurement import BINS, coverage
from calibrate.populations import population
from gcgap.importance.gap import Judgement

SIZES = ((500, 50), (100, 10), (20, 10), (10, 10), (100, 2))


def main() -> None:
    """Simulate and print two tables in Markdown."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=400, help="samples of each size")
    repeats = options.parse_args().repeats
    tables: list[list[str]] = [[], []]
    for task in ("sort", "reverse"):
        of = population(task)
        for sequences, batches in SIZES:
            rng = np.random.default_rng([0, sequences, batches])
            found = coverage(of.norms, of.drops[0], sequences, batches, repeats, rng, Judgement())
            shares = " | ".join(f"{found.share(name):.3f}" for name in ("G", "C", "Δ", "ρ"))
            row = f"| {task}, {sequences} / {batches} | {shares} |"
            tables[0].append(f"{row} {found.worst('C'):.2f} | {found.worst('Δ'):.2f} | {found.missing} |")
            cells = " | ".join("" if pair is None else f"{pair[0]:.2f}: {pair[1]:.2f}" for pair in found.reliability())
            tables[1].append(f"| {task}, {sequences} / {batches} | {cells} |")
    print("| sequences / batches | G | C | Δ | ρ | worst C | worst Δ | no interval of ρ |\n| --- |" + " --- |" * 7)
    print(*tables[0], sep="\n")
    heads = " | ".join(f"from {low:g}" for low in BINS)
    print(f"\n| P of a role, and how often it was the true one | {heads} |\n| --- |" + " --- |" * len(BINS))
    print(*tables[1], sep="\n")


if __name__ == "__main__":
    main()
