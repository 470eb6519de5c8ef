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
    """Whether the whole interval lies above a bound; None without an interval."""
    return None if found.ci is None else found.ci[0] > bound


def below(found: Summary, bound: float) -> bool | None:
    """Whether the whole interval lies below a bound; None without an interval."""
    return None if found.ci is None else found.ci[1] < bound


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
