"""A pretrained model as one whose components can be measured: through the model itself, without folding or copying a weight.

Interventions are hooks at the places that the wiring names (`gcgap.importance.gates`), so with all gates closed the logits are
those of the bare model, bit for bit. How many rows fit into memory together is measured on one row of the model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gcgap.data.batches import NOTHING
from gcgap.models.families import check_attention, check_values
from gcgap.models.transformer import Decoder, Kind, eval_mode
from gcgap.models.wiring import Wiring, check_not_compiled

CURVED = ("eager", "sdpa")  # ways of computing attention that have second derivatives; of the second one its math path


class Pretrained(Decoder):
    """A causal language model and where its components are.

    Args:
        network: The model: called with `input_ids`, it returns logits (batch, pos, vocabulary) or something that has them as
            `.logits`. One of Hugging Face also takes `attention_mask` and `position_ids`, without which no row can be padded.
        wiring: Where it keeps its components, in names of its own modules.

    Raises:
        ValueError: The wiring names a module or a part of a weight that the network does not have, or the network computes
            attention in a way that has no second derivative or that leaves out what its config asks for, or it is not causal, or
            it was compiled.
    """

    def __init__(self, network: nn.Module, wiring: Wiring) -> None:
        check_not_compiled(network)
        config = getattr(network, "config", None)
        check_values(config)
        super().__init__(wiring.n_layers, wiring.n_heads, 0, 0, _context(config), {})
        self._saved: dict[tuple[int, Kind], int] = {}
        self.network = network
        self.wiring = _below("network.", wiring)
        self._takes = frozenset(inspect.signature(network.forward).parameters)
        attention = getattr(config, "_attn_implementation", None)
        if attention not in (None, *CURVED):
            raise ValueError(
                f"attention must be computed by {' or '.join(CURVED)}, which have second derivatives; this network has "
                f"{attention!r}. Call its `set_attn_implementation` first."
            )
        check_attention(config, attention)
        self._check_wiring()
        output, axis = self.wiring.weight(self, self.wiring.output.module, 0), self.wiring.output.axis
        self.d_model, self.d_head = output.shape[1 - axis], output.shape[axis] // wiring.n_heads
        self.settings = {
            "architecture": getattr(config, "model_type", type(network).__name__),
            "n_layers": self.n_layers,
            "n_heads": self.n_heads,
            "d_model": self.d_model,
            "d_ff": self.wiring.weight(self, self.wiring.mlp_down, 0).numel() // self.d_model,
            "positions": _positions(config),
            "d_head": self.d_head,
            "heads_per_value": wiring.value.group,
            "dtype": str(output.dtype).removeprefix("torch."),
            "attention": attention,
            "attention_for_curvature": "math" if attention == "sdpa" else attention,
        }

    def _check_wiring(self) -> None:
        """Raise a ValueError for a name or a part of a weight that the network does not have."""
        wiring = self.wiring
        for layer in range(wiring.n_layers):
            for template in filter(None, (wiring.out_projection, wiring.mlp, wiring.attention_norm)):
                wiring.module(self, template, layer)
            wiring.weight(self, wiring.mlp_down, layer)
            for slices in (wiring.value, wiring.output):
                slices.of(wiring.weight(self, slices.module, layer), wiring.n_heads - 1, wiring.n_heads)

    def forward(self, tokens: Int[Tensor, "batch pos"], last: int | None = None) -> Float[Tensor, "batch last vocabulary"]:
        """Logits of the next token, float32 at least, at the `last` tokens of every row (at all positions by default).

        Raises:
            ValueError: A row has fewer than `last` tokens, or none at all, or a gap between two, or more than the model can read.
        """
        there = tokens != NOTHING
        _check_rows(there, last or 1)
        if self.n_ctx is not None and (longest := int(there.sum(1).max())) > self.n_ctx:
            raise ValueError(f"`tokens` must be at most {self.n_ctx} per row, the model's context; got {longest}.")
        if last is None:
            return _float(self._logits(tokens.clamp(min=0), there))
        ends = there.int().cumsum(1).argmax(1, keepdim=True)
        wanted = ends - torch.arange(last - 1, -1, -1, device=ends.device)
        made, kept = wanted.unique(return_inverse=True)  # the columns that some row needs
        logits = _float(self._logits(tokens.clamp(min=0), there, made))
        return logits.gather(1, kept.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

    def fits(self, usual: int, tokens: int, kind: Kind) -> int:
        """Rows of so many tokens that run together: `usual`, or fewer where memory is limited."""
        if self.memory is None:
            return usual
        if (tokens, kind) not in self._saved:
            self._saved[tokens, kind] = saved_bytes(self, tokens, kind)
        return min(usual, rows_within(self.memory, self._saved[tokens, kind], kind))

    def run(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Run every layer at every position; of the logits only the last ones are made."""
        self(tokens, 1)

    @property
    def shows_patterns(self) -> bool:
        """Whether the network can be asked for them."""
        return hasattr(self.network, "set_attn_implementation")

    def patterns(self, tokens: Int[Tensor, "batch pos"]) -> list[Float[Tensor, "batch head query key"]]:
        """The attention pattern of every head, layer by layer, computed by plain matrix products for this call.

        Raises:
            ValueError: The network does not say what its attention patterns are.
        """
        if not self.shows_patterns:
            raise ValueError(f"{type(self.network).__name__} does not say what its attention patterns are.")
        with self.eager():
            return list(self._run(tokens.clamp(min=0), tokens != NOTHING, output_attentions=True).attentions)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Compute attention by plain matrix products."""
        network: Any = self.network
        before = network.config._attn_implementation
        try:
            network.set_attn_implementation("eager")
            yield
        finally:
            network.set_attn_implementation(before)

    def _logits(self, tokens: Tensor, there: Bool[Tensor, "batch pos"], columns: Tensor | None = None) -> Tensor:
        """Logits at some columns, or at all."""
        keeps = columns is not None and "logits_to_keep" in self._takes
        found = self._run(tokens, there, **({"logits_to_keep": columns} if keeps else {}))
        logits = found if isinstance(found, Tensor) else found.logits
        return logits if keeps or columns is None else logits[:, columns]

    def _run(self, tokens: Tensor, there: Bool[Tensor, "batch pos"], **given: Any) -> Any:
        given |= {"input_ids": tokens} | ({"use_cache": False} if "use_cache" in self._takes else {})
        if not bool(there[:, 0].all()):  # on its right a row needs no mask, since no token sees what comes after it
            given |= {"attention_mask": there.long(), "position_ids": (there.long().cumsum(1) - 1).clamp(min=0)}
        return self.network(**given)


def _text(config: Any) -> Any:
    """The config of the text model in a model."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _positions(config: Any) -> str:
    """How the model tells positions apart, in the words of `model.positions` where they fit."""
    text = _text(config)
    if hasattr(text, "rope_parameters") or hasattr(text, "rope_theta"):
        return "rotary"
    return "learned" if getattr(text, "model_type", None) in ("gpt2", "gpt_neo") else "its own"


