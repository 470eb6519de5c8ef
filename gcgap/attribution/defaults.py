"""What is attributed where nothing is said: the intervention, the sizes and the methods, by the model and its data."""

from __future__ import annotations

from dataclasses import replace

from gcgap.attribution.methods import METHODS, affordable
from gcgap.attribution.setup import Setup
from gcgap.data.batches import Source
from gcgap.importance.protocol import PROMPTED, Attribution, Baseline, Protocol
from gcgap.models.transformer import Decoder
from gcgap.models.wiring import Wiring

MANY = 40  # components from which on not every pair is measured, nor what takes passes for each component


def default_setup(source: Source) -> Setup:
    """Mean ablation; for prompts activation patching from their corrupted twins."""
    return Setup(Baseline.MEAN if source.only_length is None else Baseline.PATCH_PROMPT)


def default_methods(model: Decoder) -> tuple[str, ...]:
    """All; of a model with many components none whose cost grows with their number."""
    return tuple(METHODS) if len(Wiring.of(model).components) <= MANY else affordable()


def default_protocol(model: Decoder | None = None, source: Source | None = None) -> Protocol:
    """Fewer sequences than C takes, since curvature costs more than ablation; of prompts fewer batches too."""
    methods = tuple(METHODS) if model is None else default_methods(model)
    protocol = Protocol(sequences=128, attribution=Attribution(methods=methods))
    if source is None or source.only_length is None:
        return protocol
    few = min(PROMPTED.mean_batches, source.most_batches or PROMPTED.mean_batches)
    return replace(protocol, batch_size=PROMPTED.batch_size, gradient_batches=few, mean_batches=few)


def with_methods(protocol: Protocol, model: Decoder) -> Protocol:
    """The protocol, with the default methods if it names none."""
    if protocol.attribution.methods:
        return protocol
    return replace(protocol, attribution=replace(protocol.attribution, methods=default_methods(model)))
