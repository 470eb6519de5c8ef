"""How well a model did, sequence by sequence: a function for each `Metric`.

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
from torch.nn import functional as F  # noqa: N812

from gcgap.importance.protocol import Metric

Logits = Float[Tensor, "batch scored vocabulary"]
Targets = Int[Tensor, "batch scored"]
Wrong = Int[Tensor, " batch"] | Int[Tensor, "batch scored kinds most"] | None
"""A wrong answer to each sequence, where it has one, or the sets of its right and wrong answers (`gcgap.data.batches.Batch`)."""
MetricFunction = Callable[[Logits, Targets, Wrong], Float[Tensor, " batch"]]


def exact_match(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """1 where the argmax at every scored position is the target, else 0; it has no gradient.

    Of sets: 1 where greedy generation gives a right answer.
    """
    if wrong is not None and wrong.dim() > 1:
        likeliest = logits.argmax(-1)
        follows = F.pad((likeliest == targets)[:, :-1].cumprod(-1), (1, 0), value=1).bool()
        return ((likeliest.unsqueeze(-1) == wrong[:, :, 0]).any(-1) & follows).any(-1).double()
    return (logits.argmax(-1) == targets).all(-1).double()


def log_prob(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """Mean log-probability of the target, nats per scored token: minus the cross entropy. Of sets: of any right answer."""
    if wrong is not None and wrong.dim() > 1:
        return _of_sets(logits, targets, wrong)[:, 0]
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).double().mean(-1)


def token_accuracy(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """The share of scored positions whose argmax is the target; of sets as `exact_match`."""
    if wrong is not None and wrong.dim() > 1:
        return exact_match(logits, targets, wrong)
    return (logits.argmax(-1) == targets).double().mean(-1)


def logit_difference(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """Mean over scored tokens of the target's logit minus that of the wrong answer, by default the largest other one.

    It does not saturate. Of sets it is the log odds, log P(a right answer) - log P(a wrong one), which is the same for one each.
    """
    if wrong is not None and wrong.dim() > 1:
        right, others = _of_sets(logits, targets, wrong).unbind(-1)
        return right - others
    own, others = _own_and_other(logits, targets, wrong)
    return (own - others).double().mean(-1)


def probability_difference(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """Mean over scored tokens of the target's probability minus that of the wrong answer, by default the likeliest other one.

    Of sets: P(a right answer) - P(a wrong one), as the authors of greater-than score it (arXiv:2305.00586).
    """
    if wrong is not None and wrong.dim() > 1:
        right, others = _of_sets(logits, targets, wrong).exp().unbind(-1)
        return right - others
    (own, others), total = _own_and_other(logits, targets, wrong), logits.logsumexp(-1)
    return ((own - total).exp() - (others - total).exp()).double().mean(-1)


def _own_and_other(logits: Logits, targets: Targets, wrong: Tensor | None) -> tuple[Tensor, Tensor]:
    """The logits of the target and of what it is held against, at every scored position."""
    wanted = targets.unsqueeze(-1)
    if wrong is None:
        others = logits.scatter(-1, wanted, -math.inf).amax(-1)
    else:
        others = logits.gather(-1, wrong[:, None, None].expand_as(wanted)).squeeze(-1)
    return logits.gather(-1, wanted).squeeze(-1), others


def _of_sets(logits: Logits, targets: Targets, sets: Int[Tensor, "batch scored kinds most"]) -> Float[Tensor, "batch 2"]:
    """Log-probability of a right answer and of a wrong one, by default the likeliest token that is not right.

    An answer of a later scored position counts after the targets before it: P(R1) + P(t1) P(R2 | t1) + ..
    """
    logs = logits.log_softmax(-1)
    path = logs.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    before = F.pad(path[:, :-1].cumsum(-1), (1, 0))
    found = logs.gather(-1, sets.flatten(2).clamp(min=0)).unflatten(-1, sets.shape[2:]) + before[..., None, None]
    of_kinds = found.double().masked_fill(sets < 0, -math.inf).transpose(1, 2).flatten(2).logsumexp(-1)
    if sets.shape[2] > 1:
        return of_kinds
    right = torch.where(sets < 0, sets[..., :1], sets)[:, :, 0]
    return torch.cat([of_kinds, logs.scatter(-1, right, -math.inf).amax(-1).double()], -1)


METRICS = tuple(metric for metric in Metric if not metric.only_prompts)  # those that a record of training holds
FUNCTIONS: dict[Metric, MetricFunction] = dict(
    zip(Metric, (exact_match, log_prob, token_accuracy, logit_difference, probability_difference), strict=True)
)
DIFFERENTIABLE = {metric: function for metric, function in FUNCTIONS.items() if metric.has_gradient}


def drop_unit(metric: Metric, scored: int) -> float:
    """The unit in which drops of a metric come where `scored` tokens of a sequence are scored; 0 for a continuous metric."""
    return {Metric.EXACT_MATCH: 1.0, Metric.TOKEN_ACCURACY: 1 / scored}.get(metric, 0.0)


class Scores(NamedTuple):
    """One number per sequence and metric, float64."""

    exact_match: Float[Tensor, "*_"]
    log_prob: Float[Tensor, "*_"]
    token_accuracy: Float[Tensor, "*_"]
    logit_difference: Float[Tensor, "*_"]
    probability_difference: Float[Tensor, "*_"]


def score(logits: Logits, targets: Targets, wrong: Wrong = None, *, names: Sequence[str] = ("nothing",)) -> Scores:
    """Scores of each row from the logits at its scored positions; `names` says what each of as many groups has ablated.

    Raises:
        FloatingPointError: A log-probability is not finite; the text names the group.
    """
    found = Scores(*(FUNCTIONS[metric](logits, targets, wrong) for metric in Metric))
    if len(bad := found.log_prob.isfinite().logical_not().nonzero()):
        which = names[int(bad[0]) * len(names) // len(found.log_prob)]
        raise FloatingPointError(f"A log-probability is not finite with {which} ablated: weights or activations hold NaN or Inf.")
    return found
