"""A model under measurement: with its data, its protocol and the baselines that its stages share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from gcgap.batches import Batch, Purpose, Source
from gcgap.components import Wiring
from gcgap.gap import Array
from gcgap.gates import Activations, Site
from gcgap.importance.baselines import replacements
from gcgap.importance.causal import Intervention, ablated_scores, base_scores, drops
from gcgap.model import Transformer
from gcgap.protocol import Protocol


@dataclass
class Subject:
    """A model under measurement with all that its stages share."""

    model: Transformer
    wiring: Wiring
    source: Source
    protocol: Protocol
    length: int
    mean: Activations

    def batch(self, length: int, size: int, index: int = 0) -> Batch:
        """Evaluation sequences of one length; equal arguments give the same sequences."""
        return self.source.batch(Purpose.EVALUATION, length, size, index)

    def drops(self, sets: list[Intervention], batch: Batch) -> Array:
        """Per-sequence drops, shape (metric, intervention, sequence), paired with the base on the same sequences."""
        base, ablated = self._scores(sets, batch)
        return drops(base, ablated).numpy()

    def drops_unpaired(self, sets: list[Intervention], length: int, size: int) -> Array:
        """As `drops`, but base and every intervention each on sequences of their own, as the first public pipeline draws them."""
        base = base_scores(self.model, self.batch(length, size))
        each = [drops(base, self._scores([one], self.batch(length, size, 1 + i))[1]) for i, one in enumerate(sets)]
        return torch.cat(each, dim=1).numpy()

    def _scores(self, sets: list[Intervention], batch: Batch) -> tuple[Any, Any]:
        p = self.protocol
        used = {one.baseline for one in sets}
        other = replacements(self.model, self.wiring, self.source, batch, used, self.mean, p.mean_batches, p.batch_size)
        return ablated_scores(self.model, self.wiring, batch, sets, other, Site(p.site))


def id_batches(source: Source, sequences: int) -> list[Batch]:
    """In-distribution evaluation sequences: about `sequences` in all, the same number of each training length."""
    each = max(2, sequences // len(source.training_lengths))
    return [source.batch(Purpose.EVALUATION, length, each) for length in source.training_lengths]
