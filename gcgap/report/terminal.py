"""What a person reads in a terminal: the table of components with its sentence, that of methods, and tables of any width."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Column, Table
from rich.text import Text

from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record
from gcgap.report.describe import describe_data, describe_run, said_above, searched, shared_values, without_ticks
from gcgap.report.first_metric import first_metric
from gcgap.report.named_roles import MOST, has_many, named_roles, roles_in_words
from gcgap.report.page import format_cell
from gcgap.report.top_components import top_components, what_is_shown

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
            "-" if gap["ci"] is None else _interval(gap["ci"], "+.2f", 1),
            "-" if gap["p_value"] is None else f"{gap['p_value']:.2g}",
            *("-" if gap[roles] is None else str(gap[roles]) for roles in ("heroes", "bloats")),
        )
    if (ends := gauges["random_scales"]["rho"][baseline]) is not None:
        grid.add_row("random head scales", "", _interval(ends, "+.2f", 1), "", "", "")
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
            place: f"{100 * drop['value']:+z.1f} [{_interval(drop['ci'], '+z.1f', 100)}]"
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
        _interval(gradient["ci"], ".2f", scale),
        f" {format(size * causal['value'], value)}",
        _interval(causal["ci"], ends, size),
        "-" if delta["value"] is None else f" {delta['value']:+.1f}",
        "-" if delta["ci"] is None else _interval(delta["ci"], "+z.1f", 1),
        Text(" -") if name is None else Text(f" {name}" * told, style=STYLES[name]),
        "-" if name is None else f"{role['probability']:.2f}" * told,
    ]


def _interval(ends: list[float], form: str, scale: float) -> str:
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


BROKEN = 3
"""Characters of a name that stay together, even where a number beside it must break for that."""


class WholeTable(Table):
    """A table that is too wide for the terminal is shown in parts below each other, each with the first column.

    Its first column, and those that are not `no_wrap`, break where they must; the others stay on one line.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        self.columns[0].no_wrap = False
        for column in self.columns:
            column.overflow = "fold"
        if self._least(console, options, width * 2 // 5) <= width:
            yield from super().__rich_console__(console, options)
            return
        parts = self._parts(console, options)
        for number, columns in enumerate(parts):
            part = self._of(columns)
            part.title = self.title if number == 0 else None
            part.caption = self.caption if number == len(parts) - 1 else None
            if part._least(console, options, BROKEN) > width:
                for column in part.columns:
                    column.no_wrap = False
            yield from Table.__rich_console__(part, console, options)

    def _parts(self, console: Console, options: ConsoleOptions) -> list[list[Column]]:
        """The columns behind the first in as few parts as fit, each with the first in front."""
        first, *others = self.columns
        parts = [[first, others[0]]] if others else [[first]]
        for column in others[1:]:
            if self._of([*parts[-1], column])._least(console, options, options.max_width * 2 // 5) <= options.max_width:
                parts[-1].append(column)
            else:
                parts.append([first, column])
        return parts

    def _of(self, columns: list[Column]) -> WholeTable:
        """A table of some of the columns."""
        part = WholeTable(box=self.box, padding=self.padding, pad_edge=self.pad_edge, show_header=self.show_header)
        for one in columns:
            part.add_column(one.header, justify=one.justify, no_wrap=one.no_wrap, overflow="fold")
        for row, cells in zip(self.rows, zip(*(one.cells for one in columns), strict=True), strict=True):
            part.add_row(*cells, end_section=row.end_section)
        return part

    def _least(self, console: Console, options: ConsoleOptions, broken: int) -> int:
        """Columns of the terminal that it needs: all of what stays on one line, and `broken` of what breaks."""
        wide = options.update(max_width=10_000)
        every = [self._widest(console, wide, column) for column in self.columns]
        needed = [most if column.no_wrap else min(most, broken) for most, column in zip(every, self.columns, strict=True)]
        return self.__rich_measure__(console, wide).maximum - sum(every) + sum(needed)

    @staticmethod
    def _widest(console: Console, options: ConsoleOptions, column: Column) -> int:
        return max(Measurement.get(console, options, cell).maximum for cell in (column.header, *column.cells))


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
        ends = "" if row.ci is None else _interval(list(row.ci), "z.3g", 1)
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
        parts.append(f"{name} {format_cell(entry['rho'])} {interval(entry['ci'])}".strip())
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


def interval(ends: list[float] | None) -> str:
    """Two ends, or nothing."""
    return "" if ends is None else _interval(ends, "z.2f", 1)
