"""Which tables and figures a report has, and in which order: the verdict, the cells, then every group by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from gcgap.report import figure_cells as cells
from gcgap.report import figure_emerging as emerging
from gcgap.report import figure_layers as layers
from gcgap.report import figure_methods as methods_figures
from gcgap.report import figure_ranks as ranks
from gcgap.report import figure_scatters as scatters
from gcgap.report import figure_training as training
from gcgap.report import table_methods as methods_tables
from gcgap.report import table_pruning as pruning
from gcgap.report import table_v1 as v1
from gcgap.report import table_v3 as v3
from gcgap.report.figure_tracked import methods_over_training
from gcgap.report.notes import left_out, ranked, title
from gcgap.report.overview import overview_table
from gcgap.report.render import ALL
from gcgap.report.table_agreement import agreement_table
from gcgap.report.table_cells import cells_table, places
from gcgap.report.table_emerging import emergence_table
from gcgap.report.table_layers import cut
from gcgap.report.table_parts import Drawing, Section, Table
from gcgap.report.table_protocol import gradient_table, protocol_table
from gcgap.report.table_tracked import tracked_methods, tracked_table
from gcgap.report.table_verdict import answers_table, numbers_table, verdict_table
from gcgap.report.wording import counted
from gcgap.study.claims import ANSWERS, verdicts
from gcgap.study.groups import Group
from gcgap.study.methods_over_seeds import MethodGroup
from gcgap.study.published import is_papers, of_paper
from gcgap.study.same_weights import agreements

Draw = Callable[..., Figure]


def contents(groups: Sequence[Group], extra: Sequence[Section] = ()) -> list[Section]:
    """All sections of a report: the verdict first, the numbers behind it last; `extra` ones stand before the single groups."""
    found = verdicts([group for group in groups if is_papers(group)])
    told = any(verdict.answer != ANSWERS[-1] for verdict in found)
    verdict = [Section("Verdict", [answers_table(found), verdict_table(found)] if told else [UNKNOWN])] if found else []
    numbers = [Section("Numbers behind the verdict", [numbers_table(found)])] if told else []
    of_groups = (_of_group(group, group is groups[0]) for group in groups)
    return [*verdict, *_compared(groups), *extra, *of_groups, *numbers]


UNKNOWN = "There are too few runs to tell whether any of the paper's claims holds."


def lead(groups: Sequence[Group]) -> str:
    """What the report is made of and how it is read."""
    runs = sum(len(group.runs) for group in groups)
    ood = "sequences longer than trained on"
    ood += ", or for sentences others than those trained on" * any(_as_long(group.settings) for group in groups)
    ood += ", or for pretrained models their prompts" * any("name" in group.settings for group in groups)
    return (
        f"{counted(runs, 'measured run')} in {counted(len(groups), 'group')}; a group is one model under one protocol, and "
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
    return [_of_methods(group) for group in groups]


def _of_methods(group: MethodGroup) -> Section:
    counts = ", ".join(f"{len(group.of_task(task))} of {title(task)}" for task in group.tasks)
    figure = Drawing("methods", methods_figures.caption(group), group.name, partial(methods_figures.rhos, group))
    return Section(f"Attribution methods: {group.name}", [f"Runs: {counts}.", figure, *methods_tables.tables(group)])


def _compared(groups: Sequence[Group]) -> list[Section]:
    """What several groups say together."""
    blocks: list[str | Table | Drawing] = []
    if sum(place.group is not None for place in places(groups)) > 1:
        caption = "Spearman's ρ by layout of the training data and site of the ablation; grey lines join the same seed."
        blocks += [Drawing("cells", caption, ALL, partial(cells.cells, groups)), cells_table(groups)]
    if len(groups) > 1:
        blocks.append(overview_table(groups))
    same = agreements(groups)
    return (
        [Section("The network or the measurement?", [*blocks, *[agreement_table(same)] * bool(same)])] if blocks or same else []
    )


def _of_group(group: Group, leads: bool) -> Section:
    """Tables of a group; also its figures if it is a main one or was tracked over training."""
    tracked = [task for task in group.tasks if any(run.tracked for run in group.runs if run.task == task)]
    full = leads or bool(tracked) or group.name in ("default", "released")
    tables = [*v3.tables(group), gradient_table(group), *v1.tables(group), *pruning.tables(group)]
    figures = _figures(group) if full else []
    methods = [tracked_table(group)] if tracked_methods(group) else []
    over_training: list[Table | Drawing] = []
    for task in tracked:
        over_training += _emergence(group, task)
    if tracked:
        over_training.insert(0, _drawing(group, "training", training.training, TRAINING))
    if tracked and methods:
        over_training.insert(1, _drawing(group, "tracked-methods", methods_over_training, TRACKED))
    return Section(f"Group: {group.name}", [*_intro(group), *figures, *tables, *methods, *over_training, protocol_table(group)])


TRAINING = (
    "Rank correlation ρ and its noise ceiling over training, C by exact match and by log-probability, and exact match. Thin: one "
    "seed; thick: the mean over the seeds that have a value, where at least half do."
)


TRACKED = "Rank correlation of attribution methods with C over training. Thin: one seed; thick: the mean over seeds."


def _intro(group: Group) -> list[str]:
    counts = [f"{len(group.measured(task))} of {title(task)}" for task in group.tasks]
    baselines = ", ".join(group.baselines)
    text = f"Measured runs: {', '.join(counts)}. Ablation baselines: {baselines}; where none is named, {group.baselines[0]}."
    return [text, *left_out(group, group.tasks, group.baselines[:1])]


def _figures(group: Group) -> list[Drawing]:
    """The paper's figures, and the intervals of every rank difference."""
    tasks = [task for task in group.tasks if ranked(group, task, group.baselines[0])]
    if not tasks:
        return []
    limit = f"±{cut(group, group.settings['threshold']):g}"
    seeds = f"{group.baselines[0]} ablation"
    drawings = [
        _numbered(group, "1", ranks.mean_ranks, f"Mean rank difference per component, {seeds}; dashed: {limit}."),
        _numbered(group, "2", layers.counts, f"Hero and Bloat heads per layer and seed at {limit}."),
        _numbered(group, "3", layers.thresholds, "Hero and Bloat heads per layer and seed at three thresholds."),
        _numbered(group, "4", layers.gradients, "Mean gradient norm of the heads' W_V slices per layer."),
    ]
    for task in tasks:
        text = f"Rank of G against rank of C, {title(task)}; ▲ Hero, ▼ Bloat; shaded: beyond {limit}."
        drawings.append(_numbered(group, "6", scatters.scatters, text, task))
    for task in tasks:
        text = f"Rank difference of every component and seed with its interval, {title(task)}, {seeds}; dashed: {limit}."
        drawings.append(_drawing(group, f"intervals-{task}", ranks.intervals, text, task))
    return drawings


def _emergence(group: Group, task: str) -> list[Table | Drawing]:
    raster = f"Emergence: rank difference of every component over the training of every seed, {title(task)}, C by exact match."
    when = f"When roles settle and how long they last, {title(task)}; a larger mark on the left: more seeds."
    return [
        _drawing(group, f"emergence-{task}", emerging.rasters, raster, task),
        _drawing(group, f"settling-{task}", emerging.settling, when, task),
        emergence_table(group, task),
    ]


def _drawing(group: Group, name: str, draw: Draw, caption: str, *arguments: str) -> Drawing:
    return Drawing(name, caption, group.name, partial(draw, group, *arguments))


def _numbered(group: Group, number: str, draw: Draw, caption: str, *task: str) -> Drawing:
    """A figure that v3 has too."""
    return _drawing(
        group, "-".join(["v3-figure", number, *task]), draw, of_paper(group, f"v3, Figure {number}. ", *task) + caption, *task
    )
