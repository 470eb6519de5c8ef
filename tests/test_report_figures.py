"""The figures of a report, drawn from records with known answers: what is marked is what the records say."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import paper_runs
import pytest
import tiny
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from gcgap.records.record import Record
from gcgap.report import figures_paper, figures_training
from gcgap.report.attention import attention_section, strongest, token_names
from gcgap.report.blocks import Column, Drawing
from gcgap.report.contents import contents, lead
from gcgap.report.panels import MARKERS, plain_figure
from gcgap.report.tables_paper import layer_table, pruning_table
from gcgap.report.write import DPI, pdf, png
from gcgap.study.groups import Group, MeasuredRun, default_settings

SEEDS = (42, 123, 456)
STEPS = (0, 50, 100, 350)
SHIPPED = Path(__file__).parent.parent / "checkpoints" / "sort-seed42"


def run(task: str, seed: int, **changes: Any) -> MeasuredRun:
    """A run that was tracked at four checkpoints, the first of which has no ranks."""
    reasons = {0: paper_runs.ALIKE}
    tracked = (paper_runs.record(task, seed, step, final=False, reason=reasons.get(step), **changes) for step in STEPS)
    return MeasuredRun(paper_runs.record(task, seed, **changes), tuple(tracked))


@pytest.fixture(scope="module")
def group() -> Group:
    return Group(default_settings(), tuple(run(task, seed) for task in ("reverse", "sort") for seed in SEEDS))


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels; any warning of matplotlib (a missing glyph, a layout that does not fit) is an error."""
    canvas = FigureCanvasAgg(plain_figure(figure))
    canvas.draw()
    image = np.asarray(canvas.buffer_rgba())[..., :3]
    assert image.std() > 5
    return image


def sorting(group: Group) -> list[MeasuredRun]:
    return [one for one in group.runs if one.task == "sort"]


def delta(record: Any) -> list[float]:
    return [one["delta"]["mean"]["value"] for one in record["components"]]


def test_figure_1_has_the_mean_rank_difference_of_every_component(group: Group) -> None:
    figure = figures_paper.mean_ranks(group)
    drawn(figure)
    reverse, sort = figure.axes
    wanted = np.mean([delta(one.final) for one in sorting(group)], axis=0)
    assert [bar.get_height() for bar in sort.patches] == pytest.approx(wanted)  # pyright: ignore[reportAttributeAccessIssue]
    names = [one["name"] for one in group.runs[0].final["components"]]
    assert [label.get_text() for label in sort.get_xticklabels()] == names
    assert {-6, 6} <= {float(np.ravel(line.get_ydata())[0]) for line in sort.lines}
    assert "reversal, 3 seeds" in reverse.get_title()


def bars(axes: Axes) -> list[int]:
    return [bar.get_height() for bar in axes.patches]  # pyright: ignore[reportAttributeAccessIssue]


def test_figures_2_and_3_have_the_counts_of_table_5_and_the_published_ones(group: Group) -> None:
    table = layer_table(group, "sort")
    known = {column.name: list(column.cells) for column in table.columns}
    at_six = [*known["±6 H: gcgap"], *known["±6 B: gcgap"]]
    figure = figures_paper.counts(group)
    drawn(figure)
    assert bars(figure.axes[1]) == at_six
    published = [line.get_ydata() for line in figure.axes[1].lines]  # per seed, as ours are
    np.testing.assert_allclose(np.array(published), [[0.6, 0.1, 0.7, 1.7], [1.0, 2.1, 0.4, 0]])
    assert not figure.axes[0].lines  # nothing was published of reversal
    three = figures_paper.thresholds(group)
    drawn(three)
    assert [bars(axes) for axes in three.axes[1::2]] == [[*known[f"±{t} H: gcgap"], *known[f"±{t} B: gcgap"]] for t in (4, 6, 8)]


def test_figure_4_has_the_mean_norms_and_the_published_ones(group: Group) -> None:
    figure = figures_paper.gradients(group)
    drawn(figure)
    points = {tuple(np.ravel(line.get_ydata())) for line in figure.axes[1].lines}
    assert (0.139, 0.172, 0.093, 0.052) in points
    for layer in range(4):
        heads = [
            [one["gradient"]["raw"] for one in r.final["components"] if one["layer"] == layer and one["kind"] == "head"]
            for r in sorting(group)
        ]
        assert any(values == pytest.approx((np.mean(heads),)) for values in points if len(values) == 1)


