"""Evidence as sentences: numbers with their intervals in words, and the rules that compare them with a bound."""

from __future__ import annotations

from dataclasses import dataclass, field

from gcgap.study.seeds import Summary

NAMES = {"reverse": "reversal", "sort": "sorting"}


@dataclass(frozen=True)
class Evidence:
    """What one group of runs says of one claim.

    Args:
        holds: Whether the claim's rule is met; None where the runs cannot tell.
        text: The numbers as a sentence.
        numbers: The numbers by name, for tables.
    """

    holds: bool | None
    text: str
    numbers: dict[str, Summary] = field(default_factory=dict)


def above(found: Summary, bound: float) -> bool | None:
    """True if the whole interval lies above a bound, False if it lies below it; None if it holds the bound or is missing."""
    return None if found.ci is None or found.ci[0] <= bound < found.ci[1] else found.ci[0] > bound


def below(found: Summary, bound: float) -> bool | None:
    """The same for below."""
    found_above = above(found, bound)
    return None if found_above is None else not found_above


def every(*parts: bool | None) -> bool | None:
    """Whether all parts of a rule are met: False if one is refuted, None if one cannot be told."""
    return False if False in parts else None if None in parts else True


def too_few(what: str, least: int = 2) -> Evidence:
    """Evidence that there are too few runs to tell."""
    return Evidence(None, f"There are fewer than {least} {what}.")


def plain(value: float | None) -> str:
    """A number without interval."""
    return "none" if value is None else f"{value:.2f}"


def told(found: Summary, digits: int = 2) -> str:
    """A number and its interval."""
    return "–" if found.mean is None else f"{found.mean:.{digits}f}{ends(found, 1, digits)}"


def points(found: Summary) -> str:
    """A share in percentage points, with its sign and interval."""
    return "–" if found.mean is None else f"{100 * found.mean:+.1f}{ends(found, 100, 1)}"


def ends(found: Summary, scale: float, digits: int) -> str:
    """An interval in brackets, or nothing."""
    return "" if found.ci is None else " [{:.{d}f}, {:.{d}f}]".format(*(scale * end for end in found.ci), d=digits)
