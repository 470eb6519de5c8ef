"""Tables of attribution methods over runs: agreement with exact effects, the gap of each, Bloats, trust, patching, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gcgap.attribution.agreement import calibration, coverage
from gcgap.report.blocks import Cell, Column, Table, columns_of
from gcgap.report.describe import EFFECTS, known, of_task, searched, spread_notes, title
from gcgap.report.top_components import top_tables
from gcgap.study import methods_over_seeds as study
from gcgap.study.groups import Group
from gcgap.study.methods_over_seeds import MethodGroup
from gcgap.study.seeds import CORRELATION, POSITIVE, SHARE, Summary, summary

SHORT = (
    f"A gap is closed if the 95 % interval of the shortfall lies at or below {study.CLOSED}, remains if it lies above, and "
    "is inconclusive otherwise. The shortfall is how far ρ falls short of that of the exact effects, by the metric of the "
    "scores, run by run. Ranks are held against effects on other sequences, so exact effects lose to noise as much as any score."
)


def method_tables(group: MethodGroup) -> list[Table]:
    """All tables of a group."""
    by_task = [agreement_table(group, task) for task in group.tasks]
    by_task += [gap_table(group, task) for task in group.tasks if "exact" in group.methods]
    bloats = [bloats_table(group, task) for task in group.tasks]
    tables = {"patching": [patching_table], "sets": [sets_table], "trust": [trust_table, bounds_table, error_table]}
    if group.settings["setup"]["direction"] != "noising":
        del tables["sets"]  # a set that restores much is no critical one
    rest = [
        table(group) for stage, made in tables.items() if all(stage in record.data for record in group.records) for table in made
    ]
    return [*top_tables(group), *by_task, *bloats, *rest, workflow_table(group), cost_table(group), settings_table(group)]


def agreement_table(group: MethodGroup, task: str) -> Table:
    """Every method's agreement with the exact effects of a task."""

    def column(effect: str, key: str, part: str = "all") -> list[Summary]:
        return [study.over_seeds(group, task, method, effect, key, part) for method in group.methods]

    def means(*place: str) -> list[Cell]:
        return [cell.mean for cell in column(*place)]

    columns = [Column("method", group.methods)]
    for effect in group.effects:
        name = EFFECTS[effect]
        columns += [
            Column(f"ρ, {name}", column(effect, "rho")),
            Column(f"noise ceiling, {name}", means(effect, "ceiling")),
            Column(f"heads, {name}", means(effect, "rho", "heads")),
            Column(f"MLPs, {name}", means(effect, "rho", "mlps")),
            Column(f"τ-b, {name}", means(effect, "tau_b")),
            Column(f"missed, {name}", means(effect, "missed")),
        ]
    units = group.settings["protocol"]["attribution"]["metric"]
    columns.append(Column("L1 (metric's units)", means(units, "l1"), ".3f"))
    notes = [
        *spread_notes(columns),
        *_undefined(group, task),
        "Missed: share of the largest quarter of exact effects that is not in the largest quarter of scores.",
    ]
    return Table(of_task("methods", task), f"Agreement with exact effects, {title(task)}", group.name, columns, notes)


def _undefined(group: MethodGroup, task: str) -> list[str]:
    """A sentence for each run, effect and reason for which methods have no rank correlation."""
    lacking: dict[tuple[int, str, str], list[str]] = {}
    for record in group.of_task(task):
        for name, entry in record["methods"].items():
            for effect in group.effects:
                if (found := entry["agreement"][effect]["all"])["rho"] is None:
                    lacking.setdefault((record["seed"], effect, found["reason"]), []).append(name)
    return [
        f"Left out: {task} seed {seed}, {', '.join(names) if len(names) < len(group.methods) else 'every method'}, "
        f"{effect.replace('_', ' ')}: {reason}."
        for (seed, effect, reason), names in lacking.items()
    ]


def gap_table(group: MethodGroup, task: str) -> Table:
    """For which methods the gradient-causal gap remains."""
    methods = [name for name in group.methods if name != "exact"]
    columns = [Column("method", methods)]
    for effect in group.effects:
        short = [study.shortfall(group, task, method, effect) for method in methods]
        columns.append(Column(f"shortfall in ρ, {EFFECTS[effect]}", short))
        columns.append(Column(f"gap, {EFFECTS[effect]}", [study.answer(one) for one in short]))
    text = f"Does the gap remain? {title(task)}"
    return Table(of_task("methods-gap", task), text, group.name, columns, [*spread_notes(columns), SHORT])