def _float(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _context(config: Any) -> int | None:
    """Tokens that a row can have; None if the config says nothing."""
    found = getattr(_text(config), "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _below(prefix: str, wiring: Wiring) -> Wiring:
    """The wiring of a module that has the wired one as a part."""
    paths = {name: getattr(wiring, name) for name in ("out_projection", "mlp", "mlp_down", "attention_norm")}
    parts = {name: getattr(wiring, name) for name in ("value", "output", "query", "key")}
    return replace(
        wiring,
        **{name: path and prefix + path for name, path in paths.items()},
        **{name: part and replace(part, module=prefix + part.module) for name, part in parts.items()},
        permuted=tuple(replace(part, module=prefix + part.module) for part in wiring.permuted),
        norms=tuple((prefix + norm, tuple(prefix + reader for reader in readers)) for norm, readers in wiring.norms),
    )


def _check_rows(there: Bool[Tensor, "batch pos"], last: int) -> None:
    changes = (there[:, 1:] != there[:, :-1]).sum(1)
    gap = (changes > 1) & ~((changes == 2) & ~there[:, 0] & ~there[:, -1])
    if bool(gap.any()):
        raise ValueError("`tokens` has a row with a gap between two tokens; pad rows on the left or on the right.")
    if bool((there.sum(1) < last).any()):
        raise ValueError(f"`last` must not be larger than the tokens of the shortest row, {int(there.sum(1).min())}; got {last}.")


GIB = 2**30


FACTORS: dict[Kind, float] = {"forward": 1.0, "backward": 2.0, "double": 6.0}
"""Bytes that a row needs, as shares of what autograd saves for it: upper limits that a test holds to counted allocations.

A forward pass alone holds the activations of about one layer, and the outputs of all components twice where a corrupted run is
patched in; a backward pass holds all of them and their gradients; a backward pass through it, the graph of the first one too.
"""


def saved_bytes(model: nn.Module, tokens: int, kind: Kind) -> int:
    """Bytes that autograd saves for one row, weights left out: every activation that a backward pass of this kind reads."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    asking = [weight for weight in model.parameters() if not weight.requires_grad]
    seen: dict[int, int] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            kept.append(value)  # else its place may be taken by another one
        return value

    kept: list[Tensor] = []
    device = next(model.parameters()).device
    try:
        for weight in asking:
            weight.requires_grad_(True)
        path = sdpa_kernel(SDPBackend.MATH) if kind == "double" else nullcontext()
        with eval_mode(model), path, torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            model(torch.ones(1, tokens, dtype=torch.long, device=device), 1)
    finally:
        for weight in asking:
            weight.requires_grad_(False)
    return sum(seen.values())


def rows_within(limit: float, row: int, kind: Kind) -> int:
    """Rows that fit into `limit` GiB, where autograd saves `row` bytes for one.

    Raises:
        ValueError: Not even one does.
    """
    each = row * FACTORS[kind]
    if (rows := int(limit * GIB // each)) < 1:
        raise ValueError(f"`--memory` must be at least {each / GIB:.2g} GiB, what one prompt takes; got {limit:g}.")
    return rows
