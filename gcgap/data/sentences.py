"""The sentences of indirect-object identification, and their words as a vocabulary for models that are trained on them.

All openings have the same number of words and punctuation marks, as have all fillers and all closings, so that texts of one
length are aligned wherever each of these is one token. No text begins with a name: there it would have no space before it, and so
often another token.
"""

from __future__ import annotations

import re

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
