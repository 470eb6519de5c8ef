"""How well a model did, sequence by sequence.

Greedy generation reproduces a target exactly if and only if the argmax at every scored position, given the true target as
context, is the target token. One teacher-forced pass therefore gives exact-sequence accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

METRICS = ("exact_match", "log_prob", "token_accuracy")  # those that a record of training holds

Metric = Callable[..., Tensor]
"""Logits (batch, scored, vocabulary), targets (batch, scored) and, where the sequences have them, wrong answers (batch,), to one
number per sequence; larger is better."""


def log_prob(
    logits: Float[Tensor, "batch scored vocabulary"],
    targets: Int[Tensor, "batch scored"],
    wrong: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean log-probability of the target, nats per scored token: minus the cross entropy."""
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).double().mean(-1)


def logit_difference(
    logits: Float[Tensor, "batch scored vocabulary"],
    targets: Int[Tensor, "batch scored"],
    wrong: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean over scored tokens of the target's logit minus that of the wrong answer, by default the largest other one.

    It does not saturate.
    """
    wanted = targets.unsqueeze(-1)
    if wrong is None:
        others = logits.scatter(-1, wanted, -math.inf).amax(-1)
    else:
        others = logits.gather(-1, wrong[:, None, None].expand_as(wanted)).squeeze(-1)
    return (logits.gather(-1, wanted).squeeze(-1) - others).double().mean(-1)


def exact_match(
    logits: Float[Tensor, "batch scored vocabulary"],
    targets: Int[Tensor, "batch scored"],
    wrong: Int[Tensor, " batch"] | None = None,
) -> Float[Tensor, " batch"]:
    """1 where the argmax at every scored position is the target, else 0; it has no gradient."""
    return (logits.argmax(-1) == targets).all(-1).double()


DIFFERENTIABLE: dict[str, Metric] = {"log_prob": log_prob, "logit_difference": logit_difference}
"""The metrics that have a gradient, by name; each is a field of `Scores` too."""


class Scores(NamedTuple):
    """One number per sequence, float64: exact match (0 or 1), mean log-probability of the target (nats per scored token),
    the share of scored tokens that are right, and the mean by which the target's logit exceeds that of the wrong answer (of the
    largest other one, where sequences have no wrong answer)."""

    exact_match: Float[Tensor, "*_"]
    log_prob: Float[Tensor, "*_"]
    token_accuracy: Float[Tensor, "*_"]
    logit_difference: Float[Tensor, "*_"]


def score(
    logits: Float[Tensor, "batch scored vocabulary"],
    targets: Int[Tensor, "batch scored"],
    wrong: Int[Tensor, " batch"] | None = None,
    *,
    names: Sequence[str] = ("nothing",),
) -> Scores:
    """Scores of each row from the logits at its scored positions; `names` says what each of as many groups of rows has ablated.

    Raises:
        FloatingPointError: A log-probability is not finite; the text names the group.
    """
    right = logits.argmax(-1) == targets
    found = log_prob(logits, targets)
    if not bool(torch.isfinite(found).all()):
        which = names[int(torch.isfinite(found).logical_not().nonzero()[0]) * len(names) // len(found)]
        raise FloatingPointError(f"A log-probability is not finite with {which} ablated: weights or activations hold NaN or Inf.")
    return Scores(right.all(-1).double(), found, right.double().mean(-1), logit_difference(logits, targets, wrong))
