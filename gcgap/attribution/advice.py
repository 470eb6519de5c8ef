"""One sentence, by fixed rules, on which method to use here and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLOSE = 0.1  # rho below that of exact effects on the same sequences by which a method still counts as ranking as they do


def advice(methods: Mapping[str, Mapping[str, Any]], effect: str = "log_prob") -> str:
    """The cheapest of the methods that rank components as exact effects do, exact effects among them.

    A method ranks as they do if its rho with the effects on other sequences is at most `CLOSE` below that of the exact effects on
    its own: noise takes as much from them.

    Args:
        methods: The `methods` of an attribution record.
        effect: The exact effect that decides.
    """
    found = {name: entry["agreement"][effect]["all"] for name, entry in methods.items() if entry["family"] != "control"}
    known = {name: of["rho"] for name, of in found.items() if of["rho"] is not None}
    if "exact" not in known or len(known) < 2:
        return "No advice: it needs `exact` and another method, and effects that have ranks."
    ends = found["exact"]["ci"]
    if ends is not None and ends[0] <= 0:
        return (
            f"No advice: exact effects rank components no better on other sequences than chance might, ρ = {known['exact']:.2f} "
            f"[{ends[0]:.2f}, {ends[1]:.2f}]. Take more sequences, or a model that has learned the task."
        )
    price = {name: methods[name]["cost"]["forward_equivalents"] for name in known}
    good = [name for name in known if known[name] >= known["exact"] - CLOSE]
    best = min(good, key=lambda name: price[name])
    noise = f"ρ = {known['exact']:.2f} with those on other sequences: that is noise"
    exact = f"exact effects of all components ({noise}) cost {price['exact']:.1f} forward passes"
    if best != "exact":
        only = "" if methods[best]["estimates"] == "drop" else ", for a ranking: its scores are no drops"
        return f"Use {best}{only}: \u03c1 = {known[best]:.2f} for {price[best]:.1f} forward passes, where {exact}."
    others = [name for name in good if name != "exact"]
    if not others:
        return f"Use exact: {exact}, and no other method that was run ranks as they do."
    rival = min(others, key=lambda name: price[name])
    return f"Use exact: {exact}; {rival}, the cheapest other method that ranks as they do, costs {price[rival]:.1f}."
