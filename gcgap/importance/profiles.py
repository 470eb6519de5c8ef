"""What every head does on given sequences: what its removal costs at each scored position, and where it looks from there.

Profiles of two models on the same sequences can be compared entry by entry, whatever number a head has in its layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from gcgap.data.batches import Batch
from gcgap.data.tasks import SEP, START
from gcgap.importance.ablation import chunk_size, repeated
from gcgap.importance.gates import Activations, gated
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring


class Look(StrEnum):
    """What a head can look at; a token that is several of these counts as the first."""

    START = "START"
    SEP = "SEP"
    ANSWER = "answer"
    """A token like the one to be predicted."""
    SAME = "same value"
    """An earlier token like the one that looks."""
    ITSELF = "itself"
    PREVIOUS = "previous token"
    INPUT = "other input"
    OUTPUT = "other output"


class Profiles(NamedTuple):
    """What the heads of a model do, layer by layer, in float64 on the CPU.

    `drops` are those of the answer's log-probability when a head is replaced by its mean, in nats. `looks` are shares of
    attention, in the order of `Look`; they sum to 1.
    """

    drops: Float[Tensor, "head sequence scored"]
    looks: Float[Tensor, "head sequence scored look"]


@torch.no_grad()
def profiles(model: Decoder, wiring: Wiring, batch: Batch, mean: Activations) -> Profiles:
    """The profile of every head.

    Args:
        model: The model.
        wiring: Where its heads are.
        batch: Sequences of one length, of a task on integers.
        mean: What replaces a head.
    """
    size, last = chunk_size(model, batch), batch.last
    drops, looks = [], []
    with eval_mode(model):
        for start in range(0, len(batch.inputs), size):
            part = batch.rows(slice(start, start + size))
            inputs, (targets,) = part.inputs.to(model.device), part.answers(slice(None), model.device)
            drops.append(torch.cat(list(_drops(model, wiring, inputs, targets, mean))))
            seen = [pattern[:, :, -last:].double().transpose(0, 1) for pattern in model.patterns(inputs)]
            looks.append(torch.einsum("h s q k, s q k l -> h s q l", torch.cat(seen), _looks(inputs, targets).double()))
    return Profiles(torch.cat(drops, 1).cpu(), torch.cat(looks, 1).cpu())


def _drops(
    model: Decoder, wiring: Wiring, inputs: Int[Tensor, "rows pos"], targets: Int[Tensor, "rows last"], mean: Activations
) -> Iterator[Float[Tensor, "head rows last"]]:
    """What removing each head of a layer costs, layer by layer."""
    rows, last = targets.shape
    states = model.states(inputs, last)
    base = _log_prob(model.forward_from(model.n_layers - 1, states[-1], last), targets)
    for layer, state in enumerate(states):
        heads, _ = wiring.columns(layer)
        gates = torch.zeros(wiring.n_heads, len(wiring.components)).to(inputs.device)
        gates[:, heads] = torch.eye(wiring.n_heads).to(gates)
        with gated(model, wiring, gates.repeat_interleave(rows, 0), mean):
            logits = model.forward_from(layer, repeated(state, wiring.n_heads), last)
        yield base - _log_prob(logits, targets.repeat(wiring.n_heads, 1)).unflatten(0, (wiring.n_heads, rows))


def _log_prob(logits: Float[Tensor, "rows last vocabulary"], targets: Int[Tensor, "rows last"]) -> Float[Tensor, "rows last"]:
    return logits.double().log_softmax(-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)


def _looks(inputs: Int[Tensor, "rows pos"], targets: Int[Tensor, "rows last"]) -> Float[Tensor, "rows last pos look"]:
    """1 where a token is what `Look` says to the one that looks, each token one of them."""
    last, (pos, keys) = targets.shape[1], (inputs.shape[1], inputs[:, None, :])
    query, key = torch.arange(pos - last, pos, device=inputs.device)[:, None], torch.arange(pos, device=inputs.device)
    is_one = {
        Look.START: keys == START,
        Look.SEP: keys == SEP,
        Look.ANSWER: keys == targets[:, :, None],
        Look.SAME: (keys == inputs[:, -last:, None]) & (key != query),
        Look.ITSELF: key == query,
        Look.PREVIOUS: key == query - 1,
        Look.INPUT: key < pos - last,
        Look.OUTPUT: key >= pos - last,
    }
    shape = len(inputs), last, pos
    every = torch.stack([is_one[look].expand(shape) for look in Look], -1)
    return (every & (every.cumsum(-1) == 1)).double()
