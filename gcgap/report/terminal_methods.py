"""What a person reads of an attribution in a terminal: the largest effects, every method beside them, and what else was found."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.markup import escape

from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.describe import describe_run, searched, shared_values, without_ticks
from gcgap.report.page import format_cell
from gcgap.report.terminal import accuracy, interval
from gcgap.report.top_components import top_components, what_is_shown
from gcgap.report.whole_table import WholeTable

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
    setup = record["setup"]
    intro = (
        f"{describe_run(record)}: exact match {accuracy(record)}. "
        f"Intervention: {setup['baseline']}, {setup['direction']}, positions {setup['positions']}"
    )
    units = record["protocol"]["attribution"]["metric"]
    grids = [_agreement(record, effect) for effect in dict.fromkeys((units, "log_prob", "exact_match"))]
    note, lines = NOTE.format(100 * record["protocol"]["confidence"]), map(without_ticks, found(record))
    first = (escape(without_ticks(intro)), _largest(record), escape(what_is_shown(record)))
    return Group(*first, *grids, escape(note), _costs(record), *map(escape, lines))


def _largest(record: AttributionRecord) -> WholeTable:
    """The components of the largest effects: a method's name stands above its scores, a word on a line."""
    rows, words = top_components(record), record["methods"].keys()
    grid = _grid("Components with the largest effects", "", "component")
    for heading in ("effect", "interval", "sign", *(escape(name.replace("_", "\n")) for name in words)):
        grid.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        ends = "" if row.ci is None else interval(list(row.ci), "z.3g", 1)
        scores = (format(row.scores[name], ".3g") for name in words)
        grid.add_row(escape(row.name), format(row.effect, ".3g"), ends, row.sign, *scores)
    return grid


def _agreement(record: AttributionRecord, effect: str) -> WholeTable:
    reasons = {entry["agreement"][effect]["all"]["reason"] for entry in record["methods"].values()} - {None}
    grid = _grid(f"Agreement with exact effects by {effect.replace('_', ' ')}", "; ".join(sorted(reasons)))
    for heading in ("ρ", "interval", "ceil", "heads", "MLPs", "τ", "top"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, entry in record["methods"].items():
        groups = entry["agreement"][effect]
        every = groups["all"]
        cells = [format_cell(every["rho"]), ends_of(every["ci"]), format_cell(every["ceiling"])]
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


def _grid(title: str, caption: str, first: str = "method") -> WholeTable:
    text = escape(without_ticks(caption)) or None
    grid = WholeTable(title=escape(title), caption=text, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column(first, no_wrap=True)
    return grid


def found(record: AttributionRecord) -> list[str]:
    """What was found besides, a line for each."""
    parts = {"patching": _patching, "sets": _sets, "trust": _trust, "workflow": _workflow}
    said = [line for name, of in parts.items() if name in record.data for line in of(record)]
    return [*shared_values(record), *said, record["advice"]]


def _patching(record: AttributionRecord) -> list[str]:
    parts = []
    for name, by_metric in record["patching"].items():
        entry = by_metric["exact_match"]
        parts.append(f"{name} {format_cell(entry['rho'])} {ends_of(entry['ci'])}".strip())
    if not parts:
        return []
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
    if len(critical["dispensable"]) < 2:
        return [f"{few}: fewer than two, so they have no sets."]
    (size, together), cost = searched(critical), f"costs {critical['critical']:.0%}"
    smaller = f"none of their sets of up to {size}" if size else "smaller sets were not tried"
    if critical["greedy"]:
        joined, effect = " + ".join(critical["greedy"]["members"]), _effect(critical["greedy"])
        return [f"{few}; {smaller} {cost}, {joined} does: {effect}." if size else f"{few}; {joined} {cost}: {effect}; {smaller}."]
    if together:
        return [f"{few}; {smaller}, nor all together, {cost}." if size else f"{few}; not even all together {cost}; {smaller}."]
    rest = "larger ones were not tried" if size else "none of their sets was tried: there are too many pairs"
    return [f"{few}; {smaller} {cost}; {rest}." if size else f"{few}; {rest}."]


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
        *(
            [f"Median relative error by R (bin: components, error): {'; '.join(bins)}. A small R is no certificate."]
            if bins
            else []
        ),
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


def ends_of(ends: list[float] | None) -> str:
    """Two ends, or nothing."""
    return "" if ends is None else interval(ends, "z.2f", 1)
