"""The table of `gcgap attribute` as a person reads it in a terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape

from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.describe import describe_run, shared_values, without_ticks
from gcgap.report.page import format_cell
from gcgap.report.terminal import WholeTable

NOTE = (
    "ρ: Spearman's rank correlation of scores and exact effects, with its {:g} % interval; ceil: its noise ceiling, what noise "
    "in scores and effects would leave of a perfect ρ; heads, MLPs: ρ within them; τ: Kendall's tau-b; top: share of the largest "
    "quarter of the effects that is found. Effects are those on other sequences: the row exact says what noise alone takes away"
)
PRICE = (
    "L1: mean |score - effect| on the same sequences, in the metric's units, where a score estimates it; missed: share of the "
    "largest quarter of the effects by exact match that is not found; cost in passes of all sequences; double: backward through "
    "backward; equal: seconds over those of one plain forward pass. Weight gradients are those of the protocol's gradient "
    "batches, whatever the sequences"
)
SHARED = ". Ablations share the work below them"  # of networks that are entered in their middle


def method_table(record: AttributionRecord) -> Group:
    """Every method beside the exact effects, and its cost; then what else was found, and the advice."""
    setup, accuracy = record["setup"], record["accuracy"]["by_length"][str(record["length"])]
    intro = (
        f"{describe_run(record)}: exact match {accuracy:.1%}. "
        f"Intervention: {setup['baseline']}, {setup['direction']}, positions {setup['positions']}"
    )
    units = record["protocol"]["attribution"]["metric"]
    grids = [_agreement(record, effect) for effect in dict.fromkeys(("log_prob", units, "exact_match"))]
    note, lines = NOTE.format(100 * record["protocol"]["confidence"]), map(without_ticks, found(record))
    return Group(escape(without_ticks(intro)), *grids, escape(note), _costs(record), *map(escape, lines))


def _agreement(record: AttributionRecord, effect: str) -> WholeTable:
    reasons = {entry["agreement"][effect]["all"]["reason"] for entry in record["methods"].values()} - {None}
    grid = _grid(f"Agreement with exact effects by {effect.replace('_', ' ')}", "; ".join(sorted(reasons)))
    for heading in ("ρ", "interval", "ceil", "heads", "MLPs", "τ", "top"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, entry in record["methods"].items():
        groups = entry["agreement"][effect]
        every = groups["all"]
        cells = [format_cell(every["rho"]), interval(every["ci"]), format_cell(every["ceiling"])]
        cells += [format_cell(groups.get(group, {}).get("rho")) for group in ("heads", "mlps")]
        cells += [format_cell(every[key]) for key in ("tau_b", "top_k")]
        grid.add_row(escape(name), *cells)
    return grid


def _costs(record: AttributionRecord) -> WholeTable:
    units = record["protocol"]["attribution"]["metric"]
    shared = record["model"].get("architecture", "gcgap") == "gcgap"
    grid = _grid("Error and cost", PRICE + SHARED * shared)
    for heading in ("L1", "missed", "forward", "backward", "double", "equal", "s"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, entry in record["methods"].items():
        cost = entry["cost"]
        passes = (format_cell(cost[kind], ".0f") for kind in ("forward", "backward", "double_backward"))
        l1 = format_cell(entry["agreement"][units]["all"]["l1"], ".3f")
        missed = format_cell(entry["agreement"]["exact_match"]["all"]["missed"])
        times = (format_cell(cost[key], ".1f") for key in ("forward_equivalents", "seconds"))
        grid.add_row(escape(name), l1, missed, *passes, *times)
    return grid


def _grid(title: str, caption: str) -> WholeTable:
    text = escape(without_ticks(caption)) or None
    grid = WholeTable(title=escape(title), caption=text, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("method", no_wrap=True)
    return grid


def found(record: AttributionRecord) -> list[str]:
    """What was found besides, a line for each."""
    return [*shared_values(record), *_patching(record), *_sets(record), *_trust(record), *_workflow(record), record["advice"]]


def _patching(record: AttributionRecord) -> list[str]:
    parts = []
    for name, by_metric in record["patching"].items():
        entry = by_metric["exact_match"]
        parts.append(f"{name} {format_cell(entry['rho'])} {interval(entry['ci'])}".strip())
    return [f"Gradient magnitude against activation patching (ρ, exact match; noising, all positions): {'; '.join(parts)}."]


def _sets(record: AttributionRecord) -> list[str]:
    critical = record["sets"]["critical"]
    if critical is None:
        return []
    few = f"{len(critical['dispensable'])} components change exact match by at most {critical['tolerance']:.0%} each"
    if critical["sets"]:
        best = critical["sets"][0]
        joined = " + ".join(best["members"])
        return [f"{few}; the smallest of their sets that cost {critical['critical']:.0%}: {joined}, {_effect(best)}."]
    if critical["greedy"]:
        joined = " + ".join(critical["greedy"]["members"])
        smaller = f"none of their sets of up to {critical['searched']}"
        return [f"{few}; {smaller} costs {critical['critical']:.0%}, {joined} does: {_effect(critical['greedy'])}."]
    tried = f"none of their sets of up to {critical['searched']}, nor all together, costs {critical['critical']:.0%}"
    return [f"{few}; {tried}."]


def _effect(one: dict[str, Any]) -> str:
    """What a set costs on the sequences that chose it, and on others."""
    return f"{one['effect']:.0%} together, {one['effect_again']:.0%} \u00b1 {one['error_again']:.0%} on other sequences"


def _trust(record: AttributionRecord) -> list[str]:
    trust = record["trust"]
    parts = [f"{name} {value:.3f}" for name, value in trust["error"].items() if value is not None]
    bins = [
        f"{row['low']:g}-{'' if row['high'] is None else format(row['high'], 'g')}: {row['components']}, {row['ap_error']:.0%}"
        for row in trust["calibration"]
        if row["components"]
    ]
    held = {"ap": "attribution patching", "hvp": "its correction"}
    bounds = [f"{of['covered']:.0%} of the errors of {held[name]}" for name, of in trust["bounds"].items()]
    whole = trust["completeness"]
    return [
        f"Mean error of attribution patching, and of its parts alone: {', '.join(parts)}.",
        f"Median relative error by R (bin: components, error): {'; '.join(bins)}. A small R is no certificate.",
        f"Estimated bounds held for {' and '.join(bounds)}.",
        f"Joint integrated gradients miss completeness by {whole['residual']:.2g} of {whole['joint_effect']:.3g}.",
    ]


def _workflow(record: AttributionRecord) -> list[str]:
    of = record["workflow"]
    counts = f"{len(of['flags'])} flagged, {len(of['fixed'])} fixed exactly, {len(of['unresolved'])} beyond the budget"
    if not of["verified"]:
        spared = (
            "the screen spares nothing here"
            if len(of["flags"]) == len(record["components"])
            else "none of the others was checked"
        )
        return [f"Screen-Flag-Fix: {counts}; {spared}."]
    limit = f"at most {of['limit']:.0%} of the unflagged are large (95 %)"
    return [f"Screen-Flag-Fix: {counts}; of {len(of['verified'])} others checked {len(of['above'])} are large, so {limit}."]


def interval(ends: list[float] | None) -> str:
    """Two ends, or nothing."""
    return "" if ends is None else f"{ends[0]:.2f}..{ends[1]:.2f}"
