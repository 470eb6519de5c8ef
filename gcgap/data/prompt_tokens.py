"""From prompts to the tokens that a model reads, and to batches of them.

A tokenizer is any callable that gives the token ids of a text. It may put special tokens before a text, and none behind it, where
the answer is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from gcgap.data.batches import NOTHING, Batch
from gcgap.data.prompts import Encoded, Prompt

Encode = Callable[[str], list[int]]
"""Gives the token ids of a text."""


class UnknownWordsError(ValueError):
    """A text has words that a tokenizer does not know, and gives one token for all of them."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model, and which of them text can give.

    Args:
        size: Rows of the model's embedding.
        words: Gives the tokens from which random ones are drawn; by default all that are not special.
        special: Control tokens such as BOS, which no corruption changes.
        ending: What the tokenizer by itself puts behind a text, such as EOS. No prompt may end in it.
    """

    size: int
    words: Callable[[], np.ndarray] | None = None
    special: frozenset[int] = frozenset()
    ending: tuple[int, ...] = ()

    @cached_property
    def drawn(self) -> np.ndarray:
        """The tokens from which random ones are drawn."""
        return np.setdiff1d(np.arange(self.size), list(self.special)) if self.words is None else self.words()


def encoded(prompt: Prompt, encode: Encode) -> Encoded:
    """The tokens of a prompt.

    Raises:
        ValueError: An answer is not one token in its place, right after the clean prompt; the answers are equal; or clean and
            corrupted are equal or have unequal numbers of tokens.
    """
    clean, corrupted = (token_ids(text, encode) if isinstance(text, str) else text for text in (prompt.clean, prompt.corrupted))
    if not clean:
        raise ValueError(f"`clean` must have a token; the tokenizer gives none for {prompt.clean!r}. Write a longer prompt.")
    if corrupted is not None and len(clean) != len(corrupted):
        raise ValueError(
            f"`clean` and `corrupted` must have equally many tokens; got {len(clean)} and {len(corrupted)}. Change some words.\n"
            f"clean: {list(clean)}\ncorrupted: {list(corrupted)}"
        )
    if clean == corrupted:
        raise ValueError(f"`clean` and `corrupted` must differ, or patching does nothing; got the same tokens, {list(clean)}.")
    answer = _answer(prompt.clean, "answer", prompt.answer, encode)
    wrong = None if prompt.wrong is None else _answer(prompt.clean, "wrong", prompt.wrong, encode)
    if wrong == answer:
        raise ValueError(f"`wrong` must differ from `answer`; got {prompt.wrong!r}, the token {wrong}, for both. Change one.")
    return Encoded(clean, corrupted, answer, wrong)


def _answer(clean: str | tuple[int, ...], key: str, answer: str | int, encode: Encode) -> int:
    if isinstance(answer, int):
        return answer
    if not isinstance(clean, str):
        raise ValueError(f"`{key}` must be a token id where `clean` is token ids; got {answer!r}. Give its id.")
    if (token := next_token(clean, answer, encode)) is not None:
        return token
    try:
        before, after = list(token_ids(clean, encode)), list(token_ids(clean + answer, encode))
    except UnknownWordsError as error:
        raise ValueError(f"`{key}` is {answer!r}: {error} Mind the space before it.") from error
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    raise ValueError(
        f"`{key}` must be exactly one token after `clean`; with {answer!r} the end of the tokens, {before[same:]}, becomes "
        f"{after[same:]}. Choose another answer, mind the space before it, or give a token id."
    )


def token_ids(text: str, encode: Encode) -> tuple[int, ...]:
    """The tokens of a text, behind what the tokenizer puts before every text. A text that begins with that gets it once.

    Raises:
        ValueError: The tokenizer gives something else than ids, or puts something behind a text.
    """
    before, tokens = tuple(encode("")), tuple(encode(text))
    if not all(isinstance(token, Integral) for token in tokens):
        raise ValueError(f"a tokenizer must give a list of token ids; got {list(tokens)!r:.60}. Give its method `encode`.")
    if tokens[: len(before)] != before:
        raise ValueError(
            f"a tokenizer must put nothing behind a text, where the answer is read; it makes '' {list(before)}, and "
            f"{text[:60]!r} {list(tokens)}. Make it add no EOS and no SEP."
        )
    twice = bool(before) and tokens[len(before) : 2 * len(before)] == before
    return tokens[len(before) :] if twice else tokens


def next_token(context: str, text: str, encode: Encode) -> int | None:
    """The token that `text` adds to those of `context`; None if it adds another number of them, changes those, or is unknown."""
    try:
        before, after = token_ids(context, encode), token_ids(context + text, encode)
    except UnknownWordsError:
        return None
    return after[-1] if after and after[:-1] == before else None


def check_vocabulary(prompt: Encoded, vocabulary: Vocabulary) -> None:
    """Raise a ValueError unless every token is one of the model's, and the last one is not what ends every text."""
    largest, size = max(*prompt.clean, *(prompt.corrupted or ()), prompt.answer, prompt.wrong or 0), vocabulary.size
    if largest >= size:
        raise ValueError(f"a token id must be below {size}, the model's vocabulary; got {largest}. Use its own tokens.")
    ending = vocabulary.ending
    for key, tokens in (("clean", prompt.clean), ("corrupted", prompt.corrupted or ())):
        if ending and tokens[-len(ending) :] == ending:
            raise ValueError(
                f"`{key}` must not end in {list(ending)}, with which the tokenizer ends a text: the answer would be read behind "
                f"it; got {list(tokens)}. Leave it out."
            )


def as_batch(prompts: Sequence[Encoded]) -> Batch:
    """Prompts side by side, with NOTHING on the right of short ones, where no token can see it; the last token alone is scored.

    `wrong` and `corrupted` are None unless every prompt has them.

    Raises:
        ValueError: There is no prompt.
    """
    if not prompts:
        raise ValueError("a batch must have a prompt; got none.")
    inputs = _padded([prompt.clean for prompt in prompts])
    targets, scored = torch.full_like(inputs, NOTHING), torch.zeros_like(inputs, dtype=torch.bool)
    rows, ends = torch.arange(len(prompts)), torch.tensor([len(prompt.clean) - 1 for prompt in prompts])
    targets[rows, ends], scored[rows, ends] = torch.tensor([prompt.answer for prompt in prompts]), True
    wrong = [prompt.wrong for prompt in prompts if prompt.wrong is not None]
    twins = [prompt.corrupted for prompt in prompts if prompt.corrupted is not None]
    return Batch(
        inputs,
        targets,
        scored,
        world_scored=len(prompts),
        wrong=torch.tensor(wrong) if len(wrong) == len(prompts) else None,
        corrupted=_padded(twins) if len(twins) == len(prompts) else None,
    )


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [NOTHING] * (longest - len(row)) for row in rows])
