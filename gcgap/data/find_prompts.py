"""Finding prompts by the name of their task, or in a file.

A new prompt task is one function and one entry of `PROMPTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcgap.data.batches import Purpose, generator
from gcgap.data.greater_than import greater_than, two_digit_years
from gcgap.data.induction import induction
from gcgap.data.name_swaps import ioi
from gcgap.data.prompt import read_prompts
from gcgap.data.prompt_parts import Parts
from gcgap.data.prompt_source import Draw, PromptSource
from gcgap.data.prompt_tokens import Encode, Encoded, Vocabulary, check_vocabulary, encoded, next_token, token_ids
from gcgap.data.random_token import corrupt
from gcgap.data.sentences import NAMES

Make = Callable[[np.random.Generator, int, int], Sequence[Encoded]]
"""Makes prompts up: by a random generator, their number and their length."""
FEWEST_NAMES = 6


class Made(NamedTuple):
    """A task whose prompts are made up: what makes them for a tokenizer and a vocabulary, and if they can be lengthened."""

    maker: Callable[[Encode, Vocabulary], Make]
    any_length: bool = False


def find_prompts(name_or_path: str, encode: Encode, vocabulary: int | Vocabulary, seed: int, length: int = 0) -> PromptSource:
    """The prompts of a name of `PROMPTS`, or else of a file (`gcgap.data.prompt`), in the tokens of a model.

    Prompts of a file without `corrupted` get a random-token corruption (`gcgap.data.random_token`).

    Args:
        name_or_path: A name, or the path of a file of JSON lines, whose stem is then the name of the task.
        encode: The model's tokenizer.
        vocabulary: The tokens that the model knows; a number where text can give all of them.
        seed: Seed of all streams.
        length: Filler sentences, where prompts can have some.

    Raises:
        ValueError: Neither a name nor a file; a line that is no prompt for this tokenizer and model, or one twice; a
            tokenizer that the task cannot be put in.
    """
    made = PROMPTS.get(name_or_path)
    vocabulary = Vocabulary(vocabulary) if isinstance(vocabulary, int) else vocabulary
    if length < 0 or (length and not (made and made.any_length)):
        raise ValueError(f"`length` must be 0 for {name_or_path}, or for ioi its number of filler sentences; got {length}.")
    if made:
        draw = _drawn(made.maker(encode, vocabulary), seed, vocabulary, length)
        return PromptSource(task=name_or_path, seed=seed, draw=draw, given_length=length)
    if not Path(name_or_path).exists():
        names = ", ".join(sorted(PROMPTS))
        raise ValueError(f"`--prompts` must be one of {names}, or a file of JSON lines; there is no {name_or_path!r}.")
    prompts = _of_file(name_or_path, encode, vocabulary, seed)
    digest = hashlib.sha256(Path(name_or_path).read_bytes()).hexdigest()
    try:
        return PromptSource(task=Path(name_or_path).stem, seed=seed, draw=Parts(prompts, seed), file_sha256=digest)
    except ValueError as error:
        raise ValueError(f"`{name_or_path}`: {error}") from error


def _drawn(make: Make, seed: int, vocabulary: Vocabulary, length: int) -> Draw:
    def draw(purpose: Purpose, size: int, index: int, count: int) -> Sequence[Encoded]:
        prompts = make(generator(seed, purpose, length, index), size, length)
        for prompt in prompts:
            check_vocabulary(prompt, vocabulary)
        return prompts

    return draw


def _of_file(path: str, encode: Encode, vocabulary: Vocabulary, seed: int) -> tuple[Encoded, ...]:
    lines: dict[Encoded, int] = {}
    prompts: list[Encoded] = []
    for line, prompt in enumerate(read_prompts(path), start=1):
        try:
            found = encoded(prompt, encode)
            check_vocabulary(found, vocabulary)
            if found in lines:
                raise ValueError(f"no prompt may be there twice; got that of line {lines[found]} again. Remove one.")
            lines[found] = line
            if found.corrupted is None:
                random = generator(seed, Purpose.CORRUPTION, 0, line)
                found = corrupt(found, random, vocabulary.drawn, vocabulary.special)
        except ValueError as error:
            raise ValueError(f"`{path}`, line {line}: {error}") from error
        prompts.append(found)
    return tuple(prompts)


def single_token_names(names: Sequence[str], encode: Encode) -> list[str]:
    """The names that are one token after a space in the middle of a sentence."""
    return [name for name in names if next_token("Then,", f" {name}", encode) is not None]


def _ioi(encode: Encode, vocabulary: Vocabulary) -> Make:
    names = single_token_names(NAMES, encode)
    if len(names) < FEWEST_NAMES:
        raise ValueError(
            f"ioi needs at least {FEWEST_NAMES} names that are one token after a space, of {len(NAMES)} common ones; this "
            f"tokenizer has {len(names)} ({', '.join(names) or 'none'}). Use another model, or other prompts."
        )
    return lambda random, size, length: [encoded(prompt, encode) for prompt in ioi(random, size, length, names)]


def _greater_than(encode: Encode, vocabulary: Vocabulary) -> Make:
    years = two_digit_years(encode)
    return lambda random, size, length: [encoded(prompt, encode) for prompt in greater_than(random, size, years)]


def _induction(encode: Encode, vocabulary: Vocabulary) -> Make:
    next_token("Then", ",", encode)  # refuses a tokenizer that puts something behind a text
    beginning = token_ids("", encode)  # what it puts before every text, such as BOS
    words = vocabulary.drawn
    return lambda random, size, length: induction(random, size, words, beginning)


PROMPTS = {"ioi": Made(_ioi, any_length=True), "greater_than": Made(_greater_than), "induction": Made(_induction)}
