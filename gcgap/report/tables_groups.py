"""Tables of groups of runs that compare with no published figure: groups beside each other, the verdict, one group's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gcgap.report.blocks import ALL, Cell, Table, columns_of
from gcgap.report.describe import accuracy, known, missing_notes, pluralise, ranked, selection_notes, spread_notes, title
from gcgap.report.tables_paper import setting
from gcgap.study.claims import Verdict
from gcgap.study.emergence import STABLE, Course, courses
from gcgap.study.evidence import SURE
from gcgap.study.groups import Agreement, Group, default_settings
from gcgap.study.seeds import CORRELATION, PERCENT, POSITIVE, SHARE, Summary, ratio, summary

PLACES = {
    "default": ("contiguous", "component"),
    "site=released": ("contiguous", "released"),
    "layout=released": ("released", "component"),
    "site=released, layout=released": ("released", "released"),
    "released": ("released", "released, all switches"),
}
"""Layout of the training data and site of the ablation, by the group's name; all else is the default's, but for the last."""
CELLS = (
    "configs/paper.yaml measures the same weights in all rows of one layout. `All switches` is the complete released protocol, "
    "which also draws other sequences for each accuracy, does not divide G by √N, counts roles strictly and ranks ties by "
    "position. The ratio is of runs with two Bloats or more, with Fieller's interval; none with fewer than five seeds, or where "
    "the sum is not surely above 0."
)
RULE = (
    "The answers follow from the rules by themselves. A claim holds if the default protocol meets its rule; else holds only "
    "under the released protocol if that one does; else only with the released site if the default's own weights do when ablated "
    "there, the whole released protocol decides nothing, and the site surely adds to the number that decides (the interaction, "
    "asked where one number decides); else it does not hold, or no more than by random pairing, if the default protocol refutes "
    "it, and is inconclusive if not. Brackets are 95 % intervals."
)


@dataclass(frozen=True)
class Place:
    """The runs of one layout of the training data and one site of the ablation; without a group there are none."""

    name: str
    layout: str
    site: str
    group: Group | None

    def measured_tasks(self) -> list[str]:
        """Tasks of its runs."""
        return self.group.tasks if self.group else []

    def found(self, task: str, key: str = "gap") -> dict[int, dict[str, Any]]:
        """What its runs that have ranks say under the group's first baseline, by seed."""
        if self.group is None:
            return {}
        return {run.seed: run.final[key][self.group.baselines[0]] for run in ranked(self.group, task)}

    def rhos(self, task: str) -> dict[int, float]:
        """Rank correlation by seed."""
        return {seed: gap["rho"] for seed, gap in self.found(task).items()}

    def joint_ratio(self, task: str) -> Summary:
        """What the Bloats of a run cost together over the sum of what they cost alone, of runs with two or more."""
        joints = [one["bloats"] for one in self.found(task, "joint").values() if len(one["bloats"]["members"]) > 1]
        together, alone = ([one[key] for one in joints] for key in ("joint", "individual_sum"))
        return ratio(together, alone)


def places(groups: Sequence[Group]) -> list[Place]:
    """The five cells {layout} x {site}, with their groups where there are any."""
    named = {group.name: group for group in groups}
    return [Place(name, layout, site, named.get(name)) for name, (layout, site) in PLACES.items()]


def cell_tasks(found: Sequence[Place]) -> list[str]:
    """Tasks of any cell, in the order of the first that has each."""
    return list(dict.fromkeys(task for place in found for task in place.measured_tasks()))


