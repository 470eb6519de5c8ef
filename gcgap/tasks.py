"""The tasks and their vocabulary.

Owns what a task *is*: a function from the input integers to the target integers. How examples are laid out as tokens and
drawn at random is the business of `gcgap.batches`.
"""

from __future__ import annotations

import re
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

LARGEST = 99  # the integers 1..99 are their own token ids; id 0 is unused
PAD, START, SEP, END = 100, 101, 102, 103
VOCABULARY = 104

TASKS: dict[str, Task] = {}


class Task:
    """A map from input integers to target integers of the same number. A subclass with a `name` registers itself."""

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
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


def find_task(name: str) -> Task:
    """The task called `name`.

    Raises:
        ValueError: No task has that name.
    """
    if name not in TASKS:
        raise ValueError(f"`data.task` must be one of {', '.join(sorted(TASKS))}; got {name!r}.")
    return TASKS[name]
