"""A tokenizer in GPT-2's manner for tests: pieces with the space before them, numbered as they come, after a BOS."""

from __future__ import annotations

import re

BOS = 1
VOCABULARY = 5000
TWO_DIGITS = r" ?\d\d?| ?[a-zA-Z]+|."
"""Words, marks, and pieces of two digits."""
_IDS: dict[str, int] = {}


def pieces(text: str, pattern: str = TWO_DIGITS) -> list[int]:
    """The tokens of a text; a piece has the same one in every text of a process."""
    return [BOS, *(_IDS.setdefault(piece, BOS + 1 + len(_IDS)) for piece in re.findall(pattern, text))]
