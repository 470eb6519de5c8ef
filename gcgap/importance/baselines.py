"""Baselines: what an ablated component's output becomes.

A new baseline is one enum member and one branch of `replacements`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum

import torch
from jaxtyping import Int
from torch import Tensor

from gcgap.batches import Batch, Purpose, Source, partners
from gcgap.components import Wiring
from gcgap.gates import Activations, recorded, undisturbed
from gcgap.importance.corruption import Corruption, corrupted
from gcgap.model import Transformer


class Baseline(StrEnum):
    """What replaces the output of an ablated component."""

    MEAN = "mean"
    """Its mean over batch and positions of a separate set of OOD batches."""
    MEAN_BY_POSITION = "mean_by_position"
    """Its mean over the batch at each position, over a separate set of batches of the evaluated length."""
    ZERO = "zero"
    """The zero vector."""
    RESAMPLE = "resample"
    """Its output on another random example of the same length, that example's target included."""
    PATCH_SEQUENCE = "patch_sequence"
    """Activation patching: its output where other random integers stand in the input, and the target stays."""
    PATCH_TOKEN = "patch_token"
    """Activation patching: its output where one integer of the input is another one, and the target stays."""
    PATCH_SWAP = "patch_swap"
    """Activation patching: its output where two neighbouring integers of the input are swapped, and the target stays."""

    @property
    def corruption(self) -> Corruption | None:
        """How the corrupted input is made from the clean one, for activation patching; None for ablation."""
        return Corruption(self.removeprefix("patch_")) if self.startswith("patch_") else None


Replacement = Callable[[slice], Activations]
"""Gives the replacement for some rows of the evaluation batch."""


@torch.no_grad()
def mean_activations(model: Transformer, wiring: Wiring, batches: Iterable[Batch], by_position: bool) -> Activations:
    """Mean output of every component over the rows and (unless `by_position`) the positions of batches of equal size."""
    device, dtype = next(model.parameters()).device, next(model.parameters()).dtype
    over = (0,) if by_position else (0, 1)
    totals: list[Tensor] = []
    count = 0
    with undisturbed(model):
        for batch in batches:
            with recorded(model, wiring) as seen:
                model(batch.inputs.to(device))
            means = [value.double().mean(over, keepdim=True) for value in (*seen.heads, *seen.mlps)]
            totals = [total + mean for total, mean in zip(totals, means, strict=True)] if totals else means
            count += 1
    values = [(total / count).to(dtype) for total in totals]
    return Activations(values[: wiring.n_layers], values[wiring.n_layers :])


def zero_activations(model: Transformer, wiring: Wiring) -> Activations:
    """Zero for every component."""
    zero = next(model.parameters()).new_zeros
    heads = [zero(1, 1, wiring.n_heads, model.d_head) for _ in range(wiring.n_layers)]
    return Activations(heads, [zero(1, 1, model.d_model) for _ in range(wiring.n_layers)])


def activations_on(model: Transformer, wiring: Wiring, inputs: Int[Tensor, "batch pos"], last: int) -> Replacement:
    """Every row's replacement is what the component puts out on the same row of other inputs."""
    device = next(model.parameters()).device

    @torch.no_grad()
    def rows(index: slice) -> Activations:
        with undisturbed(model), recorded(model, wiring) as seen:
            model(inputs[index].to(device), last)
        return seen

    return rows


def replacements(
    model: Transformer,
    wiring: Wiring,
    source: Source,
    batch: Batch,
    baselines: Iterable[Baseline],
    mean: Activations,
    mean_batches: int,
    batch_size: int,
) -> dict[Baseline, Replacement]:
    """The replacement of each baseline for one evaluation batch; `mean` holds the global means."""
    length = int(batch.scored[0].sum()) - 1

    def one(baseline: Baseline) -> Replacement:
        match baseline:
            case Baseline.MEAN:
                return lambda rows: mean
            case Baseline.MEAN_BY_POSITION:
                drawn = source.batches(Purpose.MEAN, length, mean_batches, batch_size)
                by_position = mean_activations(model, wiring, drawn, by_position=True)
                return lambda rows: by_position
            case Baseline.ZERO:
                zero = zero_activations(model, wiring)
                return lambda rows: zero
            case Baseline.RESAMPLE:
                partner = batch.inputs[partners(source.seed, length, len(batch.inputs))]
                return activations_on(model, wiring, partner, length + 1)
            case Baseline.PATCH_SEQUENCE | Baseline.PATCH_TOKEN | Baseline.PATCH_SWAP:
                assert baseline.corruption is not None
                inputs = corrupted(batch, baseline.corruption, source.seed).inputs
                return activations_on(model, wiring, inputs, length + 1)

    return {baseline: one(baseline) for baseline in baselines}
