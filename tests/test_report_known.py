"""The table of known circuits in a terminal, in a report and as a picture, from hand-made numbers."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Any

import pytest
from paper_runs import to_markdown
from PIL import Image
from rich.console import Console

from gcgap.attribution.recovery import summary, verdict
from gcgap.report.blocks import Table
from gcgap.report.circuit_tables import auc_figure, auc_table, known_table, summary_table, worst
from gcgap.report.page import to_csv
from gcgap.report.write import png

AREAS = {  # by method: under zero and mean ablation on each model
    "exact": {"head": (1.0, 1.0), "pair": (0.25, 0.75)},
    "joint_ig": {"head": (1.0, 1.0), "pair": (1.0, 1.0)},
    "gradient": {"head": (0.5, 0.25), "pair": (0.25, 0.875)},
}


def entry(area: float) -> dict[str, Any]:
    exact_match = {"cpr_exact_match": area / 2, "cmd_exact_match": 1 - area / 2}
    numbers = {"auc": area, "clear_auc": area, "cpr": 0.9 * area, "cmd": 1 - 0.9 * area, **exact_match}
    return numbers | {"scores": [0.0, 1.0], "cost": {"forward_equivalents": 10 * area}}


@pytest.fixture
def truth() -> dict[str, Any]:
    models = {
        model: {"circuit": ["L0_H1"], "note": f"The note of {model}.", "components": ["L0_H0", "L0_H1"]}
        | {"baselines": {by: {name: entry(AREAS[name][model][i]) for name in AREAS} for i, by in enumerate(("zero", "mean"))}}
        for model in ("head", "pair")
    }
    methods = {name: {"family": family} for name, family in zip(AREAS, ("exact", "path", "weights"), strict=True)}
    methods = {name: told | summary(models, name) for name, told in methods.items()}
    record = {"models": models, "methods": methods, "settings": {"sequences": 8, "hair": 0.01}}
    return record | {"verdict": verdict(record)}


def column(table: Table, name: str) -> list[Any]:
    return next(list(column.cells) for column in table.columns if column.name == name)


def printed(truth: dict[str, Any], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(known_table(truth))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_the_terminal_shows_one_row_per_method_and_the_sentence(truth: dict[str, Any]) -> None:
    lines = printed(truth).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.split() and line.split()[0] in AREAS and "(AUC" not in line}
    assert rows["exact"] == ["exact", "exact", "0.75", "0.25", "0.25", "0.68", "0.32", "8.8", "pair", "(zero)"]
    assert rows["joint_ig"] == ["joint_ig", "path", "1.00", "1.00", "1.00", "0.90", "0.10", "10.0"]
    assert rows["gradient"][-4:] == ["head", "(mean);", "pair", "(zero)"]
    assert "exact fails on pair (AUC 0.25 under zero, 0.75 under mean)." in " ".join(" ".join(lines).split())
    assert "Methods on 2 known circuits, 8 sequences" in lines[0]


def test_a_terminal_of_eighty_columns_cuts_no_number(truth: dict[str, Any]) -> None:
    text = printed(truth, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text


def test_the_worst_place_names_every_model_and_baseline_with_the_smallest_area(truth: dict[str, Any]) -> None:
    assert worst(truth, "exact") == "pair (zero)"
    assert worst(truth, "gradient") == "head (mean); pair (zero)"
    assert worst(truth, "joint_ig") == ""


def test_the_summary_table_holds_mean_and_worst(truth: dict[str, Any]) -> None:
    table = summary_table(truth)
    assert column(table, "method") == list(AREAS)
    assert column(table, "AUC, mean") == [0.75, 1.0, 0.46875]
    assert column(table, "AUC, worst") == [0.25, 1.0, 0.25]
    assert column(table, "CMD, worst") == pytest.approx([0.775, 0.1, 0.775])
    assert column(table, "CPR, exact match, worst") == [0.125, 0.5, 0.125]
    assert truth["verdict"] in table.notes
    assert any("less than 1% of" in note for note in table.notes)
    assert to_csv(table).splitlines()[1].startswith("exact,exact,0.75,0.25,")


def test_the_table_of_areas_has_a_column_for_each_model_and_baseline(truth: dict[str, Any]) -> None:
    table = auc_table(truth)
    assert [column.name for column in table.columns] == ["method", "head, zero", "head, mean", "pair, zero", "pair, mean"]
    assert table.rows[2] == ("gradient", 0.5, 0.25, 0.25, 0.875)
    assert "pair (L0_H1): The note of pair." in table.notes
    assert "| gradient | 0.50 | 0.25 | 0.25 | 0.88 |" in to_markdown(table)


def test_the_heat_map_writes_every_area_into_its_cell(truth: dict[str, Any]) -> None:
    figure = auc_figure(truth)
    axes = figure.axes[0]
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    wanted = {
        (2 * m + b, row): f"{AREAS[name][model][b]:.2f}"
        for row, name in enumerate(AREAS)
        for m, model in enumerate(("head", "pair"))
        for b in (0, 1)
    }
    assert cells == wanted
    assert [label.get_text() for label in axes.get_yticklabels()] == list(AREAS)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["head\nzero", "head\nmean", "pair\nzero", "pair\nmean"]
    assert Image.open(io.BytesIO(png(figure))).size[0] > 500


def test_a_star_marks_what_a_hair_decides(truth: dict[str, Any]) -> None:
    truth["models"]["head"]["baselines"]["mean"]["exact"]["clear_auc"] = 0.5
    starred = [text for text in auc_figure(truth).axes[0].texts if "*" in text.get_text()]
    assert [(text.get_position(), text.get_text()) for text in starred] == [((1, 0), "1.00*")]


def test_blue_is_the_better_end_and_white_is_chance(truth: dict[str, Any]) -> None:
    (image,) = auc_figure(truth).axes[0].images
    good, bad, chance = (image.cmap(value) for value in (1.0, 0.0, 0.5))
    assert good[2] > good[0]
    assert bad[0] > bad[2]
    assert min(chance[:3]) > 0.95


def test_the_tables_of_known_circuits_need_no_torch() -> None:
    code = "import sys, gcgap.report.circuit_tables; print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
