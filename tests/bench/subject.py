"""The reference model, with the data that the alternatives of a benchmark share."""

from __future__ import annotations

from pathlib import Path

import torch

import gcgap
from gcgap.data.batches import Purpose, Source, partner_rows
from gcgap.importance.ablation import Intervention, ablated_scores, bound
from gcgap.importance.baselines import activations_on, mean_activations, replacements
from gcgap.importance.gates import Activations, gated
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.importance.scores import score
from gcgap.models.number_format import in_precision
from gcgap.models.transformer import Transformer, eval_mode
from gcgap.models.wiring import Wiring

REFERENCE = Path(__file__).parents[2] / "checkpoints" / "sort-seed42"
LENGTH = 9
BASELINES = [Baseline.MEAN, Baseline.ZERO, Baseline.RESAMPLE]


class Reference:
    """A measurement of the paper's size in its parts, under one baseline or more."""

    def __init__(self, precision: str = "float32") -> None:
        model = in_precision(gcgap.load(REFERENCE), precision)
        assert isinstance(model, Transformer)
        self.model = model
        self.source, self.protocol, self.wiring = Source("sort"), Protocol(), Wiring.of(self.model)
        self.n = len(self.wiring.components)
        self.batch = self.source.batch(Purpose.EVALUATION, LENGTH, self.protocol.sequences)
        self.gates = torch.eye(self.n)
        self.mean = self.means(5)
        made = (self.model, self.wiring, self.source, self.batch, BASELINES, self.mean)
        self.other = replacements(*made, self.protocol.mean_batches, self.protocol.batch_size)
        partner = self.batch.inputs[partner_rows(self.batch, self.source.seed, LENGTH)]
        everywhere = activations_on(self.model, self.wiring, partner, partner.shape[1])
        self.whole = self.other | {Baseline.RESAMPLE: everywhere}  # for passes that compute all positions of the last layer too

    def means(self, batches: int) -> Activations:
        """Mean activations."""
        drawn = self.source.batches(Purpose.MEAN, LENGTH, batches, self.protocol.batch_size)
        return mean_activations(self.model, self.wiring, drawn, by_position=False)

    def gradients(self) -> object:
        """G, over as many batches as the protocol says."""
        p = self.protocol
        drawn = self.source.batches(Purpose.GRADIENT, LENGTH, p.gradient_batches, p.batch_size)
        return gradient_norms(self.model, self.wiring, drawn)

    def shared(self, baselines: list[Baseline]) -> torch.Tensor:
        """Scores under ablation of every component, as gcgap measures them, shape (score, ablation, sequence)."""
        sets = [Intervention(frozenset([i]), baseline) for baseline in baselines for i in range(self.n)]
        other = {baseline: self.other[baseline] for baseline in baselines}
        return torch.stack(ablated_scores(self.model, self.wiring, self.batch, bound(sets, other))[1])

    def one_full_pass_each(self, baselines: list[Baseline]) -> torch.Tensor:
        """The same by one hooked full pass of all sequences per component and baseline."""
        found, rows, targets = [], len(self.batch.inputs), self.batch.targets[:, -LENGTH - 1 :]
        with torch.no_grad(), eval_mode(self.model):
            for baseline in baselines:
                other = self.whole[baseline](slice(None))
                for i in range(self.n):
                    with gated(self.model, self.wiring, self.gates[i : i + 1].expand(rows, self.n), other):
                        logits = self.model(self.batch.inputs)[:, -LENGTH - 1 :]
                    found.append(torch.stack(score(logits, targets)))
        return torch.stack(found, 1)
