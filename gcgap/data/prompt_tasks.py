"""Prompts by the name of their task, which draws them, or from a file.

A new prompt task is one function and one entry of `PROMPTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcgap.data.batches import Purpose, generator
from gcgap.data.corruption import corrupt
from gcgap.data.ioi import NAMES, ioi
from gcgap.data.prompt_source import Draw, Parts, PromptSource
from gcgap.data.prompt_tokens import Encode, Vocabulary, check_vocabulary, encoded, next_token, token_ids
from gcgap.data.prompts import Encoded, Prompt, read_prompts

Make = Callable[[np.random.Generator, int, int], Sequence[Encoded]]
"""Draws prompts: by a random generator, their number and their length."""

FEWEST_NAMES = 6
NOUNS = (
    "war", "siege", "strike", "conflict", "campaign", "dispute", "journey", "voyage", "drought", "epidemic",
    "famine", "rebellion", "project", "expedition", "construction", "trial", "partnership", "alliance", "reign", "experiment",
)  # fmt: skip
CENTURIES = tuple(str(century) for century in range(11, 18))
CORRUPTED_YEAR = "01"
YEARS = tuple(f"{year:02}" for year in range(2, 100))
"""What a year of a clean prompt can end in: later than the corrupted one."""
FEWEST_YEARS = 10
"""Years that a tokenizer must split, of all centuries together."""
HALF = 16
"""Tokens that are repeated for induction."""


class PromptTask(NamedTuple):
    """A task that draws its prompts: what does so with a tokenizer and a vocabulary, and if they can be lengthened."""

    maker: Callable[[Encode, Vocabulary], Make]
    any_length: bool = False


def find_prompts(name_or_path: str, encode: Encode, vocabulary: int | Vocabulary, seed: int, length: int = 0) -> PromptSource:
    """The prompts of a name of `PROMPTS`, or else of a file (`gcgap.data.prompts`), in the tokens of a model.

    Prompts of a file without `corrupted` get a random-token corruption (`gcgap.data.corruption`).

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
    task, path = PROMPTS.get(name_or_path), Path(name_or_path)
    vocabulary = Vocabulary(vocabulary) if isinstance(vocabulary, int) else vocabulary
    if length < 0 or (length and not (task and task.any_length)):
        raise ValueError(f"`length` must be 0 for {name_or_path}, or for ioi its number of filler sentences; got {length}.")
    if task:
        draw = _drawn(task.maker(encode, vocabulary), seed, vocabulary, length)
        return PromptSource(task=name_or_path, seed=seed, draw=draw, given_length=length)
    if not path.exists():
        names = ", ".join(sorted(PROMPTS))
        raise ValueError(f"`--prompts` must be one of {names}, or a file of JSON lines; there is no {name_or_path!r}.")
    prompts = _of_file(name_or_path, encode, vocabulary, seed)
    try:
        parts = Parts(prompts, seed)
    except ValueError as error:
        raise ValueError(f"`{name_or_path}`: {error}") from error
    return PromptSource(task=path.stem, seed=seed, draw=parts, file_sha256=hashlib.sha256(path.read_bytes()).hexdigest())


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
            if (first := lines.setdefault(found, line)) != line:
                raise ValueError(f"no prompt may be there twice; got that of line {first} again. Remove one.")
            if found.corrupted is None:
                random = generator(seed, Purpose.CORRUPTION, 0, line)
                found = corrupt(found, random, vocabulary.drawn, vocabulary.special)
        except ValueError as error:
            raise ValueError(f"`{path}`, line {line}: {error}") from error
        prompts.append(found)
    return tuple(prompts)


def _ioi(encode: Encode, vocabulary: Vocabulary) -> Make:
    names = single_token_names(NAMES, encode)
    if len(names) < FEWEST_NAMES:
        raise ValueError(
            f"ioi needs at least {FEWEST_NAMES} names that are one token after a space, of {len(NAMES)} common ones; this "
            f"tokenizer has {len(names)} ({', '.join(names) or 'none'}). Use another model, or other prompts."
        )
    return lambda random, size, length: [encoded(prompt, encode) for prompt in ioi(random, size, length, names)]


