"""Integrated gradients over the input, as edge attribution takes them (EAP-IG; Hanna, Pezzelle and Belinkov 2024).

    score_i = (1/K) sum_k <dD/dz_i at e(t_k), a_i - z_i>,    e(t) = (1 - t) e(clean) + t e(corrupted),  t_k = 0, 1/K .. (K-1)/K

e are token embeddings, z_i and a_i the component's outputs on the clean and on the corrupted input. The sum is the one of the
paper and of its code, the rule `left`; one step is attribution patching. It needs a corrupted input: patching has one, a mean or
zero has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gcgap.attribution.drop import Drop, Passes
from gcgap.attribution.paths import left
from gcgap.importance.baselines import activations_on
from gcgap.importance.gates import hooked
from gcgap.importance.protocol import Site
from gcgap.models.transformer import Decoder, Transformer


def token_embedding(model: Decoder) -> nn.Module | None:
    """The module that maps tokens to the embeddings that the first layer reads; None where a network does not say."""
    if isinstance(model, Transformer):
        return model.embedding
    find = getattr(getattr(model, "network", None), "get_input_embeddings", None)
    return find() if find else None


def input_gradients(drop: Drop, other: Int[Tensor, "sequence pos"], steps: int) -> Float[Tensor, "component sequence"]:
    """EAP-IG's score of every component: a backward pass and two forward passes for each step, and one more.

    Args:
        drop: The drop; its replacement is what components put out on `other`.
        other: The corrupted input of each sequence (or for denoising the clean one).
        steps: K.

    Raises:
        ValueError: Heads are not replaced at their own outputs, or the network does not say where its token embedding is.
    """
    embedding = token_embedding(drop.model)
    if drop.site != Site.COMPONENT or embedding is None:
        got = f"the site {drop.site}" if embedding else "a network without `get_input_embeddings`"
        raise ValueError(f"`eap_ig` needs the site component and a network that says where its embedding is; got {got}.")
    drop.passes.forward += 1 + 2 * steps
    drop.passes.backward += steps
    nodes, weights = left(steps)
    return torch.cat([_of_rows(drop, rows, embedding, other[rows], nodes, weights) for rows in drop.slices()], -1)


def _of_rows(
    drop: Drop, rows: slice, embedding: nn.Module, other: Tensor, nodes: list[float], weights: list[float]
) -> Float[Tensor, "component row"]:
    """The scores of some sequences that go through the model together."""
    part = replace(drop, batch=drop.batch.rows(rows), passes=Passes())
    outputs = activations_on(drop.model, drop.wiring, part.batch.inputs, drop.last)
    change = drop.given(rows).each(torch.sub, outputs(slice(None)))
    found = torch.zeros(drop.components, part.sequences, dtype=torch.float64)
    for t, weight in zip(nodes, weights, strict=True):
        with _moved(embedding, other.to(drop.model.device), t):
            target = outputs(slice(None)).each(torch.add, change)  # so that gates let in the change, whatever is put out here
            found += weight * replace(part, replacement=lambda _, target=target: target).gradient(part.zero_gates())
    return found


@contextmanager
def _moved(embedding: nn.Module, other: Int[Tensor, "row pos"], t: float) -> Iterator[None]:
    """Inside this `with` every token's embedding lies the share t of the way to that of the other token."""
    with torch.no_grad():
        there = embedding(other.clamp(min=0))  # where there is no token, any one stands
    with hooked({"token embedding": (embedding, "output", lambda here: torch.lerp(here, there, t))}):
        yield
