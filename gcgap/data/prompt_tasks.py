"""Prompts by the name of their task, which draws them, or from a file.

A new prompt task is one function and one entry of `PROMPTS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gcgap.data.answer_sets import Tokens
from gcgap.data.batches import Purpose, generator
from gcgap.data.facts import RELATIONS
from gcgap.data.framing import Framing, framing_of
from gcgap.data.ioi import NAMES, ioi
from gcgap.data.prompt_file import InTokens, Twins, file_parts
from gcgap.data.prompt_formats import OWN, PromptFile, Row, read_prompts
from gcgap.data.prompt_source import Draw, PromptSource
from gcgap.data.prompt_tokens import Encode, Vocabulary, next_token, tail_tokens, token_ids
from gcgap.data.prompts import Encoded, Prompt

Make = Callable[[np.random.Generator, int, int], Sequence[Prompt | Encoded]]
"""Draws prompts: by a random generator, their number and their length. What is in tokens already stays as it is."""

FEWEST_NAMES = 6
NOUNS = (
    "war", "siege", "strike", "conflict", "campaign", "dispute", "journey", "voyage", "drought", "epidemic",
    "famine", "rebellion", "project", "expedition", "construction", "trial", "partnership", "alliance", "reign", "experiment",
)  # fmt: skip
CENTURIES = tuple(str(century) for century in range(11, 18))
CORRUPTED_YEAR = "01"
YEARS = tuple(f"{year:02}" for year in range(100))
FEWEST_YEARS = 10
"""Years that a clean prompt can have, of all centuries together."""
FEWEST_FACTS = 30
HALF = 16
"""Tokens that are repeated for induction."""


class PromptTask(NamedTuple):
    """A task that draws its prompts.

    Args:
        maker: What draws them, with a tokenizer, a vocabulary and what is put around every prompt; or all that there are.
        any_length: They can be lengthened.
    """

    maker: Callable[[Encode, Vocabulary, Framing], Make | list[Prompt]]
    any_length: bool = False


def find_prompts(
    name_or_path: str,
    encode: Encode,
    vocabulary: int | Vocabulary,
    seed: int,
    length: int = 0,
    *,
    prefix: str = "",
    chat: bool = False,
    twins: str = Twins.OWN,
) -> PromptSource:
    """The prompts of a name of `PROMPTS`, or else of a file (`gcgap.data.prompt_formats`), in the tokens of a model.

    Prompts of a file without `corrupted` get a random-token corruption (`gcgap.data.corruption`).

    Args:
        name_or_path: A name, or the path of a file, whose stem is then the name of the task.
        encode: The model's tokenizer.
        vocabulary: The tokens that the model knows; a number where text can give all of them.
        seed: Seed of all streams.
        length: Filler sentences, where prompts can have some.
        prefix: What every text begins with.
        chat: Every text is what a user says in the model's chat template, and the answer begins the reply.
        twins: `random` for twins with random tokens where they differ from the clean prompt.

    Raises:
        ValueError: Neither a name nor a file; a line that is no prompt for this tokenizer and model, or one twice; a
            tokenizer that the task cannot be put in.
    """
    task, path = PROMPTS.get(name_or_path), Path(name_or_path)
    if twins not in tuple(Twins):
        raise ValueError(f"`--twins` must be {' or '.join(Twins)}; got {twins!r}.")
    vocabulary = Vocabulary(vocabulary) if isinstance(vocabulary, int) else vocabulary
    framing = framing_of(prefix, chat, encode)
    asked = {"prefix": prefix, "chat": chat, "twins": "" if twins == Twins.OWN else twins}
    around = {key: of for key, of in asked.items() if of}
    if length < 0 or (length and not (task and task.any_length)):
        raise ValueError(f"`length` must be 0 for {name_or_path}, or for ioi its number of filler sentences; got {length}.")
    tokens, made = InTokens(encode, vocabulary, framing, Twins(twins)), task.maker(encode, vocabulary, framing) if task else []
    if not isinstance(made, list):
        draw = _drawn(made, tokens, seed, length)
        return PromptSource(task=name_or_path, seed=seed, draw=draw, given_length=length, around=around)
    if not task and not path.exists():
        names = ", ".join(sorted(PROMPTS))
        raise ValueError(f"`--prompts` must be one of {names}, or a file of JSON lines; there is no {name_or_path!r}.")
    file = PromptFile(OWN, [Row("", one, {}) for one in made]) if task else read_prompts(path)
    parts = file_parts(name_or_path, file, tokens, seed)
    digest = None if task else hashlib.sha256(path.read_bytes()).hexdigest()
    return PromptSource(task=path.stem, seed=seed, draw=parts, file_sha256=digest, around=around)


def _drawn(make: Make, tokens: InTokens, seed: int, length: int) -> Draw:
    def draw(purpose: Purpose, size: int, index: int, count: int) -> Sequence[Encoded]:
        random = generator(seed, purpose, length, index)
        return [tokens(prompt, random) for prompt in make(random, size, length)]

    return draw


def _ioi(encode: Encode, vocabulary: Vocabulary, framing: Framing) -> Make:
    names = single_token_names(NAMES, encode, framing)
    if len(names) < FEWEST_NAMES:
        raise ValueError(
            f"ioi needs at least {FEWEST_NAMES} names that are one token after a space, of {len(NAMES)} common ones; this "
            f"tokenizer has {len(names)} ({', '.join(names) or 'none'}). Use another model, or other prompts."
        )
    return lambda random, size, length: ioi(random, size, length, names)


def single_token_names(names: Sequence[str], encode: Encode, framing: Framing = Framing()) -> list[str]:  # noqa: B008
    """The names that are one token after a space in the middle of a sentence, and as answers."""
    as_answers = [framing(Prompt("Then,", None, f" {name}", None)) for name in names]
    contexts = [[("Then,", f" {name}"), (str(one.clean), str(one.answer))] for name, one in zip(names, as_answers, strict=True)]
    return [name for name, both in zip(names, contexts, strict=True) if all(next_token(*one, encode) is not None for one in both)]


def _greater_than(encode: Encode, vocabulary: Vocabulary, framing: Framing) -> Make:
    years = years_of(encode, framing)
    return lambda random, size, length: greater_than(random, size, years)


def years_of(encode: Encode, framing: Framing = Framing()) -> dict[str, dict[str, Tokens]]:  # noqa: B008
    """The last two digits of years in tokens, as answers, by century: one token in GPT-2, two where each digit is one.

    Years of a century have as many tokens as the corrupted one, 01. A century counts if it has four of them or more.

    Raises:
        ValueError: There are too few.
    """
    found: dict[str, dict[str, Tokens]] = {}
    for century in CENTURIES:
        context = f"The war lasted from the year {century}"
        tokens = {year: tail_tokens(context, year, encode) for year in YEARS}
        inside = [year for year in YEARS if tokens[year] and len(tokens[year]) == len(tokens[CORRUPTED_YEAR])]
        asked = framing(Prompt(context, None, tuple(inside), None))
        answers = {year: tail_tokens(str(asked.clean), year, encode) for year in inside}
        alike = {year: of for year, of in answers.items() if of and len(of) == len(answers[CORRUPTED_YEAR])}
        if len(alike) > 3 and CORRUPTED_YEAR in alike:
            found[century] = alike
    if (count := sum(len([year for year in of if year > CORRUPTED_YEAR]) for of in found.values())) < FEWEST_YEARS:
        raise ValueError(
            f"greater_than needs a tokenizer that splits a year such as 1732 after the century, for at least {FEWEST_YEARS} "
            f"years; got {count}. Use another model, or other prompts."
        )
    return found


def greater_than(random: np.random.Generator, size: int, years: Mapping[str, Mapping[str, Tokens]]) -> list[Prompt]:
    """Greater-than (Hanna et al. 2023, arXiv:2305.00586): all later years are right, all others wrong.

    "The war lasted from the year 1732 to the year 17" goes on with two digits above 32. Corrupted, the first year ends in 01, so
    that every later year would do.

    Args:
        random: Draws everything.
        size: Number of prompts.
        years: The tokens of the two digits that a year of each century can end in, ascending (`years_of`).
    """

    def one() -> Prompt:
        century, noun = str(random.choice(list(years))), str(random.choice(NOUNS))
        ends = years[century]
        year = str(random.choice([end for end in ends if end > CORRUPTED_YEAR][:-1]))
        later, others = (tuple(of for end, of in ends.items() if (end > year) == is_later) for is_later in (True, False))
        text = f"The {noun} lasted from the year {century}{{}} to the year {century}"
        return Prompt(text.format(year), text.format(CORRUPTED_YEAR), later, others)

    return [one() for _ in range(size)]


def _facts(encode: Encode, vocabulary: Vocabulary, framing: Framing) -> list[Prompt]:
    """All facts of `RELATIONS` that this tokenizer can have, each with the next subject of as many tokens as its twin."""
    found: list[Prompt] = []
    for sentence, facts in RELATIONS.items():
        same: dict[int, list[Prompt]] = {}
        for subject, answer in facts.items():
            one = Prompt(sentence.format(subject), None, f" {answer}", None)
            framed = framing(one)
            if next_token(str(framed.clean), str(framed.answer), encode) is not None:
                same.setdefault(len(token_ids(str(framed.clean), encode)), []).append(one)
        for few in same.values():
            for i, one in enumerate(few):
                other = next((two for two in (*few[i + 1 :], *few[:i]) if two.answer != one.answer), None)
                if other is not None:
                    found.append(one._replace(corrupted=other.clean, wrong=other.answer))
    if len(found) < FEWEST_FACTS:
        raise ValueError(
            f"facts needs at least {FEWEST_FACTS} whose answer is one token, of {sum(map(len, RELATIONS.values()))}; this "
            f"tokenizer has {len(found)}. Use another model, or other prompts."
        )
    return found


def _induction(encode: Encode, vocabulary: Vocabulary, framing: Framing) -> Make:
    if framing != Framing():
        raise ValueError("`--prefix` and `--chat` are for texts; induction is made of random tokens. Leave them out.")
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
    "facts": PromptTask(_facts),
}
