"""How well a model did, sequence by sequence.

Greedy generation reproduces a target exactly if and only if the argmax at every scored position, given the true target as
context, is the target token. One teacher-forced pass therefore gives exact-sequence accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

METRICS = ("exact_match", "log_prob", "token_accuracy")


class Scores(NamedTuple):
    """One number per sequence, float64: exact match (0 or 1), mean log-probability of the target (nats per scored token),
    and the share of scored tokens that are right."""

    exact_match: Float[Tensor, ...]
    log_prob: Float[Tensor, ...]
    token_accuracy: Float[Tensor, ...]


def score(
    logits: Float[Tensor, "batch scored vocabulary"],
    targets: Int[Tensor, "batch scored"],
    names: Sequence[str] = ("the untouched model",),
) -> Scores:
    """Scores of each row from the logits at its scored positions; `names` says what each of as many groups of rows is.

    Raises:
        FloatingPointError: A log-probability is not finite; the text names the group.
    """
    right = logits.argmax(-1) == targets
    picked = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)
    log_prob = picked.double().mean(-1)
    if not bool(torch.isfinite(log_prob).all()):
        first = int(torch.isfinite(log_prob).logical_not().nonzero()[0]) * len(names) // len(log_prob)
        raise FloatingPointError(f"A log-probability is not finite under {names[first]}: weights or activations hold NaN or Inf.")
    return Scores(right.all(-1).double(), log_prob, right.double().mean(-1))