def cells_table(groups: Sequence[Group]) -> Table:
    """The network or the measurement: rank correlation, roles and joint ratio of every cell and task."""
    found, missing = places(groups), list[str]()
    rows: list[tuple[Cell, ...]] = []
    for task in cell_tasks(found):
        for place in found:
            gaps = place.found(task).values()
            ranges = {"rho": CORRELATION, "heroes": POSITIVE, "bloats": POSITIVE}
            rho, heroes, bloats = (summary([gap[key] for gap in gaps], within) for key, within in ranges.items())
            skipped = len(place.group.skipped(task)) if place.group and task in place.group.tasks else None
            rows.append((title(task), place.layout, place.site, rho, heroes, bloats, place.joint_ratio(task), skipped))
            if skipped is None:
                missing.append(f"No runs of {task}: layout {place.layout}, site {place.site}.")
    names = ("task", "layout of training", "site of ablation", "ρ", "Heroes per run", "Bloats per run")
    forms = {"Heroes per run": ".1f", "Bloats per run": ".1f"}
    columns = columns_of(rows, (*names, "joint / sum of Bloats", "skipped"), forms)
    own = [place.group for place in found if place.group]
    notes = [*spread_notes(columns), CELLS, *_older(own), *missing, *_named_notes(own)]
    return Table("cells", "Layout and site: the network or the measurement?", ALL, columns, notes)


def _older(groups: Sequence[Group]) -> list[str]:
    return selection_notes([run for group in groups for task in group.tasks for run in group.measured(task)])


def _named_notes(groups: Sequence[Group]) -> list[str]:
    return [f"{group.name}: {note}" for group in groups for note in missing_notes(group, group.tasks, group.baselines[:1])]


def overview_table(groups: Sequence[Group]) -> Table:
    """Steps, accuracy, rank correlation and roles of every group and task, under each group's first baseline."""
    forms = {"components": ".0f", "optimiser steps": ".0f", "OOD exact match (%)": ".1f"}
    gap_forms = {"ρ": ".2f", "noise ceiling": ".2f", "Heroes per run": ".1f", "Bloats per run": ".1f"}
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        for task in group.tasks:
            runs = group.measured(task)
            gaps = [run.final["gap"][group.baselines[0]] for run in ranked(group, task)]
            components = len(runs[0].final["components"]) if runs else None
            means = (known([run.final["step"] for run in runs], POSITIVE), known(map(accuracy, runs), PERCENT))
            ranges = {"rho": CORRELATION, "ceiling": SHARE, "heroes": POSITIVE, "bloats": POSITIVE}
            of_gaps = (known((gap[key] for gap in gaps), within) for key, within in ranges.items())
            rows.append((group.name, title(task), components, *means, *of_gaps, len(group.skipped(task))))
    columns = columns_of(rows, ("group", "task", *forms, *gap_forms, "skipped"), forms | gap_forms)
    notes = [*spread_notes(columns), *_older(groups), *_named_notes(groups)]
    return Table("groups", "Every group at a glance", ALL, columns, notes)


def same_weights_table(found: Sequence[Agreement]) -> Table:
    """How far two protocols agree on the same checkpoints."""
    names = (
        "task",
        "measured as",
        "and as",
        "rank correlation of both C",
        "the same by log-probability",
        "rank correlation of both Δ",
        "share of Heroes that stay",
        "share of Bloats that stay",
    )
    rows = [
        (title(one.task), one.first, one.second, one.causes, one.causes_by_log_prob, one.gaps, one.heroes, one.bloats)
        for one in found
    ]
    columns = columns_of(rows, names)
    return Table("same-weights", "The same weights under two protocols", ALL, columns, spread_notes(columns))


def answers_table(verdicts: Sequence[Verdict]) -> Table:
    """The answers to the claims alone."""
    rows: list[tuple[Cell, ...]] = []
    for verdict in verdicts:
        p, adjusted = verdict.by_protocol[verdict.protocol].p, verdict.adjusted[verdict.protocol]
        rows.append((verdict.claim.title, verdict.answer, p_text(p), p_text(adjusted)))
    tests = sum(p is not None for verdict in verdicts for p in verdict.adjusted.values())
    names = ("claim", "answer", "p", "p, Holm")
    lost = [
        verdict.claim.title
        for verdict in verdicts
        if verdict.answer.startswith("holds") and (verdict.adjusted[verdict.protocol] or 0) >= SURE
    ]
    notes = [P_VALUES.format(tests=pluralise(tests, "test"))]
    notes += [f"By its own rule alone, and not after the correction, holds: {'; '.join(lost)}."] if lost else []
    return Table("answers", "The answers in short", ALL, columns_of(rows, names), notes)


