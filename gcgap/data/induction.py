"""Induction on random tokens (Olsson et al. 2022, arXiv:2209.11895): what followed the last token once follows it again."""

from __future__ import annotations

import numpy as np

from gcgap.data.prompt_tokens import Encoded

HALF = 16
"""Tokens that are said twice."""


def induction(random: np.random.Generator, size: int, words: np.ndarray, beginning: tuple[int, ...] = ()) -> list[Encoded]:
    """Prompts `t_1 .. t_n t_1 .. t_{n-1}` of different random tokens, n = 16, whose answer is t_n.

    Corrupted, t_n is another token in its first place, which is the wrong answer.

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
    return [_prompt(random.choice(tokens, HALF + 1, replace=False).tolist(), beginning) for _ in range(size)]


def _prompt(tokens: list[int], beginning: tuple[int, ...]) -> Encoded:
    *before, answer, wrong = tokens
    clean, corrupted = ((*beginning, *before, last, *before) for last in (answer, wrong))
    return Encoded(clean, corrupted, answer, wrong)
