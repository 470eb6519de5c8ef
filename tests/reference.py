"""A second implementation, plain and slow, that the package is held against.

The transformer runs head by head in float64 from nothing but its weights; the statistics are loops over lists. Nothing of the
package is imported, so nothing of it can be wrong here too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, einsum

State = Mapping[str, Tensor]
Part = tuple[int, int | None]
"""A component: its layer, and its head, or None for the layer's MLP."""


@dataclass
class Run:
    """Logits, what every component put out by itself in that run, what the heads wrote, and where they looked."""

    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    parts: dict[Part, Tensor] = field(default_factory=dict)
    writes: dict[Part, Tensor] = field(default_factory=dict)
    patterns: dict[tuple[int, int], Tensor] = field(default_factory=dict)


def float64(state: State) -> dict[str, Tensor]:
    return {name: value.detach().double() for name, value in state.items()}


def run(
    state: State,
    tokens: Tensor,
    n_heads: int,
    positions: str,
    gates: Mapping[Part, float] | None = None,
    other: Mapping[Part, Tensor] | None = None,
    site: str = "component",
) -> Run:
    """Logits of all positions; a part with a gate g puts out (1 - g) of its own and g of the other."""
    gates, other, result = gates or {}, other or {}, Run()
    x = state["embedding.weight"][tokens]
    d_model, length = x.shape[-1], x.shape[1]
    d_head = d_model // n_heads
    if positions == "learned":
        x = x + state["position.weight"][:length]
    if positions == "sinusoidal":
        x = x + sinusoids(length, d_model)

    def passed(part: Part, own: Tensor) -> Tensor:
        gate = gates.get(part, 0.0)
        return own if gate == 0 else (1 - gate) * own + gate * other[part]

    for layer in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))):
        at = f"blocks.{layer}"
        normed = layer_norm(x, state, f"{at}.norm_attention")
        written = state[f"{at}.attention.W_O.bias"].expand_as(x).clone()
        for head in range(n_heads):
            mine = slice(head * d_head, (head + 1) * d_head)
            q, k, v = (
                einsum("bpd,ed->bpe", normed, state[f"{at}.attention.{name}.weight"][mine])
                + state[f"{at}.attention.{name}.bias"][mine]
                for name in ("W_Q", "W_K", "W_V")
            )
            if positions == "rotary":
                q, k = turned(q), turned(k)
            result.patterns[layer, head] = causal_softmax(einsum("bqe,bke->bqk", q, k) / math.sqrt(d_head))
            z = einsum("bqk,bke->bqe", result.patterns[layer, head], v)
            result.parts[layer, head] = z
            if site == "component":
                z = passed((layer, head), z)
            result.writes[layer, head] = einsum("bpe,de->bpd", z, state[f"{at}.attention.W_O.weight"][:, mine])
            written = written + result.writes[layer, head]
        if site == "released":
            written = torch.cat([passed((layer, h), written[..., h * d_head : (h + 1) * d_head]) for h in range(n_heads)], dim=-1)
        x = x + written
        hidden = linear(layer_norm(x, state, f"{at}.norm_mlp"), state, f"{at}.mlp.W_in")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        result.parts[layer, None] = linear(hidden, state, f"{at}.mlp.W_out")
        x = x + passed((layer, None), result.parts[layer, None])
    result.logits = linear(layer_norm(x, state, "norm"), state, "unembedding")
    return result


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return einsum("bpi,oi->bpo", x, state[f"{name}.weight"]) + state[f"{name}.bias"]


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred**2).mean(-1, keepdim=True).add(1e-5).sqrt()
    return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]


def causal_softmax(scores: Tensor) -> Tensor:
    query, key = torch.arange(scores.shape[-2])[:, None], torch.arange(scores.shape[-1])[None, :]
    weights = (scores - scores.amax(-1, keepdim=True)).exp() * (key <= query)
    return weights / weights.sum(-1, keepdim=True)


def turned(x: Tensor) -> Tensor:
    """Rotary positions as a product of complex numbers."""
    half = x.shape[-1] // 2
    angles = [[p * 10_000 ** (-k / half) for k in range(half)] for p in range(x.shape[1])]
    angle = torch.tensor(angles, dtype=torch.float64)
    product = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([product.real, product.imag], dim=-1)


def sinusoids(length: int, d_model: int) -> Tensor:
    table = [
        [(math.cos if k % 2 else math.sin)(p * 10_000 ** (-(k - k % 2) / d_model)) for k in range(d_model)] for p in range(length)
    ]
    return torch.tensor(table, dtype=torch.float64)


def means(runs: Sequence[Run], by_position: bool) -> dict[Part, Tensor]:
    """Mean output of every part over all rows of all runs, and over positions unless by_position."""
    result = {}
    for part in runs[0].parts:
        rows = torch.cat([one.parts[part] for one in runs])
        mean = rows.sum(0) / len(rows)
        result[part] = mean if by_position else mean.sum(0) / len(mean)
    return result


