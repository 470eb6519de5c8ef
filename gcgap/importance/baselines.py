"""Baselines: what an ablated component's output becomes.

A new baseline is one member of `Baseline` and one function here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from gcgap.data.batches import NOTHING, Batch, Purpose, Source, partner_rows
from gcgap.data.corruption import Corruption, corrupted
from gcgap.importance.gates import Activations, recorded
from gcgap.importance.protocol import Baseline
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring

Replacement = Callable[[slice], Activations]
"""Gives the replacement for some rows of the evaluation batch."""


@torch.no_grad()
def mean_activations(
    model: Decoder, wiring: Wiring, batches: Iterable[Batch], by_position: bool, sharing: Sharing = ALONE
) -> Activations:
    """Mean output of every component over the rows and (unless `by_position`) the positions of batches of equal size.

    Processes share the batches.
    """
    batches, like = list(batches), next(model.parameters())
    widths = [model.n_heads * model.d_head] * model.n_layers + [model.d_model] * model.n_layers
    shape = len(batches), batches[0].inputs.shape[1] if by_position else 1, sum(widths)
    means = sharing.gather(shape, lambda mine: batch_means(model, wiring, batches[mine], by_position), axis=0)
    values = (sum(means[1:], means[:1]) / len(means)).to(like).split(widths, -1)  # in the order of the batches
    heads = [value.unflatten(-1, (wiring.n_heads, -1)) for value in values[: wiring.n_layers]]
    return Activations(heads, list(values[wiring.n_layers :]))


@torch.no_grad()
def batch_means(model: Decoder, wiring: Wiring, batches: Iterable[Batch], by_position: bool) -> Float[Tensor, "batch pos width"]:
    """The mean outputs of all components side by side (heads, then MLPs) over the rows of each batch, float64 on the CPU.

    There is one position, the mean over all, unless `by_position`.
    """
    found = []
    with eval_mode(model):
        for batch in batches:
            there = batch.inputs != NOTHING
            if by_position and not bool(there.all()):
                raise ValueError("`mean_by_position` needs inputs of one length; these have tokens at different positions.")
            total = torch.zeros(())
            for piece in model.pieces(len(there), there.shape[1], "forward"):
                part = there[piece]
                share = len(part) / len(there) if by_position else int(part.sum()) / int(there.sum())
                keep = partial(_mean_of_rows if by_position else _mean_of_tokens, part.to(model.device))
                with recorded(model, wiring, keep) as seen:
                    model.run(batch.inputs[piece].to(model.device))
                total = total + share * torch.cat([value.flatten(2).cpu() for value in (*seen.heads, *seen.mlps)], -1)
            found.append(total)
    return torch.cat(found)


def _mean_of_rows(there: Bool[Tensor, "rows pos"], value: Float[Tensor, "rows pos width"]) -> Float[Tensor, "1 pos width"]:
    return value.double().mean(0, keepdim=True)


def _mean_of_tokens(there: Bool[Tensor, "rows pos"], value: Float[Tensor, "rows pos width"]) -> Float[Tensor, "1 1 width"]:
    if bool(there.all()):
        return value.double().mean((0, 1), keepdim=True)
    return value.double()[there.to(value.device)].mean(0)[None, None]


def zero_activations(model: Decoder, wiring: Wiring) -> Activations:
    """Zero for every component."""
    zero = next(model.parameters()).new_zeros
    heads = [zero(1, 1, wiring.n_heads, model.d_head) for _ in range(wiring.n_layers)]
    return Activations(heads, [zero(1, 1, model.d_model) for _ in range(wiring.n_layers)])


def activations_on(
    model: Decoder, wiring: Wiring, inputs: Int[Tensor, "batch pos"], last: int, instead: Int[Tensor, "batch pos"] | None = None
) -> Replacement:
    """Every row's replacement is what the component puts out on the same row of other inputs.

    No token sees later ones, so it is what it replaces where the inputs begin as those that they stand `instead` of.
    """

    @torch.no_grad()
    def rows(index: slice) -> Activations:
        with eval_mode(model), recorded(model, wiring) as seen:
            model(inputs[index].to(model.device), last)
        return seen._replace(since=0 if instead is None else _first_difference(inputs[index], instead[index]))

    return rows


def _first_difference(inputs: Int[Tensor, "rows pos"], instead: Int[Tensor, "rows pos"]) -> int:
    """The first position at which some row differs; the last one if none does."""
    differs = (inputs != instead).any(0).nonzero()
    return int(differs[0]) if len(differs) else inputs.shape[1] - 1


@dataclass(frozen=True)
class Evaluation:
    """What the replacements for one evaluation batch are made of."""

    model: Decoder
    wiring: Wiring
    source: Source
    batch: Batch
    mean: Activations
    mean_batches: int
    batch_size: int
    sharing: Sharing
    optimal: Activations | None

    def on(self, inputs: Int[Tensor, "batch pos"]) -> Replacement:
        """Outputs on other inputs."""
        return activations_on(self.model, self.wiring, inputs, self.batch.last, self.batch.inputs)


def _mean(evaluation: Evaluation) -> Replacement:
    return lambda rows: evaluation.mean


def _mean_by_position(evaluation: Evaluation) -> Replacement:
    length = evaluation.source.length_of(evaluation.batch)
    batches = evaluation.source.batches(Purpose.MEAN, length, evaluation.mean_batches, evaluation.batch_size)
    mean = mean_activations(evaluation.model, evaluation.wiring, batches, True, evaluation.sharing)
    return lambda rows: mean


def _zero(evaluation: Evaluation) -> Replacement:
    zero = zero_activations(evaluation.model, evaluation.wiring)
    return lambda rows: zero


def _resample(evaluation: Evaluation) -> Replacement:
    length = evaluation.source.length_of(evaluation.batch)
    return evaluation.on(evaluation.batch.inputs[partner_rows(evaluation.batch, evaluation.source.seed, length)])


def _optimal(evaluation: Evaluation) -> Replacement:
    constants = evaluation.optimal
    assert constants is not None, "they are found once, before anything is evaluated"
    return lambda rows: constants


def _patch(kind: Corruption, evaluation: Evaluation) -> Replacement:
    return evaluation.on(corrupted(evaluation.batch, kind, evaluation.source.seed).inputs)


FUNCTIONS: dict[Baseline, Callable[[Evaluation], Replacement]] = {
    Baseline.MEAN: _mean,
    Baseline.MEAN_BY_POSITION: _mean_by_position,
    Baseline.ZERO: _zero,
    Baseline.RESAMPLE: _resample,
    Baseline.OPTIMAL: _optimal,
} | {baseline: partial(_patch, Corruption(baseline.corruption)) for baseline in Baseline if baseline.corruption}


def replacements(
    model: Decoder,
    wiring: Wiring,
    source: Source,
    batch: Batch,
    baselines: Iterable[Baseline],
    mean: Activations,
    mean_batches: int,
    batch_size: int,
    sharing: Sharing = ALONE,
    optimal: Activations | None = None,
) -> dict[Baseline, Replacement]:
    """The replacement of each baseline for one evaluation batch; `mean` holds the global means, `optimal` the best constants."""
    evaluation = Evaluation(model, wiring, source, batch, mean, mean_batches, batch_size, sharing, optimal)
    return {baseline: FUNCTIONS[baseline](evaluation) for baseline in baselines}
