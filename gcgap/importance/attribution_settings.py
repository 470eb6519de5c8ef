"""The settings that shape attribution scores: the block `attribution` of a protocol. Plain values, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal["log_prob", "logit_difference"]


@dataclass(frozen=True)
class Attribution:
    """Which attribution methods are run beside the exact effects, and how finely.

    Args:
        methods: Names of attribution methods; `gcgap attribute --list-methods` prints them.
        metric: What gates are differentiated in: `log_prob`, the mean log-probability of the target (nats per scored token; the
            loss with its sign turned), or `logit_difference`, the target's logit minus the largest other one.
        steps: Nodes of every path, K.
        difference: Step h of finite differences, a share of the way from the untouched to the replaced output.
        pairs: Antithetic pairs of orders per sequence behind Shapley values.
        budget: Forward passes that Screen-Flag-Fix may spend on exact effects.
        gradient_batches: Of the protocol's gradient batches, those whose sequences the Fisher trace visits one by one.
    """

    methods: tuple[str, ...] = ()
    metric: MetricName = "log_prob"
    steps: int = 4
    difference: float = 0.02
    pairs: int = 2
    budget: int = 10
    gradient_batches: int = 5

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "gradient_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"`attribution.{name}` must be at least 1; got {getattr(self, name)}.")
        if self.budget < 0:
            raise ValueError(f"`attribution.budget` must be 0 or more forward passes; got {self.budget}.")
        if not 0 < self.difference < 0.5:
            raise ValueError(f"`attribution.difference` must be between 0 and 0.5; got {self.difference}.")
        if self.metric not in get_args(MetricName):
            raise ValueError(f"`attribution.metric` must be one of {', '.join(get_args(MetricName))}; got {self.metric!r}.")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError(f"`attribution.methods` must be different ones; got {', '.join(self.methods)}.")
