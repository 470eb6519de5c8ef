"""Random-token corruption: a twin for a prompt that has none."""

from __future__ import annotations

import numpy as np

from gcgap.prompts.tokens import Encoded


def corrupt(prompt: Encoded, random: np.random.Generator, vocabulary: int) -> Encoded:
    """The prompt with a corrupted twin, in which one token at a random place is another random one.

    Neither the first token changes, which may be a special one that says nothing, nor the last, from which the answer is
    predicted: a change there would reach every component directly, not by way of the heads that move it.

    Args:
        prompt: What to corrupt.
        random: Draws the place and the token.
        vocabulary: Number of tokens that the model knows; each other one is equally likely.

    Raises:
        ValueError: There is no token between the first and the last, or no other token.
    """
    if len(prompt.clean) < 3:
        raise ValueError(
            "`clean` must have at least 3 tokens for one between the first and the last to be changed at random; "
            f"got {list(prompt.clean)}. Write a longer prompt, or give `corrupted`."
        )
    if vocabulary < 2:
        raise ValueError(f"`vocabulary` must be at least 2 for another token to be there; got {vocabulary}.")
    place = int(random.integers(1, len(prompt.clean) - 1))
    token = (prompt.clean[place] + int(random.integers(1, vocabulary))) % vocabulary
    return prompt._replace(corrupted=(*prompt.clean[:place], token, *prompt.clean[place + 1 :]))
