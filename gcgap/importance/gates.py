"""The gated model M(xi), the one mechanism from which every causal measure follows.

Each component i has a gate xi_i in [0, 1] and a replacement a_i, and the gated model runs with

    z_i(xi) = (1 - xi_i) z_i + xi_i a_i

where z_i is recomputed in that very run, so that several open gates are one joint intervention. M(0) is the untouched model,
M(e_i) ablates component i, M(1_S) ablates a set. Owns hooks and replacements; owns no metric and no loop over components.

Gates are tensors of the call, never parameters of the model. Hooks live inside a `with` and leave with it, after an exception
too; a hook that did not run is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from gcgap.importance.protocol import Site
from gcgap.models.wiring import Component, Wiring

Act = Callable[[Tensor], Tensor]
"""What is done to the input or output of a module."""


class Activations(NamedTuple):
    """Outputs of all components, layer by layer. Rows and positions may be 1, which stands for all."""

    heads: list[Float[Tensor, "rows pos head d_head"]]
    mlps: list[Float[Tensor, "rows pos d_model"]]
    since: int = 0
    """The first position at which they can differ from what they replace."""

    def each(self, function: Callable[..., Tensor], *others: Activations) -> Activations:
        """What a function makes of every output, with those of others beside it; of all positions."""
        heads, mlps = (
            [function(*values) for values in zip(*part, strict=True)]
            for part in zip(self[:2], *(other[:2] for other in others), strict=True)
        )
        return Activations(heads, mlps)


class NotFiredError(RuntimeError):
    """An intervention was asked for and the model never passed through it."""


def mix(
    own: Float[Tensor, "rows pos ..."],
    gate: Float[Tensor, "rows ..."],
    other: Float[Tensor, "group ..."],
    where: Bool[Tensor, " all_pos"] | None = None,
    held: bool = False,
) -> Tensor:
    """(1 - gate) own + gate other, exactly `own` at 0 and exactly `other` at 1; `own` at positions that `where` leaves out.

    If `held`, other - own counts as a constant in derivatives: own + gate (other - own).

    `other` may have one row, or a number of rows that divides that of `own`: it is then reused for each group of rows. Where
    `own` holds only the last positions, the last ones of `other` and of `where` are used.
    """
    rows, kept = other.shape[0], own.shape[1]
    weight, other = gate.unflatten(0, (-1, rows)).unsqueeze(2).to(own), other.to(own)
    if where is not None:
        weight = weight * where[-kept:].to(own.device).reshape(-1, *[1] * (own.dim() - 2))
    own, other = own.unflatten(0, (-1, rows)), other[:, -kept:]
    return (own + weight * (other - own.detach()) if held else torch.lerp(own, other, weight)).flatten(0, 1)


@contextmanager
def hooked(places: dict[str, tuple[nn.Module, str, Act]]) -> Iterator[None]:
    """Let `act` change (or only see) the input or output of each named module for the length of a `with`."""
    fired: set[str] = set()

    with ExitStack() as stack:
        for name, (module, side, act) in places.items():
            register = module.register_forward_pre_hook if side == "input" else module.register_forward_hook
            stack.callback(register(partial(_before if side == "input" else _after, fired, name, act)).remove)
        yield
    if silent := places.keys() - fired:
        raise NotFiredError(f"The intervention at {', '.join(sorted(silent))} did not fire: the model never ran that module.")


def _before(fired: set[str], name: str, act: Act, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    fired.add(name)
    return (act(args[0]), *args[1:])


def _after(fired: set[str], name: str, act: Act, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    fired.add(name)
    return act(output)


@contextmanager
def gated(
    model: nn.Module,
    wiring: Wiring,
    gates: Float[Tensor, "rows component"],
    replacement: Activations,
    site: Site = Site.COMPONENT,
    where: Bool[Tensor, " pos"] | None = None,
    layers: Iterable[int] | None = None,
    held: bool = False,
) -> Iterator[None]:
    """Inside this `with`, `model` runs as M(xi), each row of the batch under its own gates.

    Layers whose gates are all zero are left alone, unless the gates ask for a gradient.

    Args:
        model: Any model with a wiring.
        wiring: Where its components are.
        gates: xi, one row per row of the batch, one column per component.
        replacement: a, the values that open gates let in.
        site: Where a head is replaced.
        where: Positions at which gates act; all by default.
        layers: The only layers whose gates act, closed ones too; by default those with an open gate.
        held: Count the changes a - z as constants in derivatives, so that they do not depend on the gates below.

    Raises:
        NotFiredError: The model never ran a module that an open gate is at.
        FloatingPointError: A replacement is not finite; it would leak through closed gates too, since 0 x NaN is NaN.
        ValueError: The wiring names a module that the model lacks, or the gates have the wrong number of columns, or no position
            is chosen.
    """
    if gates.shape[-1] != len(wiring.components):
        raise ValueError(f"`gates` must have one column per component, {len(wiring.components)}; got {gates.shape[-1]}.")
    if where is not None and not bool(where.any()):
        raise ValueError("`positions` must choose at least one position; an intervention at none would do nothing.")
    asked = gates.requires_grad or layers is not None
    components = wiring.components
    side = "input" if site == Site.COMPONENT else "output"
    places: dict[str, tuple[nn.Module, str, Act]] = {}

    for layer in range(wiring.n_layers) if layers is None else layers:
        heads, mlp = wiring.columns(layer)
        if asked or bool(gates[:, heads].any()):
            _check_finite(replacement.heads[layer].transpose(0, 2), components[heads])
            act = partial(_heads_gated, wiring.n_heads, gates[:, heads], replacement.heads[layer], where, held)
            places[f"heads of layer {layer}"] = (wiring.module(model, wiring.out_projection, layer), side, act)
        if asked or bool(gates[:, mlp].any()):
            _check_finite(replacement.mlps[layer].unsqueeze(0), components[mlp : mlp + 1])
            act = partial(mix, gate=gates[:, mlp : mlp + 1], other=replacement.mlps[layer], where=where, held=held)
            places[f"MLP of layer {layer}"] = (wiring.module(model, wiring.mlp, layer), "output", act)
    with hooked(places):
        yield


def skip_mlp(
    model: nn.Module, middle: Float[Tensor, "rows pos d_model"], layer: int, wiring: Wiring, replacement: Activations
) -> Float[Tensor, "rows pos d_model"]:
    """The residual stream above an MLP whose gate is wholly open at every position: its replacement is added, and it never runs.

    Args:
        model: Any model with a wiring.
        middle: The residual stream between the heads and the MLP.
        layer: The MLP's.
        wiring: Where components are.
        replacement: a, with as many rows as `middle`, or one.

    Raises:
        FloatingPointError: The replacement is not finite.
    """
    _, mlp = wiring.columns(layer)
    _check_finite(replacement.mlps[layer].unsqueeze(0), wiring.components[mlp : mlp + 1])
    down = wiring.module(model, wiring.mlp_down, layer).weight
    assert isinstance(down, Tensor)
    return middle + replacement.mlps[layer][:, -middle.shape[1] :].to(down.dtype)  # as the MLP would have put it out


def _heads_gated(n_heads: int, xi: Tensor, other: Tensor, where: Tensor | None, held: bool, z: Tensor) -> Tensor:
    return mix(z.unflatten(-1, (n_heads, -1)), xi.unsqueeze(-1), other, where, held).flatten(-2)


def _check_finite(values: Float[Tensor, "component ..."], components: Sequence[Component]) -> None:
    """Raise a FloatingPointError that names the first component whose replacement holds NaN or Inf."""
    if not bool(torch.isfinite(values).all()):
        bad = next(one for one, own in zip(components, values, strict=True) if not bool(torch.isfinite(own).all()))
        raise FloatingPointError(f"The replacement of {bad.name} is not finite.")


@contextmanager
def recorded(model: nn.Module, wiring: Wiring, keep: Act = lambda value: value) -> Iterator[Activations]:
    """Inside this `with`, one run of `model` fills the Activations that it yields with every component's own output.

    Args:
        model: Any model with a wiring.
        wiring: Where its components are.
        keep: What is kept of each layer's outputs, (rows, pos, width), heads side by side: all by default. What is not kept is
            gone before the next layer runs.
    """
    seen = Activations([], [])

    places: dict[str, tuple[nn.Module, str, Act]] = {}
    for layer in range(wiring.n_layers):
        by_head = partial(_see, seen.heads, wiring.n_heads, keep)
        places[f"heads of layer {layer}"] = (wiring.module(model, wiring.out_projection, layer), "input", by_head)
        whole = partial(_see, seen.mlps, None, keep)
        places[f"MLP of layer {layer}"] = (wiring.module(model, wiring.mlp, layer), "output", whole)
    with hooked(places):
        yield seen


def _see(into: list[Tensor], n_heads: int | None, keep: Act, value: Tensor) -> Tensor:
    into.append(keep(value).unflatten(-1, (n_heads, -1)) if n_heads else keep(value))
    return value
