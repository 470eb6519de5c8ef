"""Names, reasons and settings that try to be paths, tags, tables, formulas, markup or mathematics are text and nothing else."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import paper_runs
import pytest
import sweeps
import tiny
from rich.console import Console

from gcgap.cli import main
from gcgap.data.batches import Source
from gcgap.data.tasks import TASKS, Task
from gcgap.records.record import Record
from gcgap.report.blocks import slug
from gcgap.report.figures_run import scatter
from gcgap.report.page import plain_cell, plain_text
from gcgap.report.tensorboard import png, role_table
from gcgap.report.terminal import table
from gcgap.sweep.plan import read
from gcgap.training.config_file import changed_folder
from gcgap.training.usage import UsageError

pytestmark = [pytest.mark.robust, *(pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS)]

PATHS = ["../../x", "/x", "..", "a/../../b", "a\\..\\b", "x\0y", "\n../x", "~/x", "C:/x"]
EVIL = "<script>alert(1)</script>|\"><img src=x onerror=a()>' [red]$\\frac$ [a](http://x) \\|"
LINKS = re.compile(r"(?:figures|tables)/[\w=.+-]+/[\w=.+-]+\.(?:pdf|csv)")


def hostile(record: Record, evil: str = EVIL) -> Record:
    """The record with the text in every place that a user can name; numbers stay what they are."""
    text = json.dumps(record.to_dict())
    for name in {component["name"] for component in record["components"]}:
        text = text.replace(json.dumps(name), json.dumps(name.replace("_", f"_{evil[:9]}")))
    data = json.loads(text)
    data |= {"run": f"../../{evil}", "task": evil, "versions": {"gcgap": evil}, "training": {"optimizer": evil}}
    data["protocol"] |= {"site": f"=cmd(){evil}", evil: evil}
    return Record(data)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of two runs of hostile records, the second without ranks, in directories with hostile names."""
    root = tmp_path_factory.mktemp("hostile")
    for seed, reason in ((1, None), (2, f"=1+1 {EVIL}")):
        gap = root / "in" / f"<b>[red]{seed}" / "gap"
        hostile(paper_runs.record("sort", seed, reason=reason)).write(gap / "final.json")
    hostile(paper_runs.record("sort", 1, step=50, final=False)).write(root / "in" / "<b>[red]1" / "gap" / "step=000050.json")
    before = tiny.files(root)
    assert main(["report", str(root / "in"), "--out", str(root / "home" / "out"), "--records"]) == 0
    after = tiny.files(root)
    assert {name: after[name] for name in before} == before
    assert all(name.startswith("home/out/") for name in set(after) - set(before))
    return root / "home" / "out"


