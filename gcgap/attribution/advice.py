"""One sentence, by fixed rules, on which method to use here and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLOSE = 0.1  # rho below the best by which a method still counts as as good


def advice(methods: Mapping[str, Mapping[str, Any]], effect: str = "log_prob") -> str:
    """Which method to use.

    Exact effects if they cost less than every method that agrees with them as well as the best one does, up to `CLOSE` in rho;
    the cheapest of those methods otherwise.

    Args:
        methods: The `methods` of an attribution record.
        effect: The exact effect that decides.
    """
    named = {name: entry for name, entry in methods.items() if entry["family"] not in ("exact", "control")}
    rhos = {name: entry["agreement"][effect]["all"]["rho"] for name, entry in named.items()}
    known = {name: rho for name, rho in rhos.items() if rho is not None}
    if "exact" not in methods or not known:
        return "No advice: it needs the exact effects and a method whose ranks exist."
    price = {name: entry["cost"]["forward_equivalents"] for name, entry in methods.items()}
    best = max(known, key=lambda name: known[name])
    good = [name for name, rho in known.items() if rho >= known[best] - CLOSE]
    cheapest = min(good, key=lambda name: price[name])
    exact = f"exact effects of all components cost {price['exact']:.1f} forward passes"
    rival = f"{cheapest} (ρ = {known[cheapest]:.2f}, {price[cheapest]:.1f} forward passes)"
    if price["exact"] <= price[cheapest]:
        return f"Use exact: {exact}, no more than {rival}, the cheapest method that agrees about as well as any."
    return f"Use {cheapest}: ρ = {known[cheapest]:.2f} for {price[cheapest]:.1f} forward passes, where {exact}."