def log_softmax(logits: Tensor) -> Tensor:
    return logits - logits.amax(-1, keepdim=True) - (logits - logits.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log()


def scores(logits: Tensor, targets: Tensor) -> list[list[float]]:
    """Exact match, mean log-probability and token accuracy, each a list over sequences."""
    exact, log_prob, accuracy = [], [], []
    for row, wanted in zip(log_softmax(logits.double()).tolist(), targets.tolist(), strict=True):
        right = [of.index(max(of)) == token for of, token in zip(row, wanted, strict=True)]
        exact.append(float(all(right)))
        log_prob.append(sum(of[token] for of, token in zip(row, wanted, strict=True)) / len(wanted))
        accuracy.append(sum(right) / len(right))
    return [exact, log_prob, accuracy]


def greedy(next_logits: Callable[[Tensor], Tensor], prompt: list[int], steps: int) -> list[int]:
    """Continue one prompt by its most probable token, one token at a time."""
    tokens = list(prompt)
    for _ in range(steps):
        tokens.append(int(next_logits(torch.tensor([tokens]))[0, -1].argmax()))
    return tokens[len(prompt) :]


def gradient_magnitudes(
    state: State, inputs: Tensor, targets: Tensor, scored: int, n_heads: int, positions: str, normalise: bool
) -> dict[Part, float]:
    """Norms of the gradient of the mean cross entropy at the last `scored` positions, from autograd on the raw weights."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in float64(state).items()}
    logits = run(leaves, inputs, n_heads, positions).logits[:, -scored:]
    picked = log_softmax(logits).gather(-1, targets[:, -scored:, None])
    (-picked.mean()).backward()
    result: dict[Part, float] = {}
    for name in leaves:
        if not name.endswith(("W_V.weight", "mlp.W_out.weight")):
            continue
        layer, gradient = int(name.split(".")[1]), leaves[name].grad
        assert gradient is not None
        rows = gradient.tolist()
        if name.endswith("W_out.weight"):
            result[layer, None] = frobenius(rows, normalise)
        else:
            d_head = len(rows) // n_heads
            for head in range(n_heads):
                result[layer, head] = frobenius(rows[head * d_head : (head + 1) * d_head], normalise)
    return result


def frobenius(rows: list[list[float]], normalise: bool) -> float:
    entries = [entry for row in rows for entry in row]
    return math.sqrt(math.fsum(entry**2 for entry in entries) / (len(entries) if normalise else 1))


def average_ranks(values: Sequence[float]) -> list[float]:
    return [sum(w < v for w in values) + (1 + sum(w == v for w in values)) / 2 for v in values]


def ordinal_ranks(values: Sequence[float]) -> list[float]:
    return [1.0 + sum(w < v or (w == v and j < i) for j, w in enumerate(values)) for i, v in enumerate(values)]


RANKS = {"average": average_ranks, "ordinal": ordinal_ranks}


def pearson(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    across = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return across / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def spearman(x: Sequence[float], y: Sequence[float], ranks: str = "average") -> float:
    return pearson(RANKS[ranks](x), RANKS[ranks](y))


def rank_differences(G: Sequence[float], C: Sequence[float], ranks: str = "average") -> list[float]:
    return [g - c for g, c in zip(RANKS[ranks](G), RANKS[ranks](C), strict=True)]


def role(delta: float, cut: float, strict: bool) -> str:
    if delta < -cut or (delta == -cut and not strict):
        return "hero"
    if delta > cut or (delta == cut and not strict):
        return "bloat"
    return "aligned"


def by_chance(G: Sequence[float], C: Sequence[float], cut: float, strict: bool, ranks: str = "average") -> dict[str, float]:
    """Mean numbers of Heroes and Bloats over every order in which the ranks of C can be dealt out."""
    found = {"heroes": 0, "bloats": 0}
    rank_g, orders = RANKS[ranks](G), list(itertools.permutations(RANKS[ranks](C)))
    for order in orders:
        roles = [role(g - c, cut, strict) for g, c in zip(rank_g, order, strict=True)]
        found["heroes"] += roles.count("hero")
        found["bloats"] += roles.count("bloat")
    return {name: number / len(orders) for name, number in found.items()}


def p_value(G: Sequence[float], C: Sequence[float]) -> float:
    """Two-sided: twice the smaller share of all pairings that are at most, or at least, as correlated as this one."""
    observed = spearman(G, C)
    every = [spearman(order, C) for order in itertools.permutations(G)]
    low = sum(rho <= observed + 1e-12 for rho in every) / len(every)
    high = sum(rho >= observed - 1e-12 for rho in every) / len(every)
    return min(1.0, 2 * min(low, high))


def largest(values: Sequence[float], k: int) -> list[frozenset[int]]:
    """The k largest, once for every order that ties could have."""
    tops = []
    for order in itertools.permutations(range(len(values))):
        tops.append(frozenset(sorted(range(len(values)), key=lambda i: (-values[i], order[i]))[:k]))
    return tops


def missed(G: Sequence[float], C: Sequence[float], k: int) -> float:
    tops_g, tops_c = largest(G, k), largest(C, k)
    return sum(len(c - g) / k for g in tops_g for c in tops_c) / (len(tops_g) * len(tops_c))


def split_half(samples: Sequence[Sequence[float]], orders: Sequence[Sequence[int]]) -> float:
    """Spearman-Brown of the mean rank correlation of two halves; `samples` holds one list per component."""
    correlations = []
    for order in orders:
        half = len(order) // 2
        first, second = (
            [sum(row[i] for i in picked) / half for row in samples] for picked in (order[:half], order[half : 2 * half])
        )
        correlations.append(spearman(first, second))
    mean = sum(correlations) / len(correlations)
    return 2 * mean / (1 + mean)
