"""Indirect-object identification with name swap (Wang et al. 2022, arXiv:2211.00593).

"Then, Mary and John went to the store. John gave a drink to" goes on with " Mary". Corrupted, the second mention of the subject
becomes the other name, "... Mary gave a drink to", and the wrong answer, " John", is the right one there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gcgap.data.prompt import Prompt
from gcgap.data.sentences import CLOSINGS, FILLERS, OBJECTS, OPENINGS, PLACES


def ioi(random: np.random.Generator, size: int, length: int, names: Sequence[str]) -> list[Prompt]:
    """Prompts whose pairs of names come in either order equally often (if `size` is odd, one of them at random once more).

    Args:
        random: Draws everything.
        size: Number of prompts.
        length: Number of filler sentences between the first and the last one. Some tell of a third name.
        names: What to choose from. Each prompt has two, and one more for each filler that has one.

    Raises:
        ValueError: Fewer than three different names, or a negative length.
    """
    if length < 0:
        raise ValueError(f"`length` must be 0 or larger, the number of filler sentences; got {length}.")
    if len(set(names)) < 3:
        raise ValueError(f"`names` must be at least 3 different names; got {list(names)}.")
    subject_first = (random.permutation(size) + random.integers(2)) % 2 == 0
    return [_prompt(random, length, list(dict.fromkeys(names)), bool(first)) for first in subject_first]


def _prompt(random: np.random.Generator, length: int, names: list[str], subject_first: bool) -> Prompt:
    subject, other = (names[i] for i in random.choice(len(names), 2, replace=False))
    pair = (subject, other) if subject_first else (other, subject)
    opening = _one(random, OPENINGS).format(first=pair[0], second=pair[1], place=_one(random, PLACES))
    rest = [name for name in names if name not in pair]
    chosen = random.choice(len(FILLERS), length, replace=length > len(FILLERS))
    fillers = [FILLERS[i].format(third=_one(random, rest)) for i in chosen]
    closing, given = _one(random, CLOSINGS), _one(random, OBJECTS)
    clean, corrupted = (" ".join([opening, *fillers, closing.format(subject=name, object=given)]) for name in (subject, other))
    return Prompt(clean, corrupted, f" {other}", f" {subject}")


def _one(random: np.random.Generator, items: Sequence[str]) -> str:
    return str(random.choice(items))