def test_figure_6_has_a_panel_per_seed_with_every_component(group: Group) -> None:
    figure = figures_paper.scatters(group, "sort")
    drawn(figure)
    for panel, one in zip(figure.axes, sorting(group), strict=True):
        rho = one.final["gap"]["mean"]["rho"]
        assert panel.get_title() == f"{one.seed}: ρ = {rho:.2f}"
        for role, marker in MARKERS.items():
            named = one.final.roles("mean")[role]
            assert sum(line.get_marker() == marker for line in panel.lines) == len(named)
        roles = one.final.roles("mean")
        assert {text.get_text() for text in panel.texts} == {*roles["hero"], *roles["bloat"]}


def test_an_interval_plot_has_every_seed_and_its_interval(group: Group) -> None:
    figure = figures_paper.intervals(group, "sort")
    drawn(figure)
    (axes,) = figure.axes
    points = sorted(float(np.ravel(line.get_xdata())[0]) for line in axes.lines if line.get_marker() == "o")
    assert points == sorted(value for one in sorting(group) for value in delta(one.final))
    ends = [
        tuple(np.ravel(line.get_xdata()))
        for line in axes.lines
        if line.get_marker() == "None" and len(np.ravel(line.get_xdata())) == 2
    ]
    wanted = [tuple(one["delta"]["mean"]["ci"]) for r in sorting(group) for one in r.final["components"]]
    assert set(wanted) <= set(ends)


def test_emergence_rasters_have_every_seed_to_scale(group: Group) -> None:
    figure = figures_training.rasters(group, "sort")
    drawn(figure)
    for panel, one in zip(figure.axes, sorting(group), strict=False):
        (mesh,) = [found for found in panel.collections if isinstance(found, QuadMesh)]
        values = np.ma.asarray(mesh.get_array()).reshape(20, 4)
        assert np.ma.getmaskarray(values)[:, 0].all()
        assert values[:, 1:].T.tolist() == [delta(record) for record in one.tracked[1:]]
        assert np.asarray(mesh.get_coordinates())[0, :, 0].tolist() == [0, 25, 75, 225, 475]
        dots = sum(len(np.ravel(line.get_xdata())) for line in panel.lines if line.get_marker() == ".")
        assert dots == sum(len(record.roles("mean")[role]) for record in one.tracked for role in ("hero", "bloat"))
        assert panel.get_title() == f"seed {one.seed}"


def test_settling_marks_the_first_of_three_checkpoints_with_a_role() -> None:
    records = [tiny.ten(step=step) for step in (50, 100, 350)]  # L0_H0 is a Hero and L1_MLP a Bloat at all of them
    figure = figures_training.settling(
        Group(default_settings(), tuple(MeasuredRun(records[-1], tuple(records)) for _ in range(2))), "sort"
    )
    drawn(figure)
    for axes, x in zip(figure.axes, (50, 100), strict=True):
        marks = [found for found in axes.collections if isinstance(found, PathCollection)]
        points = [point for found in marks for point in np.asarray(found.get_offsets()).round(6).tolist()]
        assert {tuple(point) for point in points} == {(x, -0.2), (x, 9.2)}
    (first, _) = [found for found in figure.axes[0].collections if isinstance(found, PathCollection)]
    assert np.asarray(first.get_sizes()).tolist() == [32]  # two seeds at one place


def test_training_has_a_line_per_seed_and_the_mean_of_those_that_have_a_value(group: Group) -> None:
    figure = figures_training.training(group)
    drawn(figure)
    panel = figure.axes[1]
    lines = [(np.ravel(line.get_xdata()).tolist(), np.ravel(line.get_ydata()).tolist()) for line in panel.lines]
    rhos = [[record["gap"]["mean"]["rho"] for record in one.tracked[1:]] for one in sorting(group)]
    for values in rhos:
        assert ([50, 100, 350], values) in lines
    thick = [line for line in panel.lines if line.get_label() == "ρ"]
    assert np.ravel(thick[0].get_ydata()).tolist() == pytest.approx(np.mean(rhos, axis=0).tolist())


def test_the_cells_figure_has_every_seed_of_every_cell(group: Group) -> None:
    other = Group(
        default_settings() | {"site": "released"}, tuple(run("sort", seed, changes={"site": "released"}) for seed in SEEDS[:2])
    )
    figure = figures_paper.cells([group, other])
    drawn(figure)
    sort = figure.axes[1]
    grey = {
        tuple(np.ravel(line.get_ydata())) for line in sort.lines if line.get_marker() == "o" and line.get_color() == "#7f7f7f"
    }
    for one in (group, other):
        assert tuple(r.final["gap"]["mean"]["rho"] for r in one.runs if r.task == "sort") in grey
    assert [text.get_text() for text in sort.texts] == ["no runs"] * 3
    joined = [line for line in sort.lines if np.ravel(line.get_xdata()).tolist() == [0, 1] and line.get_linewidth() == 0.5]
    assert len(joined) == 2


