"""Print how often intervals of measurements cover: `make calibrate`, or here `python -m calibrate`; about an hour."""

from __future__ import annotations

import argparse

import numpy as np

from calibrate.measurement import BINS, QUANTITIES, coverage
from calibrate.populations import Population, population
from calibrate.selection import curse, set_coverage
from gcgap.importance.gap import Judgement

LABELS = {"bloat": "Bloats", "hero": "Heroes"}
TASKS = ("sort", "reverse", "prompts", "prompts by log-probability")
SIZES = ((500, 50), (100, 10), (20, 10), (10, 10), (100, 2))


def main() -> None:
    """Simulate and print four tables in Markdown."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=400, help="samples of each size")
    options.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    given = options.parse_args()
    repeats = given.repeats
    tables: list[list[str]] = [[], [], [], []]
    for task in given.tasks:
        of = population(task)
        for sequences, batches in SIZES:
            rng = np.random.default_rng([0, sequences, batches])
            found = coverage(of, sequences, batches, repeats, rng, Judgement())
            shares = " | ".join(f"{found.share(name):.3f}" for name in QUANTITIES)
            row = f"| {task}, {sequences} / {batches} | {shares} |"
            row += f" {found.worst('C'):.2f} | {found.worst('Δ'):.2f} | {found.missing} "
            row += f"| {found.ceiling:.2f} | {np.mean(found.ceilings) if found.ceilings else np.nan:.2f} |"
            tables[0].append(row)
            cells = " | ".join("" if pair is None else f"{pair[0]:.2f}: {pair[1]:.2f}" for pair in found.reliability())
            tables[1].append(f"| {task}, {sequences} / {batches} | {cells} |")
            if not of.members:
                continue
            tables[2] += selection_rows(of, task, sequences, batches, repeats, rng)
            tables[3] += held_rows(of, task, sequences, repeats, rng) if batches > 2 else []  # other batches are the same here
    print("| sequences / batches | G | C | Δ | ρ | ceiling | worst C | worst Δ | no interval of ρ | true ceiling | estimated |")
    print("| --- |" + " --- |" * 10)
    print(*tables[0], sep="\n")
    heads = " | ".join(f"from {low:g}" for low in BINS)
    print(f"\n| P of a role, and how often it was the true one | {heads} |\n| --- |" + " --- |" * len(BINS))
    print(*tables[1], sep="\n")
    print("\n| role, sequences / batches | true over reported sum, same sequences | held-out sequences |\n| --- | ---: | ---: |")
    print(*tables[2], sep="\n")
    print("\n| set, sequences | sum | joint | joint / sum | no interval of the ratio |\n| --- |" + " ---: |" * 4)
    print(*tables[3], sep="\n")


def selection_rows(of: Population, task: str, sequences: int, batches: int, repeats: int, rng: np.random.Generator) -> list[str]:
    """How far sums of chosen sets are from the true ones, in Markdown."""
    rows = []
    for role, label in LABELS.items():
        found = curse(of.norms, of.drops, role, sequences, batches, 5 * repeats, rng)
        rows.append(f"| {label} of {task}, {sequences} / {batches} | {found.same:.2f} | {found.held_out:.2f} |")
    return rows


def held_rows(of: Population, task: str, sequences: int, repeats: int, rng: np.random.Generator) -> list[str]:
    """Coverage of sums, joint drops and ratios of the true sets, in Markdown."""
    rows = []
    for role, label in LABELS.items():
        if of.members[role]:
            found = set_coverage(of.drops[of.members[role]], of.together[role], sequences, repeats, rng, Judgement())
            shares = f"{found.sum:.3f} | {found.joint:.3f} | {found.ratio:.3f} | {found.without:.2f}"
            rows.append(f"| {label} of {task}, {sequences} | {shares} |")
    return rows


if __name__ == "__main__":
    main()
