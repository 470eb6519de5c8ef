"""The tasks and their vocabulary.

A task is a class: a function from the input integers to the target integers. `gcgap.data.batches` draws examples and lays them
out as tokens; sentences are drawn whole, by `gcgap.data.ioi`.
"""

from __future__ import annotations

import re
import sys
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from gcgap.data import ioi
from gcgap.data.prompts import Encoded

LARGEST = 99  # the integers 1..99 are their own token ids; id 0 is unused
PAD, START, SEP, END = 100, 101, 102, 103
VOCABULARY = 104

TASKS: dict[str, Task] = {}


class Task:
    """A map from input integers (1..99) to target integers, as many as it likes. A subclass with a `name` registers itself.

    The number of targets may depend on the number of inputs, but not on their values. `vocabulary` is the number of token ids.
    """

    name: ClassVar[str]
    vocabulary: ClassVar[int] = VOCABULARY

    def __init_subclass__(cls) -> None:
        if "name" not in vars(cls):
            return
        if not re.fullmatch(r"\w[\w.+-]*", cls.name):
            raise ValueError(f"`name` of a task must be letters, digits and _.+-, since it names directories; got {cls.name!r}.")
        there = type(TASKS.get(cls.name, cls))
        if cls.name in TASKS and (there.__module__, there.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"`name` of a task must be its own; {cls.name!r} is that of {there.__module__}.{there.__qualname__}."
            )
        TASKS[cls.name] = cls()

    def target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch m"]:
        """The integers that must follow SEP."""
        raise TypeError(f"{type(self).__name__} defines no target")

    def checked_target(self, inputs: Int[Tensor, "batch n"]) -> Int[Tensor, "batch m"]:
        """The target, once it is one.

        Raises:
            ValueError: It is no row of token ids for each row of inputs, or holds PAD, START, SEP or END.
        """
        found = self.target(inputs)
        if not isinstance(found, Tensor) or found.dtype != inputs.dtype or found.ndim != 2 or len(found) != len(inputs):
            got = f"{found.dtype} of size {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"`{self.name}`: a target must be {inputs.dtype} of size [{len(inputs)}, any]; got {got}.")
        wrong = (found < 0) | (found >= self.vocabulary) | ((found >= PAD) & (found <= END))
        if bool(wrong.any()):
            also = f" or {END + 1}..{self.vocabulary - 1}" if self.vocabulary > VOCABULARY else ""
            raise ValueError(f"`{self.name}`: a target must hold 0..{LARGEST}{also} alone; got {int(found[wrong][0])}.")
        return found

    def outputs(self, length: int) -> int:
        """Target integers of an example of `length` integers."""
        return self.checked_target(torch.ones(1, length, dtype=torch.int64)).shape[1]

    def input_tokens(self, length: int) -> int:
        """Tokens that a model reads of an example: START x SEP y; END is not read."""
        return length + self.outputs(length) + 2


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


class Sentences(Task):
    """Generated text of which only the last token is scored."""

    pad: ClassVar[int]
    tokens: ClassVar[tuple[int, int]]  # input tokens: so many, and so many more for each unit of the length

    def input_tokens(self, length: int) -> int:
        """Tokens that a model reads of a sentence."""
        return self.tokens[0] + self.tokens[1] * length

    def row(self, random: np.random.Generator, length: int) -> Encoded:
        """One sentence."""
        raise TypeError(f"{type(self).__name__} draws no sentences")


class IndirectObject(Sentences):
    """Indirect-object identification with name swap; an example's length is its number of filler sentences."""

    name = "ioi"
    vocabulary = len(ioi.WORDS) + 1
    pad = len(ioi.WORDS)
    tokens = ioi.TOKENS

    def row(self, random: np.random.Generator, length: int) -> Encoded:  # noqa: D102
        (prompt,) = ioi.ioi(random, 1, length, ioi.NAMES)
        clean, corrupted, answer, wrong = (ioi.word_ids(str(text)) for text in prompt)
        return Encoded(tuple(clean), tuple(corrupted), answer[0], wrong[0])


def module_of(task: Task) -> str | None:
    """The module and file of a task that is a user's own, which `--import` takes; None for a task of this package."""
    name = type(task).__module__
    if name.partition(".")[0] == "gcgap":
        return None
    file = getattr(sys.modules.get(name), "__file__", None)
    return f"{name} ({file})" if file else name


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: No task has that name.
    """
    if name not in TASKS:
        known = ", ".join(sorted(TASKS))
        raise ValueError(f"`data.task` must be one of {known}; got {name!r}. A task of your own needs `--import MODULE`.")
    return TASKS[name]
