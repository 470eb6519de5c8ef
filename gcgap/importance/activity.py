"""What a component does while it is left alone: how much it writes, and how widely a head looks.

Neither says what the component causes. They are recorded beside G and C because they cost one forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from gcgap.data.batches import NOTHING, Batch
from gcgap.importance.gates import recorded
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring


@torch.no_grad()
def activation_norms(model: Decoder, wiring: Wiring, batch: Batch) -> Float[Tensor, " component"]:
    """Mean Euclidean norm of what each component adds to the residual stream (a head: z_h W_O[h]), over rows and their tokens."""
    rows, tokens = batch.inputs.shape
    pieces = model.pieces(rows, tokens, "forward")
    each = zip(*(_norms(model, wiring, batch.inputs[piece].to(model.device)) for piece in pieces), strict=True)
    return torch.cat([torch.cat(parts).double().mean(0).cpu() for parts in each])


def _norms(model: Decoder, wiring: Wiring, inputs: Int[Tensor, "rows pos"]) -> list[Float[Tensor, "token written"]]:
    """Norms of what the heads of each layer write, then of what its MLP does, at every token."""
    norms: list[Tensor] = []
    with eval_mode(model), recorded(model, wiring) as seen, _scales(model, wiring) as scales:
        model.run(inputs)
    with eval_mode(model):
        for layer, (z, mlp) in enumerate(zip(seen.heads, seen.mlps, strict=True)):
            weight = wiring.weight(model, wiring.output.module, layer)
            parts = [wiring.output.of(weight, head, wiring.n_heads) for head in range(wiring.n_heads)]
            into = torch.stack([part if wiring.output.axis == 0 else part.T for part in parts])
            there = (inputs != NOTHING).to(z.device)
            writes = torch.einsum("b p h d, h d m -> b p h m", z, into)
            if (scale := scales[layer]) is not None:
                writes = writes * scale.unsqueeze(2)
            norms += [writes.norm(dim=-1)[there], mlp.norm(dim=-1)[there].unsqueeze(1)]
    return norms


@contextmanager
def _scales(model: Decoder, wiring: Wiring) -> Iterator[list[Tensor | None]]:
    """Inside, one run fills in by what each layer multiplies all that its heads write, entry by entry; None where by nothing."""
    found: list[Tensor | None] = [None] * wiring.n_layers

    def note(layer: int, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found[layer] = torch.where(args[0] == 0, 0, output / args[0])

    with ExitStack() as stack:
        for layer in range(wiring.n_layers) if wiring.attention_norm else ():
            norm = wiring.module(model, str(wiring.attention_norm), layer)
            stack.callback(norm.register_forward_hook(partial(note, layer)).remove)
        yield found


@torch.no_grad()
def mean_patterns(model: Decoder, batch: Batch) -> Float[Tensor, "layer head query key"]:
    """Every head's attention pattern, averaged over the rows of a batch of one length."""
    with eval_mode(model):
        patterns = model.patterns(batch.inputs.to(model.device))
    return torch.stack([pattern.double().mean(0) for pattern in patterns]).cpu()


@torch.no_grad()
def attention_entropies(model: Decoder, batch: Batch) -> Float[Tensor, "layer head"]:
    """Entropy of each head's attention as a share of the largest possible, log(number of visible keys), in [0, 1].

    The mean over rows and over the tokens that see two or more. 1 is uniform attention, 0 looks at one token. Where attention has
    a window, heads do not see all the keys that are counted.
    """
    rows, tokens = batch.inputs.shape
    pieces = model.pieces(rows, tokens, "double")  # patterns are kept, as by curvature
    each = zip(*(_entropies(model, batch.inputs[piece]) for piece in pieces), strict=True)
    return torch.stack([torch.cat(parts).mean(0) for parts in each])


def _entropies(model: Decoder, inputs: Int[Tensor, "rows pos"]) -> list[Float[Tensor, "token head"]]:
    """Of every layer, at the tokens that see two or more."""
    seen = (inputs != NOTHING).cumsum(1)
    query = (inputs != NOTHING) & (seen > 1)
    found = []
    with eval_mode(model):
        for pattern in model.patterns(inputs.to(model.device)):
            share = pattern.double().cpu()
            entropy = -torch.special.xlogy(share, share).sum(-1) / seen.clamp(min=2).double().log()[:, None]
            found.append(entropy.transpose(1, 2)[query])
    return found
