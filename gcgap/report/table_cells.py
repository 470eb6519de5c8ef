"""The four cells {layout} x {site}, and the whole released protocol beside them: network or measurement?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcgap.report.notes import left_out, ranked, spread_note, title
from gcgap.report.render import ALL
from gcgap.report.table_parts import Cell, Column, Table
from gcgap.study.groups import Group
from gcgap.study.seeds import Summary, ratio, summary

PLACES = {
    "default": ("contiguous", "component"),
    "site=released": ("contiguous", "released"),
    "layout=released": ("released", "component"),
    "site=released, layout=released": ("released", "released"),
    "released": ("released", "released, all switches"),
}
"""Layout of the training data and site of the ablation, by the group's name; all else is the default's, but for the last."""


@dataclass(frozen=True)
class Place:
    """One cell: the runs of one layout and site, or None where there are none.

    Args:
        name: Name of its group.
        layout: Layout of the data that the models were trained on.
        site: Site of the ablation.
        group: The runs.
    """

    name: str
    layout: str
    site: str
    group: Group | None

    def has(self, task: str) -> bool:
        """Whether there are runs of a task."""
        return self.group is not None and task in self.group.tasks

    def rhos(self, task: str) -> dict[int, float]:
        """Rank correlation by seed, under the group's first baseline."""
        if self.group is None:
            return {}
        baseline = self.group.baselines[0]
        return {run.seed: run.final["gap"][baseline]["rho"] for run in ranked(self.group, task, baseline)}


def places(groups: Sequence[Group]) -> list[Place]:
    """The five cells, with their groups where there are any."""
    named = {group.name: group for group in groups}
    return [Place(name, layout, site, named.get(name)) for name, (layout, site) in PLACES.items()]


def cell_tasks(found: Sequence[Place]) -> list[str]:
    """Tasks of any cell, in the order of the first that has each."""
    return list(dict.fromkeys(task for place in found if place.group for task in place.group.tasks))


def cells_table(groups: Sequence[Group]) -> Table:
    """Rank correlation, roles and joint ratio of every cell and task."""
    found = places(groups)
    rows = [(place, task) for task in cell_tasks(found) for place in found]
    columns = [
        Column("task", [title(task) for _, task in rows]),
        Column("layout of training", [place.layout for place, _ in rows]),
        Column("site of ablation", [place.site for place, _ in rows]),
        Column("ρ", [summary(list(place.rhos(task).values())) for place, task in rows]),
        Column("Heroes per run", [_roles(place, task, "heroes") for place, task in rows], ".1f"),
        Column("Bloats per run", [_roles(place, task, "bloats") for place, task in rows], ".1f"),
        Column("joint / sum of Bloats", [_joint(place, task) for place, task in rows]),
        Column("skipped", [len(place.group.skipped(task)) if place.has(task) and place.group else None for place, task in rows]),
    ]
    missing = [f"No runs of {task}: layout {one.layout}, site {one.site}." for one, task in rows if not one.has(task)]
    left = [
        f"{place.name}: {note}"
        for place in found
        if place.group
        for note in left_out(place.group, place.group.tasks, _first(place))
    ]
    notes = [*spread_note(columns), MEANING, *missing, *left]
    return Table("cells", "Layout and site: the network or the measurement?", ALL, columns, notes)


MEANING = (
    "configs/paper.yaml measures the same weights in all rows of one layout. `All switches` is the complete released protocol, "
    "which also draws other sequences for each accuracy, does not divide G by √N, counts roles strictly and ranks ties by "
    "position. The ratio is of runs with two Bloats or more, its interval a bootstrap over seeds."
)


def _first(place: Place) -> list[str]:
    return place.group.baselines[:1] if place.group else []


def _roles(place: Place, task: str, label: str) -> Cell:
    if place.group is None:
        return Summary(0, None)
    baseline = place.group.baselines[0]
    return summary([run.final["gap"][baseline][label] for run in ranked(place.group, task, baseline)])


def _joint(place: Place, task: str) -> Summary:
    if place.group is None:
        return Summary(0, None)
    baseline = place.group.baselines[0]
    found = [run.final["joint"][baseline]["bloats"] for run in ranked(place.group, task, baseline)]
    found = [one for one in found if len(one["members"]) > 1]
    return ratio([one["joint"] for one in found], [one["individual_sum"] for one in found], np.random.default_rng(0))
