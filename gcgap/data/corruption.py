"""Corrupted inputs for activation patching: what differs from the clean input, and what stays.

Prompts come with a corrupted twin each. Of sequences only the integers x change. The target y that follows SEP, which every
later position reads and is scored on, stays the clean one: the metric of a corrupted run is log p(y | corrupted x). Prompts of a
file that have no twin get one by `corrupt`.
"""

from __future__ import annotations

from enum import StrEnum

import numpy as np
import torch
from numpy.typing import NDArray

from gcgap.data.batches import Batch, Purpose, generator
from gcgap.data.prompts import Encoded
from gcgap.data.tasks import LARGEST

Integers = NDArray[np.int64]


class Corruption(StrEnum):
    """What of the input changes."""

    SEQUENCE = "sequence"
    """All integers: another random sequence."""
    TOKEN = "token"
    """One integer, at a random place, becomes another one."""
    SWAP = "swap"
    """Two neighbouring integers that differ change places. Sorting must not care, reversal must."""
    PROMPT = "prompt"
    """The prompt's own corrupted twin."""


def corruptions(batch: Batch) -> tuple[Corruption, ...]:
    """Those that a batch can have."""
    return OF_SEQUENCES if batch.corrupted is None else (Corruption.PROMPT,)


def corrupted(batch: Batch, corruption: Corruption, seed: int) -> Batch:
    """The batch with corrupted inputs and the clean targets; equal arguments give equal batches.

    The twin of a prompt has the clean prompt as its own corrupted twin.

    Args:
        batch: Sequences of one length, or prompts.
        corruption: What changes.
        seed: Seed of the random stream.

    Raises:
        ValueError: A sequence has no two neighbours that differ, so that no swap would change it; or prompts are asked for what
            only sequences have, or the other way round.
    """
    if corruption not in corruptions(batch):
        others = "sequences of integers; prompts have `patch_prompt`"
        raise ValueError(f"`patch_{corruption}` needs {'prompts with a corrupted twin' if batch.corrupted is None else others}.")
    if batch.corrupted is not None:
        return batch._replace(inputs=batch.corrupted, corrupted=batch.inputs)
    length = batch.inputs.shape[1] - batch.last - 1  # START x SEP y, of which END is scored too and not read
    random = generator(seed, Purpose.CORRUPTION, length, list(Corruption).index(corruption))
    clean = batch.inputs[:, 1 : length + 1].cpu().numpy()
    inputs = batch.inputs.clone()
    inputs[:, 1 : length + 1] = torch.from_numpy(CHANGES[corruption](clean, random)).to(inputs)
    return batch._replace(inputs=inputs)


def _another_sequence(clean: Integers, random: np.random.Generator) -> Integers:
    return random.integers(1, LARGEST + 1, clean.shape)


def _another_token(clean: Integers, random: np.random.Generator) -> Integers:
    rows, places = np.arange(len(clean)), random.integers(clean.shape[1], size=len(clean))
    changed = clean.copy()
    changed[rows, places] = (clean[rows, places] - 1 + random.integers(1, LARGEST, len(clean))) % LARGEST + 1
    return changed


def _swapped(clean: Integers, random: np.random.Generator) -> Integers:
    differ = clean[:, 1:] != clean[:, :-1]
    if not differ.any(-1).all():
        raise ValueError("`patch_swap` needs sequences in which two neighbours differ; got one that holds a single value only.")
    rows = np.arange(len(clean))
    places = np.where(differ, random.random(differ.shape), -1.0).argmax(-1)
    changed = clean.copy()
    changed[rows, places], changed[rows, places + 1] = clean[rows, places + 1], clean[rows, places]
    return changed


OF_SEQUENCES = (Corruption.SEQUENCE, Corruption.TOKEN, Corruption.SWAP)
CHANGES = {Corruption.SEQUENCE: _another_sequence, Corruption.TOKEN: _another_token, Corruption.SWAP: _swapped}


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
    inner = prompt.clean[1 : len(prompt.clean) - max(1, len(prompt.steps))]
    places = [place for place, token in enumerate(inner, start=1) if token not in special]
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


def with_random_tokens(prompt: Encoded, random: np.random.Generator, words: np.ndarray) -> Encoded:
    """The prompt with random tokens in its corrupted twin, wherever that differs from the clean one.

    They are different from the clean and from the corrupted ones, and so no mistake is suggested. Zhang and Nanda (2023,
    arXiv:2309.16042) compare the two kinds of twins.
    """
    assert prompt.corrupted is not None
    twin = list(prompt.corrupted)
    for place, pair in enumerate(zip(prompt.clean, prompt.corrupted, strict=True)):
        if pair[0] != pair[1]:
            if not len(others := np.setdiff1d(words, pair)):
                raise ValueError(f"there must be another token that text can give; got only {words.tolist()}. Use own twins.")
            twin[place] = int(random.choice(others))
    return prompt._replace(corrupted=tuple(twin))
