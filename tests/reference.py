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
    gates: Mapping[Part, float | Tensor] | None = None,
    other: Mapping[Part, Tensor] | None = None,
    site: str = "component",
) -> Run:
    """Logits of all positions; a part with a gate g puts out (1 - g) of its own and g of the other.

    A gate may be a tensor that broadcasts against (batch, position, width), through which autograd can see.
    """
    gates, other, result = gates or {}, other or {}, Run()
    x = state["embedding.weight"][tokens]
    d_model, length = x.shape[-1], x.shape[1]
    d_head = d_model // n_heads
    if positions == "learned":
        x = x + state["position.weight"][:length]
    if positions == "sinusoidal":
        x = x + sinusoids(length, d_model)

    def passed(part: Part, own: Tensor) -> Tensor:
        return (1 - gates[part]) * own + gates[part] * other[part] if part in gates else own

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
    """Exact match, mean log-probability, token accuracy, mean logit and probability difference, each a list over sequences."""
    exact, log_prob, accuracy, difference, probabilities = [], [], [], [], []
    for row, wanted in zip(log_softmax(logits.double()).tolist(), targets.tolist(), strict=True):
        right = [of.index(max(of)) == token for of, token in zip(row, wanted, strict=True)]
        exact.append(float(all(right)))
        log_prob.append(sum(of[token] for of, token in zip(row, wanted, strict=True)) / len(wanted))
        accuracy.append(sum(right) / len(right))
        best = [max(value for other, value in enumerate(of) if other != token) for of, token in zip(row, wanted, strict=True)]
        difference.append(sum(of[token] - other for of, token, other in zip(row, wanted, best, strict=True)) / len(wanted))
        pairs = [(math.exp(of[token]), math.exp(other)) for of, token, other in zip(row, wanted, best, strict=True)]
        probabilities.append(sum(own - other for own, other in pairs) / len(wanted))
    return [exact, log_prob, accuracy, difference, probabilities]


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
    """Rank correlation with as many other samples; `samples` holds one list per component.

    The mean rank correlations of two halves and of two quarters have logits on a line in the logarithm of their size; a slope
    below 0 or above 1 becomes 0 or 1.
    """
    logits, sizes = [], [len(orders[0]) // 2, len(orders[0]) // 4]
    for size in sizes:
        correlations = []
        for order in orders:
            parts = order[:size], order[size : 2 * size]
            first, second = ([sum(row[i] for i in picked) / size for row in samples] for picked in parts)
            correlations.append(spearman(first, second))
        mean = sum(correlations) / len(correlations)
        logits.append(math.log(mean / (1 - mean)))
    slope = min(max((logits[0] - logits[1]) / math.log(sizes[0] / sizes[1]), 0), 1)
    return 1 / (1 + math.exp(-logits[0] - slope * math.log(len(orders[0]) / sizes[0])))


Level = Callable[[Tensor], Tensor]
"""Gates (component), or a row of them for every sequence, to M, one number per sequence."""


def log_prob(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean log-probability of the target, a number per sequence that autograd can see through."""
    of_each = [row[range(len(wanted)), wanted] for row, wanted in zip(log_softmax(logits), targets, strict=True)]
    return torch.stack([of.mean() for of in of_each])


def logit_difference(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens of the target's logit minus the best of the others."""
    means = []
    for row, wanted in zip(logits, targets, strict=True):
        gaps = [of[t] - torch.cat([of[:t], of[t + 1 :]]).max() for of, t in zip(row, wanted.tolist(), strict=True)]
        means.append(torch.stack(gaps).mean())
    return torch.stack(means)


def probability_difference(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over tokens of the target's probability minus that of the likeliest other."""
    means = []
    for row, wanted in zip(logits, targets, strict=True):
        shares = [of.exp() / of.exp().sum() for of in row]
        gaps = [of[t] - torch.cat([of[:t], of[t + 1 :]]).max() for of, t in zip(shares, wanted.tolist(), strict=True)]
        means.append(torch.stack(gaps).mean())
    return torch.stack(means)


def level(
    state: State,
    inputs: Tensor,
    targets: Tensor,
    scored: int,
    n_heads: int,
    positions: str,
    parts: Sequence[Part],
    other: Mapping[Part, Tensor],
    metric: Callable[[Tensor, Tensor], Tensor] = log_prob,
    site: str = "component",
    where: Sequence[bool] | None = None,
) -> Level:
    """M(xi) of every sequence; the gates act at the positions that `where` holds true for."""
    state = float64(state)
    here = torch.ones(1) if where is None else torch.tensor([float(acts) for acts in where])

    def of(xi: Tensor) -> Tensor:
        gates = {part: xi[..., i].reshape(-1, 1, 1) * here[:, None].double() for i, part in enumerate(parts)}
        logits = run(state, inputs, n_heads, positions, gates, other, site).logits
        return metric(logits[:, -scored:], targets[:, -scored:])

    return of


def derivatives(level: Level, at: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (component, sequence) and Hessian (component, component, sequence) of D = M(0) - M, one sequence at a time."""
    gradients, hessians = [], []
    for row in range(len(level(at))):
        xi = at.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(-level(xi)[row], xi, create_graph=True)
        second = [torch.autograd.grad(one, xi, retain_graph=True, allow_unused=True)[0] for one in first]
        gradients.append(first.detach())
        hessians.append(torch.stack([torch.zeros_like(at) if one is None else one for one in second]))
    return torch.stack(gradients, -1), torch.stack(hessians, -1)


def gradient(level: Level, at: Tensor) -> Tensor:
    """Gradient of D, (component, sequence)."""
    xi = at.clone().requires_grad_(True)
    return torch.stack([torch.autograd.grad(one, xi, retain_graph=True)[0] for one in -level(xi)], -1)


def own_path(level: Level, n: int, t: float) -> tuple[Tensor, Tensor]:
    """F_i'(t) and F_i''(t) of F_i(t) = D(t e_i), each (component, sequence)."""
    first, second = [], []
    for i in range(n):
        along = torch.tensor(t, dtype=torch.float64, requires_grad=True)
        lost = -level(along * torch.eye(n, dtype=torch.float64)[i])
        slopes = [torch.autograd.grad(one, along, create_graph=True)[0] for one in lost]
        first.append(torch.stack(slopes).detach())
        curvatures = [torch.autograd.grad(s, along, retain_graph=True)[0] if s.requires_grad else torch.zeros(()) for s in slopes]
        second.append(torch.stack(curvatures))
    return torch.stack(first), torch.stack(second)


def hvp(level: Level, n: int) -> Tensor:
    slope, curvature = own_path(level, n, 0.0)
    return slope + curvature / 2


def joint_hvp(level: Level, n: int) -> Tensor:
    slope, hessian = derivatives(level, torch.zeros(n, dtype=torch.float64))
    return torch.stack([slope[i] + sum(hessian[i, j] for j in range(n)) / 2 for i in range(n)])


def multi_step_hvp(level: Level, n: int, steps: int) -> Tensor:
    total, h = torch.zeros(()), 1 / steps
    for k in range(steps):
        slope, curvature = own_path(level, n, k * h)
        total = total + h * slope + h * h / 2 * curvature
    return total


def pieces(rule: str, steps: int) -> list[tuple[float, float]]:
    """Nodes and weights, a piece of the path at a time."""
    found = []
    if rule == "gauss_legendre":  # Golub and Welsch: eigenvalues and eigenvectors of the recurrence of Legendre's polynomials
        off = torch.tensor([k / math.sqrt(4 * k * k - 1) for k in range(1, steps)], dtype=torch.float64)
        nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
        return [(float(node + 1) / 2, float(vector) ** 2) for node, vector in zip(nodes, vectors[0], strict=True)]
    for k in range(steps):
        a, b = k / steps, (k + 1) / steps
        places = {"left": [a], "right": [b], "midpoint": [(a + b) / 2], "trapezoid": [a, b]}[rule]
        found += [(place, (b - a) / len(places)) for place in places]
    return found


def integrated_gradients(level: Level, n: int, rule: str, steps: int) -> Tensor:
    total = torch.zeros(())
    for node, weight in pieces(rule, steps):
        total = total + weight * own_path(level, n, node)[0]
    return total


def joint_integrated_gradients(level: Level, n: int, rule: str, steps: int) -> Tensor:
    total = torch.zeros(())
    for node, weight in pieces(rule, steps):
        total = total + weight * gradient(level, torch.full((n,), node, dtype=torch.float64))
    return total


def drop_of(level: Level, n: int, members: Sequence[int]) -> Tensor:
    """D(1_S) of every sequence."""
    xi = torch.zeros(n, dtype=torch.float64)
    xi[list(members)] = 1
    return level(torch.zeros_like(xi)) - level(xi)


def shapley(level: Level, n: int, orders: Sequence[Sequence[int]] | None = None) -> Tensor:
    """Mean over orders (all by default) of what each component adds, (component, sequence)."""
    orders = orders or list(itertools.permutations(range(n)))
    known = {frozenset(s): drop_of(level, n, s) for size in range(n + 1) for s in itertools.combinations(range(n), size)}
    added = [torch.zeros_like(known[frozenset()]) for _ in range(n)]
    for order in orders:
        for place, i in enumerate(order):
            added[i] = added[i] + (known[frozenset(order[: place + 1])] - known[frozenset(order[:place])]) / len(orders)
    return torch.stack(added)


def weight_gradients(
    state: State, inputs: Tensor, targets: Tensor, scored: int, n_heads: int, positions: str
) -> dict[Part, tuple[list[float], list[float]]]:
    """The entries of every part's weights, and the gradient of the mean cross entropy by them."""
    leaves = {name: value.clone().requires_grad_(True) for name, value in float64(state).items()}
    logits = run(leaves, inputs, n_heads, positions).logits[:, -scored:]
    (-log_prob(logits, targets[:, -scored:]).mean()).backward()
    found: dict[Part, tuple[list[float], list[float]]] = {}
    for name, leaf in leaves.items():
        if not name.endswith(("W_V.weight", "mlp.W_out.weight")):
            continue
        layer, rows, gradient = int(name.split(".")[1]), len(leaf), leaf.grad
        assert gradient is not None
        many = 1 if name.endswith("W_out.weight") else n_heads
        for head in range(many):
            mine = slice(head * rows // many, (head + 1) * rows // many)
            found[layer, None if many == 1 else head] = leaf[mine].flatten().tolist(), gradient[mine].flatten().tolist()
    return found


def streams(state: State, tokens: Tensor, n_heads: int) -> list[Tensor]:
    """What every layer reads, then what its MLP reads, layer by layer, of a model without positions: sums of what was written."""
    parts = run(state, tokens, n_heads, "none")
    x, found = state["embedding.weight"][tokens], []
    for layer in range(1 + max(layer for layer, _ in parts.parts)):
        found.append(x)
        x = x + state[f"blocks.{layer}.attention.W_O.bias"] + sum(parts.writes[layer, head] for head in range(n_heads))
        found.append(x)
        x = x + parts.parts[layer, None]
    return found


def put_out(state: State, part: Part, x: Tensor, n_heads: int) -> Tensor:
    """What a part puts out when it reads the residual stream x."""
    layer, head = part
    at = f"blocks.{layer}"
    if head is None:
        hidden = linear(layer_norm(x, state, f"{at}.norm_mlp"), state, f"{at}.mlp.W_in")
        return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), state, f"{at}.mlp.W_out")
    normed = layer_norm(x, state, f"{at}.norm_attention")
    q, k, v = (
        linear(normed, state, f"{at}.attention.{name}").unflatten(-1, (n_heads, -1))[:, :, head] for name in ("W_Q", "W_K", "W_V")
    )
    return einsum("bqk,bke->bqe", causal_softmax(einsum("bqe,bke->bqk", q, k) / math.sqrt(q.shape[-1])), v)


def tangent_answer(state: State, part: Part, clean: Tensor, other: Tensor, n_heads: int) -> Tensor:
    """What a part would put out on other tokens if it were its own tangent at the clean ones."""
    number = 2 * part[0] + (part[1] is None)
    at, to = streams(state, clean, n_heads)[number], streams(state, other, n_heads)[number]
    value, change = torch.autograd.functional.jvp(lambda x: put_out(state, part, x, n_heads), at, to - at)
    assert isinstance(value, Tensor)
    assert isinstance(change, Tensor)
    return value + change


def frozen_logits(
    state: State, tokens: Tensor, n_heads: int, part: Part, other: Tensor, where: Sequence[bool] | None = None
) -> Tensor:
    """Logits with one part replaced in a network without positions whose patterns, LayerNorm scales and GELU slopes are given
    numbers, those of the run in which nothing is replaced: a forward pass twice, first to note them down."""
    noted: list[Tensor] = []
    here = torch.ones(tokens.shape[1], dtype=torch.bool) if where is None else torch.tensor(list(where))

    def once(replaced: bool) -> Tensor:
        given = iter(list(noted))

        def factor(value: Tensor) -> Tensor:
            if not replaced:
                noted.append(value.detach())
            return next(given) if replaced else value

        def norm(x: Tensor, name: str) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            scale = factor((centred**2).mean(-1, keepdim=True).add(1e-5).sqrt())
            return centred / scale * state[f"{name}.weight"] + state[f"{name}.bias"]

        def gelu(hidden: Tensor) -> Tensor:
            leaf = hidden.detach().requires_grad_(True)
            value = leaf * 0.5 * (1 + torch.erf(leaf / math.sqrt(2)))
            slope = factor(torch.autograd.grad(value.sum(), leaf)[0])
            offset = factor((value - slope * leaf).detach())
            return slope * hidden + offset

        def passed(this: Part, own: Tensor) -> Tensor:
            return torch.where(here[:, None], other, own) if replaced and this == part else own

        x = state["embedding.weight"][tokens]
        for layer in range(1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))):
            at = f"blocks.{layer}"
            normed, outputs = norm(x, f"{at}.norm_attention"), []
            q, k, v = (linear(normed, state, f"{at}.attention.{name}").chunk(n_heads, -1) for name in ("W_Q", "W_K", "W_V"))
            for head in range(n_heads):
                pattern = factor(causal_softmax(einsum("bqe,bke->bqk", q[head], k[head]) / math.sqrt(q[head].shape[-1])))
                outputs.append(passed((layer, head), einsum("bqk,bke->bqe", pattern, v[head])))
            x = x + linear(torch.cat(outputs, -1), state, f"{at}.attention.W_O")
            hidden = gelu(linear(norm(x, f"{at}.norm_mlp"), state, f"{at}.mlp.W_in"))
            x = x + passed((layer, None), linear(hidden, state, f"{at}.mlp.W_out"))
        return linear(norm(x, "norm"), state, "unembedding")

    once(replaced=False)
    return once(replaced=True)
