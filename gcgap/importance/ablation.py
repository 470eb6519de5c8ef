"""C, the causal importance: what a model loses when components are ablated, on the same sequences (paired).

    C_S = M(0) - M(1_S), per sequence and metric; positive means that the set S is needed

`ablated_scores` gives the values of M from which every drop follows, for any list of interventions in one pass over the
sequences. What lies below the ablated components is computed once per chunk of sequences and shared by all interventions and
baselines; an MLP that is replaced wholly is not computed; the last layer is computed at scored positions only; chunks are small
enough to stay in cache.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from gcgap.data.batches import Batch
from gcgap.importance.baselines import Replacement
from gcgap.importance.gap import Estimate
from gcgap.importance.gates import Activations, gated, skip_mlp
from gcgap.importance.protocol import Baseline, Metric, Site
from gcgap.importance.scores import METRICS, Scores, score
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.transformer import Decoder, State, Transformer, eval_mode
from gcgap.models.wiring import Wiring

CHUNK = 16  # sequences whose shared prefix is held at once
ROWS = 80  # sequences x interventions that run together: five interventions of one layer on one chunk
LARGER = 5  # times as many of both off the CPU: fewer and larger kernels, still below twice the memory of a training step


@dataclass(frozen=True)
class Intervention:
    """All `members` (positions in `Wiring.components`) off at once.

    What their outputs become is a baseline, or, once a batch is chosen (see `bound`), the replacement itself.
    """

    members: frozenset[int]
    replacement: Baseline | Replacement


def bound(interventions: Iterable[Intervention], replacements: Mapping[Baseline, Replacement]) -> list[Intervention]:
    """The interventions on one batch, for which each baseline is known."""
    return [Intervention(one.members, replacements[Baseline(one.replacement)]) for one in interventions]


@torch.no_grad()
def ablated_scores(
    model: Decoder,
    wiring: Wiring,
    batch: Batch,
    interventions: Sequence[Intervention],
    site: Site = Site.COMPONENT,
    where: Bool[Tensor, " pos"] | None = None,
) -> tuple[Scores, Scores]:
    """M(0) of every sequence and M(1_S) of every intervention and sequence.

    Args:
        model: The model.
        wiring: Where its components are.
        batch: Sequences of one length.
        interventions: What to ablate, with the replacement for this batch; every set needs a member.
        site: Where a head is replaced.
        where: Positions that are replaced; all by default.

    Returns:
        Scores of the untouched model, shape (sequence,), and of the interventions, shape (intervention, sequence).
    """
    device, last = model.device, batch.last
    size = chunk_size(model, batch)
    most = model.fits(ROWS * size // CHUNK, batch.inputs.shape[1], "forward")
    groups = _by_first_layer(model, wiring, interventions, everywhere=where is None)
    base, ablated = [], []
    with eval_mode(model):
        for start in range(0, len(batch.inputs), size):
            rows = slice(start, min(start + size, len(batch.inputs)))
            inputs = batch.inputs[rows].to(device)
            states = cache(partial(model.states, inputs, last))  # by the first token that can change
            logits = model.forward_from(model.n_layers - 1, states(0)[-1], last)
            base.append(torch.stack(score(logits, *batch.answers(rows, device))))
            ablated.append(base[-1].new_empty(len(Metric), len(interventions), len(inputs)))
            for replacement, places in groups.items():
                other = replacement(rows)
                below = states(first_changed(model, other, where))
                for first, numbers in places.items():
                    for few in _pieces(numbers, max(1, most // len(inputs))):
                        sets = [interventions[number].members for number in few]
                        changed = ablated_logits(model, wiring, below[first.layer], first, sets, other, site, where, last)
                        names = [" + ".join(wiring.components[member].name for member in sorted(one)) for one in sets]
                        scores = score(changed, *batch.answers(rows, device, len(few)), names=names)
                        ablated[-1][:, few] = torch.stack(scores).unflatten(1, (len(few), -1))
    return Scores(*torch.cat(base, -1).cpu()), Scores(*torch.cat(ablated, -1).cpu())


@torch.no_grad()
def base_scores(model: Decoder, batch: Batch, sharing: Sharing = ALONE) -> Scores:
    """M(0) of every sequence of a batch of one length; processes share whole chunks of the sequences."""
    size = chunk_size(model, batch)

    def own(mine: slice) -> Tensor:
        pieces = []
        for start in range(mine.start, mine.stop, size):
            rows = slice(start, min(start + size, mine.stop))
            logits = model(batch.inputs[rows].to(model.device), batch.last)
            pieces.append(torch.stack(score(logits, *batch.answers(rows, model.device))).cpu())
        return torch.cat(pieces, -1)

    with eval_mode(model):
        return Scores(*sharing.gather((len(Metric), len(batch.inputs)), own, unit=size))


def causal_importance(base: Scores, ablated: Scores, metrics: Sequence[str] = METRICS) -> Estimate:
    """C_S, the mean over sequences of M(0) - M(1_S); its samples are those drops, shape (metric, intervention, sequence)."""
    return Estimate(drops(base, ablated, metrics).numpy())


def drops(base: Scores, ablated: Scores, metrics: Sequence[str] = METRICS) -> Float[Tensor, "metric intervention sequence"]:
    """Per-sequence drops M(0) - M(1_S) by some metrics; positive where the ablation harms."""
    return torch.stack([getattr(base, name) - getattr(ablated, name) for name in metrics])


def chunk_size(model: Decoder, batch: Batch) -> int:
    """Sequences of a batch that run together; their numbers do not depend on those of other chunks."""
    return model.fits(CHUNK if model.device.type == "cpu" else CHUNK * LARGER, batch.inputs.shape[1], "forward")


class First(NamedTuple):
    """Where interventions first change the model: what lies below is shared."""

    layer: int
    skips: bool
    """No head of the layer is replaced, but its MLP is, at every position: what the MLP puts out is not needed."""


def _by_first_layer(
    model: Decoder, wiring: Wiring, interventions: Sequence[Intervention], everywhere: bool
) -> dict[Replacement, dict[First, list[int]]]:
    """Numbers of the interventions with the same replacement that begin at the same place."""
    groups: dict[Replacement, dict[First, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, one in enumerate(interventions):
        assert callable(one.replacement), "an intervention must be bound to a batch"
        layer = min(wiring.components[member].layer for member in one.members)
        heads, _ = wiring.columns(layer)
        apart = everywhere and one.members.isdisjoint(range(heads.start, heads.stop))
        own = isinstance(model, Transformer) and wiring.module(model, wiring.mlp, layer) is model.blocks[layer].mlp
        groups[one.replacement][First(layer, apart and own)].append(number)
    return groups


def ablated_logits(
    model: Decoder,
    wiring: Wiring,
    state: State,
    first: First,
    sets: Sequence[frozenset[int]],
    other: Activations,
    site: Site,
    where: Tensor | None,
    last: int,
) -> Float[Tensor, "rows last vocabulary"]:
    """Logits of M(1_S) for every set and sequence, from where the sets first change the model."""
    rows = len(state[0])
    gates = next(model.parameters()).new_zeros(len(sets), len(wiring.components))  # a state may be tokens, which are integers
    for row, members in enumerate(sets):
        gates[row, list(members)] = 1
    if first.skips:
        assert isinstance(model, Transformer)
        x = skip_mlp(model, model.blocks[first.layer].attend(*state), first.layer, wiring, other)
        gates[:, wiring.columns(first.layer)[1]] = 0
        with gated(model, wiring, gates.repeat_interleave(rows, 0), other, site):
            return model.run_from(first.layer + 1, x.repeat(len(sets), 1, 1), last)
    with gated(model, wiring, gates.repeat_interleave(rows, 0), other, site, where):
        return model.forward_from(first.layer, repeated(state, len(sets)), last)


def first_changed(model: Decoder, other: Activations, where: Bool[Tensor, " pos"] | None) -> int:
    """The first token that a replacement can change, for a model that need not run those before; else 0."""
    if not model.keeps_tokens:
        return 0
    return max(other.since, 0 if where is None else int(where.int().argmax()))


def repeated(state: State, times: int) -> State:
    """All rows of a state, so many times."""
    return tuple(part.repeat(times, *[1] * (part.dim() - 1)) if isinstance(part, Tensor) else part for part in state)


def _pieces(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]
