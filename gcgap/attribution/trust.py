"""How far the tangent can be trusted in one model: reliability, bounds, and where the error comes from, beside exact effects.

The error comes from where networks that are linear in part depart from the exact effect:

    tangent     dD/dxi_i at 0: attribution patching, everything linear, the metric too
    linear      the logits move along their tangent, the metric does not: everything downstream of the component is linear
    frozen      downstream, attention patterns, LayerNorm scales and GELU slopes stay as in the clean run
    exact       D(e_i)
    local       for activation patching: D(e_i) where the component answers the corrupted input by its own tangent; all else exact

exact - linear is what the nonlinearity of the downstream network does, linear - tangent what the metric's does, and local - exact
what the component's own does. Ablation replaces an output, so the component's own nonlinearity plays no part in it; nor is
attribution patching, which is taken at the output, wrong by it: `local` says how wrong it would be at the component's input.
The definitions are this project's reading of the abstract of arXiv:2606.09899.

`frozen` is a second copy of the model's mathematics, to first order; a test holds it to autograd with detached factors.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F  # noqa: N812

from gcgap.attribution.agreement import calibration, coverage, reliability_ratio, remainders
from gcgap.attribution.drop import Drop
from gcgap.attribution.paths import completeness_residual, joint_integrated_gradients, midpoint
from gcgap.attribution.sets import single_drops
from gcgap.importance.baselines import Replacement
from gcgap.importance.gap import Array
from gcgap.importance.gates import Activations, gated
from gcgap.importance.protocol import Attribution, Site
from gcgap.models.transformer import Block, State, Transformer

NODES = 5  # of the even grid on [0, 1] on which derivatives are maximised

Moved = Callable[[Drop, list[State], slice, int], Tensor]
"""The logits under the replacement of one component, given the clean states of some rows of the batch."""


def trust(
    drop: Drop, settings: Attribution, other: Int[Tensor, "sequence pos"] | None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Of each component reliability, bounds and effects, and of all together calibration, coverage and shares of the error.

    The effects `frozen` and `local` are known for gcgap's own transformer only.

    Args:
        drop: The drop, of sequences enough for means (curvature on a grid is what costs).
        settings: The metric's name, and the steps of the joint path whose completeness is checked.
        other: For activation patching, what each sequence is corrupted to (or cleaned to).
    """
    metric, own = settings.metric, isinstance(drop.model, Transformer)
    grid = [drop.path_derivatives(k / (NODES - 1), curvature=True) for k in range(NODES)]
    slopes, curvatures = (np.stack([one[order].mean(-1).numpy() for one in grid]) for order in (0, 1))
    effects: dict[str, Array | None] = {
        "tangent": slopes[0],
        "linear": linear_effects(drop).mean(-1).numpy(),
        "frozen": frozen_effects(drop).mean(-1).numpy() if own and drop.site == Site.COMPONENT else None,
        "exact": getattr(single_drops(drop), metric).mean(-1).numpy(),
        "local": None if other is None or not own else local_effects(drop, other, metric).mean(-1).numpy(),
    }
    exact = effects["exact"]
    assert exact is not None
    bounds, ratio = remainders(slopes, curvatures), reliability_ratio(slopes[0], curvatures[0])
    entries = [
        {
            "reliability": float(ratio[i]) if np.isfinite(ratio[i]) else None,  # infinite: a gradient that is exactly zero
            "slope": float(slopes[0, i]),
            "curvature": float(curvatures[0, i]),
            "slope_at_end": float(slopes[-1, i]),
            "bound": {name: float(bound[i]) for name, bound in bounds.items()},
            "effects": {name: None if of is None else float(of[i]) for name, of in effects.items()},
        }
        for i in range(drop.components)
    ]
    summary = {
        "sequences": drop.sequences,
        "calibration": calibration(slopes[0], curvatures[0], exact),
        "bounds": coverage(bounds, slopes[0], curvatures[0], exact),
        "completeness": {
            "steps": settings.steps,
            "joint_effect": float(drop.value(drop.zero_gates() + 1).mean()),
            "residual": completeness_residual(drop, joint_integrated_gradients(drop, midpoint, settings.steps)),
        },
        "error": error_split(effects),
    }
    return entries, summary