P_VALUES = (
    "p is that of the test in the rule, under the protocol that the answer is of: small where the claim holds, 1 where the "
    "numbers point the other way. Holm's correction is over {tests}, of all claims under all protocols. No p-value: the rule "
    "counts seeds by their own intervals, or there are too few seeds."
)


def p_text(p: float | None) -> str | None:
    """A p-value in print."""
    return None if p is None else "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row for each claim of the paper: its answer, and what the runs of each protocol say of it."""
    protocols = list(dict.fromkeys(name for verdict in verdicts for name in verdict.by_protocol))
    rows = []
    for verdict in verdicts:
        claim, by_protocol = verdict.claim, verdict.by_protocol
        texts = (by_protocol[name].text if name in by_protocol else None for name in protocols)
        rows.append((claim.title, verdict.answer, claim.published, *texts, claim.rule))
    names = ("claim", "answer", "published", *(f"{name} protocol" for name in protocols), "holds if")
    return Table("verdict", "Claims and answers", ALL, columns_of(rows, names), [RULE])


def numbers_table(verdicts: Sequence[Verdict]) -> Table:
    """Every number that the verdict rests on."""
    rows = [
        (verdict.claim.title, name, what, found)
        for verdict in verdicts
        for name, evidence in verdict.by_protocol.items()
        for what, found in evidence.numbers.items()
    ]
    columns = columns_of(rows, ("claim", "protocol", "number", "value"), {"value": ".3f"})
    return Table("verdict-numbers", "The numbers behind the answers (drops as shares of sequences)", ALL, columns)


def protocol_table(group: Group) -> Table:
    """Every setting that shaped the numbers of a group, beside the default."""
    default = default_settings()
    rows = [
        (name, setting(group.settings.get(name, "not recorded")), setting(default.get(name, "none")))
        for name in default | group.settings
    ]
    columns = columns_of(rows, ("setting", "this group", "default"), {"this group": "g", "default": "g"})
    versions = sorted({f"gcgap {version}" for run in group.runs if (version := run.final["versions"].get("gcgap"))})
    notes = [f"Measured by {', '.join(versions)}."] if versions else []
    return Table("protocol", "Protocol and model: every setting behind the numbers of this group", group.name, columns, notes)


def emergence_table(group: Group, task: str) -> Table:
    """For every component and role: in how many seeds it appears, when it settles, how long it lasts."""
    runs = [run for run in group.runs if run.task == task and run.tracked]
    found: dict[tuple[str, str], list[Course]] = {}
    for run in runs:
        for one in courses(run, group.baselines[0]):
            found.setdefault((one.name, one.role), []).append(one)
    rows: list[tuple[Cell, ...]] = []
    for (name, role), these in sorted(found.items()):
        stable = [one.stable for one in these if one.stable is not None]
        counts = (len(these), len(stable), sum(one.final for one in these))
        first, settled = (float(median(steps)) if steps else None for steps in ([one.first for one in these], stable))
        rows.append((name, role, *counts, first, settled, summary([100 * one.persistence for one in these], PERCENT)))
    names = (
        "component",
        "role",
        "seeds with it ever",
        f"seeds with it {STABLE} checkpoints in a row",
        "seeds with it at the last checkpoint",
        "first step, median",
        f"first of {STABLE} in a row (step), median",
        "checkpoints with it from then on (%)",
    )
    notes = [
        f"Over the measured checkpoints of {len(runs)} seeds, {group.baselines[0]} ablation, exact match at the tracked "
        "length, with the smaller sizes of tracking; a step that is missing: it never holds that long.",
    ]
    columns = columns_of(rows, names, dict.fromkeys(names, ".0f"))
    return Table(f"emergence-{task}", f"When roles appear and how long they last, {title(task)}", group.name, columns, notes)
