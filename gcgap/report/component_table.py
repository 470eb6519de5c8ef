"""The final table, as a person reads it in a terminal, and the sentence that says what was found."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from gcgap.records.record import Record
from gcgap.report.describe import describe_data, describe_run, shared_values, without_ticks
from gcgap.report.terminal import WholeTable

STYLES = {"hero": "bold blue", "bloat": "bold red", "aligned": "dim"}
SURE = 0.05  # p-value up to which a rank correlation counts as distinguished from chance
STRONG, MODERATE = 0.7, 0.4  # of the noise ceiling: rho above which the gradient tracks, or partly tracks


def table(record: Record, baseline: str | None = None) -> Group:
    """Component, G, C, rank difference and role with their intervals, then the sentence; by the first baseline by default."""
    baseline = baseline or record.baselines[0]
    if not record["components"]:
        return Group(escape(without_ticks(sentence(record, baseline))))
    largest = max(component["gradient"]["value"] for component in record["components"])
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    sure = f"{record['protocol']['confidence']:.0%} interval"
    grid = WholeTable(
        title=escape(without_ticks(f"{describe_run(record)}, {baseline} ablation")),
        caption=f"G: gradient magnitude / 1e{exponent}; C: exact-match drop when ablated, in points; "
        f"Δ = rank(G) - rank(C); P: bootstrap probability of the role; {sure}s",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    grid.add_column("", no_wrap=True)
    for heading in ("  G", "interval", "  C", "interval", "  Δ", "interval"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column(" role", no_wrap=True)
    grid.add_column("P", justify="right", no_wrap=True)
    layers = [component["layer"] for component in record["components"]]
    for component, following in zip(record["components"], [*layers[1:], layers[-1]], strict=True):
        grid.add_row(*_row(component, baseline, 10.0**-exponent), end_section=component["layer"] != following)
    lines = [sentence(record, baseline), *shared_values(record), *_named_sets(record, baseline), *_methods(record)]
    return Group(grid, *map(escape, map(without_ticks, lines)))


def _methods(record: Record) -> list[str]:
    """The paper's rho of every attribution method that was run."""
    if not record.attribution:
        return []
    texts = []
    for name, entry in record.attribution.items():
        found = entry["agreement"]["exact_match"]["all"]
        texts.append(f"{name} {found['rho']:.2f}" if found["rho"] is not None else f"{name} none ({found['reason']})")
    baseline = record["attribution"]["baseline"]
    return [f"ρ of attribution methods with C ({baseline}): {', '.join(texts)}."]


def _named_sets(record: Record, baseline: str) -> list[str]:
    """What the joint ablation of each set that the protocol names costs."""
    lines = []
    for label, found in record.to_dict().get("sets", {}).get(baseline, {}).items():
        drops = {place: found["all"][f"{place}_drop"] for place in ("ood", "in_distribution")}
        costs = {
            place: f"{100 * drop['value']:+.1f} [{_interval(drop['ci'], '+.1f', 100)}]"
            for place, drop in drops.items()
            if drop["value"] is not None
        }
        inside = f" OOD, {costs['in_distribution']} in distribution" if "in_distribution" in costs else ""
        lines.append(f"{label}: together they cost {costs['ood']} points{inside}.")
    return lines


def _row(component: dict[str, Any], baseline: str, scale: float) -> list[str | Text]:
    gradient, causal = component["gradient"], component["causal"][baseline]["exact_match"]
    delta, role = component["delta"][baseline], component["role"][baseline]
    name = role["name"]
    return [
        escape(component["name"]),
        f" {scale * gradient['value']:.2f}",
        _interval(gradient["ci"], ".2f", scale),
        f" {100 * causal['value']:+.1f}",
        _interval(causal["ci"], ".0f", 100),
        "-" if delta["value"] is None else f" {delta['value']:+.1f}",
        "-" if delta["ci"] is None else _interval(delta["ci"], "+.1f", 1),
        Text(" -") if name is None else Text(f" {name}", style=STYLES[name]),
        "-" if name is None else f"{role['probability']:.2f}",
    ]


def _interval(ends: list[float], form: str, scale: float) -> str:
    return "..".join(format(scale * end, form) for end in ends)


def sentence(record: Record, baseline: str | None = None) -> str:
    """What was found, in one sentence made from the numbers by fixed rules."""
    baseline = baseline or record.baselines[0]
    gap = record["gap"][baseline]
    if record.skipped:
        return f"Skipped: {record.skipped}."
    at = f"On {describe_data(record)} (exact match {_accuracy(record):.1%}, {baseline} ablation)"
    if gap["rho"] is None:
        return f"{at} there is no rank correlation: {gap['reason']}.{_by_metric(record, gap)}"
    ci = "" if gap["ci"] is None else " [{:.2f}, {:.2f}]".format(*gap["ci"])
    ceiling = "" if gap["ceiling"] is None else f" where noise alone would allow {gap['ceiling']:.2f}"
    chance = gap["expected_by_chance"]
    roles = record.roles(baseline)
    heroes = _listed(roles["hero"], "Hidden Hero", "Hidden Heroes")
    bloats = _listed(roles["bloat"], "Gradient Bloat", "Gradient Bloats")
    found = f"{heroes} and {bloats} (random pairing would give {chance['heroes']:.1f} and {chance['bloats']:.1f})"
    rho = f"ρ = {gap['rho']:.2f}{ci}{ceiling}, p = {gap['p_value']:.2g}"
    return f"{at} the gradient {_verb(gap)}: {rho}; {found}.{_by_metric(record, gap)}"


def _by_metric(record: Record, gap: dict[str, Any]) -> str:
    """The rank correlation on prompts by metrics that show effects where exact match shows none."""
    if "prompts" not in record.data:
        return ""
    found = {metric: gap["by_metric"][metric] for metric in ("log_prob", "logit_difference") if metric in gap["by_metric"]}
    texts = [
        f"{metric.replace('_', ' ')} ρ = {of['rho']:.2f}, p = {of['p_value']:.2g}"
        for metric, of in found.items()
        if of["rho"] is not None
    ]
    return f" By {'; by '.join(texts)}." if texts else ""


def _accuracy(record: Record) -> float:
    return record["accuracy"]["by_length"][str(record["length"])]


def _verb(gap: dict[str, Any]) -> str:
    if gap["p_value"] > SURE:
        return "gives a ranking of components that cannot be distinguished from a random one"
    if gap["rho"] < 0:
        return "ranks components against their causal importance"
    share = gap["rho"] / (gap["ceiling"] or 1)
    strength = "tracks" if share >= STRONG else "partly tracks" if share >= MODERATE else "hardly tracks"
    return f"{strength} causal importance"


def _listed(names: list[str], one: str, many: str) -> str:
    if not names:
        return f"no {one}"
    return f"{len(names)} {one if len(names) == 1 else many} ({', '.join(names)})"
