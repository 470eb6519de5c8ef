"""What a person reads of a measurement in a terminal: the table of components, and its sentence."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.text import Text

from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record
from gcgap.report.describe import describe_data, describe_run, said_above, shared_values, without_ticks
from gcgap.report.first_metric import first_metric
from gcgap.report.named_roles import MOST, has_many, named_roles, roles_in_words
from gcgap.report.whole_table import WholeTable

STYLES = {"hero": "bold blue", "bloat": "bold red", "aligned": "dim"}
DROPS = {
    "exact_match": "exact-match drop when ablated, in points",
    "logit_difference": "logit-difference drop when ablated",
}
DITTO = '"'  # for a number that is that of the row above
SURE = 0.05  # p-value up to which a rank correlation counts as distinguished from chance
NAMED = f", named for the {MOST} largest |Δ| of a role that has more than by chance"  # of many components
STRONG, MODERATE = 0.7, 0.4  # of the noise ceiling: rho above which the gradient tracks, or partly tracks


def table(record: Record, baseline: str | None = None) -> Group:
    """Component, G, C, rank difference and role with their intervals, then the sentence; by the first baseline by default."""
    baseline = baseline or record.baselines[0]
    if not record["components"]:
        return Group(escape(without_ticks(sentence(record, baseline))))
    record, metric = first_metric(record)
    largest = max(component["gradient"]["value"] for component in record["components"])
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    sure = f"{record['protocol']['confidence']:.0%} interval"
    grid = WholeTable(
        title=escape(without_ticks(f"{describe_run(record)}, {baseline} ablation")),
        caption=f"G: gradient magnitude / 1e{exponent}; C: {DROPS[metric]}; "
        f"Δ = rank(G) - rank(C); P: probability of the role{NAMED * has_many(record)}; {sure}s",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    grid.add_column("", no_wrap=True)
    for heading in ("  G", "interval", "  C", "interval", "  Δ", "interval"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column(" role", no_wrap=True)
    grid.add_column("P", justify="right", no_wrap=True)
    named = {name for names in named_roles(record, baseline).values() for name in names}
    layers, repeated = [component["layer"] for component in record["components"]], said_above(record)
    for component, following in zip(record["components"], [*layers[1:], layers[-1]], strict=True):
        name, cells = component["name"], _row(component, baseline, metric, 10.0**-exponent, named)
        again = (*cells[:1], DITTO, "", *cells[3:])
        grid.add_row(*(again if name in repeated else cells), end_section=component["layer"] != following)
    lines = [sentence(record, baseline), *shared_values(record), *_named_sets(record, baseline), *_methods(record)]
    return Group(grid, *map(escape, map(without_ticks, lines)))


def gauge_table(record: Record, baseline: str | None = None) -> Group:
    """The gap as trained and in every canonical gauge, then the sentence that says whether the conclusion survives.

    Raises:
        ValueError: The record was written before gauges were measured.
    """
    baseline = baseline or record.baselines[0]
    if record.skipped:
        return Group(escape(without_ticks(sentence(record, baseline))))
    if (gauges := record.to_dict().get("gauges")) is None:
        raise ValueError(f"`{record.path or 'this record'}` is older than gauges; measure its checkpoint again with `--force`.")
    if "reason" in gauges:
        return Group(escape(f"G of this model has no canonical gauge: {gauges['reason']}."))
    grid = WholeTable(
        title=escape(without_ticks(f"Gauges of {describe_run(record)}, {baseline} ablation")),
        caption="The same function written down otherwise: only G changes",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    grid.add_column("gauge", no_wrap=True)
    for heading in ("ρ", "interval", "p", "Heroes", "Bloats"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, gap in _by_gauge(record, baseline).items():
        grid.add_row(
            name,
            "-" if gap["rho"] is None else f"{gap['rho']:.2f}",
            "-" if gap["ci"] is None else interval(gap["ci"], "+.2f", 1),
            "-" if gap["p_value"] is None else f"{gap['p_value']:.2g}",
            *("-" if gap[roles] is None else str(gap[roles]) for roles in ("heroes", "bloats")),
        )
    if (ends := gauges["random_scales"]["rho"][baseline]) is not None:
        grid.add_row("random head scales", "", interval(ends, "+.2f", 1), "", "", "")
    return Group(grid, escape(gauge_sentence(record, baseline)))


def gauge_sentence(record: Record, baseline: str | None = None) -> str:
    """Whether what the gap says survives another gauge of the heads; of a record that has gauges."""
    baseline = baseline or record.baselines[0]
    gaps = _by_gauge(record, baseline)
    if any(gap["rho"] is None for gap in gaps.values()):
        return f"There is no rank correlation to compare: {gaps['trained']['reason']}."
    trained, *others = ((name, verb(gap)) for name, gap in gaps.items())
    changed = [f"{name} it {one}" for name, one in others if one != trained[1]]
    head = f"As trained the gradient {trained[1]}. "
    survives = "In every other gauge too: the conclusion survives."
    found = f"In the gauge {'; '.join(changed)}: the conclusion depends on the gauge." if changed else survives
    gauges, roles = record["gauges"], [one["role"][baseline] for one in record["components"]]
    named = [i for i, role in enumerate(roles) if role["name"] != "aligned"]
    stay = [i for i in named if all(of["role"][baseline][i] == roles[i]["name"] for of in gauges["by_gauge"].values())]
    head += f"{found} {len(stay)} of {len(named)} Heroes and Bloats have their role in all gauges."
    scales = gauges["random_scales"]
    low, high = scales["rho"][baseline]
    return (
        f"{head} Random head scales between 1/{scales['factor']:g} and {scales['factor']:g} give ρ from {low:.2f} to {high:.2f} "
        f"(95 % of {scales['draws']:,} draws)."
    )


def _by_gauge(record: Record, baseline: str) -> dict[str, dict[str, Any]]:
    """The gap by gauge, as trained first."""
    found = {name.replace("_", " "): of["gap"][baseline] for name, of in record["gauges"]["by_gauge"].items()}
    return {"trained": record["gap"][baseline]} | found


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
            place: f"{100 * drop['value']:+z.1f} [{interval(drop['ci'], '+z.1f', 100)}]"
            for place, drop in drops.items()
            if drop["value"] is not None
        }
        inside = f" OOD, {costs['in_distribution']} in distribution" if "in_distribution" in costs else ""
        lines.append(f"{label}: together they cost {costs['ood']} points{inside}.")
    return lines


def _row(component: dict[str, Any], baseline: str, metric: str, scale: float, named: set[str]) -> list[str | Text]:
    gradient, causal = component["gradient"], component["causal"][baseline][metric]
    value, ends, size = ("+z.1f", "z.0f", 100) if metric == "exact_match" else ("+z.2f", "z.2f", 1)
    delta, role = component["delta"][baseline], component["role"][baseline]
    name = role["name"]
    told = name == "aligned" or component["name"] in named
    return [
        escape(component["name"]),
        f" {scale * gradient['value']:.2f}",
        interval(gradient["ci"], ".2f", scale),
        f" {format(size * causal['value'], value)}",
        interval(causal["ci"], ends, size),
        "-" if delta["value"] is None else f" {delta['value']:+.1f}",
        "-" if delta["ci"] is None else interval(delta["ci"], "+z.1f", 1),
        Text(" -") if name is None else Text(f" {name}" * told, style=STYLES[name]),
        "-" if name is None else f"{role['probability']:.2f}" * told,
    ]


def interval(ends: list[float], form: str, scale: float) -> str:
    """Two ends in one cell."""
    return "..".join(format(scale * end, form) for end in ends)


def sentence(record: Record, baseline: str | None = None) -> str:
    """What was found, in one sentence made from the numbers by fixed rules."""
    baseline = baseline or record.baselines[0]
    if record.skipped:
        return f"Skipped: {record.skipped}."
    record, metric = first_metric(record)
    gap = record["gap"][baseline]
    at = f"On {describe_data(record)} (exact match {accuracy(record)}, {baseline} ablation)"
    at += f" by {metric.replace('_', ' ')}" * (metric != "exact_match")
    if gap["rho"] is None:
        return f"{at} there is no rank correlation: {gap['reason']}.{_by_metric(record, gap)}"
    ci = "" if gap["ci"] is None else " [{:.2f}, {:.2f}]".format(*gap["ci"])
    allowed = "" if gap.get("ceiling_ci") is None else " [{:.2f}, {:.2f}]".format(*gap["ceiling_ci"])
    ceiling = "" if gap["ceiling"] is None else f" where noise alone would allow {gap['ceiling']:.2f}{allowed}"
    rho = f"ρ = {gap['rho']:.2f}{ci}{ceiling}, p = {gap['p_value']:.2g}"
    return f"{at} the gradient {verb(gap)}: {rho}; {roles_in_words(record, baseline)}.{_by_metric(record, gap)}"


def _by_metric(record: Record, gap: dict[str, Any]) -> str:
    """The rank correlation on prompts by the metrics that are not shown first."""
    if "prompts" not in record.data:
        return ""
    found = {metric: gap["by_metric"][metric] for metric in ("log_prob", "exact_match") if metric in gap["by_metric"]}
    texts = [
        f"{metric.replace('_', ' ')} ρ = {of['rho']:.2f}, p = {of['p_value']:.2g}"
        for metric, of in found.items()
        if of["rho"] is not None
    ]
    return f" By {'; by '.join(texts)}." if texts else ""


def accuracy(record: Record | AttributionRecord) -> str:
    """Exact match at the measured length, with its interval if it is of held-out sequences."""
    ends = record["accuracy"]["held_out"]["ci"] if record.is_held_out else None
    return f"{record.ood_accuracy:.1%}" + ("" if ends is None else " [{:.1f}, {:.1f}]".format(*(100 * end for end in ends)))


def verb(gap: dict[str, Any]) -> str:
    """What the gradient does, by p-value and share of the noise ceiling."""
    if gap["p_value"] > SURE:
        return "gives a ranking of components that cannot be distinguished from a random one"
    if gap["rho"] < 0:
        return "ranks components against their causal importance"
    share = gap["rho"] / (gap["ceiling"] or 1)
    strength = "tracks" if share >= STRONG else "partly tracks" if share >= MODERATE else "hardly tracks"
    return f"{strength} causal importance"
