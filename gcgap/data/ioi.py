"""Indirect-object identification with name swap (Wang et al. 2022, arXiv:2211.00593), and its words as a vocabulary.

"Then, Mary and John went to the store. John gave a drink to" goes on with " Mary". Corrupted, the second mention of the subject
becomes the other name, "... Mary gave a drink to", and the wrong answer, " John", is the right one there.

All openings have the same number of words and punctuation marks, as have all fillers and all closings, so that texts of one
length are aligned wherever each of these is one token. No text begins with a name: there it would have no space before it, and so
often another token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from gcgap.data.prompts import Prompt

NAMES = (
    "Alice", "Amy", "Andrew", "Anna", "Anthony", "Brian", "Charles", "Daniel", "David", "Edward",
    "Elizabeth", "Emily", "Eric", "George", "Helen", "Jack", "James", "Jane", "Jason", "Jennifer",
    "John", "Karen", "Kate", "Kevin", "Laura", "Lisa", "Maria", "Martin", "Mary", "Michael",
    "Paul", "Peter", "Rachel", "Richard", "Robert", "Ruth", "Sarah", "Simon", "Susan", "Thomas",
)  # fmt: skip
PLACES = ("store", "station", "school", "museum", "market", "restaurant", "hospital", "library", "hotel", "office")
OBJECTS = ("drink", "book", "ring", "ball", "key", "letter", "ticket", "flower", "picture", "map")
"""All with "a", none with "an"."""
OPENINGS = (
    "Then, {first} and {second} went to the {place}.",
    "Today, {first} and {second} walked to the {place}.",
    "Yesterday, {first} and {second} met at the {place}.",
    "Afterwards, {first} and {second} waited at the {place}.",
    "After lunch, {first} and {second} visited the {place}.",
    "This morning, {first} and {second} left the {place}.",
)
FILLERS = (
    "{third} stayed at home that day.",
    "{third} was ill in bed again.",
    "{third} read a novel all afternoon.",
    "{third} took the bus to work.",
    "{third} slept until late that day.",
    "The weather was warm and sunny.",
    "The streets were full of people.",
    "Some birds sang in the trees.",
    "It rained a little at noon.",
    "A dog barked on the hill.",
)
CLOSINGS = (
    "{subject} gave a {object} to",
    "{subject} handed a {object} to",
    "{subject} offered a {object} to",
    "{subject} passed a {object} to",
    "{subject} showed a {object} to",
)


def split(text: str) -> list[str]:
    """The words and punctuation marks of a text, in its order."""
    return re.findall(r"\w+|[^\w\s]", text)


_FRAMES = re.sub(r"\{\w+\}", "", " ".join((*OPENINGS, *FILLERS, *CLOSINGS)))
WORDS = tuple(sorted({*NAMES, *PLACES, *OBJECTS, *split(_FRAMES)}))
"""Every word and punctuation mark that a text can have. Its place here is its token id: one more would change the ids."""
_COUNTS = [len(split(re.sub(r"[{}]", "", frames[0]))) for frames in (OPENINGS, CLOSINGS, FILLERS)]
TOKENS = (_COUNTS[0] + _COUNTS[1], _COUNTS[2])
"""Words and punctuation marks of a text without fillers, and of a filler."""
_IDS = {word: i for i, word in enumerate(WORDS)}


def word_ids(text: str) -> list[int]:
    """The token ids of a text, positions in `WORDS`: one for each word and punctuation mark.

    Raises:
        ValueError: A word that is none of `WORDS`.
    """
    words = split(text)
    if unknown := [word for word in words if word not in _IDS]:
        raise ValueError(f"every word must be one of the {len(WORDS)} of `WORDS`; got {unknown[0][:60]!r}. Use another word.")
    return [_IDS[word] for word in words]


def ioi(random: np.random.Generator, size: int, length: int, names: Sequence[str]) -> list[Prompt]:
    """Prompts whose pairs of names come in either order equally often (if `size` is odd, one of them at random once more).

    Args:
        random: Draws everything.
        size: Number of prompts.
        length: Number of filler sentences between the first and the last one. Some name a third person.
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