RUNS = {
    "one seed": lambda: [run("sort", 1)],
    "one head": lambda: [run("sort", seed, model={"n_layers": 1, "n_heads": 1}) for seed in (1, 2)],
    "null and skipped": lambda: [
        run("sort", 1),
        MeasuredRun(paper_runs.record("sort", 2, reason=paper_runs.ALIKE)),
        MeasuredRun(paper_runs.skipped("reverse", 2)),
    ],
    "many": lambda: [run("sort", seed, model={"n_layers": 6, "n_heads": 4}) for seed in range(11)],
}


@pytest.mark.parametrize("of", RUNS)
def test_every_figure_draws_whatever_the_runs(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paper_runs.predict_quickly(monkeypatch)
    runs = RUNS[of]()
    group = Group(default_settings() | runs[0].final["model"], tuple(runs))
    drawings = [block for section in contents([group]) for block in section.blocks if isinstance(block, Drawing)]
    assert len(drawings) >= 9
    for drawing in drawings:
        drawn(drawing.draw())


def test_equal_figures_are_equal_files(group: Group) -> None:
    first, second = (figures_paper.counts(group) for _ in range(2))
    assert png(first) == png(second)
    assert pdf(first) == pdf(second)
    assert b"CreationDate" not in pdf(first)
    width = Image.open(BytesIO(png(first))).width
    assert width == round(first.get_figwidth() * DPI)


def test_figures_leave_nothing_in_pyplot(group: Group) -> None:
    import matplotlib.pyplot as plt

    drawn(figures_paper.mean_ranks(group))
    assert plt.get_fignums() == []


def test_the_strongest_heads_are_those_with_the_largest_rank_difference() -> None:
    record = paper_runs.record("sort", 42)
    heads = [
        (one["name"], one["role"]["mean"]["name"], one["delta"]["mean"]["value"])
        for one in record["components"]
        if one["kind"] == "head"
    ]
    low, high = strongest(record)
    ordered = sorted((value, name, role) for name, role, value in heads)
    assert [(one.delta, one.name, one.role) for one in low] == ordered[:2]
    assert [(one.delta, one.name, one.role) for one in high] == ordered[:-3:-1]
    assert all(one.name == f"L{one.layer}_H{one.place}" for one in (*low, *high))


def test_attention_patterns_are_those_of_the_model() -> None:
    section = attention_section(SHIPPED)
    (drawing,) = [block for block in section.blocks if isinstance(block, Drawing)]
    figure = drawing.draw()
    drawn(figure)
    panels = [axes for axes in figure.axes if axes.images]
    assert [panel.get_title().split(",")[0] for panel in panels] == [one.name for row in strongest(tiny_record()) for one in row]
    for panel in panels:
        pattern = np.asarray(panel.images[0].get_array())
        assert pattern.sum(1) == pytest.approx(np.ones(len(pattern)))
        assert np.triu(pattern, 1).max() == 0
        tokens = [label.get_text() for label in panel.get_xticklabels()]
        assert tokens[:2] == ["START", "x1"]
        assert tokens[1 + tiny_record()["length"]] == "SEP"
        assert len(tokens) == len(pattern)


def tiny_record() -> Any:
    from gcgap.records.record import Record

    return Record.read(SHIPPED / "gap" / "final.json")


def test_attention_without_a_record_of_the_weights_is_refused(tmp_path: Path) -> None:
    source = SHIPPED / "checkpoints" / "step=001000.ckpt"
    (tmp_path / "checkpoints").mkdir()
    copy = tmp_path / "checkpoints" / "step=001000.ckpt"
    copy.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r"final\.json.* does not exist"):
        attention_section(tmp_path)
    paper_runs.record("sort", 42).write(tmp_path / "gap" / "final.json")
    with pytest.raises(ValueError, match="other weights"):
        attention_section(copy)


def test_what_prompts_do_not_tell_is_left_out_of_the_table_of_pruning() -> None:
    record = copy.deepcopy(paper_runs.record("sort", 1).to_dict())
    assert "in-distribution drop (points): gcgap" in [one.name for one in pruned(record)]
    classes = [of for by_class in record["pruning"].values() for of in by_class.values()]
    for entry in (*(one for of in classes for one in of.values()), *record.get("random_pairs", {}).values()):
        entry["in_distribution_drop"] = {"value": None, "ci": None}
    headings = [one.name for one in pruned(record)]
    assert "OOD drop (points): gcgap" in headings
    assert not [heading for heading in headings if "in-distribution" in heading]


def pruned(record: dict[str, Any]) -> Sequence[Column]:
    return pruning_table(Group(default_settings(), (MeasuredRun(Record(record)),))).columns