def bloats_table(group: MethodGroup, task: str) -> Table:
    """Heroes and Bloats by each method's scores in the place of the gradient, and by Shapley values in the place of C."""
    records = group.of_task(task)
    found = {name: [study.roles(record, name) for record in records] for name in group.methods}
    first = found.get("gradient", [])
    if first:
        for causal in (*study.AGAIN, *(name for name in ("shapley_exact_match", "shapley_value") if name in group.methods)):
            name = f"gradient, C = {study.AGAIN.get(causal, causal)}"
            found[name] = [study.roles(record, "gradient", causal) for record in records]
    rows: list[tuple[Cell, ...]] = []
    for name, by_run in found.items():
        known_roles = [one for one in by_run if one]
        counts = ([one.heroes for one in known_roles], [len(one.bloats) for one in known_roles])
        heroes, bloats = (summary(of, POSITIVE) for of in counts)
        by_chance = summary([one.bloats_by_chance for one in known_roles]).mean
        both = [(a, b) for a, b in zip(first, by_run, strict=bool(first)) if a and b and a.bloats]
        stay = summary([len(a.bloats & b.bloats) / len(a.bloats) for a, b in both], SHARE)
        rows.append((name, heroes, bloats, by_chance, stay))
    names = ("score", "Heroes", "Bloats", "Bloats by chance", "share of the gradient's Bloats that stay")
    columns = columns_of(rows, names, dict.fromkeys(names[1:4], ".1f"))
    notes = [
        *spread_notes(columns),
        "Roles by rank(score) - rank(C), C the exact effect by exact match. In the last rows other importances replace C: first "
        "the same effects on other sequences, which says how many Bloats noise alone takes, and effects by log-probability; then "
        "Shapley values. Only what they take beyond those first rows is redundancy that single effects do not see.",
    ]
    return Table(of_task("methods-bloats", task), f"Heroes and Bloats by method, {title(task)}", group.name, columns, notes)


def patching_table(group: MethodGroup) -> Table:
    """The paper's third check: the gradient's magnitude against activation patching."""
    names = list(group.records[0]["patching"])
    columns = [Column("patching", names)]
    for task in group.tasks:
        for effect in ("exact_match", "log_prob"):
            found = [[record["patching"][name][effect] for record in group.of_task(task)] for name in names]
            columns += _rho_and_ceiling(f"{title(task)}, {EFFECTS[effect]}", found)
    text = "Gradient magnitude against activation patching (noising, all positions)"
    return Table("methods-patching", text, group.name, columns, spread_notes(columns))


def _rho_and_ceiling(heading: str, found: Sequence[Sequence[dict[str, Any]]]) -> list[Column]:
    """Rank correlation over runs, and the mean of its noise ceilings; `found` has the entries of each row."""
    ranges = {"rho": CORRELATION, "ceiling": SHARE}
    rhos, ceilings = ([known((one[key] for one in entries), within) for entries in found] for key, within in ranges.items())
    return [Column(f"ρ, {heading}", rhos), Column(f"noise ceiling, {heading}", [one.mean for one in ceilings])]


def tracked_methods(group: Group) -> list[str]:
    """Names of the methods that all measured runs of a group have beside G and C."""
    runs = [run for task in group.tasks for run in group.measured(task)]
    first = runs[0].final.attribution if runs else {}
    return [name for name in first if all(name in run.final.attribution for run in runs)]


def tracked_table(group: Group) -> Table:
    """Rank correlation with C of every method that was run beside G and C, over the final models of a group."""
    names = tracked_methods(group)
    columns = [Column("method", names)]
    for task in group.tasks:
        entries = [run.final.attribution for run in group.measured(task)]
        for effect in ("exact_match", "log_prob"):
            found = [[entry[name]["agreement"][effect]["all"] for entry in entries] for name in names]
            columns += _rho_and_ceiling(f"{title(task)}, {EFFECTS[effect]}", found)
    text = f"Rank correlation of attribution methods with C, {group.baselines[0]}"
    return Table("tracked-methods", text, group.name, columns, spread_notes(columns))


def sets_table(group: MethodGroup) -> Table:
    """The smallest jointly critical set of every run."""
    found = [record["sets"]["critical"] for record in group.records]
    best = [one["sets"][0] if one["sets"] else one["greedy"] for one in found]
    columns = [
        Column("task", [title(record["task"]) for record in group.records]),
        Column("seed", [record["seed"] for record in group.records]),
        Column("dispensable", [len(one["dispensable"]) for one in found]),
        Column("smallest critical set", [" + ".join(one["members"]) if one else "none" for one in best]),
        Column("costs together (points)", [100 * one["effect"] if one else None for one in best], ".1f"),
        Column("on other sequences", [100 * one["effect_again"] if one else None for one in best], ".1f"),
        Column("standard error", [100 * one["error_again"] if one else None for one in best], ".1f"),
        Column("smallest", [_proof(one) for one in found]),
    ]
    first = found[0]
    note = (
        f"Dispensable: costs at most {100 * first['tolerance']:.0f} points of exact match by itself, either way. Critical: costs "
        f"{100 * first['critical']:.0f} points or more together. Of several sets of one size the costliest is shown."
    )
    return Table("methods-sets", "Jointly critical sets of dispensable components", group.name, columns, [note])


