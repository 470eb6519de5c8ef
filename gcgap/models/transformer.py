"""The transformer: decoder-only, pre-LayerNorm, GELU, biases, untied output.

`Decoder` is what all models have that can be measured. Names are the field's: W_Q, W_K, W_V, W_O, and z for the heads' outputs
before W_O. `Transformer.forward_from` is the second half of `Transformer.forward`: it continues from the z of any layer, which is
how measurements share the work below the component that they change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.attention import SDPBackend, sdpa_kernel

from gcgap.data.batches import Source
from gcgap.data.tasks import VOCABULARY

MOST_WEIGHTS = 10**11  # 400 GB in float32; more is a typing error, which would fill the memory before it fails
Positions = Literal["none", "learned", "sinusoidal", "rotary"]
AttentionPath = Literal["fused", "math"]
LONGEST = 2**16  # tokens of a context that no weight of a checkpoint bears out

Tokens = Int[Tensor, "batch pos"]
Residual = Float[Tensor, "batch pos d_model"]
LastResidual = Float[Tensor, "batch last d_model"]
Logits = Float[Tensor, "batch last vocabulary"]
Patterns = Float[Tensor, "batch head query key"]


def rotate(x: Float[Tensor, "batch head pos d_head"], start: int) -> Float[Tensor, "batch head pos d_head"]:
    """Rotary positions (Su et al. 2021): the pair (x_k, x_{k+d/2}) at position p turns by the angle p / 10000^(2k/d)."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** -(torch.arange(half, device=x.device, dtype=torch.float64) / half)
    position = torch.arange(start, start + x.shape[-2], device=x.device, dtype=torch.float64)
    angle = torch.outer(position, frequency)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "pos d_model"]:
    """Fixed positions (Vaswani et al. 2017): sines in the even, cosines in the odd channels."""
    frequency = 10_000.0 ** -(torch.arange(0, d_model, 2) / d_model)
    angle = torch.outer(torch.arange(n_ctx), frequency)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :d_model]


