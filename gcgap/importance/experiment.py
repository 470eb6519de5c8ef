"""A model under measurement: with its data, its protocol and the baselines that its stages share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch

from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.ablation import Intervention, ablated_scores, base_scores, bound, chunk_size, drops
from gcgap.importance.baselines import Replacement, averaged, batch_means, replacements
from gcgap.importance.gap import Array
from gcgap.importance.gates import Activations
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.importance.scores import METRICS, Scores
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.transformer import Decoder
from gcgap.models.wiring import Wiring


@dataclass
class Subject:
    """A model under measurement with all that its stages share, and the processes that share the work."""

    model: Decoder
    wiring: Wiring
    source: Source
    protocol: Protocol
    length: int
    mean: Activations
    sharing: Sharing = ALONE

    @property
    def metrics(self) -> tuple[str, ...]:
        """What drops are measured in; of prompts also the logit difference."""
        return METRICS if self.source.only_length is None else (*METRICS, "logit_difference")

    def batch(self, length: int, size: int, index: int = 0) -> Batch:
        """Evaluation sequences of one length; equal arguments give the same sequences."""
        return self.source.batch(Purpose.EVALUATION, length, size, index)

    def norms(self) -> Array:
        """Gradient norms, shape (component, batch)."""
        p = self.protocol
        mine = self.sharing.part(p.gradient_batches)
        batches = self.source.batches(Purpose.GRADIENT, self.length, p.gradient_batches, p.batch_size)[mine]
        found = torch.zeros(len(self.wiring.components), p.gradient_batches, dtype=torch.float64)
        if batches:
            found[:, mine] = gradient_norms(self.model, self.wiring, batches, p.normalise_gradient)
        return self.sharing.add(found).numpy()

    def drops(self, sets: list[Intervention], batch: Batch) -> Array:
        """Per-sequence drops, shape (metric, intervention, sequence), paired with the base on the same sequences."""
        base, ablated = self._scores(sets, batch, self.sharing)
        return drops(base, ablated, self.metrics).numpy()

    def drops_unpaired(self, sets: list[Intervention], length: int, size: int) -> Array:
        """As `drops`, but base and every intervention each on sequences of their own, as the first public pipeline draws them.

        Processes share the interventions, not the sequences.
        """
        if self.source.only_length is not None:
            raise ValueError("`protocol.paired` must be true for prompts, of which a file has no others for every component.")
        base = shared_base_scores(self.model, self.batch(length, size), self.sharing)
        ablated = torch.zeros(len(Scores._fields), len(sets), size, dtype=torch.float64)
        mine = self.sharing.part(len(sets))
        for i, one in enumerate(sets[mine], mine.start):
            ablated[:, i] = torch.cat(self._scores([one], self.batch(length, size, 1 + i), ALONE)[1])
        return drops(base, Scores(*self.sharing.add(ablated)), self.metrics).numpy()

    def _scores(self, sets: list[Intervention], batch: Batch, sharing: Sharing) -> tuple[Scores, Scores]:
        """`ablated_scores`, each process with whole chunks of the sequences, so that the same ones run together as in one."""
        p, used, mine = self.protocol, {Baseline(one.replacement) for one in sets}, _chunks(self.model, batch, sharing)
        average = partial(shared_means, sharing)
        other = replacements(self.model, self.wiring, self.source, batch, used, self.mean, p.mean_batches, p.batch_size, average)
        found = torch.zeros(len(Scores._fields), 1 + len(sets), len(batch.inputs), dtype=torch.float64)
        if mine.start < mine.stop:
            ours = {baseline: _inside(mine, give) for baseline, give in other.items()}
            base, ablated = ablated_scores(self.model, self.wiring, batch.rows(mine), bound(sets, ours), p.site)
            found[:, 0, mine], found[:, 1:, mine] = torch.stack(base), torch.stack(ablated)
        found = sharing.add(found)
        return Scores(*found[:, 0]), Scores(*found[:, 1:])


def shared_means(sharing: Sharing, model: Decoder, wiring: Wiring, batches: Iterable[Batch], by_position: bool) -> Activations:
    """As `mean_activations`, each process with batches of its own."""
    batches = list(batches)
    mine, positions = sharing.part(len(batches)), batches[0].inputs.shape[1] if by_position else 1
    width = model.n_layers * (model.n_heads * model.d_head + model.d_model)
    found = torch.zeros(len(batches), positions, width, dtype=torch.float64)
    if own := batches[mine]:
        found[mine] = batch_means(model, wiring, own, by_position)
    return averaged(model, wiring, sharing.add(found))


def shared_base_scores(model: Decoder, batch: Batch, sharing: Sharing) -> Scores:
    """As `base_scores`, each process with whole chunks of the sequences."""
    mine = _chunks(model, batch, sharing)
    found = torch.zeros(len(Scores._fields), len(batch.inputs), dtype=torch.float64)
    if mine.start < mine.stop:
        found[:, mine] = torch.stack(base_scores(model, batch.rows(mine)))
    return Scores(*sharing.add(found))


def id_batches(source: Source, sequences: int) -> list[Batch]:
    """In-distribution evaluation sequences: about `sequences` in all, the same number of each training length."""
    if source.only_length is not None:
        return []  # nothing tells prompts that a model was trained on from others
    each = max(2, sequences // len(source.training_lengths))
    return [source.batch(Purpose.EVALUATION, length, each) for length in source.training_lengths]


def _chunks(model: Decoder, batch: Batch, sharing: Sharing) -> slice:
    """The rows of this process."""
    return sharing.part(len(batch.inputs), chunk_size(model, batch))


def _inside(part: slice, give: Replacement) -> Replacement:
    """The replacement for rows counted from the start of a part: a row's partner may lie outside."""
    return lambda rows: give(slice(part.start + rows.start, min(part.start + rows.stop, part.stop)))
