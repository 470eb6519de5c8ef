"""The tables of a report: every number again from the records' dictionaries by plain Python, and what is missing by name."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from statistics import mean, pstdev, stdev
from typing import Any

import paper_runs
import pytest
from paper_runs import ALIKE, BASELINES, SKIPPED, finals, to_html, to_markdown
from scipy import stats

from gcgap.report import tables_paper as paper
from gcgap.report.blocks import Column, Table, slug
from gcgap.report.contents import contents
from gcgap.report.describe import title
from gcgap.report.page import MISSING, format_cell, to_csv
from gcgap.report.tables_groups import cells_table, overview_table, protocol_table
from gcgap.report.tables_paper import gradient_table, joint_table, layer_table
from gcgap.study.claims import published
from gcgap.study.groups import DATA, Group, MeasuredRun, default_settings, gather
from gcgap.study.seeds import CORRELATION, Summary

TASKS = ("reverse", "sort")
PAPER = published()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_runs.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def groups(root: Path) -> list[Group]:
    return gather([root])


@pytest.fixture
def default(groups: list[Group]) -> Group:
    assert groups[0].name == "default"
    return groups[0]


def ranked(root: Path, task: str, protocol: str = "default", baseline: str = "mean") -> list[dict[str, Any]]:
    """The records of a task that have a rank correlation."""
    return [data for data in finals(root, protocol, task) if data["gap"][baseline]["rho"] is not None]


def over_seeds(values: list[float]) -> dict[str, Any]:
    """Mean, std and t-interval by plain arithmetic."""
    n = len(values)
    found: dict[str, Any] = {"n": n, "mean": mean(values), "std": pstdev(values), "ci": None}
    if n > 1:
        reach = stats.t.ppf(0.975, n - 1) * stdev(values) / math.sqrt(n)
        found["ci"] = (found["mean"] - reach, found["mean"] + reach)
    return found


def same(found: Any, values: list[float]) -> None:
    wanted = over_seeds(values)
    assert isinstance(found, Summary)
    assert found.n == wanted["n"]
    assert [found.mean, found.std] == pytest.approx([wanted["mean"], wanted["std"]])
    if found.within:  # of so few seeds each is shown
        assert found.ci is None
        assert list(found.each) == pytest.approx(values if len(values) > 1 else [])
    else:
        assert found.ci == (None if wanted["ci"] is None else pytest.approx(wanted["ci"]))


def column(table: Table, name: str) -> Column:
    (found,) = [one for one in table.columns if one.name == name]
    return found


def test_v3_table_1_is_the_mean_over_seeds_beside_the_published_one(root: Path, default: Group) -> None:
    table = paper.rho_table(default)
    for baseline in BASELINES:
        for found, task in zip(column(table, f"ρ, {baseline} ablation: gcgap").cells, TASKS, strict=True):
            same(found, [data["gap"][baseline]["rho"] for data in ranked(root, task, baseline=baseline)])
    for baseline in ("mean", "zero"):
        for found, task in zip(column(table, f"ρ, {baseline} ablation: paper").cells, TASKS, strict=True):
            theirs = PAPER["v3"]["rho"][task][f"{baseline}_ablation"]
            assert isinstance(found, Summary)
            assert [found.mean, found.std, found.n] == [theirs["mean"], theirs["std"], {"reverse": 9, "sort": 10}[task]]
    assert not any("resample ablation: paper" in one.name for one in table.columns)


def test_what_a_mean_leaves_out_is_named(default: Group) -> None:
    for make in (paper.rho_table, paper.rho_by_seed_table, paper.spread_table, paper.pruning_table):
        table = make(default)
        assert f"Skipped: reverse seed 456: {SKIPPED}." in table.notes
        (unranked,) = (note for note in table.notes if note.startswith("No ranks, left out: "))
        assert f"reverse seed 123, mean ablation: {ALIKE}" in unranked


def test_v3_table_2_shows_model_and_training(default: Group) -> None:
    table = paper.settings_table(default)
    ours, theirs = (dict(zip(table.columns[0].cells, one.cells, strict=True)) for one in table.columns[1:])
    assert [ours[key] for key in ("layers L", "heads H", "d_model", "d_ff", "learning rate")] == [4, 4, 128, 512, 0.001]
    assert ours["positions"] == "none"
    assert ours["seeds"] == "42, 123, 456"
    assert ours["OOD accuracy window (share of sequences)"] == theirs["OOD accuracy window (share of sequences)"] == "0.2, 0.75"
    assert theirs["maximum of training steps"] == 15000
    assert theirs["seeds"] == "42, 123, 456, 789, 1010, 2020, 3030, 4040, 5050, 6060"


def test_training_that_no_record_tells_is_not_recorded_and_differences_are_shown() -> None:
    runs = [
        MeasuredRun(paper_runs.record("sort", seed, training=training)) for seed, training in ((1, None), (2, {"batch_size": 32}))
    ]
    table = paper.settings_table(Group(default_settings(), tuple(runs)))
    ours = dict(zip(*(one.cells for one in table.columns[:2]), strict=True))
    assert ours["batch size (examples)"] == "not recorded / 32"
    assert ours["optimiser"] == "not recorded"


def test_v3_table_3_has_a_row_per_seed(root: Path, default: Group) -> None:
    table = paper.rho_by_seed_table(default)
    assert list(column(table, "seed").cells) == [42, 123, 456]
    known = {(task, data["seed"]): data["gap"]["mean"]["rho"] for task in TASKS for data in finals(root, "default", task)}
    assert list(column(table, "sorting ρ: gcgap").cells) == [known["sort", seed] for seed in (42, 123, 456)]
    assert list(column(table, "reversal ρ: gcgap").cells) == [known["reverse", 42], None, "skipped"]
    assert list(column(table, "reversal ρ: paper").cells) == [0.75, 0.72, 0.81]
    for task, name in zip(TASKS, ("reversal", "sorting"), strict=True):
        values = [data["gap"]["mean"]["rho"] for data in ranked(root, task)]
        assert list(column(table, f"{name} ρ: gcgap").foot) == pytest.approx([mean(values), pstdev(values)])
        theirs = PAPER["v3"]["rho"][task]["mean_ablation"]
        assert list(column(table, f"{name} ρ: paper").foot) == [theirs["mean"], theirs["std"]]
    assert any("seed 789, 1010" in note and "not run here" in note for note in table.notes)


def test_a_seed_that_the_paper_skipped_says_so_and_a_seed_without_a_run_is_named() -> None:
    runs = (MeasuredRun(paper_runs.record("reverse", 4040)), MeasuredRun(paper_runs.record("sort", 42)))
    table = paper.rho_by_seed_table(Group(default_settings(), runs))
    assert list(column(table, "reversal ρ: paper").cells) == [0.75, "skipped"]
    assert list(column(table, "sorting ρ: gcgap").cells)[1] is None
    assert "No run of sort: seed 4040." in table.notes


def test_v3_table_4_has_both_ratios(root: Path, default: Group) -> None:
    table = joint_table(default, "sort")
    joints = [data["joint"]["mean"]["bloats"] for data in ranked(root, "sort")]
    assert all(one["members"] for one in joints)
    for name, key in (("individual drop (points): gcgap", "individual_mean"), ("joint drop (points): gcgap", "joint")):
        assert list(column(table, name).cells) == pytest.approx([100 * one[key] for one in joints])
        assert column(table, name).foot[0] == pytest.approx(100 * mean(one[key] for one in joints))
    (to_mean,) = column(table, "joint drop (points): gcgap").foot[1:]
    assert isinstance(to_mean, Summary)
    whole = sum(one["joint"] for one in joints)
    assert to_mean.mean == pytest.approx(whole / sum(one["individual_mean"] for one in joints))
    assert not any(
        "sum" in one.name for one in table.columns
    )  # a ratio to the mean beside one to the sum reads as if they compared
    accuracies = [100 * data["accuracy"]["by_length"][str(data["length"])] for data in ranked(root, "sort")]
    assert list(column(table, "OOD accuracy (%): gcgap").cells) == pytest.approx(accuracies)
    theirs = PAPER["v3"]["joint_bloats_sort"]
    assert list(column(table, "joint drop (points): paper").cells) == [
        theirs["by_seed"][s]["joint"] for s in ("42", "123", "456")
    ]
    assert list(column(table, "joint drop (points): paper").foot) == [43.8, 14.1]
    assert column(table, "individual drop (points): paper").foot[0] == 3.1
    assert not any(one.paper for one in joint_table(default, "reverse").columns)


def test_a_run_without_bloats_has_no_joint_drop_and_the_reason() -> None:
    record = paper_runs.record("sort", 42)
    nothing = dict.fromkeys(("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum", "ci"))
    record.data["joint"]["mean"]["bloats"] = {"members": [], "reason": "no bloats"} | nothing
    table = joint_table(Group(default_settings(), (MeasuredRun(record),)), "sort")
    assert list(column(table, "joint drop (points): gcgap").cells) == [None]
    assert "sort seed 42: no bloats." in table.notes


@pytest.mark.parametrize("protocol", ["default", "released"])
def test_v3_table_5_counts_heads_by_layer(root: Path, groups: list[Group], protocol: str) -> None:
    group = next(one for one in groups if one.name == protocol)
    assert group.settings["strict"] is (protocol == "released")
    records = ranked(root, "sort", protocol)
    table = layer_table(group, "sort")
    at_the_border = 0
    for limit in (4, 6, 8):
        for label, sign in (("H", -1), ("B", 1)):
            counts = Counter()
            for data in records:
                for one in data["components"]:
                    beyond = sign * one["delta"]["mean"]["value"]
                    at_the_border += beyond == limit and one["kind"] == "head"
                    if one["kind"] == "head" and (beyond > limit if protocol == "released" else beyond >= limit):
                        counts[one["layer"]] += 1
            found = column(table, f"±{limit} {label}: gcgap")
            assert list(found.cells) == [counts[layer] / len(records) for layer in range(4)]
            assert list(found.foot) == [pytest.approx(counts.total() / len(records))]
    assert at_the_border > 0  # so that strict and inclusive bounds differ
    assert list(column(table, "±6 B: paper").cells) == [1.0, 2.1, 0.4, 0]  # 10, 21, 4 and 0 over 10 seeds


def test_v1_table_1_has_the_spread_and_the_roles_per_seed(root: Path, default: Group) -> None:
    table = paper.spread_table(default)
    for row, task in enumerate(TASKS):
        records = ranked(root, task)
        rhos = [data["gap"]["mean"]["rho"] for data in records]
        wanted = {"mean": mean(rhos), "std": pstdev(rhos), "min": min(rhos), "max": max(rhos)}
        for name, value in wanted.items():
            assert column(table, f"ρ {name}: gcgap").cells[row] == pytest.approx(value)
            assert column(table, f"ρ {name}: v1").cells[row] == PAPER["v1"]["rho"][task][name]
        for label in ("heroes", "bloats"):
            counted = sum(
                one["role"]["mean"]["name"] == label.removesuffix("s").removesuffix("e")
                for data in records
                for one in data["components"]
            )
            assert column(table, f"{label} per seed: gcgap").cells[row] == pytest.approx(counted / len(records))
            assert column(table, f"{label} per seed: v1").cells[row] == PAPER["v1"]["counts"][task][label] / 10


@pytest.mark.parametrize(("task", "number"), [("sort", "4"), ("reverse", "5")])
def test_v1_tables_4_and_5_have_every_seed(root: Path, default: Group, task: str, number: str) -> None:
    table = paper.by_seed_table(default, task)
    assert table.key == f"v1-table-{number}"
    records = finals(root, "default", task)
    assert list(column(table, "ρ: gcgap").cells) == [data["gap"]["mean"]["rho"] for data in records]
    lengths = [data["length"] or "skipped" for data in records]
    assert list(column(table, "OOD length (integers): gcgap").cells) == lengths
    theirs = [PAPER["v1"]["by_seed"][task][str(data["seed"])] for data in records]
    for name, key in (
        ("OOD length (integers)", "ood_length"),
        ("OOD accuracy (%)", "ood_accuracy"),
        ("ρ", "rho"),
        ("heroes", "heroes"),
    ):
        assert list(column(table, f"{name}: v1").cells) == [one[key] for one in theirs]
        assert column(table, f"{name}: v1").foot[0] == pytest.approx(mean(one[key] for one in theirs))
    known = [data["gap"]["mean"]["bloats"] for data in records if data["gap"]["mean"]["bloats"] is not None]
    assert column(table, "bloats: gcgap").foot[0] == pytest.approx(mean(known))


def test_v1_table_6_ranks_components_by_their_seeds(root: Path, default: Group) -> None:
    table = paper.frequent_table(default, "sort")
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    for label, role in (("heroes", "hero"), ("bloats", "bloat")):
        counts = Counter(
            one["name"] for data in ranked(root, "sort") for one in data["components"] if one["role"]["mean"]["name"] == role
        )
        shown = {str(name): ours for (kind, name), (ours, _) in rows.items() if kind == label}
        assert shown == {name: counts[name] / 3 for name in shown}
        hidden = max((count for name, count in counts.items() if name not in shown), default=0)
        assert sorted((counts[name] for name in shown), reverse=True)[min(4, len(shown) - 1)] >= hidden
        for name, seeds in PAPER["v1"]["frequent_sort"][label].items():
            assert rows[label, name][1] == seeds / 10


def test_pruning_is_in_points_beside_the_published_drops(root: Path, default: Group) -> None:
    table = paper.pruning_table(default)
    rows = {(row[0], row[1]): row[2:] for row in table.rows}
    for task, name in zip(TASKS, ("reversal", "sorting"), strict=True):
        for which, text in (("top2", "top two"), ("all", "all")):
            for label in ("heroes", "bloats"):
                entries = [data["pruning"]["mean"][label][which] for data in ranked(root, task)]
                values = [100 * one["ood_drop"]["value"] for one in entries if one["members"]]
                same(rows[name, f"{text} {label}"][0], values)
                inside = [100 * one["in_distribution_drop"]["value"] for one in entries if one["members"]]
                same(rows[name, f"{text} {label}"][2], inside)
        random = [100 * data["random_pairs"]["mean"]["ood_drop"]["value"] for data in ranked(root, task)]
        same(rows[name, "two random components"][0], random)
    theirs = rows["reversal", "top two heroes"][1]
    assert isinstance(theirs, Summary)
    assert (theirs.mean, theirs.std, theirs.n) == (36.4, 22.8, 9)
    inside = rows["sorting", "all bloats"][3]
    assert isinstance(inside, Summary)
    assert (inside.mean, inside.std) == (2.9, 14.4)


def test_accuracy_after_pruning_of_the_seeds_that_v1_names(root: Path, default: Group) -> None:
    table = paper.pruned_seeds_table(default)
    (data,) = [data for data in finals(root, "default", "sort") if data["seed"] == 456]
    base = 100 * data["accuracy"]["by_length"][str(data["length"])]
    drop = 100 * data["pruning"]["mean"]["heroes"]["top2"]["ood_drop"]["value"]
    assert list(column(table, "after pruning the top two heroes (%): gcgap").cells) == [pytest.approx(base - drop), None]
    assert list(column(table, "after pruning the top two heroes (%): v1").cells) == [33.0, 0.5]
    assert "No measured run here: reverse seed 2020." in table.notes


def test_the_gradient_norm_of_a_layer_is_that_of_its_heads_not_normalised(root: Path, default: Group) -> None:
    table = gradient_table(default)
    for layer, found in enumerate(column(table, "sorting: gcgap").cells):
        heads = [
            [one["gradient"]["raw"] for one in data["components"] if one["layer"] == layer and one["kind"] == "head"]
            for data in finals(root, "default", "sort")
        ]
        same(found, [mean(norms) for norms in heads])
    assert list(column(table, "sorting: paper").cells) == [0.139, 0.172, 0.093, 0.052]


def test_the_four_cells_keep_protocols_apart_and_name_what_is_missing(root: Path, groups: list[Group]) -> None:
    table = cells_table(groups)
    rows = {(row[0], row[1], row[2]): row[3:] for row in table.rows}
    same(rows["sorting", "contiguous", "component"][0], [data["gap"]["mean"]["rho"] for data in ranked(root, "sort")])
    released = [data["gap"]["mean"]["rho"] for data in ranked(root, "sort", "released")]
    same(rows["sorting", "released", "released, all switches"][0], released)
    bloats = [data["gap"]["mean"]["bloats"] for data in ranked(root, "sort", "released")]
    same(rows["sorting", "released", "released, all switches"][2], bloats)
    joints = [data["joint"]["mean"]["bloats"] for data in ranked(root, "sort")]
    joints = [one for one in joints if len(one["members"]) > 1]
    found = rows["sorting", "contiguous", "component"][3]
    assert isinstance(found, Summary)
    assert found.mean == pytest.approx(sum(one["joint"] for one in joints) / sum(one["individual_sum"] for one in joints))
    assert rows["sorting", "released", "component"][0] == Summary(0, None, within=CORRELATION)
    assert "No runs of sort: layout released, site component." in table.notes
    assert rows["reversal", "contiguous", "component"][4] == 1  # skipped
    assert f"default: Skipped: reverse seed 456: {SKIPPED}." in table.notes


def test_every_group_stands_in_the_overview_by_itself(root: Path, groups: list[Group]) -> None:
    table = overview_table(groups)
    names = [column.name for column in table.columns]
    rows = {(row[0], row[1]): dict(zip(names, row, strict=True)) for row in table.rows}
    assert rows.keys() == {(group.name, title(task)) for group in groups for task in group.tasks}
    found = rows["default", "sorting"]
    same(found["ρ"], [data["gap"]["mean"]["rho"] for data in ranked(root, "sort")])
    same(found["Heroes per run"], [data["gap"]["mean"]["heroes"] for data in ranked(root, "sort")])
    same(rows["released", "sorting"]["ρ"], [data["gap"]["mean"]["rho"] for data in ranked(root, "sort", "released")])
    assert found["components"] == 20
    assert rows["default", "reversal"]["skipped"] == 1
    assert f"default: Skipped: reverse seed 456: {SKIPPED}." in table.notes


def test_the_protocol_of_a_group_is_told_in_full(groups: list[Group]) -> None:
    for group in groups:
        told = {row[0]: row[1] for row in protocol_table(group).rows}
        assert told.keys() >= (default_settings() | DATA).keys()
        assert told["site"] == group.settings["site"]
        assert told["baselines"] == "mean, zero, resample"


def test_one_seed_has_a_mean_and_no_spread() -> None:
    record = paper_runs.record("sort", 42)
    group = Group(default_settings(), (MeasuredRun(record),))
    (found,) = column(paper.rho_table(group), "ρ, mean ablation: gcgap").cells
    rho = record["gap"]["mean"]["rho"]
    assert found == Summary(1, rho, 0.0, within=CORRELATION)
    assert format_cell(found, ".2f") == f"{rho:.2f} (n = 1)"


@pytest.mark.parametrize("shape", [{"n_layers": 2, "n_heads": 2}, {"n_layers": 4, "n_heads": 8}])
def test_another_model_has_no_published_columns_and_its_own_thresholds(shape: dict[str, int]) -> None:
    runs = tuple(MeasuredRun(paper_runs.record("sort", seed, model=shape)) for seed in (1, 2))
    group = Group(default_settings() | shape, runs)
    tables = paper.paper_tables(group)
    assert not any(one.paper for table in tables for one in table.columns)
    n = shape["n_layers"] * (shape["n_heads"] + 1)
    assert [one.name for one in layer_table(group, "sort").columns][1] == f"±{0.2 * n:g} H: gcgap"
    assert len(layer_table(group, "sort").rows) == shape["n_layers"]


def test_a_group_without_any_ranks_still_has_all_tables() -> None:
    runs = (MeasuredRun(paper_runs.record("sort", 1, reason=ALIKE)), MeasuredRun(paper_runs.skipped("reverse", 2)))
    group = Group(default_settings(), runs)
    tables = paper.paper_tables(group)
    assert all(len(set(map(len, [*table.rows, *table.foot]))) <= 1 for table in tables)
    assert column(tables[0], "ρ, mean ablation: gcgap").cells == [Summary(0, None, within=CORRELATION)] * 2
    for task in ("sort", "reverse"):  # no run, no zeros
        assert {cell for one in layer_table(group, task).columns[1:] if not one.paper for cell in [*one.cells, *one.foot]} == {
            None
        }


class Rows(HTMLParser):
    """The rows of the first table of an HTML text."""

    inside = False

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.keys: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.keys.append(dict(attrs).get("data-key") or "")
        self.inside = tag in ("td", "th", "button")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


@pytest.fixture(scope="module")
def tables(groups: list[Group]) -> list[Table]:
    """Every table of a report."""
    with pytest.MonkeyPatch.context() as patch:
        paper_runs.predict_quickly(patch)
        return [block for section in contents(groups) for block in section.blocks if isinstance(block, Table)]


def test_csv_markdown_and_html_agree(tables: list[Table]) -> None:
    assert len(tables) > 40
    for table in tables:
        shown = [[one.name for one in table.columns]]
        forms = [one.form for one in table.columns]
        shown += [list(map(format_cell, row, forms)) for row in [*table.rows, *table.foot]]
        html = Rows(to_html(table))
        assert html.rows == shown
        lines = [line for line in to_markdown(table).splitlines() if line.startswith("| ")]
        cells = [[re.sub(r"^\*(.*)\*$", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        plain = [
            [cell.replace("\\|", "|").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") for cell in row]
            for row in cells
        ]
        assert [plain[0], *plain[2:]] == shown
        header, *read = csv.reader(StringIO(to_csv(table)))
        assert len(read) == len(table.rows) + len(table.foot)
        for name, place in ((one.name, header.index(one.name)) for one in table.columns):
            values = [cell.mean if isinstance(cell, Summary) else cell for cell in column(table, name).cells]
            assert [row[place] for row in read[: len(values)]] == ["" if value is None else str(value) for value in values]


def test_csv_has_every_digit_and_the_parts_of_a_mean() -> None:
    numbers = [Summary(3, 1 / 3, 0.1, (0.2, 0.7)), Summary(0, None)]
    table = Table("key", "title", "group", [Column("seed", [1, 2]), Column("ρ", numbers, foot=["x"])])
    read = list(csv.reader(StringIO(to_csv(table))))
    assert read[0] == ["seed", "ρ", "ρ: std", "ρ: low", "ρ: high", "ρ: n"]
    assert read[1] == ["1", repr(1 / 3), "0.1", "0.2", "0.7", "3"]
    assert read[2] == ["2", "", "", "", "", "0"]
    assert read[3] == ["", "x", "", "", "", ""]
    assert format_cell(numbers[0], ".2f") == "0.33 ± 0.10 [0.20, 0.70] (n = 3)"
    assert format_cell(numbers[1], ".2f") == MISSING


def test_no_number_is_nan(tables: list[Table]) -> None:
    for table in tables:
        for text in (to_csv(table), to_markdown(table), to_html(table)):
            assert not re.search(r"\b(nan|NaN|inf|None)\b", text)


def test_text_is_escaped_in_markdown_and_html() -> None:
    table = Table("key", "<b>", "a|b<i>", [Column("x|y", ["<script>alert(1)</script>", 'a"b'])], ["<note>"])
    html, text = to_html(table), to_markdown(table)
    assert "<script" not in html + text
    assert not any(tag in html for tag in ("<b></h4>", "<i>", "<note>", 'data-key="a"b'))
    assert "x\\|y" in text


def test_names_of_folders_are_safe_and_different() -> None:
    names = ["default", "site=released", "site=released, layout=released", "a/b", "a b", "..", "x" * 300, "x" * 301, "<é>"]
    slugs = [slug(name) for name in names]
    assert slugs[:3] == ["default", "site=released", "site=released-layout=released"]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9=+-][A-Za-z0-9=.+-]{0,90}", one) for one in slugs)
