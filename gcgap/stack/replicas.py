"""Several transformers of one shape as one program, and its batches and losses.

Owns what tells replicas apart. A stacked transformer runs the transformer's own code on the examples of all replicas, the first
replica's before the second's and so on along the batch, in which nothing mixes examples. Only the leaves, which have parameters,
know whose an example is: each does for all replicas at once, in one kernel, what its layer does for one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import stack_module_state
from torch.nn import functional as F  # noqa: N812

from gcgap.batches import Purpose, Source, mixed_tokens
from gcgap.model import LearnedPositions, Transformer
from gcgap.tasks import find_task

UNSCORED = -100  # the target that `cross_entropy` leaves out


class Leaf(nn.Module):
    """A layer of every replica: parameters of the layer's names, with a first dimension `replica`."""

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        for name, stacked in stack_module_state(list(layers))[0].items():
            self.register_parameter(name, nn.Parameter(stacked.detach()))

    def by_replica(self, x: Tensor) -> Tensor:
        """Examples as (replica, batch, ...)."""
        return x.unflatten(0, (len(self.weight), -1))


class StackedLinear(Leaf):
    """y = x W^T + b with each replica's own W and b."""

    def forward(self, x: Float[Tensor, "examples pos d_in"]) -> Float[Tensor, "examples pos d_out"]:
        """One batched matrix product."""
        rows = self.by_replica(x).flatten(1, 2)
        return torch.baddbmm(self.bias[:, None], rows, self.weight.mT).unflatten(1, (-1, x.shape[1])).flatten(0, 1)


class StackedLayerNorm(Leaf):
    """LayerNorm with each replica's own scale and shift."""

    def forward(self, x: Float[Tensor, "examples pos d_model"]) -> Float[Tensor, "examples pos d_model"]:
        """Normalise every position, then scale and shift."""
        normal = self.by_replica(F.layer_norm(x, x.shape[-1:]))
        return torch.addcmul(self.bias[:, None, None], normal, self.weight[:, None, None]).flatten(0, 1)


class StackedEmbedding(Leaf):
    """Each replica's own vector of a token."""

    def forward(self, tokens: Int[Tensor, "examples pos"]) -> Float[Tensor, "examples pos d_model"]:
        """Look up all vectors in one table, in which replica r's begin at r times the vocabulary."""
        replicas, vocabulary, _ = self.weight.shape
        begin = torch.arange(0, replicas * vocabulary, vocabulary, device=tokens.device)
        return F.embedding(self.by_replica(tokens) + begin[:, None, None], self.weight.flatten(0, 1)).flatten(0, 1)


class StackedPositions(Leaf):
    """Each replica's own vector of a position."""

    def forward(self, x: Float[Tensor, "examples pos d_model"]) -> Float[Tensor, "examples pos d_model"]:
        """The first positions, from 0 on."""
        return (self.by_replica(x) + self.weight[:, None, : x.shape[1]]).flatten(0, 1)


LEAVES: dict[type[nn.Module], type[Leaf]] = {
    nn.Linear: StackedLinear,
    nn.LayerNorm: StackedLayerNorm,
    nn.Embedding: StackedEmbedding,
    LearnedPositions: StackedPositions,
}


def stack(models: Sequence[Transformer]) -> Transformer:
    """A transformer that holds the parameters of all models, by the same names with a first dimension `replica`.

    It reads the examples of all replicas along the batch, equally many of each.
    """
    stacked = copy.deepcopy(models[0])
    for name, layer in list(stacked.named_modules()):
        if type(layer) in LEAVES:
            stacked.set_submodule(name, LEAVES[type(layer)]([model.get_submodule(name) for model in models]))
    return stacked


class StackedBatch(NamedTuple):
    """Examples of every replica. `inputs[..., t]` predicts `targets[..., t]`, which is UNSCORED where it does not count."""

    inputs: Int[Tensor, "replica batch pos"]
    targets: Int[Tensor, "replica batch pos"]

    def to(self, device: torch.device) -> StackedBatch:
        """The batch on a device; a GPU is not waited for."""
        if device.type != "cuda":
            return StackedBatch(self.inputs.to(device), self.targets.to(device))
        return StackedBatch(*(part.pin_memory().to(device, non_blocking=True) for part in self))


def training_batch(source: Source, seeds: Sequence[int], index: int, size: int) -> StackedBatch:
    """Training batch `index` of a source under every seed: that source's own one, but for PAD up to a common length."""
    task = find_task(source.task)
    tokens, scored = mixed_tokens(task, seeds, Purpose.TRAIN, index, size, source.lengths, source.layout)
    return StackedBatch(tokens[..., :-1], tokens[..., 1:].masked_fill(~scored[..., 1:], UNSCORED))


def losses(stacked: Transformer, batch: StackedBatch) -> Float[Tensor, " replica"]:
    """Each replica's mean cross entropy over its scored tokens.

    A gradient of their sum holds for each replica the gradient of its own mean.
    """
    logits = stacked(batch.inputs.flatten(0, 1))
    each = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=UNSCORED, reduction="none")
    scored = batch.targets.flatten(1) != UNSCORED
    return each.view_as(scored).sum(1) / scored.sum(1)
