"""Timing alternatives in turns, and telling median and spread."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Rows = list[tuple[str, str]]
"""What was measured, and the figure."""


def turns(repeats: int, *alternatives: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> list[list[float]]:
    """Seconds of each alternative, run one after the other `repeats` times after one warm-up."""
    for one in alternatives:
        one()
    seconds: list[list[float]] = [[] for _ in alternatives]
    for _ in range(repeats):
        for into, one in zip(seconds, alternatives, strict=True):
            begun = clock()
            one()
            into.append(clock() - begun)
    return seconds


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each turn."""
    return [a / b for a, b in zip(above, below, strict=True)]
