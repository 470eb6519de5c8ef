"""The table of `gcgap attribute` as a person reads it in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from gcgap.attribution.record import AttributionRecord

NOTE = (
    "ρ: Spearman's rank correlation of scores and exact effects, with its interval; ceil: the largest ρ that independent noise "
    "would let through; heads, MLPs: ρ within them; τ: Kendall's tau-b; top: share of the largest quarter of the effects that "
    "is found"
)
PRICE = (
    "L1: mean |score - effect|, in the metric's units, where a score estimates it; cost in passes of all sequences; double: "
    "backward through backward; equal: seconds over those of one forward pass"
)


def method_table(record: AttributionRecord) -> Group:
    """Every method beside the exact effects, and its cost; then what else was found, and the advice."""
    setup, accuracy = record["setup"], record["accuracy"]["by_length"][str(record["length"])]
    intro = (
        f"{record['task']}, seed {record['seed']}, step {record['step']}, length {record['length']}: exact match {accuracy:.1%}. "
        f"Intervention: {setup['baseline']}, {setup['direction']}, positions {setup['positions']}"
    )
    grids = [_agreement(record, effect) for effect in ("log_prob", "exact_match")]
    return Group(intro, *grids, _costs(record), *found(record))


def _agreement(record: AttributionRecord, effect: str) -> Table:
    grid = _grid(f"Agreement with exact effects by {effect.replace('_', ' ')}", NOTE)
    for heading in ("ρ", "interval", "ceil", "heads", "MLPs", "τ", "top"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, entry in record["methods"].items():
        groups = entry["agreement"][effect]
        every = groups["all"]
        cells = [number(every["rho"]), interval(every["ci"]), number(every["ceiling"])]
        cells += [number(groups.get(group, {}).get("rho")) for group in ("heads", "mlps")]
        cells += [number(every["tau_b"]), number(every["top_k"])]
        grid.add_row(name, *cells)
    return grid


def _costs(record: AttributionRecord) -> Table:
    units = record["protocol"]["attribution"]["metric"]
    grid = _grid("Error and cost", PRICE)
    for heading in ("L1", "forward", "backward", "double", "equal", "seconds"):
        grid.add_column(heading, justify="right", no_wrap=True)
    for name, entry in record["methods"].items():
        cost = entry["cost"]
        passes = (number(cost[kind], ".0f") for kind in ("forward", "backward", "double_backward"))
        l1 = number(entry["agreement"][units]["all"]["l1"], ".3f")
        grid.add_row(name, l1, *passes, number(cost["forward_equivalents"], ".1f"), number(cost["seconds"], ".1f"))
    return grid


def _grid(title: str, caption: str) -> Table:
    grid = Table(title=title, caption=escape(caption), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    grid.add_column("method", no_wrap=True)
    return grid


def found(record: AttributionRecord) -> list[str]:
    """What was found besides, a line for each."""
    return [*_patching(record), *_sets(record), *_trust(record), *_workflow(record), record["advice"]]


def _patching(record: AttributionRecord) -> list[str]:
    told = []
    for name, by_metric in record["patching"].items():
        entry = by_metric["exact_match"]
        told.append(f"{name} {number(entry['rho'])} {interval(entry['ci'])}".strip())
    return [f"Gradient magnitude against activation patching (ρ, exact match): {'; '.join(told)}."]


def _sets(record: AttributionRecord) -> list[str]:
    critical = record["sets"]["critical"]
    few = f"{len(critical['dispensable'])} components cost at most {critical['tolerance']:.0%} each"
    if critical["sets"]:
        best = critical["sets"][0]
        joined = " + ".join(best["members"])
        return [
            f"{few}; the smallest of their sets that cost {critical['critical']:.0%}: {joined}, {best['effect']:.0%} together."
        ]
    if critical["greedy"]:
        joined = " + ".join(critical["greedy"]["members"])
        smaller = f"none of their sets of up to {critical['searched']}"
        return [f"{few}; {smaller} costs {critical['critical']:.0%}, {joined} does ({critical['greedy']['effect']:.0%})."]
    return [f"{few}; no set of them costs {critical['critical']:.0%}."]


def _trust(record: AttributionRecord) -> list[str]:
    error = record["trust"]["error"]
    parts = [f"{name} {value:.3f}" for name, value in error.items() if value is not None]
    return [f"Mean error of attribution patching, and of its parts alone: {', '.join(parts)}."]


def _workflow(record: AttributionRecord) -> list[str]:
    of = record["workflow"]
    counts = f"{len(of['flags'])} flagged, {len(of['fixed'])} fixed exactly, {len(of['unresolved'])} beyond the budget"
    if not of["verified"]:
        return [f"Screen-Flag-Fix: {counts}; none of the others was checked."]
    limit = f"at most {of['limit']:.0%} of the unflagged are large (95 %)"
    return [f"Screen-Flag-Fix: {counts}; of {len(of['verified'])} others checked {len(of['above'])} are large, so {limit}."]


def number(value: float | None, form: str = ".2f") -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else format(value, form)


def interval(ends: list[float] | None) -> str:
    """Two ends, or nothing."""
    return "" if ends is None else f"{ends[0]:.2f}..{ends[1]:.2f}"
