"""A pretrained model as one whose components can be measured: through the model itself, without folding or copying a weight.

Owns how tokens of unequal length go in and logits come out. Interventions are hooks at the places that the wiring names
(`gcgap.gates`), so with all gates closed the logits are those of the bare model, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from gcgap.batches import NOTHING
from gcgap.components import Wiring


class Pretrained(nn.Module):
    """A causal language model and where its components are.

    Args:
        network: The model: called with `input_ids`, it returns logits (batch, pos, vocabulary) or something that has them as
            `.logits`. One of Hugging Face also takes `attention_mask` and `position_ids`, without which no row can be padded.
        wiring: Where it keeps its components, in names of its own modules.

    Raises:
        ValueError: The wiring names a module or a part of a weight that the network does not have.
    """

    def __init__(self, network: nn.Module, wiring: Wiring) -> None:
        super().__init__()
        self.network = network
        self.wiring = _below("network.", wiring)
        self.n_layers, self.n_heads = wiring.n_layers, wiring.n_heads
        for layer in range(wiring.n_layers):
            self.wiring.module(self, self.wiring.out_projection, layer)
            self.wiring.module(self, self.wiring.mlp, layer)
            self.wiring.weight(self, self.wiring.mlp_down, layer)
            for slices in (self.wiring.value, self.wiring.output):
                slices.of(self.wiring.weight(self, slices.module, layer), wiring.n_heads - 1, wiring.n_heads)
        output = self.wiring.weight(self, self.wiring.output.module, 0)
        self.d_model = output.shape[1 - self.wiring.output.axis]
        self.d_head = output.shape[self.wiring.output.axis] // wiring.n_heads

    @property
    def shares_values(self) -> bool:
        """Whether groups of heads share their values, so that G by W_V cannot tell the heads of a group apart."""
        return self.wiring.value.group > 1

    def forward(self, tokens: Int[Tensor, "batch pos"], last: int | None = None) -> Float[Tensor, "batch last vocabulary"]:
        """Logits of the next token, float32 at least, at the `last` tokens of every row (at all positions by default).

        Raises:
            ValueError: A row has fewer than `last` tokens, or none at all, or a gap between two.
        """
        there = tokens != NOTHING
        _check_rows(there, last or 1)
        logits = self._logits(tokens.clamp(min=0), there)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        if last is None:
            return logits
        ends = there.int().cumsum(1).argmax(1, keepdim=True)
        kept = ends - torch.arange(last - 1, -1, -1, device=ends.device)
        return logits.gather(1, kept.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

    def _logits(self, tokens: Tensor, there: Bool[Tensor, "batch pos"]) -> Tensor:
        given: dict[str, Any] = {"input_ids": tokens}
        if not bool(there.all()):
            given |= {"attention_mask": there.long(), "position_ids": (there.long().cumsum(1) - 1).clamp(min=0)}
        found = self.network(**given)
        return found if isinstance(found, Tensor) else found.logits


def _below(prefix: str, wiring: Wiring) -> Wiring:
    """The wiring of a module that has the wired one as a part."""
    names = {name: prefix + getattr(wiring, name) for name in ("out_projection", "mlp", "mlp_down")}
    slices = (replace(part, module=prefix + part.module) for part in (wiring.value, wiring.output))
    value, output = slices
    return replace(wiring, **names, value=value, output=output)


def _check_rows(there: Bool[Tensor, "batch pos"], last: int) -> None:
    changes = (there[:, 1:] != there[:, :-1]).sum(1)
    gap = (changes > 1) & ~((changes == 2) & ~there[:, 0] & ~there[:, -1])
    if bool(gap.any()):
        raise ValueError("`tokens` has a row with a gap between two tokens; pad rows on the left or on the right.")
    if bool((there.sum(1) < last).any()):
        raise ValueError(f"`last` must not be larger than the tokens of the shortest row, {int(there.sum(1).min())}; got {last}.")
