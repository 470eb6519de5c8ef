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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcgap.data.answer_sets import Step, Tokens, steps_of
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
        ValueError: An answer is not one token in its place, right after the clean prompt; the answers are equal, or sets that
            one pass cannot distinguish; or clean and corrupted are equal or have unequal numbers of tokens.
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
    if isinstance(prompt.answer, tuple) or isinstance(prompt.wrong, tuple):
        return _with_sets(prompt, clean, corrupted, encode)
    answer = _answer(prompt.clean, "answer", prompt.answer, encode)
    wrong = None if prompt.wrong is None else _answer(prompt.clean, "wrong", prompt.wrong, encode)
    if wrong == answer:
        raise ValueError(f"`wrong` must differ from `answer`; got {prompt.wrong!r}, the token {wrong}, for both. Change one.")
    return Encoded(clean, corrupted, answer, wrong)


def _with_sets(prompt: Prompt, clean: Tokens, corrupted: Tokens | None, encode: Encode) -> Encoded:
    """The tokens of a prompt with several answers; both its texts go on with the tokens between scored positions."""

    def tokens(key: str, given: Any) -> list[Tokens]:
        several = given if isinstance(given, tuple) else () if given is None else (given,)
        return [one if isinstance(one, tuple) else _tail(prompt.clean, key, one, encode, clean) for one in several]

    read, steps = steps_of(tokens("answer", prompt.answer), tokens("wrong", prompt.wrong))
    wrong = next((step.wrong[0] for step in reversed(steps) if step.wrong), None)
    return Encoded((*clean, *read), None if corrupted is None else (*corrupted, *read), steps[-1].right[0], wrong, steps)


def _tail(clean: str | Tokens, key: str, answer: str | int, encode: Encode, before: Tokens) -> Tokens:
    if not isinstance(answer, str) or not isinstance(clean, str):
        return (_answer(clean, key, answer, encode),)
    if tail := tail_tokens(clean, answer, encode, before):
        return tail
    return (_answer(clean, key, answer, encode),)  # says why not


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
    tail = tail_tokens(context, text, encode)
    return tail[0] if len(tail) == 1 else None


def tail_tokens(context: str, text: str, encode: Encode, before: Tokens | None = None) -> Tokens:
    """The tokens that `text` adds to those of `context`, `before` if they are known; none if it changes those, or is unknown."""
    try:
        before = token_ids(context, encode) if before is None else before
        after = token_ids(context + text, encode)
    except UnknownWordsError:
        return ()
    return after[len(before) :] if after[: len(before)] == before else ()


def check_vocabulary(prompt: Encoded, vocabulary: Vocabulary) -> None:
    """Raise a ValueError unless every token is one of the model's, and the last one is not what ends every text."""
    answers = (token for step in prompt.steps for tokens in step for token in tokens)
    largest = max(*prompt.clean, *(prompt.corrupted or ()), prompt.answer, prompt.wrong or 0, *answers)
    size = vocabulary.size
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

    `wrong` and `corrupted` are None unless every prompt has them. Where a prompt has sets of answers, as many tokens at the end
    are scored as one of them has steps; others get their answer behind them, where it counts for nothing.

    Raises:
        ValueError: There is no prompt.
    """
    if not prompts:
        raise ValueError("a batch must have a prompt; got none.")
    last = max(1, *(len(prompt.steps) for prompt in prompts))
    more = [[prompt.answer] * (last - max(1, len(prompt.steps))) for prompt in prompts]
    inputs = _padded([(*prompt.clean, *behind) for prompt, behind in zip(prompts, more, strict=True)])
    targets, scored = torch.full_like(inputs, NOTHING), torch.zeros_like(inputs, dtype=torch.bool)
    for row, (prompt, behind) in enumerate(zip(prompts, more, strict=True)):
        read = (*prompt.clean, *behind, prompt.answer)
        ends = slice(len(read) - 1 - last, len(read) - 1)
        targets[row, ends], scored[row, ends] = torch.tensor(read[-last:]), True
    wrong = [prompt.wrong for prompt in prompts if prompt.wrong is not None]
    twins = [(*p.corrupted, *behind) for p, behind in zip(prompts, more, strict=True) if p.corrupted is not None]
    return Batch(
        inputs,
        targets,
        scored,
        world_scored=len(prompts) * last,
        wrong=torch.tensor(wrong) if len(wrong) == len(prompts) else None,
        corrupted=_padded(twins) if len(twins) == len(prompts) else None,
        sets=_sets(prompts, last, len(wrong) == len(prompts)) if any(prompt.steps for prompt in prompts) else None,
    )


def _sets(prompts: Sequence[Encoded], last: int, with_wrong: bool) -> Tensor:
    """The right and wrong answers of every prompt at its scored positions, as `Batch.sets` has them."""
    empty = Step((), ())
    every = [(p.steps or (Step((p.answer,), () if p.wrong is None else (p.wrong,)),)) for p in prompts]
    found = [[step[: 1 + with_wrong] for step in (*steps, *[empty] * (last - len(steps)))] for steps in every]
    most = max(len(tokens) for steps in found for step in steps for tokens in step)
    return torch.tensor([[[[*t, *[NOTHING] * (most - len(t))] for t in step] for step in steps] for steps in found])


def _padded(rows: Sequence[tuple[int, ...]]) -> Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([list(row) + [NOTHING] * (longest - len(row)) for row in rows])
