"""The tasks and their vocabulary.

Owns what a task *is*: a function from the input integers to the target integers. How examples are laid out as tokens and
drawn at random is the business of `gcgap.batches`; sentences are drawn whole, by `gcgap.prompts`.
"""

from __future__ import annotations

import re
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int
from torch import Tensor

from gcgap.prompts import sentences
from gcgap.prompts.ioi import ioi

LARGEST = 99  # the integers 1..99 are their own token ids; id 0 is unused
PAD, START, SEP, END = 100, 101, 102, 103
VOCABULARY = 104

TASKS: dict[str, Task] = {}


class Task:
    """A map from input integers to target integers of the same number. A subclass with a `name` registers itself.

    `vocabulary` is the number of token ids, and `tokens` says how many input tokens an example has: so many, and so many more for
    each unit of its length.
    """

    name: ClassVar[str]
    vocabulary: ClassVar[int] = VOCABULARY
    tokens: ClassVar[tuple[int, int]] = (2, 2)  # START, SEP, and every integer twice; END is not read

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            return
        if not re.fullmatch(r"\w[\w.+-]*", cls.name):
            raise ValueError(f"`name` of a task must be letters, digits and _.+-, since it names directories; got {cls.name!r}.")
        TASKS[cls.name] = cls()

    def target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:
        """The integers that must follow SEP."""
        raise TypeError(f"{type(self).__name__} defines no target")


class Sort(Task):
    """The inputs in ascending order."""

    name = "sort"

    def target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:  # noqa: D102
        return inputs.sort(dim=-1).values


class Reverse(Task):
    """The inputs in reverse order."""

    name = "reverse"

    def target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:  # noqa: D102
        return inputs.flip(-1)


class Copy(Task):
    """The inputs again."""

    name = "copy"

    def target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n"]:  # noqa: D102
        return inputs.clone()


class Row(NamedTuple):
    """A sentence as token ids, its corrupted twin, the token that must follow the first, and the one that follows the other."""

    clean: list[int]
    corrupted: list[int]
    answer: int
    wrong: int


class Sentences(Task):
    """Generated text of which only the last token is scored."""

    pad: ClassVar[int]

    def row(self, random: np.random.Generator, length: int) -> Row:
        """One sentence."""
        raise TypeError(f"{type(self).__name__} draws no sentences")


class IndirectObject(Sentences):
    """Indirect-object identification with name swap; an example's length is its number of filler sentences."""

    name = "ioi"
    vocabulary = len(sentences.WORDS) + 1
    pad = len(sentences.WORDS)
    tokens = sentences.TOKENS

    def row(self, random: np.random.Generator, length: int) -> Row:  # noqa: D102
        (prompt,) = ioi(random, 1, length, sentences.NAMES)
        clean, corrupted, answer, wrong = (sentences.word_ids(str(text)) for text in prompt)
        return Row(clean, corrupted, answer[0], wrong[0])


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: No task has that name.
    """
    if name not in TASKS:
        raise ValueError(f"`data.task` must be one of {', '.join(sorted(TASKS))}; got {name!r}.")
    return TASKS[name]
