"""Greater-than (Hanna et al. 2023, arXiv:2305.00586).

"The war lasted from the year 1732 to the year 17" goes on with two digits above 32. Corrupted, the first year ends in 01, so that
every later year would do. It needs a tokenizer that splits a year into its century and two digits, such as GPT-2's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from gcgap.data.prompt import Prompt
from gcgap.data.prompt_tokens import Encode, next_token

NOUNS = (
    "war", "siege", "strike", "conflict", "campaign", "dispute", "journey", "voyage", "drought", "epidemic",
    "famine", "rebellion", "project", "expedition", "construction", "trial", "partnership", "alliance", "reign", "experiment",
)  # fmt: skip
CENTURIES = tuple(str(century) for century in range(11, 18))
CORRUPTED = "01"
LAST = tuple(f"{year:02}" for year in range(2, 100))
"""What a year of a clean prompt can end in: later than the corrupted one."""
FEWEST = 10
"""Years that a tokenizer must split, of all centuries together."""

Years = Mapping[str, Sequence[str]]
"""The two digits, ascending, that a year of a century can end in."""


def two_digit_years(encode: Encode) -> dict[str, list[str]]:
    """The years that a tokenizer splits into the century and one token of two digits, by century.

    A century counts if it has two such years, so that one is larger, and the corrupted one.

    Raises:
        ValueError: There are too few.
    """
    found = {}
    for century in CENTURIES:
        context = f"The war lasted from the year {century}"
        years = [last for last in LAST if next_token(context, last, encode) is not None]
        if len(years) > 1 and next_token(context, CORRUPTED, encode) is not None:
            found[century] = years
    if (count := sum(map(len, found.values()))) < FEWEST:
        raise ValueError(
            f"greater_than needs a tokenizer that makes a year such as 1732 two tokens, 17 and 32, for at least {FEWEST} years; "
            f"got {count}. Use a model whose tokenizer has tokens of two digits, such as GPT-2's, or other prompts."
        )
    return found


def greater_than(random: np.random.Generator, size: int, years: Years) -> list[Prompt]:
    """Prompts with one of the later years for an answer, and one that is not later for a wrong one.

    Args:
        random: Draws everything.
        size: Number of prompts.
        years: What years can end in, by century, as `two_digit_years` gives it; at least two for each.
    """
    return [_prompt(random, years) for _ in range(size)]


def _prompt(random: np.random.Generator, years: Years) -> Prompt:
    century, noun = str(random.choice(list(years))), str(random.choice(NOUNS))
    among = years[century]
    at = int(random.integers(len(among) - 1))
    answer, wrong = among[int(random.integers(at + 1, len(among)))], among[int(random.integers(at + 1))]
    text = f"The {noun} lasted from the year {century}{{}} to the year {century}"
    return Prompt(text.format(among[at]), text.format(CORRUPTED), answer, wrong)
