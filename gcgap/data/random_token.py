"""Random-token corruption: a twin for a prompt that has none."""

from __future__ import annotations

import numpy as np

from gcgap.data.prompt_tokens import Encoded


def corrupt(prompt: Encoded, random: np.random.Generator, words: np.ndarray, special: frozenset[int] = frozenset()) -> Encoded:
    """The prompt with a corrupted twin, in which one token at a random place is another random one.

    Neither the first token changes, which may be a special one that says nothing, nor the last, from which the answer is
    predicted: a change there would reach every component directly, not by way of the heads that move it.

    Args:
        prompt: What to corrupt.
        random: Draws the place and the token.
        words: The tokens that text can give; each other one is equally likely.
        special: Tokens that do not change, such as those of a chat template.

    Raises:
        ValueError: There is no token between the first and the last that can change, or no other token.
    """
    places = [place for place, token in enumerate(prompt.clean[1:-1], start=1) if token not in special]
    if not places:
        raise ValueError(
            "`clean` must have at least 3 tokens for one between the first and the last, and not special, to be changed at "
            f"random; got {list(prompt.clean)}. Write a longer prompt, or give `corrupted`."
        )
    place = int(random.choice(places))
    if not len(others := words[words != prompt.clean[place]]):
        raise ValueError(f"there must be another token that text can give; got only {words.tolist()}. Give `corrupted`.")
    token = int(random.choice(others))
    return prompt._replace(corrupted=(*prompt.clean[:place], token, *prompt.clean[place + 1 :]))