def error_split(effects: dict[str, Array | None]) -> dict[str, float | None]:
    """Mean absolute errors: of the tangent, and of its parts; in the metric's units.

    `downstream` is exact - linear, `metric` is linear - tangent, `local` is local - exact, `frozen` is frozen - exact.
    """

    def between(one: Array | None, other: Array | None) -> float | None:
        return None if one is None or other is None else float(np.abs(one - other).mean())

    tangent, linear, exact = effects["tangent"], effects["linear"], effects["exact"]
    return {
        "total": between(exact, tangent),
        "downstream": between(exact, linear),
        "metric": between(linear, tangent),
        "local": between(effects["local"], exact),
        "frozen": between(effects["frozen"], exact),
    }


def linear_effects(drop: Drop) -> Float[Tensor, "component sequence"]:
    """M(0) - M(logits + dlogits/dxi_i): the drop if the logits moved along their tangent."""
    return _effects(drop, _tangent_logits)


def frozen_effects(drop: Drop) -> Float[Tensor, "component sequence"]:
    """The drop if attention patterns, LayerNorm scales and GELU slopes downstream stayed those of the clean run.

    Raises:
        ValueError: The site is not `component`: a slice of what all heads write has no downstream of its own. Or the model is not
            one of gcgap's own, whose mathematics alone is known here.
    """
    if drop.site != Site.COMPONENT:
        raise ValueError(f"`frozen_effects` needs the site `component`; got `{drop.site}`.")
    _own(drop)
    return _effects(drop, _frozen_logits)


def local_effects(drop: Drop, inputs: Int[Tensor, "sequence pos"], metric: str) -> Float[Tensor, "component sequence"]:
    """D(e_i) where component i answers other inputs by its tangent at the clean ones, and all else is exact.

    Args:
        drop: The drop; its own replacement is not used.
        inputs: What each sequence is corrupted to.
        metric: Name of the drop's metric.

    Raises:
        ValueError: The model is not one of gcgap's own.
    """
    _own(drop)
    return getattr(single_drops(replace(drop, replacement=_tangent_response(drop, inputs))), metric)


def _own(drop: Drop) -> Transformer:
    if not isinstance(drop.model, Transformer):
        raise ValueError("`frozen_effects` and `local_effects` know the mathematics of gcgap's own transformer only.")
    return drop.model


@torch.no_grad()
def _effects(drop: Drop, moved: Moved) -> Float[Tensor, "component sequence"]:
    pieces = []
    with drop.frozen_weights(curved=True):
        for rows in drop.slices():
            states = drop.model.states(drop.inputs(rows), drop.last)
            answers = drop.answers(rows)
            base = drop.metric(drop.model.forward_from(drop.model.n_layers - 1, states[-1], drop.last), *answers)
            levels = [drop.metric(moved(drop, states, rows, i), *answers) for i in range(drop.components)]
            pieces.append(drop.sign * (base - torch.stack(levels)))
    drop.passes.forward += 1 + 2 * drop.components
    return drop.finite(torch.cat(pieces, dim=-1).cpu()[None])[0]


def _tangent_logits(drop: Drop, states: list[State], rows: slice, i: int) -> Tensor:
    layer = drop.wiring.components[i].layer
    with _forward_mode():
        tangent = drop.zero_gates().to(drop.model.device).repeat(len(states[layer][0]), 1)
        tangent[:, i] = 1
        gates = forward_ad.make_dual(torch.zeros_like(tangent), tangent)
        with gated(drop.model, drop.wiring, gates, drop.given(rows), drop.site, drop.where, [layer]):
            logits, change = forward_ad.unpack_dual(drop.model.forward_from(layer, states[layer], drop.last))
    assert change is not None, "the logits do not depend on the gate"
    return logits + change


def _frozen_logits(drop: Drop, states: list[State], rows: slice, i: int) -> Tensor:
    model, layer = _own(drop), drop.wiring.components[i].layer
    change = _written_change(drop, states[layer], rows, i)
    if drop.wiring.components[i].kind == "head":
        change = change + _frozen_mlp(model.blocks[layer], states[layer], change)
    for block, state in zip(model.blocks[layer + 1 :], states[layer + 1 :], strict=True):
        written = _frozen_attention(block, state, change)
        change = change[:, -written.shape[1] :] + written
        change = change + _frozen_mlp(block, state, change)
    top = model.blocks[-1].write(*states[-1])[:, -drop.last :]
    change = _frozen_norm(model.norm, top, change[:, -drop.last :])
    return model.unembedding(model.norm(top)) + F.linear(change, model.unembedding.weight)


