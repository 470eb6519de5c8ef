"""Which tables and figures a report has, and in which order: the verdict, the cells, then every group by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from gcgap.report import figures_gauges, figures_methods, figures_paper, figures_training
from gcgap.report.blocks import ALL, Drawing, Section, Table
from gcgap.report.describe import missing_notes, pluralise, ranked, title
from gcgap.report.tables_gauges import gauge_answers_table, gauge_numbers_table, gauges_table
from gcgap.report.tables_groups import (
    answers_table,
    cells_table,
    emergence_table,
    numbers_table,
    overview_table,
    places,
    protocol_table,
    same_weights_table,
    verdict_table,
)
from gcgap.report.tables_methods import method_tables, tracked_methods, tracked_table
from gcgap.report.tables_paper import paper_tables, role_threshold
from gcgap.study.claims import ANSWERS, is_papers, of_paper, verdicts
from gcgap.study.gauge_views import verdicts_by_gauge
from gcgap.study.groups import Group, agreements
from gcgap.study.methods_over_seeds import MethodGroup

Draw = Callable[..., Figure]


def contents(groups: Sequence[Group], extra: Sequence[Section] = ()) -> list[Section]:
    """All sections of a report: the verdict first, the numbers behind it last; `extra` ones stand before the single groups."""
    papers = [group for group in groups if is_papers(group)]
    found = verdicts(papers)
    decided = any(verdict.answer != ANSWERS[-1] for verdict in found)
    by_gauge = verdicts_by_gauge(papers) if decided else {}
    asked_again = [gauge_answers_table(found, by_gauge, papers)] if by_gauge else []
    tables = [answers_table(found), *asked_again, verdict_table(found)]
    verdict = [Section("Verdict", tables if decided else [UNKNOWN])] if found else []
    behind = [numbers_table(found), *([gauge_numbers_table(by_gauge)] if by_gauge else [])]
    numbers = [Section("Numbers behind the verdict", behind)] if decided else []
    of_groups = (_of_group(group, group is groups[0]) for group in groups)
    return [*verdict, *_compared(groups), *extra, *of_groups, *numbers]


UNKNOWN = "There are too few runs to decide whether any of the paper's claims holds."


def lead(groups: Sequence[Group]) -> str:
    """What the report is made of and how it is read."""
    runs = sum(len(group.runs) for group in groups)
    ood = "sequences longer than trained on"
    ood += ", or for sentences others than those trained on" * any(_as_long(group.settings) for group in groups)
    ood += ", or for pretrained models their prompts" * any("name" in group.settings for group in groups)
    return (
        f"{pluralise(runs, 'measured run')} in {pluralise(len(groups), 'group')}; a group is one model under one protocol, and "
        "nothing is averaged over two. G is a component's gradient magnitude, C the exact-match drop when it is ablated, "
        "Δ = rank(G) - rank(C); Hidden Heroes have a low Δ (low gradient, essential), Gradient Bloats a high one. ρ is "
        "Spearman's rank correlation of G and C, its noise ceiling the largest ρ that measurement noise would let through. "
        f"OOD are {ood}. The layout says where padding stands in training: at the end (contiguous), or before the target "
        "(released). The site says what an ablation replaces: a head's own output (component), or a slice of what all heads "
        "write (released)." + OF_PAPER * any(is_papers(group) for group in groups)
    )


OF_PAPER = (
    " The paper is arXiv:2602.01442, in its first and third version (v1, v3) and on its project page. Columns headed paper are "
    "published."
)


def _as_long(settings: Mapping[str, Any]) -> bool:
    """Whether a model is measured at lengths that it was trained on."""
    return bool(settings["ood_lengths"]) and min(settings["ood_lengths"]) <= max(settings["lengths"])


def method_sections(groups: Sequence[MethodGroup]) -> list[Section]:
    """What attribution methods say beside exact effects; a section for each intervention."""
    sections = []
    for group in groups:
        runs = ", ".join(f"{len(group.of_task(task))} of {title(task)}" for task in group.tasks)
        figure = Drawing("methods", figures_methods.caption(group), group.name, partial(figures_methods.rhos, group))
        sections.append(Section(f"Attribution methods: {group.name}", [f"Runs: {runs}.", figure, *method_tables(group)]))
    return sections


def _compared(groups: Sequence[Group]) -> list[Section]:
    """What several groups say together."""
    blocks: list[str | Table | Drawing] = []
    if sum(place.group is not None for place in places(groups)) > 1:
        caption = "Spearman's ρ by layout of the training data and site of the ablation; grey lines join the same seed."
        blocks += [Drawing("cells", caption, ALL, partial(figures_paper.cells, groups)), cells_table(groups)]
    if len(groups) > 1:
        blocks.append(overview_table(groups))
    if same := agreements(groups):
        blocks.append(same_weights_table(same))
    return [Section("The network or the measurement?", blocks)] if blocks else []


def _of_group(group: Group, leads: bool) -> Section:
    """Tables of a group; also its figures if it is a main one or was tracked over training."""
    tracked = [task for task in group.tasks if any(run.tracked for run in group.runs if run.task == task)]
    full = leads or bool(tracked) or group.name in ("default", "released")
    blocks: list[str | Table | Drawing] = [*_intro(group), *(_figures(group) if full else []), *paper_tables(group)]
    if gauges := gauges_table(group):
        blocks += [_drawing(group, "gauges", figures_gauges.gauges, GAUGES), gauges]
    methods = tracked_methods(group)
    if methods:
        blocks.append(tracked_table(group))
    if tracked:
        blocks.append(_drawing(group, "training", figures_training.training, TRAINING))
    if tracked and methods:
        blocks.append(_drawing(group, "tracked-methods", figures_training.methods_over_training, TRACKED))
    for task in tracked:
        blocks += _emergence(group, task)
    return Section(f"Group: {group.name}", [*blocks, protocol_table(group)])


TRAINING = (
    "Rank correlation ρ and its noise ceiling over training, C by exact match and by log-probability, and exact match. Thin: one "
    "seed; thick: the mean over the seeds that have a value, where at least half do."
)


TRACKED = "Rank correlation of attribution methods with C over training. Thin: one seed; thick: the mean over seeds."


GAUGES = (
    "ρ as trained, in each canonical gauge of the heads and by random head scales, and the share of the Heroes and Bloats as "
    "trained that have the same role there. Lines join a run; only runs that have gauges are drawn."
)


def _intro(group: Group) -> list[str]:
    counts = [f"{len(group.measured(task))} of {title(task)}" for task in group.tasks]
    baselines = ", ".join(group.baselines)
    text = f"Measured runs: {', '.join(counts)}. Ablation baselines: {baselines}; where none is named, {group.baselines[0]}."
    return [text, *missing_notes(group, group.tasks, group.baselines[:1])]


def _figures(group: Group) -> list[Drawing]:
    """The paper's figures, and the intervals of every rank difference."""
    tasks = [task for task in group.tasks if ranked(group, task)]
    if not tasks:
        return []
    limit = f"±{role_threshold(group, group.settings['threshold']):g}"
    ablation = f"{group.baselines[0]} ablation"
    drawings = [
        _numbered(group, "1", figures_paper.mean_ranks, f"Mean rank difference per component, {ablation}; dashed: {limit}."),
        _numbered(group, "2", figures_paper.counts, f"Hero and Bloat heads per layer and seed at {limit}."),
        _numbered(group, "3", figures_paper.thresholds, "Hero and Bloat heads per layer and seed at three thresholds."),
        _numbered(group, "4", figures_paper.gradients, "Mean gradient norm of the heads' W_V slices per layer."),
    ]
    for task in tasks:
        text = f"Rank of G against rank of C, {title(task)}; ▲ Hero, ▼ Bloat; shaded: beyond {limit}."
        drawings.append(_numbered(group, "6", figures_paper.scatters, text, task))
    for task in tasks:
        text = f"Rank difference of every component and seed with its interval, {title(task)}, {ablation}; dashed: {limit}."
        drawings.append(_drawing(group, f"intervals-{task}", figures_paper.intervals, text, task))
    return drawings


def _emergence(group: Group, task: str) -> list[Table | Drawing]:
    raster = f"Emergence: rank difference of every component over the training of every seed, {title(task)}, C by exact match."
    when = f"When roles settle and how long they last, {title(task)}; a larger mark on the left: more seeds."
    return [
        _drawing(group, f"emergence-{task}", figures_training.rasters, raster, task),
        _drawing(group, f"settling-{task}", figures_training.settling, when, task),
        emergence_table(group, task),
    ]


def _drawing(group: Group, name: str, draw: Draw, caption: str, *arguments: str) -> Drawing:
    return Drawing(name, caption, group.name, partial(draw, group, *arguments))


def _numbered(group: Group, number: str, draw: Draw, caption: str, *task: str) -> Drawing:
    """A figure that v3 has too."""
    return _drawing(
        group, "-".join(["v3-figure", number, *task]), draw, of_paper(group, f"v3, Figure {number}. ", *task) + caption, *task
    )
