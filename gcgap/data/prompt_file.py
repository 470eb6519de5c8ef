"""The rows of a file as prompts in the tokens of a model, with what has to be said of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from gcgap.data.batches import Purpose, generator
from gcgap.data.corruption import corrupt, with_random_tokens
from gcgap.data.framing import Framing, missing_space
from gcgap.data.prompt_formats import OWN, PromptFile
from gcgap.data.prompt_source import Parts
from gcgap.data.prompt_tokens import Encode, Vocabulary, check_vocabulary, encoded, token_ids
from gcgap.data.prompts import Encoded, Prompt


class Twins(StrEnum):
    """What the corrupted twin of a prompt has where it differs from the clean one."""

    OWN = "own"
    """The tokens of its text."""
    RANDOM = "random"
    """Random tokens."""


@dataclass(frozen=True)
class InTokens:
    """Makes tokens of prompts: with what is put around them, and with twins of the kind that is asked for."""

    encode: Encode
    vocabulary: Vocabulary
    framing: Framing
    twins: Twins

    def __call__(self, prompt: Prompt | Encoded, random: np.random.Generator) -> Encoded:
        """The prompt in tokens, and a twin with it.

        Raises:
            ValueError: It is no prompt for this tokenizer and model.
        """
        return self.with_twin(self.encoded(prompt), random)

    def encoded(self, prompt: Prompt | Encoded) -> Encoded:
        """The prompt in tokens, as it is given."""
        found = prompt if isinstance(prompt, Encoded) else encoded(self.framing(prompt), self.encode)
        check_vocabulary(found, self.vocabulary)
        return found

    def with_twin(self, found: Encoded, random: np.random.Generator) -> Encoded:
        """The prompt with a twin of the kind that is asked for."""
        if found.corrupted is None:
            return corrupt(found, random, self.vocabulary.drawn, self.vocabulary.special)
        return with_random_tokens(found, random, self.vocabulary.drawn) if self.twins == Twins.RANDOM else found

    def notes(self, prompt: Prompt, found: Encoded) -> Iterator[tuple[str, str]]:
        """What may be wrong with a prompt: of which kind, and in words."""
        try:
            before = token_ids("", self.encode)
        except ValueError:  # prompts are token ids, and there is no tokenizer
            before = ()
        if (answer := missing_space(self.framing(prompt), self.encode)) is not None:
            yield "space", f"no space stands before the answer {answer!r}; is {f' {answer}'!r} meant?"
        if before and found.clean.count(before[0]) > 1:
            yield "begin", f"{list(before)}, which the tokenizer puts before every text, is there a second time"


def file_parts(name: str, file: PromptFile, tokens: InTokens, seed: int) -> Parts:
    """The prompts of a file in three parts.

    Rows of another project's file that are no prompts for this tokenizer are left out, as the loaders of those projects do, and
    so are rows that come again; of our own they are errors.

    Raises:
        ValueError: A line of our own is no prompt for this tokenizer and model, or there twice; or too few are left.
    """
    seen: dict[Encoded, str] = {}
    kept, left_out, notes = list[tuple[str, Encoded]](), list[str](), dict[str, list[str]]()
    for number, (place, prompt, _) in enumerate(file.rows, start=1):
        try:
            if not isinstance(prompt, Prompt):
                raise ValueError(prompt)
            found = tokens.encoded(prompt)
            if (first := seen.setdefault(found, place)) != place:
                raise ValueError(f"no prompt may be there twice; got that of {first} again. Remove one.")
            kept.append((place, tokens.with_twin(found, generator(seed, Purpose.CORRUPTION, 0, number))))
        except ValueError as error:
            if file.format is OWN:
                raise ValueError(f"`{name}`, {place}: {error}") from error
            left_out.append(f"{place}: {str(error).splitlines()[0]}")
            continue
        for kind, text in tokens.notes(prompt, found):
            notes.setdefault(kind, []).append(f"`{name}`, {place}: {text}")
    about = _about(file, len(left_out))
    try:
        parts = Parts(tuple(found for _, found in kept), seed, about, tuple(place for place, _ in kept) if about else ())
    except ValueError as error:
        first = f"\nOf {len(file.rows)}, {len(left_out)} are left out; {left_out[0]}" if left_out else ""
        raise ValueError(f"`{name}`: {error}{first}") from error
    _say(name, file, tokens, left_out, notes)
    return parts


def _about(file: PromptFile, left_out: int) -> dict[str, Any]:
    columns = list(dict.fromkeys(key for row in file.rows for key in row.more))
    if file.format is OWN and not columns:
        return {}
    return {"format": file.format.name, "other_columns": columns, "left_out": left_out}


def _say(name: str, file: PromptFile, tokens: InTokens, left_out: list[str], notes: dict[str, list[str]]) -> None:
    if left_out:
        _warn(f"{len(left_out)} of {len(file.rows)} prompts of `{name}` are left out; {left_out[0]}")
    for texts in notes.values():
        _warn(texts[0] + (f" (and {len(texts) - 1} more)" if len(texts) > 1 else ""))
    show: Callable[[int], str] | None = getattr(tokens.encode, "text", None)
    if file.format.reads_ids and show is not None:
        answer = file.prompts[0].answer
        ids = answer if isinstance(answer, tuple) else (answer,)
        texts = ", ".join(repr(show(token)) for token in ids if isinstance(token, int) and token < tokens.vocabulary.size)
        _warn(f"the answers of `{name}` are ids of the tokenizer that it was made for; here the first is {texts}. Is it?")


def _warn(text: str) -> None:
    print(f"gcgap: warning: {text}", file=sys.stderr)
