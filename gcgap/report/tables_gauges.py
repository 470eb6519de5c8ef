"""Tables of what other gauges of the heads say: the claims in each of them, the numbers behind, and rho run by run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gcgap.report.blocks import ALL, Cell, Table, columns_of
from gcgap.report.describe import title
from gcgap.report.tables_groups import p_text
from gcgap.study.claims import Verdict
from gcgap.study.gauge_views import TRAINED, gauge_name, has_gauges
from gcgap.study.groups import Group

NOT_ASKED = "as trained only"
GAUGED = (
    "The same weights with every head written down otherwise, which changes G alone: W_V and W_O of each head in balance, or W_O "
    "with orthonormal columns. Each claim is asked again by its own rule, with G, ρ and roles of that gauge; p is that of the "
    "test in the rule. What removing sets of Heroes or Bloats costs was measured for the roles as trained alone, so such claims "
    "are asked of those only. Matched heads have roles as trained alone too, and count in the first column only."
)


def gauge_answers_table(found: Sequence[Verdict], by_gauge: Mapping[str, Sequence[Verdict]], groups: Sequence[Group]) -> Table:
    """The answer to every claim as trained by all runs, then by those that have gauges, as trained and in each gauge."""
    rows = []
    for verdict in found:
        row: list[Cell] = [verdict.claim.title, verdict.answer]
        for verdicts in by_gauge.values():
            own = next((one for one in verdicts if one.claim.title == verdict.claim.title), None)
            row += [own.answer, p_text(own.by_protocol[own.protocol].p)] if own else [NOT_ASKED, None]
        rows.append(row)
    names = ["claim", "as trained, all runs"]
    for gauge in (f"{TRAINED}, runs with gauges", *(name for name in map(gauge_name, by_gauge) if name != TRAINED)):
        names += [gauge, f"p, {gauge}"]
    notes = [GAUGED, _counts(groups), _changes(by_gauge)]
    return Table("verdict-gauges", "The answers in other gauges", ALL, columns_of(rows, names), notes)


def _counts(groups: Sequence[Group]) -> str:
    """How many measured runs have gauges."""
    said = []
    for group in groups:
        for task in group.tasks:
            runs = group.measured(task)
            said.append(f"{group.name}, {title(task)}: {sum(has_gauges(run.final) for run in runs)} of {len(runs)}")
    return f"Measured runs with gauges, the only ones in these columns: {'; '.join(said)}."


def _changes(by_gauge: Mapping[str, Sequence[Verdict]]) -> str:
    """Which answers are not those as trained, of the same runs."""
    trained, *others = by_gauge.values()
    was = {one.claim.title: one.answer for one in trained}
    asked = {one.claim.title for verdicts in others for one in verdicts}
    changed = {one.claim.title for verdicts in others for one in verdicts if one.answer != was[one.claim.title]}
    ordered = [title for title in was if title in changed]
    if not ordered:
        return f"None of the {len(asked)} answers that can depend on the gauge does."
    return f"{len(ordered)} of {len(asked)} answers depend on the gauge: {'; '.join(ordered)}."


def gauge_numbers_table(by_gauge: Mapping[str, Sequence[Verdict]]) -> Table:
    """Every number that the answers of runs with gauges rest on, gauge by gauge."""
    rows = [
        (verdict.claim.title, gauge_name(gauge), name, what, found)
        for gauge, verdicts in by_gauge.items()
        for verdict in verdicts
        for name, evidence in verdict.by_protocol.items()
        for what, found in evidence.numbers.items()
    ]
    columns = columns_of(rows, ("claim", "gauge", "protocol", "number", "value"), {"value": ".3f"})
    return Table("gauge-numbers", "The numbers behind the answers in other gauges, of runs that have gauges", ALL, columns)


def gauges_table(group: Group) -> Table | None:
    """The rank correlation of every run as trained and in every canonical gauge; None where no record has gauges."""
    baseline, rows, gauges = group.baselines[0], list[tuple[Cell, ...]](), dict[str, Any]()
    for run in (run for task in group.tasks for run in group.measured(task)):
        found = run.final.to_dict().get("gauges", {})
        if "by_gauge" in found:
            gauges, scales, trained = found["by_gauge"], found["random_scales"], run.final["gap"][baseline]["rho"]
            rhos, ends = (one["gap"][baseline]["rho"] for one in gauges.values()), scales["rho"][baseline] or (None, None)
            rows.append((title(run.task), run.seed, trained, *rhos, *ends, scales["roles_kept"][baseline]))
    if not rows:
        return None
    others = (f"ρ {name.replace('_', ' ')}" for name in gauges)
    names = (
        "task",
        "seed",
        "ρ as trained",
        *others,
        "lowest ρ by scales",
        "highest ρ by scales",
        "share of roles kept by scales",
    )
    notes = [
        f"The same weights with every head written down otherwise, which changes G alone; {baseline} ablation. Scales: 95 % of "
        "draws in which the values of every head are scaled by a random factor, and the mean share of Heroes and Bloats that "
        "keep their role."
    ]
    return Table("gauges", "ρ in other gauges", group.name, columns_of(rows, names, {"seed": "d"}), notes)
