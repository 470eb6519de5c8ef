"""The components of the largest exact effects in an attribution record, and what every method scores them."""

from __future__ import annotations

from dataclasses import dataclass

from gcgap.importance.protocol import Metric
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.blocks import Column, Table
from gcgap.report.describe import of_task, pluralise, shared_values, title, without_ticks
from gcgap.study.methods_over_seeds import MethodGroup

MOST = 10  # components that are shown
SIGNS = "Sign: + the answer needs the component, - the component works against it, ? the interval holds 0 or there is none."


@dataclass(frozen=True)
class Top:
    """One component: its exact effect with interval, and its score by every method."""

    name: str
    effect: float
    ci: tuple[float, float] | None
    scores: dict[str, float]

    @property
    def sign(self) -> str:
        """Whether the answer needs it: `+`, `-`, or `?` where the interval does not say."""
        if self.ci is None or self.ci[0] <= 0 <= self.ci[1]:
            return "?"
        return "+" if self.effect > 0 else "-"


def top_components(record: AttributionRecord) -> list[Top]:
    """The components of the largest |exact effect| by the metric of the scores, on sequences other than the scores' own."""
    metric = record["protocol"]["attribution"]["metric"]
    every = [
        Top(
            one["name"],
            one["exact"][metric]["value"],
            (found[0], found[1]) if (found := one["exact"][metric].get("ci")) else None,
            {method: score["value"] for method, score in one["scores"].items()},
        )
        for one in record["components"]
    ]
    return sorted(every, key=lambda top: -abs(top.effect))[:MOST]


def what_is_shown(record: AttributionRecord) -> str:
    """Of how many components these are, in which units, and what the signs mean."""
    metric = Metric(record["protocol"]["attribution"]["metric"])
    of, confidence = len(record["components"]), 100 * record["protocol"]["confidence"]
    return (
        f"The {min(of, MOST)} of {pluralise(of, 'component')} with the largest |exact effect| by {metric.replace('_', ' ')} "
        f"({metric.unit}), on other sequences than the scores, with {confidence:g} % intervals; scores in each method's own "
        f"units. {SIGNS}"
    )


def top_tables(group: MethodGroup) -> list[Table]:
    """The table of each record of a pretrained model; none of models of our own, whose components the other tables all have."""
    if "name" not in group.settings["model"]:
        return []
    return [_table(group, task, i) for task in group.tasks for i in range(len(group.of_task(task)))]


def _table(group: MethodGroup, task: str, number: int) -> Table:
    record = group.of_task(task)[number]
    rows = top_components(record)
    columns = [
        Column("component", [row.name for row in rows]),
        Column("exact effect", [row.effect for row in rows], ".3g"),
        *(Column(name, [row.ci and row.ci[end] for row in rows], ".3g") for end, name in enumerate(("low", "high"))),
        Column("sign", [row.sign for row in rows]),
        *(Column(method, [row.scores[method] for row in rows], ".3g") for method in group.methods),
    ]
    key = of_task("methods-top", task) + (f"-{number + 1}" if number else "")
    notes = [what_is_shown(record), *map(without_ticks, shared_values(record))]
    text = f"Components with the largest effects, {title(task)}, seed {record['seed']}"
    return Table(key, text, group.name, columns, notes)