def test_tokens_of_sentences_are_numbered_and_those_of_integers_named() -> None:
    sort = tiny_record()
    assert token_names(sort)[:2] == ["START", "x1"]
    assert token_names(Record(sort.to_dict() | {"task": "ioi"}))[:3] == ["0", "1", "2"]


OWN = {"d_model": 64, "d_ff": 256}


def own(*tasks: str, seeds: Sequence[int] = (1,), **model: Any) -> Group:
    """Runs of a model that is not the paper's, or is."""
    runs = tuple(MeasuredRun(paper_runs.record(task, seed, model=model)) for task in tasks for seed in seeds)
    return Group(default_settings() | model | {"confidence": 0.9}, runs)


def every_word(group: Group) -> str:
    """All text of a report of a group: captions, tables and what stands in its figures."""
    told = [lead([group])]
    for block in (block for section in contents([group]) for block in section.blocks):
        if isinstance(block, str):
            told.append(block)
        elif isinstance(block, Drawing):
            told += [block.caption, *(text.get_text() for text in block.draw().findobj(Text))]  # pyright: ignore[reportAttributeAccessIssue]
        else:
            told += [block.title, *(column.name for column in block.columns), *block.notes]
    return "\n".join(told)


@pytest.mark.parametrize(("task", "model"), [("sort", OWN), ("copy", {})])
def test_a_report_of_one_s_own_runs_speaks_of_no_paper(task: str, model: dict[str, Any]) -> None:
    told = every_word(own(task, **model))
    assert "Mean rank difference per component" in told
    assert not re.findall(r".*\b(?:v1|v3|Verdict|arXiv)\b.*|.*paper(?!'s, mean joint|\), brackets).*", told)


def test_a_report_of_the_paper_s_runs_has_its_numbers() -> None:
    told = every_word(own("sort"))
    for text in (
        "v3, Figure 1. Mean rank difference",
        "(v3, Table 5)",
        "±6 H: paper",
        "paper: mean over 10 seeds",
        "arXiv:2602.01442",
    ):
        assert text in told


def test_an_interval_is_claimed_where_one_is_drawn() -> None:
    alone, pair, many = (own("sort", seeds=range(n)) for n in (1, 2, 4))
    for group, label in (
        (alone, "(one seed, 90 % interval)"),
        (pair, "(mean over seeds)"),
        (many, "(mean over seeds, 95 % interval)"),
    ):
        figure = figures_paper.mean_ranks(group)
        axes = figure.axes[0]
        assert axes.get_ylabel().endswith(label)
        assert bool(whiskers(axes)) is ("interval" in label)
    entries = [one["delta"]["mean"] for one in alone.runs[0].final["components"]]
    drawn_ends = [sorted(segment[:, 1]) for segment in whiskers(figures_paper.mean_ranks(alone).axes[0])]
    for ends, entry in zip(drawn_ends, entries, strict=True):  # a mark within an interval that lies to one side of it
        assert ends == pytest.approx([min(entry["ci"][0], entry["value"]), max(entry["ci"][1], entry["value"])])
    assert figures_paper.intervals(alone, "sort").axes[0].get_xlabel().endswith("\npoints: one seed, 90 % bootstrap interval")
    assert figures_paper.intervals(many, "sort").axes[0].get_xlabel().endswith("; black: mean over seeds, 95 % interval")
    for group, label in ((alone, "one seed"), (pair, "mean over seeds"), (many, "mean over seeds, 95 % interval")):
        (_, *labels) = figures_paper.gradients(group).axes[0].get_legend_handles_labels()
        assert f"gcgap: {label}" in labels[0]


def whiskers(axes: Axes) -> list[np.ndarray]:
    """The ends of every error bar."""
    return [segment for bar in axes.collections if isinstance(bar, LineCollection) for segment in bar.get_segments()]


def test_a_record_without_intervals_is_drawn_without_them() -> None:
    group = own("sort")
    for one in group.runs[0].final["components"]:
        one["delta"]["mean"]["ci"] = None
    assert figures_paper.mean_ranks(group).axes[0].get_ylabel().endswith("(one seed)")
    assert figures_paper.intervals(group, "sort").axes[0].get_xlabel().endswith("\npoints: one seed")


def test_backticks_are_no_part_of_a_figure() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_xticks([0, 1], ["`L0_H0`", "a`b"])
    axes.set(title="the row `exact`", xlabel="`x`")
    axes.annotate("`here`", (0, 0))
    png(figure)
    told = {text.get_text() for text in figure.findobj(Text)}  # pyright: ignore[reportAttributeAccessIssue]
    assert told >= {"L0_H0", "a`b", "the row exact", "x", "here"}
