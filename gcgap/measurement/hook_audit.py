"""An audit of somebody's own ablation function against identities that every ablation of a head fulfils.

The function is called with those of these arguments that it names:

    model   the network itself, as its library gives it
    layer   number of the layer
    head    number of the head in it
    value   what the head's output z, the input of W_O, is to become: (batch, pos, d_head)
    inputs  tokens, (batch, pos)

One that takes `inputs` returns logits, or something that has them as `.logits`. Any other is a context manager (or returns one)
inside which the model runs ablated. One that takes no `value` ablates in its own way, by a mean or zero.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gcgap.data.batches import Purpose
from gcgap.importance.experiment import known_origin
from gcgap.importance.gates import recorded
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring

Ablation = Callable[..., Any]
TAKES = ("model", "layer", "head", "value", "inputs")
SEQUENCES = 4
TOLERANCE = 1e-6
"""Of the largest logit: a larger effect is not 0. A right ablation has exactly 0 where a number format is kept."""


class HookError(Exception):
    """A function failed, or is no ablation function."""


@dataclass(frozen=True)
class Identity:
    """One identity, of all heads.

    Args:
        text: What must hold.
        largest: The largest change of a logit that should be 0, as a share of the largest logit; None if it was not tested.
        component: The head with it.
        reason: Why it was not tested.
    """

    text: str
    largest: float | None = None
    component: str = ""
    reason: str = ""

    @property
    def holds(self) -> bool | None:
        """None if it was not tested."""
        return None if self.largest is None else self.largest <= TOLERANCE


SILENT = "a head whose columns of W_O are 0 has no effect when it is ablated"
SUM = "heads sum to the attention output: one at 0 leaves what the others write"
OWN = "a head that is replaced by its own output changes nothing"
LEAVES = "the model is as before when the ablation is over"


def audit(model: Decoder, ablation: Ablation) -> list[Identity]:
    """Hold an ablation function against the identities, head by head, on a copy of the model in its own number format.

    Raises:
        HookError: The function cannot be called, fails, or gives something else than logits.
    """
    takes = _arguments(ablation)
    origin = known_origin(model, None, None)
    model, wiring = copy.deepcopy(model), Wiring.of(model)
    length = origin.source.only_length or origin.source.ood_lengths[0]
    tokens = origin.source.batch(Purpose.EVALUATION, length, SEQUENCES).inputs.to(model.device)
    if bool((tokens < 0).any()):
        tokens = tokens[:1, (tokens >= 0)[0]]  # a row without padding, which a bare network can read
    run = _Runner(model, ablation, takes, tokens)
    with eval_mode(model), torch.no_grad():
        before = run.bare()
        with recorded(model, wiring) as own:
            model(tokens)
        found: dict[str, list[tuple[float, str]]] = {SILENT: [], SUM: [], OWN: []}
        effects = []
        for component in wiring.components:
            if component.head is None:
                continue
            place, z = (component.layer, component.head), own.heads[component.layer][:, :, component.head]
            weight = wiring.weight(model, wiring.output.module, component.layer)
            part = wiring.output.of(weight, component.head, wiring.n_heads)
            ablated = run(*place, torch.zeros_like(z))
            effects.append(_apart(before, ablated))
            kept = part.clone()
            part.zero_()
            silenced = run.bare()
            # A value far from the head's own, so that a slice of something else shows.
            found[SILENT].append((_apart(silenced, run(*place, z.flip(0) + 1)), component.name))
            part.copy_(kept)
            if "value" in takes:
                found[SUM].append((_apart(silenced, ablated), component.name))
                found[OWN].append((_apart(before, run(*place, z)), component.name))
        left = _apart(before, run.bare())
    if max(effects) <= TOLERANCE:
        raise HookError("it changes no logit, whichever head it ablates; look whether it reaches the model that it is given.")
    untested = "not tested: the function takes no `value`"
    rows = [Identity(text, *max(of)) if of else Identity(text, reason=untested) for text, of in found.items()]
    return [*rows, Identity(LEAVES, left)]


class _Runner:
    """Runs a model bare, and under somebody's ablation function."""

    def __init__(self, model: Decoder, ablation: Ablation, takes: tuple[str, ...], tokens: Tensor) -> None:
        self.network: Any = model.network if isinstance(model, Pretrained) else model
        self.ablation, self.takes, self.tokens = ablation, takes, tokens

    def bare(self) -> Tensor:
        """Logits of the network."""
        return _logits(self.network(self.tokens))

    def __call__(self, layer: int, head: int, value: Tensor) -> Tensor:
        """Logits under the ablation."""
        given = {"model": self.network, "layer": layer, "head": head, "value": value, "inputs": self.tokens}
        try:
            made = self.ablation(**{name: given[name] for name in self.takes})
            if "inputs" in self.takes:
                return _logits(made)
            if not isinstance(made, AbstractContextManager):
                raise TypeError(f"it takes no `inputs`, so it must be a context manager; got a {type(made).__name__}")
            with made:
                return self.bare()
        except Exception as error:  # whatever somebody's code raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise HookError(f"the ablation of L{layer}_H{head} fails ({reason:.300}).") from error


def _arguments(ablation: Ablation) -> tuple[str, ...]:
    """The arguments that a function takes, by name."""
    if not callable(ablation):
        raise HookError("it must be a function; got a " + type(ablation).__name__)
    named = inspect.signature(ablation).parameters.values()
    usual = [one.name for one in named if one.default is inspect.Parameter.empty and one.name not in TAKES]
    takes = tuple(one.name for one in named if one.name in TAKES)
    if usual or not {"layer", "head"} <= set(takes):
        got = ", ".join(one.name for one in named)
        raise HookError(f"its arguments must be layer and head and any of model, value and inputs; got ({got}).")
    return takes


def _logits(output: Any) -> Tensor:
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 3:
        raise TypeError(f"logits must be a tensor (batch, pos, vocabulary); got {type(logits).__name__}")
    return logits


def _apart(before: Tensor, after: Tensor) -> float:
    """The largest change of a logit, as a share of the largest logit; infinite where one is not finite or shapes differ."""
    if before.shape != after.shape:
        raise HookError(f"it gives logits of shape {tuple(after.shape)}; the model gives {tuple(before.shape)}.")
    largest = float((after - before).abs().max() / before.abs().max())
    return largest if largest == largest else float("inf")