def _written_change(drop: Drop, state: State, rows: slice, i: int) -> Float[Tensor, "row kept d_model"]:
    """By how much the replacement of component i changes what it adds to the residual stream."""
    component, (x, z) = drop.wiring.components[i], state
    block, other = _own(drop).blocks[component.layer], drop.given(rows)
    kept = z.shape[1]
    if component.head is None:
        middle = x[:, -kept:] + block.attention.W_O(z)
        change = other.mlps[component.layer][:, -kept:] - block.mlp(block.norm_mlp(middle))
    else:
        own = z.unflatten(-1, (drop.wiring.n_heads, -1))
        change = torch.zeros_like(own)
        change[:, :, component.head] = (other.heads[component.layer][:, -kept:] - own)[:, :, component.head]
        change = F.linear(change.flatten(-2), block.attention.W_O.weight)
    return change if drop.where is None else change * drop.where[-kept:, None].to(change.device)


def _frozen_norm(norm: torch.nn.LayerNorm, x: Tensor, change: Tensor) -> Tensor:
    """How LayerNorm passes on a change of its input x if its scale stays that of x."""
    scale = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    return (change - change.mean(-1, keepdim=True)) / scale * norm.weight


def _frozen_attention(block: Block, state: State, change: Tensor) -> Tensor:
    """How the heads pass on a change of the residual stream if they keep their patterns."""
    x, z = state
    value = F.linear(_frozen_norm(block.norm_attention, x, change), block.attention.W_V.weight)
    pattern = block.attention.pattern(block.norm_attention(x))[:, :, -z.shape[1] :]
    moved = pattern @ value.unflatten(-1, (block.attention.n_heads, -1)).transpose(1, 2)
    return F.linear(moved.transpose(1, 2).flatten(2), block.attention.W_O.weight)


def _frozen_mlp(block: Block, state: State, change: Tensor) -> Tensor:
    """How the MLP passes on a change of the residual stream if its GELUs keep their slopes."""
    x, z = state
    middle = x[:, -z.shape[1] :] + block.attention.W_O(z)
    hidden = block.mlp.W_in(block.norm_mlp(middle))
    slope = (1 + torch.erf(hidden / math.sqrt(2))) / 2 + hidden * torch.exp(-(hidden**2) / 2) / math.sqrt(2 * math.pi)
    moved = F.linear(_frozen_norm(block.norm_mlp, middle, change), block.mlp.W_in.weight)
    return F.linear(slope * moved, block.mlp.W_out.weight)


def _tangent_response(drop: Drop, inputs: Int[Tensor, "sequence pos"]) -> Replacement:
    """What every component puts out on other inputs if it follows its tangent at the clean ones."""
    model, heads = _own(drop), drop.wiring.n_heads

    @torch.no_grad()
    def rows(index: slice) -> Activations:
        with drop.frozen_weights(curved=True):
            clean = model.states(drop.inputs(index), drop.last)
            other = model.states(inputs[index].to(clean[0][0].device), drop.last)
            found = Activations([], [])
            for block, (x, z), (other_x, other_z) in zip(model.blocks, clean, other, strict=True):
                kept = z.shape[1]
                answer = _tangent(lambda x, block=block, kept=kept: block.heads(x, kept), x, other_x)
                found.heads.append(answer.unflatten(-1, (heads, -1)))
                middle, other_middle = (one[:, -kept:] + block.attention.W_O(own) for one, own in ((x, z), (other_x, other_z)))
                found.mlps.append(_tangent(lambda x, block=block: block.mlp(block.norm_mlp(x)), middle, other_middle))
        return found

    return rows


def _tangent(function: Callable[[Tensor], Tensor], at: Tensor, to: Tensor) -> Tensor:
    """function(at) plus its derivative there in the direction of `to`."""
    with _forward_mode():
        value, change = forward_ad.unpack_dual(function(forward_ad.make_dual(at, to - at)))
    return value if change is None else value + change


@contextmanager
def _forward_mode() -> Iterator[None]:
    """Forward-mode derivatives, without the warning that torch 2.13 gives of its own code when it loads them."""
    with warnings.catch_warnings(), forward_ad.dual_level():
        warnings.filterwarnings("ignore", "`torch.jit.script", DeprecationWarning)
        yield
