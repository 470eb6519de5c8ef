"""How well a model did, sequence by sequence: a function for each `Metric`.

Greedy generation reproduces a target exactly if and only if the argmax at every scored position, given the true target as
context, is the target token. One teacher-forced pass therefore gives exact-sequence accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from gcgap.importance.protocol import Metric

Logits = Float[Tensor, "batch scored vocabulary"]
Targets = Int[Tensor, "batch scored"]
Wrong = Int[Tensor, " batch"] | None
"""A wrong answer to each sequence, where it has one."""
MetricFunction = Callable[[Logits, Targets, Wrong], Float[Tensor, " batch"]]


def exact_match(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """1 where the argmax at every scored position is the target, else 0; it has no gradient."""
    return (logits.argmax(-1) == targets).all(-1).double()


def log_prob(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """Mean log-probability of the target, nats per scored token: minus the cross entropy."""
    return (logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)).double().mean(-1)


def token_accuracy(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """The share of scored positions whose argmax is the target."""
    return (logits.argmax(-1) == targets).double().mean(-1)


def logit_difference(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    """Mean over scored tokens of the target's logit minus that of the wrong answer, by default the largest other one.

    It does not saturate.
    """
    wanted = targets.unsqueeze(-1)
    if wrong is None:
        others = logits.scatter(-1, wanted, -math.inf).amax(-1)
    else:
        others = logits.gather(-1, wrong[:, None, None].expand_as(wanted)).squeeze(-1)
    return (logits.gather(-1, wanted).squeeze(-1) - others).double().mean(-1)


METRICS = tuple(metric for metric in Metric if not metric.only_prompts)  # those that a record of training holds
FUNCTIONS: dict[Metric, MetricFunction] = dict(
    zip(Metric, (exact_match, log_prob, token_accuracy, logit_difference), strict=True)
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