class Tags(HTMLParser):
    """Every tag with its attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_hostile_text_as_text(report: Path) -> None:
    page = Tags((report / "index.html").read_text())
    names = [tag for tag, _ in page.tags]
    assert names.count("script") == 1  # the one that sorts tables
    ours = {"html", "head", "meta", "title", "link", "style", "body", "script", "h1", "h2", "h4", "p", "b", "nav", "main", "div"}
    ours |= {"section", "ul", "li", "a", "img", "figure", "figcaption", "table", "thead", "tbody", "tfoot", "tr", "th", "td"}
    assert set(names) <= {*ours, "button"}
    for tag, attributes in page.tags:
        assert not any(key.startswith("on") for key in attributes), (tag, attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
        if tag == "a":
            assert str(attributes["href"]).startswith("#") or LINKS.fullmatch(str(attributes["href"])), attributes
            assert str(attributes["href"]).startswith("#") or (report / str(attributes["href"])).is_file()
    assert page.text.count(EVIL) > 20


def test_the_markdown_of_a_report_has_neither_tags_nor_links_nor_borders_of_others(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "<" not in text
    assert set(re.findall(r"(?<!\\)\]\(([^)]*)\)", text)) <= {link for link in re.findall(r"\]\((figures/[^)]*)\)", text)}
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert sum("&lt;script&gt;" in row for row in rows) > 5
    width = 0
    for before, line in zip(["", *text.splitlines()], text.splitlines(), strict=False):
        borders = len(re.findall(r"\|", re.sub(r"\\.", "", line)))
        if line.startswith("|"):
            width = borders if not before.startswith("|") else width
            assert borders == width, line


def test_no_cell_of_a_table_is_a_formula(report: Path) -> None:
    cells = [cell for path in report.rglob("*.csv") for row in csv.reader(path.read_text().splitlines()) for cell in row]
    assert any(cell == f"'=cmd(){EVIL}" for cell in cells)
    for cell in cells:
        assert not cell.startswith(("=", "@", "\t", "\r", "+")) or float(cell) is not None
        assert not cell.startswith("-") or float(cell) is not None


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_a_text_that_begins_like_a_formula_is_quoted_and_another_is_left_alone(text: str) -> None:
    assert plain_cell(text) == f"'{text}"
    for plain in ("L0_H0", "", "–", "a=1", "0.5", " =1"):
        assert plain_cell(plain) == plain


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a|b", "a\\|b"),
        ("a\\|b", "a\\\\\\|b"),
        ("<b> & c", "&lt;b&gt; &amp; c"),
        ("[a](http://x)", "[a]\\(http://x)"),
        ("a\nb\r\nc\u2028d", "a b c d"),
        ("ρ = 0.5 [0.25, 0.75] (n = 3)", "ρ = 0.5 [0.25, 0.75] (n = 3)"),
    ],
)
def test_markdown_text_is_plain(text: str, plain: str) -> None:
    assert plain_text(text) == plain


@pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")
def test_tensorboard_shows_hostile_text_as_text() -> None:
    from tensorboard.plugin_util import markdown_to_safe_html

    record = hostile(tiny.ten())
    page = Tags(markdown_to_safe_html(role_table(record)))
    assert {tag for tag, _ in page.tags} <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert sum(tag == "tr" for tag, _ in page.tags) == 11
    assert sum(tag == "td" for tag, _ in page.tags) == 30
    assert "<script>alert(1)</script>" in page.text
    assert f"L0_{EVIL[:9]}H0" in page.text


@pytest.mark.parametrize("name", ["[red]a[/red]", "[/nothing]", "[link=http://x]a", "[bold]"])
def test_a_terminal_shows_names_as_they_are(name: str) -> None:
    text = json.dumps(tiny.ten().to_dict()).replace('"L0_H0"', json.dumps(name)).replace('"sort"', json.dumps(f"{name}!"))
    console = Console(file=io.StringIO(), width=200)
    console.print(table(Record(json.loads(text))))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert shown.count(f"{name}!") == 2  # in the title and in the sentence
    assert shown.count(name) == 4  # and in its row, and among the Heroes


@pytest.mark.parametrize("name", ["$\\frac$", "$", "$a_b$", "a$b^$"])
def test_a_dollar_in_a_name_is_no_mathematics(name: str) -> None:
    text = json.dumps(tiny.ten().to_dict()).replace('"L0_H0"', json.dumps(name)).replace('"sort"', json.dumps(name))
    assert png(scatter(Record(json.loads(text)))).startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PATHS)
def test_no_name_is_a_path(name: str) -> None:
    folders = [changed_folder({}, {"sets": sets}) for sets in ([[name, f"{name}x"]], [[f"{name}{'/..' * 40}"]])]
    for folder in (slug(name), *folders):
        assert Path(folder).name == folder
        assert folder not in ("", ".", "..")
        assert not set(folder) & set("/\\\0\n")
    with pytest.raises(ValueError, match="`name` of a task"):
        type("Hostile", (Task,), {"name": name})
    assert name not in TASKS
    with pytest.raises(ValueError, match=r"data\.task"):
        Source(name)


def test_folders_of_long_changes_are_short_and_different(tmp_path: Path) -> None:
    several = [changed_folder({}, {"sets": [[f"L{i}_H{j}" for i in range(40)]]}) for j in range(3)]
    assert len(set(several)) == 3
    for name in several:
        assert len(os.fsencode(name)) < 200
        (tmp_path / name).mkdir()
    assert changed_folder({}, {"site": "released"}) == "site=released"


@pytest.mark.parametrize("task", ["../../x", "a/b"])
def test_a_task_that_is_a_path_leads_nowhere(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = tmp_path / "a" / "b" / "here"
    (here / "runs").mkdir(parents=True)
    monkeypatch.chdir(here)
    (tmp_path / "a" / "b" / "x-seed42").mkdir()
    (tmp_path / "a" / "b" / "x-seed42" / "config.yaml").write_text("nothing")
    path = sweeps.write(here, {"data.task": task})
    for grid in ({"data.task": [task]}, {"seed_everything": [1]}):
        with pytest.raises(UsageError, match=r"data\.task"):
            read(sweeps.write(here, {"data.task": "sort" if "data.task" in grid else task}, grid=grid))
    before = tiny.files(tmp_path)
    fit = ["fit", f"--data.task={task}"]
    for arguments in (fit, [*fit, "--ckpt_path=last"], ["sweep", f"--config={path}"]):
        assert main(arguments) == 2
        assert "data.task" in capsys.readouterr().err
    assert tiny.files(tmp_path) == before
    assert sorted(one.name for one in here.iterdir()) == ["runs", "sweep.yaml", "tiny.yaml"]


@pytest.mark.parametrize("value", ["../../x", "/etc/passwd", "..", "x\0y"])
def test_values_and_groups_of_a_sweep_stay_in_its_directory(value: str, tmp_path: Path) -> None:
    path = sweeps.write(tmp_path, grid={"protocol.sets": [[[value]]], "seed_everything": [1]})
    (one,) = read(path)
    assert one.job.run.parent == tmp_path / "runs"
    assert Path(one.job.log).parent == tmp_path / "runs" / "logs"
    for key in ("configs", "again"):
        with pytest.raises(UsageError, match=key):
            read(sweeps.write(tmp_path, **{"configs": {"a": ["tiny.yaml"]}} | {key: {value: ["tiny.yaml"]}}))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("value", ["../../x", "/x", ".."])
def test_what_is_measured_again_stays_in_its_run(
    value: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(tiny.trained(tmp_path_factory.getbasetemp()), tmp_path / "deep" / "run")
    before = tiny.files(tmp_path)
    checkpoint = str(run / "checkpoints" / "step=000300.ckpt")
    for arguments in (
        ["measure", checkpoint, f"--protocol.sets=[['{value}']]"],
        ["measure", checkpoint, f"--protocol.baselines=['{value}']"],
        ["measure", checkpoint, f"--protocol.site={value}"],
        ["attribute", checkpoint, f"--baseline={value}"],
        ["attribute", checkpoint, f"--metric={value}"],
        ["attribute", checkpoint, f"--direction={value}"],
        ["attribute", checkpoint, f"--positions={value}"],
    ):
        assert main(arguments) == 2
        assert value in capsys.readouterr().err
    assert tiny.files(tmp_path) == before


def test_a_run_directory_with_markup_in_its_name_is_measured_and_named_as_it_is(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    run: Any = shutil.copytree(tiny.trained(tmp_path_factory.getbasetemp()), tmp_path / "[red]x[ " / "[bold]run")
    (run / "gap" / "step=000150.json").unlink()
    assert main(["measure", str(run / "checkpoints" / "step=000150.ckpt")]) == 0
    assert f"{run}/gap/step=000150.json: " in capsys.readouterr().out
    assert Record.read(run / "gap" / "step=000150.json")["run"] == "[bold]run"
    assert main(["measure", "--verify", str(run / "checkpoints" / "step=000150.ckpt")]) == 0
    assert f"{run}/gap/step=000150.json: the same" in capsys.readouterr().out