def single_token_names(names: Sequence[str], encode: Encode) -> list[str]:
    """The names that are one token after a space in the middle of a sentence."""
    return [name for name in names if next_token("Then,", f" {name}", encode) is not None]


def _greater_than(encode: Encode, vocabulary: Vocabulary) -> Make:
    years = two_digit_years(encode)
    return lambda random, size, length: [encoded(prompt, encode) for prompt in greater_than(random, size, years)]


def two_digit_years(encode: Encode) -> dict[str, list[str]]:
    """The years that a tokenizer splits into the century and one token of two digits, by century.

    A century counts if it has two such years, so that one is larger, and the corrupted one.

    Raises:
        ValueError: There are too few.
    """
    found = {}
    for century in CENTURIES:
        context = f"The war lasted from the year {century}"
        years = [year for year in YEARS if next_token(context, year, encode) is not None]
        if len(years) > 1 and next_token(context, CORRUPTED_YEAR, encode) is not None:
            found[century] = years
    if (count := sum(map(len, found.values()))) < FEWEST_YEARS:
        raise ValueError(
            f"greater_than needs a tokenizer that makes a year such as 1732 two tokens, 17 and 32, for at least {FEWEST_YEARS} "
            f"years; got {count}. Use a model whose tokenizer has tokens of two digits, such as GPT-2's, or other prompts."
        )
    return found


def greater_than(random: np.random.Generator, size: int, years: Mapping[str, Sequence[str]]) -> list[Prompt]:
    """Greater-than (Hanna et al. 2023, arXiv:2305.00586): a later year is the answer, one that is not later is wrong.

    "The war lasted from the year 1732 to the year 17" goes on with two digits above 32. Corrupted, the first year ends in 01, so
    that every later year would do.

    Args:
        random: Draws everything.
        size: Number of prompts.
        years: The two digits, ascending and at least two, that a year of each century can end in (`two_digit_years`).
    """

    def one() -> Prompt:
        century, noun = str(random.choice(list(years))), str(random.choice(NOUNS))
        ends = years[century]
        at = int(random.integers(len(ends) - 1))
        answer, wrong = ends[int(random.integers(at + 1, len(ends)))], ends[int(random.integers(at + 1))]
        text = f"The {noun} lasted from the year {century}{{}} to the year {century}"
        return Prompt(text.format(ends[at]), text.format(CORRUPTED_YEAR), answer, wrong)

    return [one() for _ in range(size)]


def _induction(encode: Encode, vocabulary: Vocabulary) -> Make:
    next_token("Then", ",", encode)  # refuses a tokenizer that puts something behind a text
    beginning = token_ids("", encode)  # what it puts before every text, such as BOS
    return lambda random, size, length: induction(random, size, vocabulary.drawn, beginning)


def induction(random: np.random.Generator, size: int, words: np.ndarray, beginning: tuple[int, ...] = ()) -> list[Encoded]:
    """Induction (Olsson et al. 2022, arXiv:2209.11895): different random tokens `t_1 .. t_n t_1 .. t_{n-1}`, with answer t_n.

    n = 16. Corrupted, t_n is another token in its first place, which is the wrong answer.

    Args:
        random: Draws everything.
        size: Number of prompts.
        words: The tokens that text can give; each is equally likely.
        beginning: Special tokens that a text of this model begins with.

    Raises:
        ValueError: There are too few tokens.
    """
    tokens = np.setdiff1d(words, beginning)
    if len(tokens) <= HALF:
        raise ValueError(
            f"induction needs a vocabulary of at least {HALF + 1} tokens that text can give and that are not special; got "
            f"{len(tokens)}. Use another model, or a file of prompts."
        )
    prompts = []
    for _ in range(size):
        *before, answer, wrong = random.choice(tokens, HALF + 1, replace=False).tolist()
        clean, corrupted = ((*beginning, *before, last, *before) for last in (answer, wrong))
        prompts.append(Encoded(clean, corrupted, answer, wrong))
    return prompts


PROMPTS = {
    "ioi": PromptTask(_ioi, any_length=True),
    "greater_than": PromptTask(_greater_than),
    "induction": PromptTask(_induction),
}