def _proof(found: dict[str, Any]) -> str:
    """What the search says of smaller sets."""
    if found["sets"]:
        return "yes: every smaller set was tried"
    if len(found["dispensable"]) < 2:
        return "there is no set: fewer than two are dispensable"
    size, together = searched(found)
    if found["greedy"]:
        return f"no set of up to {size} is; larger ones were not all tried" if size else "smaller ones were not tried"
    if together:
        return f"none of up to {size} is, nor are all together" if size else "all together are none; smaller ones were not tried"
    return f"none of up to {size} is; larger ones were not tried" if size else "none was tried: there are too many pairs"


def trust_table(group: MethodGroup) -> Table:
    """Calibration of the reliability ratio over all components of all runs."""
    rows: list[tuple[Cell, ...]] = []
    for task in group.tasks:
        pool = study.pooled_trust(group.of_task(task))
        for one in calibration(pool["slope"], pool["curvature"], pool["exact"]):
            errors = (one[key] for key in ("components", "ap_error", "hvp_error", "wrong_sign"))
            rows.append((title(task), f"{one['low']:g} to {one['high'] or np.inf:g}", *errors))
    names = ("task", "R", "components", "median relative error of AP", "of HVP-corrected AP", "wrong sign of AP")
    note = "R = |F''(0)| / 2|F'(0)|, the correction over the estimate. A small R is no certificate: it knows nothing of F'''."
    return Table("methods-reliability", "Does the reliability ratio keep its word?", group.name, columns_of(rows, names), [note])


def bounds_table(group: MethodGroup) -> Table:
    """Coverage of the estimated bounds over all components of all runs."""
    labels = {"ap": "attribution patching", "hvp": "HVP-corrected"}
    rows: list[tuple[Cell, ...]] = []
    for task in group.tasks:
        pool = study.pooled_trust(group.of_task(task))
        bounds = {name: pool[f"bound_{name}"] for name in labels}
        found = coverage(bounds, pool["slope"], pool["curvature"], pool["exact"])
        rows += [(title(task), labels[name], of["covered"], of["bound_over_error"]) for name, of in found.items()]
    forms = {"share of errors below the bound": ".3f", "median of bound / error": ".1f"}
    columns = columns_of(rows, ("task", "of", *forms), forms)
    note = "Taylor remainders with the largest derivative on a grid of five nodes: estimates of a bound, not bounds."
    return Table("methods-bounds", "Do the estimated error bounds hold?", group.name, columns, [note])


def error_table(group: MethodGroup) -> Table:
    """Where the error of attribution patching comes from."""
    parts = {
        "total": "exact - tangent",
        "downstream": "nonlinearity of the network downstream",
        "metric": "nonlinearity of the metric",
        "local": "the component's own, if taken at its input",
        "frozen": "error with patterns, scales and slopes frozen",
    }
    columns = [Column("part", list(parts.values()))]
    for task in group.tasks:
        errors = [record["trust"]["error"] for record in group.of_task(task)]
        found = [known((one[name] for one in errors), POSITIVE) for name in parts]
        columns.append(Column(f"mean |error|, {title(task)}", found, ".3f"))
    note = "Means over components, in the metric's units. The component's own part exists for activation patching only."
    text = "Where the error of attribution patching comes from"
    return Table("methods-error", text, group.name, columns, [*spread_notes(columns), note])


def workflow_table(group: MethodGroup) -> Table:
    """What Screen-Flag-Fix found and cost, beside exact effects for all."""
    columns = [Column("number", ["flagged", "fixed exactly", "beyond the budget", "checked at random", "of those large"])]
    for task in group.tasks:
        found = [record["workflow"] for record in group.of_task(task)]
        counts = [[len(one[key]) for one in found] for key in ("flags", "fixed", "unresolved", "verified", "above")]
        columns.append(Column(title(task), [summary(of, POSITIVE) for of in counts], ".1f"))
    return Table("methods-workflow", "Screen-Flag-Fix", group.name, columns, spread_notes(columns))


def cost_table(group: MethodGroup) -> Table:
    """What every method costs."""
    columns = [Column("method", group.methods)]
    names = {"forward": "forward", "backward": "backward", "double_backward": "backward through backward"}
    for key, name in names.items():
        columns.append(Column(name, [study.cost(group, method, key).mean for method in group.methods], ".0f"))
    columns.append(Column("forward-equivalents", [study.cost(group, method) for method in group.methods], ".1f"))
    columns.append(Column("seconds", [study.cost(group, method, "seconds") for method in group.methods], ".1f"))
    note = "In passes of all evaluation sequences. Forward-equivalents: seconds over those of one forward pass, in the same run."
    return Table("methods-cost", "Cost of every method", group.name, columns, [*spread_notes(columns), note])


def settings_table(group: MethodGroup) -> Table:
    """Every setting behind the numbers of a group."""
    flat: dict[str, Any] = {}
    for block in ("setup", "protocol", "model", "training"):
        flat |= {f"{block}.{key}": value for key, value in (group.settings[block] or {}).items()}
    columns = columns_of([(key, str(value)) for key, value in flat.items()], ("setting", "value"))
    return Table("protocol", "Every setting behind the numbers of this group", group.name, columns)
