"""A pretrained model as one whose components can be measured: through the model itself, without folding or copying a weight.

Interventions are hooks at the places that the wiring names (`gcgap.importance.gates`), so with all gates closed the logits are
those of the bare model, bit for bit. What they leave as it was is run once (`gcgap.models.replay`). How many rows fit into memory
together is measured on one row of the model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from gcgap.data.batches import NOTHING
from gcgap.models.families import check_attention, check_values
from gcgap.models.replay import Clean, Replay
from gcgap.models.transformer import Decoder, Kind, State, eval_mode
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
        made, kept = _columns(there, last).unique(return_inverse=True)  # those that some row needs
        return _chosen(_float(self._logits(tokens.clamp(min=0), there, made)), kept)

    def states(self, tokens: Int[Tensor, "batch pos"], last: int | None = None, since: int = 0) -> list[State]:
        """For every layer the residual stream x below it, its heads' outputs z, and the clean run and the columns of the logits.

        Without replay the tokens themselves, so that nothing is shared.
        """
        if not self.keeps_tokens:
            return super().states(tokens, last)
        there = tokens != NOTHING
        _check_rows(there, last or 1)
        columns = torch.arange(tokens.shape[1])[None] if last is None else _columns(there, last).cpu()
        first = int(columns.min())
        clean = self._recorded(tokens, min(since, first))
        every: list[State] = [(call.x, call.z, clean, columns) for call in clean.calls]
        x, z, *rest = every[-1]  # the last layer is run for no token before the first whose logits are asked for
        kept = tokens.shape[1] - first
        return [*every[:-1], (x[:, -kept:].contiguous(), z[:, -kept:].contiguous(), *rest)]

    def forward_from(self, layer: int, state: State, last: int | None = None) -> Float[Tensor, "batch last vocabulary"]:
        """Logits at the `last` positions from the state at `layer`."""
        if not self.keeps_tokens:
            return super().forward_from(layer, state, last)
        x, z, clean, columns = state
        x = self._replay.stream(clean, layer, x, z)
        made, kept = (columns - (clean.tokens - x.shape[1])).unique(return_inverse=True)
        logits = _float(self._replay.logits(x[:, made.to(x.device)]))
        return _chosen(logits, kept.to(logits.device).repeat(len(x) // len(columns), 1))

    @cached_property
    def _replay(self) -> Replay:
        cap = getattr(_text(getattr(self.network, "config", None)), "final_logit_softcapping", None)
        return Replay(self, self.wiring, lambda logits: logits if cap is None else cap * torch.tanh(logits / cap))

    @cached_property
    def not_replayed(self) -> str:
        """Why the network is always run whole; empty if it can be entered in its middle.

        The heads of the first, the middle and the last layer are turned round, in whole passes and in replays of all and of a few
        tokens. Logits may differ by the square root of the format's precision, relative to the largest one.
        """
        tokens = self.probe()
        try:
            with torch.no_grad(), eval_mode(self):
                for asked in (0, tokens.shape[1] // 2):
                    clean = self._recorded(tokens, asked)
                    since = clean.tokens - clean.calls[0].x.shape[1]
                    wholes = {}
                    for layer in (0, self.n_layers // 2, self.n_layers - 1):
                        with self._turning(layer, since, tokens.shape[1]):
                            wholes[layer] = self(tokens)[:, since:]
                    for layer, whole in wholes.items():  # after all whole passes: a layer may read what an earlier replay left
                        call = clean.calls[layer]
                        with self._turning(layer, since, tokens.shape[1]):
                            replayed = self._replay.logits(self._replay.stream(clean, layer, call.x, call.z))
                        apart, largest = float((whole - replayed).abs().max()), float(whole.abs().max())
                        if not apart <= torch.finfo(whole.dtype).eps ** 0.5 * largest:
                            return f"entered at layer {layer} its logits differ by {apart:.2g} from those of a whole pass"
        except Exception as error:  # whatever a foreign network raises: it runs whole then
            return f"{error}".splitlines()[0] if f"{error}" else type(error).__name__
        return ""

    @property
    def keeps_tokens(self) -> bool:
        """Whether the network can be entered in its middle."""
        return not self.not_replayed

    def probe(self) -> Int[Tensor, "row pos"]:
        """Two short rows that differ in their last token."""
        text = _text(getattr(self.network, "config", None))
        words = [word for word in range(min(10, getattr(text, "vocab_size", 10))) if word != getattr(text, "pad_token_id", None)]
        length = min(8, self.n_ctx or 8)
        tokens = torch.tensor(words, device=self.device).repeat(length)[:length].repeat(2, 1)
        tokens[1, -1] = words[length % len(words)]
        return tokens

    @contextmanager
    def _turning(self, layer: int, since: int, tokens: int) -> Iterator[None]:
        """Turn the heads of a layer round at the tokens from one on."""

        def turn(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            sign = torch.where(torch.arange(tokens - args[0].shape[1], tokens) < since, 1, -1).to(args[0])
            return args[0] * sign[:, None], *args[1:]

        hook = self.wiring.module(self, self.wiring.out_projection, layer).register_forward_pre_hook(turn)
        try:
            yield
        finally:
            hook.remove()

    def _recorded(self, tokens: Tensor, since: int) -> Clean:
        """A clean run, of whose logits only the last ones are made."""
        with self._replay.recording(since) as clean:
            self.run(tokens)
        return clean

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


def _columns(there: Bool[Tensor, "batch pos"], last: int) -> Int[Tensor, "batch last"]:
    """Where the last tokens of every row stand."""
    ends = there.int().cumsum(1).argmax(1, keepdim=True)
    return ends - torch.arange(last - 1, -1, -1, device=ends.device)


def _chosen(
    logits: Float[Tensor, "batch made vocabulary"], kept: Int[Tensor, "batch last"]
) -> Float[Tensor, "batch last vocabulary"]:
    """Every row's own columns."""
    return logits.gather(1, kept.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))


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
