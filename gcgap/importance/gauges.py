"""Gauges: G where the same function is written down otherwise.

For every head and every invertible A of shape (d_head, d_head)

    W_V -> A W_V,   b_V -> A b_V,   W_O -> W_O A^-1

leaves all logits as they are, and turns dL/dW_V into A^-T dL/dW_V: the G of a head depends on A. A canonical gauge chooses A by
the weights themselves, up to a rotation, which leaves norms alone. With P = W_V W_V' and Q = W_O' W_O, both (d_head, d_head):

    balanced             A P A' = A^-T Q A^-1: what gradient flow conserves the difference of
    orthonormal_output   A^-T Q A^-1 = 1: W_O has orthonormal columns, so G is in the units of the residual stream
    orthonormal_value    A P A' = 1: W_V has orthonormal rows

Of the A of each gauge the symmetric one is taken. Heads that share their values share A: their Q is the sum over the group for
`balanced`, as gradient flow has it, and the mean for `orthonormal_output`. MLPs have no such symmetry, so that their G stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from gcgap.data.batches import Batch
from gcgap.importance.gap import Array, Judgement, constant, is_role, rank, rank_correlation, rank_difference
from gcgap.importance.gradient import over_batches
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring

CANONICAL = ("balanced", "orthonormal_output", "orthonormal_value")
SCALE_FACTOR = 4.0
"""Random head scales lie between its inverse and it."""
DRAWS = 1000  # of random head scales
SINGULAR = 1e-12  # of the largest eigenvalue, below which one counts as 0


class HeadGroup(NamedTuple):
    """Heads that share their values, one or several, with views of their weights."""

    layer: int
    heads: range
    value: Float[Tensor, "d_head d_in"]
    outputs: list[Float[Tensor, "d_model d_head"]]
    bias: Float[Tensor, " d_head"] | None
    """Of the values."""


def head_groups(model: Decoder, wiring: Wiring) -> Iterator[HeadGroup]:
    """Every group of heads, layer by layer."""
    n, size = wiring.n_heads, wiring.value.group
    for layer in range(wiring.n_layers):
        value, output = (wiring.weight(model, slices.module, layer) for slices in (wiring.value, wiring.output))
        bias = getattr(wiring.module(model, wiring.value.module, layer), "bias", None)
        for first in range(0, n, size):
            heads = range(first, first + size)
            own, outputs = wiring.value.of(value, first, n), [wiring.output.of(output, head, n) for head in heads]
            yield HeadGroup(
                layer,
                heads,
                own if wiring.value.axis == 0 else own.T,
                outputs if wiring.output.axis == 1 else [one.T for one in outputs],
                replace(wiring.value, axis=0).of(bias, first, n) if isinstance(bias, Tensor) else None,
            )


def gauge_root(group: HeadGroup, gauge: str) -> Float[Tensor, "d_head d_head"]:
    """The symmetric R = A^-1, float64, with which || R dL/dW_V || is the norm of the gradient in a canonical gauge.

    Where W_V or W_O has not full rank there is no such A, and this is the limit: dL/dW_V lies in the range of W_O', within which
    inverses are taken.
    """
    value, outputs = group.value.detach().double(), torch.cat([one.detach().double() for one in group.outputs])
    P, Q = value @ value.T, outputs.T @ outputs
    if gauge == "orthonormal_output":
        return _power(Q / len(group.outputs), -0.5)
    if gauge == "orthonormal_value":
        return _power(P, 0.5)
    root, inverse = _power(Q, 0.5), _power(Q, -0.5)
    return _power(inverse @ _power(root @ P @ root, 0.5) @ inverse, 0.5)  # R R = N solves N Q N = P


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """A power of a symmetric matrix without negative eigenvalues, within its range."""
    values, vectors = torch.linalg.eigh(matrix)
    inside = values > SINGULAR * values[-1]
    return vectors[:, inside] * values[inside] ** exponent @ vectors[:, inside].T


def gauged_norms(
    model: Decoder, wiring: Wiring, batches: Sequence[Batch], normalise: bool = True, gauges: Sequence[str] = CANONICAL
) -> Float[Tensor, "gauge component batch"]:
    """|| dL_b / dW_i ||_F (over sqrt(N_i) if `normalise`) in the gauge that the model has, then in others, from one gradient.

    Raises:
        FloatingPointError: A gradient is not finite.
    """
    roots: dict[int, list[Tensor]] = {}  # by the head's place among the components
    for group in head_groups(model, wiring):
        of_group = [gauge_root(group, gauge) for gauge in gauges]
        roots |= {wiring.columns(group.layer)[0].start + head: of_group for head in group.heads}

    def norms(component: int, gradient: Tensor, weight: Tensor) -> Tensor:
        root = gradient.numel() ** 0.5 if normalise else 1
        upright = gradient if wiring.value.axis == 0 else gradient.T
        changed = [one.to(gradient) @ upright for one in roots.get(component, [])] or [gradient] * len(gauges)
        return torch.stack([gradient.norm() / root, *(one.norm() / root for one in changed)])

    return over_batches(model, wiring, batches, norms).movedim(-1, 0)


@torch.no_grad()
def has_head_scales(model: Decoder, wiring: Wiring, tokens: Tensor) -> bool:
    """Whether logits stay as they are where W_V and b_V of all heads are doubled and W_O is halved, which rounds nothing.

    Something between values and W_O that is not linear, such as a norm or a clip of the values, breaks that.
    """
    names = {id(weight): name for name, weight in model.named_parameters()}
    changed: dict[str, Tensor] = {}
    for layer in range(wiring.n_layers):
        module = wiring.module(model, wiring.value.module, layer)
        for kind in ("weight", "bias"):
            if isinstance(one := getattr(module, kind, None), Tensor):
                changed[names[id(one)]] = one.clone()
                part = wiring.value if kind == "weight" else replace(wiring.value, axis=0)
                for head in range(0, wiring.n_heads, wiring.value.group):
                    part.of(changed[names[id(one)]], head, wiring.n_heads).mul_(2)
        output = wiring.weight(model, wiring.output.module, layer)
        changed[names[id(output)]] = output / 2
    with eval_mode(model):
        before = model(tokens.to(model.device))
        after = torch.func.functional_call(model, changed, (tokens.to(model.device),))
    return bool(torch.allclose(before, after, rtol=1e-4, atol=1e-4 * float(before.abs().max())))


class NotApplicableError(ValueError):
    """A model has no such symmetry, or it is not known how its weights take part in it."""


@torch.no_grad()
def change_heads(model: Decoder, wiring: Wiring, matrices: Sequence[Float[Tensor, "d_head d_head"]]) -> None:
    """W_V -> A W_V, b_V -> A b_V, W_O -> W_O A^-1 in place, with an A for each of `head_groups`.

    Raises:
        NotApplicableError: Something between values and W_O is not linear.
    """
    _check_linear(wiring)
    for group, A in zip(head_groups(model, wiring), matrices, strict=True):
        A = A.to(group.value)
        inverse = torch.linalg.inv(A)
        group.value.copy_(A @ group.value)
        if group.bias is not None:
            group.bias.copy_(A @ group.bias)
        for output in group.outputs:
            output.copy_(output @ inverse)


@torch.no_grad()
def fold_gains(model: Decoder, wiring: Wiring) -> None:
    """Gains g of norms become 1, and what reads them is multiplied by g, in place; a tied unembedding is untied first.

    Raises:
        NotApplicableError: The wiring names no norms, or one has no gain, or a gain is 0.
    """
    if not wiring.norms:
        raise NotApplicableError("the family declares no norms whose gains can be folded")
    layers = range(wiring.n_layers)
    folded = {norm.format(layer=layer): (norm, readers, layer) for norm, readers in wiring.norms for layer in layers}
    for norm, readers, layer in folded.values():  # the last norm, which is of no layer, once
        module = wiring.module(model, norm, layer)
        weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
        if weight is None:
            raise NotApplicableError("norms have no gain")
        gain = weight + wiring.gain_offset
        if bool((gain == 0).any()):
            raise NotApplicableError(f"a gain of {norm.format(layer=layer)} is 0")
        for reader in readers:
            reading, own = wiring.module(model, reader, layer), wiring.weight(model, reader, layer)
            if sum(other._parameters.get("weight") is own for other in model.modules()) > 1:
                reading.weight = own = nn.Parameter(own.clone(), own.requires_grad)
            own.mul_(gain if isinstance(reading, nn.Linear) else gain[:, None])  # else (in, out), as Conv1D
        if isinstance(bias, Tensor):
            bias.div_(gain)
        weight.fill_(1 - wiring.gain_offset)


@torch.no_grad()
def fold_biases(model: Decoder, wiring: Wiring) -> None:
    """The values' biases become 0 and what heads write because of them, W_O b_V, is added to the bias of W_O, in place.

    A linear W_O without a bias is given one.

    Raises:
        NotApplicableError: Values have no bias, or W_O can have none, or something between them is not linear.
    """
    _check_linear(wiring)
    for group in head_groups(model, wiring):
        if group.bias is None:
            raise NotApplicableError("values have no bias")
        module = wiring.module(model, wiring.out_projection, group.layer)
        if isinstance(module, nn.Linear) and module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(module.out_features), module.weight.requires_grad)
        if not isinstance(bias := getattr(module, "bias", None), Tensor):
            raise NotApplicableError("W_O has no bias")
        for output in group.outputs:
            bias.add_(output @ group.bias)
        group.bias.zero_()


def _check_linear(wiring: Wiring) -> None:
    if wiring.not_linear:
        raise NotApplicableError(f"{wiring.not_linear}, which is not linear")


@torch.no_grad()
def permute_heads(model: Decoder, wiring: Wiring, orders: Sequence[Sequence[int]]) -> None:
    """Head i of a layer becomes what head orders[layer][i] was, in place; groups that share keys and values stay together.

    Raises:
        NotApplicableError: The wiring does not say where queries and keys are.
    """
    if wiring.query is None or wiring.key is None:
        raise NotApplicableError("the family does not declare where queries and keys of single heads are")
    n = wiring.n_heads
    for layer, order in enumerate(orders):
        for slices in (wiring.query, wiring.key, wiring.value, wiring.output, *wiring.permuted):
            module = wiring.module(model, slices.module, layer)
            sides = [(wiring.weight(model, slices.module, layer), slices)]
            if slices is not wiring.output and isinstance(bias := getattr(module, "bias", None), Tensor):
                sides.append((bias, replace(slices, axis=0)))
            for weight, of in sides:
                before = [of.of(weight, head, n).clone() for head in range(n)]
                for head, was in enumerate(order):
                    of.of(weight, head, n).copy_(before[was])


def random_scales(
    G: Float[Array, " component"], wiring: Wiring, draws: int, rng: np.random.Generator
) -> Float[Array, "component draw"]:
    """G with the values of every head, or group of heads, scaled by a random factor between 1 / SCALE_FACTOR and SCALE_FACTOR.

    The logarithm of the factor is uniform. MLPs are left alone.
    """
    groups = wiring.n_heads // wiring.value.group
    logs = rng.uniform(-np.log(SCALE_FACTOR), np.log(SCALE_FACTOR), (wiring.n_layers, groups, draws))
    of_heads = np.exp(logs).repeat(wiring.value.group, axis=1)
    factors = np.concatenate([of_heads, np.ones((wiring.n_layers, 1, draws))], axis=1).reshape(-1, draws)
    return G[:, None] / factors


def rho_range(G: Float[Array, "component draw"], C: Float[Array, " component"], by: Judgement) -> list[float] | None:
    """The interval in which rho lies for 95 % of draws of G; None where C is constant."""
    if constant(C):
        return None
    rhos = rank_correlation(rank(G, by.ranks, axis=0), rank(C, by.ranks)[:, None], axis=0)
    return [float(end) for end in np.percentile(rhos, [2.5, 97.5])]


def roles_kept(
    G: Float[Array, " component"], scaled: Float[Array, "component draw"], C: Float[Array, " component"], by: Judgement
) -> float | None:
    """The share of the Heroes and Bloats by G that have the same role by a draw, in the mean; None where there are none."""
    if constant(C):
        return None
    before, after = (rank_difference(one, C[:, None], by.ranks, axis=0) for one in (G[:, None], scaled))
    was, now = (is_role(delta, by.role_threshold(len(C)), by.strict) for delta in (before, after))
    kept = [(was[role] & now[role])[was[role][:, 0]] for role in ("hero", "bloat")]
    return float(np.concatenate(kept).mean()) if any(map(len, kept)) else None
