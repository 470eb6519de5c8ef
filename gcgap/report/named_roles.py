"""Which Heroes and Bloats are named: all of a small model; of many components the largest |Δ|, if chance gives fewer."""

from __future__ import annotations

from scipy.stats import poisson

from gcgap.records.record import Record

FEW = 40  # components up to which every Hero and Bloat is named
MOST = 10  # of each role that are named of more components
SURE = 0.05  # probability by chance up to which a role has more members than chance gives
WORDS = {"hero": ("Hidden Hero", "Hidden Heroes"), "bloat": ("Gradient Bloat", "Gradient Bloats")}
COUNTS = {"hero": "heroes", "bloat": "bloats"}
COUNTED = (
    f"Of models with more than {FEW} components, those of the {MOST} largest |Δ| in a run are counted, and only where a run has "
    "more of the role than by chance."
)


def has_many(record: Record) -> bool:
    """Whether a record has more components than can all be named."""
    return len(record["components"]) > FEW


def beyond_chance(count: int, expected: float) -> bool:
    """Whether a role has more members than random pairing of G and C gives.

    The count under random pairing is held to be Poisson, which errs on the side of naming nobody: of a sum over a random
    permutation of 0s and 1s with the mean m, the variance is at most m n / (n - 1) for n components (Hoeffding, 1951).
    """
    return float(poisson.sf(count - 1, expected)) <= SURE


def named_roles(record: Record, baseline: str) -> dict[str, list[str]]:
    """Names of the Heroes and Bloats that are worth a name, by role; of many components those of the largest |Δ| first."""
    roles = {role: record.roles(baseline)[role] for role in WORDS}
    gap = record["gap"][baseline]
    if not has_many(record) or gap["rho"] is None:
        return roles
    beyond = {role: beyond_chance(gap[key], gap["expected_by_chance"][key]) for role, key in COUNTS.items()}
    size = {one["name"]: abs(one["delta"][baseline]["value"]) for one in record["components"]}
    largest = {role: sorted(names, key=lambda name: -size[name])[:MOST] for role, names in roles.items()}
    return {role: names if beyond[role] else [] for role, names in largest.items()}


def roles_in_words(record: Record, baseline: str) -> str:
    """How many Heroes and Bloats there are, with the names of those that are worth one, and how many chance gives."""
    chance, named = record["gap"][baseline]["expected_by_chance"], named_roles(record, baseline)
    texts = [_listed(len(names), named[role], *WORDS[role]) for role, names in record.roles(baseline).items() if role in WORDS]
    return f"{' and '.join(texts)} (random pairing would give {chance['heroes']:.1f} and {chance['bloats']:.1f})"


def _listed(count: int, named: list[str], one: str, many: str) -> str:
    if not count:
        return f"no {one}"
    text = f"{count} {one if count == 1 else many}"
    if not named:
        return f"{text}, not more than by chance,"
    return f"{text} ({'largest |Δ|: ' * (len(named) < count)}{', '.join(named)})"