class Attention(nn.Module):
    """Causal multi-head attention in two halves: `heads` gives every head's output z, `W_O` writes it."""

    def __init__(self, d_model: int, n_heads: int, rotary: bool, path: AttentionPath) -> None:
        super().__init__()
        self.n_heads, self.rotary, self.path = n_heads, rotary, path
        self.W_Q, self.W_K, self.W_V, self.W_O = (nn.Linear(d_model, d_model) for _ in range(4))

    def heads(self, x: Residual, last: int) -> LastResidual:
        """Outputs z = softmax(q k / sqrt(d_head)) v of all heads side by side, at the `last` positions only."""
        return self.attend(self.W_Q(x[:, x.shape[1] - last :]), self.W_K(x), self.W_V(x))

    def attend(self, q: LastResidual, k: Residual, v: Residual) -> LastResidual:
        """z from the queries of the last positions, and the keys and values of all, of all heads side by side."""
        last, before = q.shape[1], k.shape[1] - q.shape[1]
        q, k = self._queries_and_keys(q, k)
        mask = torch.ones(last, k.shape[2], dtype=torch.bool, device=q.device).tril(before) if before else None
        with sdpa_kernel(SDPBackend.MATH) if self.path == "math" or _slow_backward(q) else nullcontext():
            z = F.scaled_dot_product_attention(q, k, self._split(v), attn_mask=mask, is_causal=mask is None)
        return z.transpose(1, 2).flatten(2)

    def pattern(self, x: Residual) -> Patterns:
        """The weights softmax(q k / sqrt(d_head)) with which `heads` sums the values; every row sums to 1."""
        q, k = self._queries_and_keys(self.W_Q(x), self.W_K(x))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=x.device).triu(1)
        return scores.masked_fill(future, -math.inf).softmax(-1)

    def _queries_and_keys(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of the last positions, and keys of all, each (batch, head, pos, d_head)."""
        before, q, k = k.shape[1] - q.shape[1], self._split(q), self._split(k)
        return (rotate(q, start=before), rotate(k, start=0)) if self.rotary else (q, k)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)


def _slow_backward(q: Tensor) -> bool:
    """Whether the fused kernel's backward pass is slower than plain matrix products: in bfloat16 on a CPU."""
    return q.dtype == torch.bfloat16 and q.device.type == "cpu" and q.requires_grad


class MLP(nn.Module):
    """W_out gelu(W_in x): what it returns is its write to the residual stream."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.W_in, self.W_out = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Residual) -> Residual:
        """One position at a time."""
        return self.W_out(F.gelu(self.W_in(x)))


class Block(nn.Module):
    """One layer: attention, then MLP, each reading a LayerNorm of the residual stream and adding its write to it."""

    def __init__(self, attention: Attention, mlp: MLP, d_model: int) -> None:
        super().__init__()
        self.norm_attention, self.attention = nn.LayerNorm(d_model), attention
        self.norm_mlp, self.mlp = nn.LayerNorm(d_model), mlp

    def heads(self, x: Residual, last: int) -> LastResidual:
        """The heads' outputs z, read from the residual stream x."""
        return self.attention.heads(self.norm_attention(x), last)

    def write(self, x: Residual, z: LastResidual) -> LastResidual:
        """The residual stream after the heads, then the MLP, have written to it, at the positions that z has."""
        x = self.attend(x, z)
        return x + self.mlp(self.norm_mlp(x))

    def attend(self, x: Residual, z: LastResidual) -> LastResidual:
        """The residual stream after the heads alone have written to it, at the positions that z has."""
        return x[:, -z.shape[1] :] + self.attention.W_O(z)


Kind = Literal["forward", "backward", "double"]
"""What rows go through a model for: forward, backward, or backward through a backward pass."""
State = tuple[Any, ...]
"""What a model continues from at some layer: first tensors whose first axis is the row, then what all rows share."""


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as its record says it.

    Args:
        source: Task, lengths and seed that it was trained with.
        run: Name of its run.
        step: Optimiser steps it was trained for.
        checkpoint_sha256: Hash of its checkpoint file.
        training: Settings of its training, where they are known.
    """

    source: Source
    run: str | None = None
    step: int | None = None
    checkpoint_sha256: str | None = None
    training: dict[str, Any] | None = None


class Decoder(nn.Module):
    """What all models have that can be measured: tokens in, logits out, and heads and MLPs inside.

    Args:
        n_layers: Layers.
        n_heads: (Query) heads per layer.
        d_model: Width of the residual stream.
        d_head: Width of a head's output z.
        n_ctx: Largest number of input tokens; None if the model does not say.
        settings: What a record says of the model.
    """

    def __init__(
        self, n_layers: int, n_heads: int, d_model: int, d_head: int, n_ctx: int | None, settings: dict[str, Any]
    ) -> None:
        super().__init__()
        self.n_layers, self.n_heads, self.d_model, self.d_head = n_layers, n_heads, d_model, d_head
        self.n_ctx, self.settings = n_ctx, settings
        self.memory: float | None = None  # GiB that activations may take, if that is limited
        self.origin: Any = None  # an `Origin`, set by who loads the weights

    def fits(self, usual: int, tokens: int, kind: Kind) -> int:
        """Rows of so many tokens that run together forward, backward, or backward through a backward pass: `usual` at most.

        Raises:
            ValueError: Memory is limited, and not even one row fits.
        """
        return usual

    def pieces(self, rows: int, tokens: int, kind: Kind) -> list[slice]:
        """Rows in as few pieces as fit into memory."""
        size = self.fits(rows, tokens, kind)
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        return next(self.parameters()).device

    def states(self, tokens: Tokens, last: int | None = None, since: int = 0) -> list[State]:
        """For every layer what `forward_from` continues from: here the tokens themselves, so that nothing is shared.

        Whoever continues changes no token before `since`.
        """
        return [(tokens,)] * self.n_layers

    def forward_from(self, layer: int, state: State, last: int | None = None) -> Logits:
        """Logits at the `last` positions from the state at `layer`."""
        return self(state[0], last)

    def run(self, tokens: Tokens) -> None:
        """Run every layer at every position, for those who look on; logits are not asked for."""
        self(tokens)

    @property
    def keeps_tokens(self) -> bool:
        """Whether `states` need not be continued at tokens before the first that changes."""
        return False

    @property
    def shows_patterns(self) -> bool:
        """Whether `patterns` gives the attention patterns."""
        return True

    def patterns(self, tokens: Tokens) -> list[Patterns]:
        """The attention pattern of every head, layer by layer."""
        raise TypeError(f"{type(self).__name__} does not say what its attention patterns are")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode and full precision, and leave every module's mode as it was found."""
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device.type
    try:
        model.eval()
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def frozen_weights(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, and weights that ask for no gradient."""
    asking = [weight for weight in model.parameters() if weight.requires_grad]
    with eval_mode(model):
        try:
            for weight in asking:
                weight.requires_grad_(False)
            yield
        finally:
            for weight in asking:
                weight.requires_grad_(True)


class Transformer(Decoder):
    """Decoder-only transformer, by default over the vocabulary of the tasks on integers.

    Args:
        n_layers: Layers L.
        n_heads: Heads per layer H.
        d_model: Width of the residual stream; must be divisible by n_heads.
        d_ff: Width of the MLPs.
        positions: `none` (causal attention alone tells positions apart; the default), `learned`, `sinusoidal` or `rotary`.
        n_ctx: Largest number of input tokens; an example of N integers needs 2 N + 2.
        attention: `fused` kernels (but not for gradients in bfloat16 on a CPU, where they are slow), or `math`: plain matrix
            products, which also have second derivatives.
        seed: Seed of the initial weights.
        vocabulary: Number of token ids.

    Raises:
        ValueError: Sizes that do not fit together.
    """

    blocks: Sequence[Block]
    sinusoids: Tensor | None

    def __init__(
        self,
        n_layers: int = 4,
        n_heads: int = 4,
        d_model: int = 128,
        d_ff: int = 512,
        positions: Positions = "none",
        n_ctx: int = 64,
        attention: AttentionPath = "fused",
        seed: int = 0,
        vocabulary: int = VOCABULARY,
    ) -> None:
        check_sizes(n_layers, n_heads, d_model, d_ff, positions, n_ctx, attention, vocabulary)
        settings = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_ff": d_ff, "positions": positions}
        super().__init__(n_layers, n_heads, d_model, d_model // n_heads, n_ctx, settings)
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.position = nn.Embedding(n_ctx, d_model) if positions == "learned" else None
        fixed = sinusoids(n_ctx, d_model) if positions == "sinusoidal" else None
        self.register_buffer("sinusoids", fixed, persistent=False)
        rotary = positions == "rotary"
        self.blocks = nn.ModuleList(  # pyright: ignore[reportAttributeAccessIssue]
            Block(Attention(d_model, n_heads, rotary, attention), MLP(d_model, d_ff), d_model) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model)
        self.unembedding = nn.Linear(d_model, vocabulary)
        self.initialise(torch.Generator().manual_seed(seed))

    def initialise(self, generator: torch.Generator) -> None:
        """PyTorch's default distributions, drawn from an explicit generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                bound = 1 / math.sqrt(module.in_features)
                nn.init.uniform_(module.weight, -bound, bound, generator=generator)
                nn.init.uniform_(module.bias, -bound, bound, generator=generator)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, generator=generator)

    def forward(self, tokens: Tokens, last: int | None = None) -> Logits:
        """Logits of the next token, at the `last` positions (all by default)."""
        return self.forward_from(0, self._state(0, self.embed(tokens), last), last)

    def states(self, tokens: Tokens, last: int | None = None, since: int = 0) -> list[State]:
        """For every layer the residual stream x below it and its heads' outputs z: what `forward_from` continues from."""
        states = [self._state(0, self.embed(tokens), last)]
        for layer in range(1, self.n_layers):
            states.append(self._state(layer, self.blocks[layer - 1].write(*states[-1]), last))
        return states

    def _state(self, layer: int, x: Residual, last: int | None) -> tuple[Tensor, Tensor]:
        """x and z of a layer; the last layer makes z only where logits are asked for."""
        return x, self.blocks[layer].heads(x, last if last and layer == self.n_layers - 1 else x.shape[1])

    def patterns(self, tokens: Tokens) -> list[Patterns]:
        """The attention pattern of every head, layer by layer."""
        return [
            block.attention.pattern(block.norm_attention(x))
            for block, (x, _) in zip(self.blocks, self.states(tokens), strict=True)
        ]

    @property
    def adds_positions(self) -> bool:
        """Whether the residual stream below the first layer depends on where a token stands."""
        return self.position is not None or self.sinusoids is not None

    def embed(self, tokens: Tokens) -> Residual:
        """The residual stream below the first layer."""
        x = self.embedding(tokens)
        if self.position is not None:
            x = x + self.position.weight[: tokens.shape[1]]
        if self.sinusoids is not None:
            x = x + self.sinusoids[: tokens.shape[1]]
        return x

    def forward_from(self, layer: int, state: State, last: int | None = None) -> Logits:
        """Logits from the residual stream x below `layer` and the outputs z of that layer's heads."""
        x, z = state
        return self.run_from(layer + 1, self.blocks[layer].write(x, z), last)

    def run_from(self, layer: int, x: Float[Tensor, "batch kept d_model"], last: int | None = None) -> Logits:
        """Logits from the residual stream x below `layer`; above the last one there are as many layers as `n_layers`."""
        for above in range(layer, self.n_layers):
            x = self.blocks[above].write(*self._state(above, x, last))
        return self.unembedding(self.norm(x[:, -last:] if last else x))


def check_sizes(
    n_layers: int, n_heads: int, d_model: int, d_ff: int, positions: str, n_ctx: int, attention: str, vocabulary: int
) -> None:
    """Raise a ValueError that names the first size that cannot be."""
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_ff": d_ff, "n_ctx": n_ctx, "vocabulary": vocabulary}
    for name, size in sizes.items():
        if isinstance(size, bool) or not hasattr(size, "__index__"):
            raise ValueError(f"`model.{name}` must be an integer; got {size!r:.60}.")
        if size < 1:
            raise ValueError(f"`model.{name}` must be at least 1; got {size}.")
    weights = n_layers * d_model * (4 * d_model + 2 * d_ff) + d_model * (2 * vocabulary + n_ctx)
    if weights > MOST_WEIGHTS:
        got = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"`model` must have at most {MOST_WEIGHTS} weights; got {weights:.0f} of {got}. Lower one of them.")
    if d_model % n_heads:
        raise ValueError(f"`model.d_model` must be divisible by `model.n_heads`; got {d_model} and {n_heads}.")
    if positions == "rotary" and d_model // n_heads % 2:
        raise ValueError(f"`model.positions` rotary needs an even d_head; got {d_model} / {n_heads} = {d_model // n_heads}.")
    if positions not in get_args(Positions):
        raise ValueError(f"`model.positions` must be one of {', '.join(get_args(Positions))}; got {positions!r}.")
    if positions != "learned" and n_ctx > LONGEST:
        raise ValueError(f"`model.n_ctx` must be at most {LONGEST} unless positions are learned; got {n_ctx}.")
    if attention not in get_args(AttentionPath):
        raise ValueError(f"`model.attention` must be one of {', '.join(get_args(AttentionPath))}; got {attention!r}.")
