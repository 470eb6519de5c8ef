"""What an attribution measurement intervenes on: baseline, direction, positions; the drop that follows from it; and defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.methods import Problem, default_methods, default_stages
from gcgap.data.batches import NOTHING, Batch, Purpose, Source
from gcgap.data.corruption import Corruption, corrupted
from gcgap.importance.baselines import activations_on, replacements, zero_activations
from gcgap.importance.experiment import Experiment
from gcgap.importance.protocol import PROMPTED, Attribution, Baseline, Metric, Protocol
from gcgap.importance.scores import DIFFERENTIABLE
from gcgap.models.transformer import Decoder

Direction = Literal["noising", "denoising"]


@dataclass(frozen=True)
class Setup:
    """What is intervened on, beside the protocol.

    Args:
        baseline: What replaces a component's output.
        direction: `noising` puts the replacement into the clean run; `denoising` puts clean outputs into the corrupted run, and
            says what is restored (activation patching only).
        positions: `all`, `input` (up to the last integer of the input), `scored`, or numbers.
    """

    baseline: Baseline = Baseline.MEAN
    direction: Direction = "noising"
    positions: Literal["all", "input", "scored"] | tuple[int, ...] = "all"

    def __post_init__(self) -> None:
        if self.baseline not in list(Baseline):
            raise ValueError(f"`baseline` must be any of {', '.join(Baseline)}; got {self.baseline!r}.")
        object.__setattr__(self, "baseline", Baseline(self.baseline))  # plain texts serve too
        if isinstance(self.positions, tuple) and len(set(self.positions)) == len(self.positions):
            object.__setattr__(self, "positions", tuple(sorted(self.positions)))
        elif isinstance(self.positions, tuple):
            raise ValueError(f"`positions` must be different ones; got {', '.join(map(str, self.positions))}.")
        if self.baseline == Baseline.OPTIMAL and self.positions != "all":
            raise ValueError(
                "`positions` must be all for the baseline optimal, whose constants are found with every position replaced; "
                f"got {self.positions}."
            )
        if self.direction not in ("noising", "denoising"):
            raise ValueError(f"`direction` must be noising or denoising; got {self.direction!r}.")
        if self.direction == "denoising" and self.baseline.corruption is None:
            raise ValueError(f"`direction` denoising needs a baseline patch_*, a corrupted input; got `{self.baseline}`.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        positions = self.positions if isinstance(self.positions, str) else list(self.positions)
        return {"baseline": str(self.baseline), "direction": self.direction, "positions": positions}

    def where(self, batch: Batch) -> Bool[Tensor, " pos"] | None:
        """The positions at which components are replaced; None for all.

        Raises:
            ValueError: A position that the sequences do not have.
        """
        tokens = batch.inputs.shape[1]
        first = tokens - batch.last
        if self.positions != "all" and bool((batch.inputs == NOTHING).any()):
            raise ValueError("`positions` must be all for prompts of unequal lengths, which have no places in common.")
        match self.positions:
            case "all":
                return None
            case "input":
                return torch.arange(tokens) < first
            case "scored":
                return torch.arange(tokens) >= first
            case _:
                if not self.positions or not all(isinstance(p, int) and 0 <= p < tokens for p in self.positions):
                    raise ValueError(
                        f"`positions` must be all, input, scored, or numbers from 0 to {tokens - 1}; got {self.positions}."
                    )
                return torch.isin(torch.arange(tokens), torch.tensor(self.positions))

    def drop(self, subject: Experiment, clean: Batch) -> Drop:
        """D of a subject on clean sequences."""
        where, metric = self.where(clean), DIFFERENTIABLE[subject.protocol.attribution.metric]
        model, wiring, p = subject.model, subject.wiring, subject.protocol
        if self.direction == "denoising":
            assert self.baseline.corruption is not None
            base = corrupted(clean, Corruption(self.baseline.corruption), subject.source.seed)
            restored = activations_on(model, wiring, clean.inputs, int(clean.scored[0].sum()), base.inputs)
            return Drop(model, wiring, base, restored, metric, p.site, where, sign=-1)
        one = [self.baseline]
        means = subject.mean, p.mean_batches, p.batch_size
        other = replacements(model, wiring, subject.source, clean, one, *means, optimal=subject.optimal)
        return Drop(model, wiring, clean, other[self.baseline], metric, p.site, where)

    def other_inputs(self, clean: Batch, seed: int) -> Int[Tensor, "sequence pos"] | None:
        """The inputs whose outputs are let in, for activation patching; None for ablation."""
        if self.baseline.corruption is None:
            return None
        if self.direction == "denoising":
            return clean.inputs
        return corrupted(clean, Corruption(self.baseline.corruption), seed).inputs

    def problem(self, subject: Experiment, clean: Batch) -> Problem:
        """What methods score, on clean sequences."""
        p, drop = subject.protocol, self.drop(subject, clean)
        zero = zero_activations(subject.model, subject.wiring)
        gradients = subject.source.batches(Purpose.GRADIENT, subject.length, p.gradient_batches, p.batch_size)
        seed = subject.source.seed
        other = self.other_inputs(clean, seed)
        return Problem(clean, drop, replace(drop, replacement=lambda rows: zero), gradients, p.attribution, seed, other)


PROMPTED_SETUP, PROMPTED_METRIC = Setup(Baseline.PATCH_PROMPT), Metric.LOGIT_DIFFERENCE


def default_setup(source: Source) -> Setup:
    """Mean ablation; for prompts activation patching from their corrupted twins."""
    return Setup() if source.only_length is None else PROMPTED_SETUP


def default_metric(source: Source | None) -> Metric:
    """The log-probability; for prompts the logit difference, by which their tasks are judged and which does not saturate."""
    return Metric.LOG_PROB if source is None or source.only_length is None else PROMPTED_METRIC


def default_protocol(model: Decoder | None = None, source: Source | None = None, baseline: Baseline = Baseline.MEAN) -> Protocol:
    """Fewer sequences than C takes, since curvature costs more than ablation; of prompts fewer batches too."""
    settings = Attribution(default_methods(model, baseline), default_metric(source), stages=default_stages(model))
    protocol = Protocol(sequences=128, attribution=settings)
    if source is None or source.only_length is None:
        return protocol
    few = min(PROMPTED.mean_batches, source.most_batches or PROMPTED.mean_batches)
    return replace(protocol, batch_size=PROMPTED.batch_size, gradient_batches=few, mean_batches=few)
