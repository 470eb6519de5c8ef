"""`gcgap report` from end to end: the files, the page in a browser, and what is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import paper_runs
import pictures
import pytest
import tiny

import gcgap
from gcgap.cli import main
from gcgap.records.read_records import find_records
from gcgap.records.record import Record
from gcgap.report.blocks import Column, Section, Table
from gcgap.report.contents import contents
from gcgap.report.page import page
from gcgap.report.write import png
from gcgap.study.groups import gather

FIGURES = ("v3-figure-1", "v3-figure-2", "v3-figure-3", "v3-figure-4", "v3-figure-6-sort", "intervals-sort", "emergence-sort")
TABLES = (
    "v3-table-1",
    "v3-table-2",
    "v3-table-3",
    "v3-table-4",
    "v3-table-5",
    "v1-table-1",
    "v1-table-4",
    "v1-table-6",
    "pruning",
)
TOGETHER = "The network or the measurement?"
CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paper_runs.study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a whole study, with its records."""
    out = tmp_path_factory.mktemp("report") / "out"
    with pytest.MonkeyPatch.context() as patch:
        paper_runs.predict_quickly(patch)
        assert main(["report", str(root), "--out", str(out), "--records"]) == 0
    return out


@pytest.fixture(autouse=True)
def quick_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only `report` draws all of them."""
    pictures.write_quickly(monkeypatch)


def test_a_report_needs_no_torch(root: Path, tmp_path: Path) -> None:
    run = root / "default" / "sort-seed42"
    code = f"""
import sys
from gcgap.cli import main
from gcgap.report import write
write.png = write.pdf = lambda figure: {pictures.png([1])!r}
assert main(["report", {str(run)!r}, "--out", {str(tmp_path)!r}]) == 0
print("loaded", sorted({{"torch", "lightning", "pandas", "tensorboard"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded []\n")
    assert (tmp_path / "index.html").exists()


def test_every_table_and_figure_is_there_for_every_main_group(report: Path) -> None:
    for group in ("default", "released"):
        for name in TABLES:
            assert (report / "tables" / group / f"{name}.csv").read_text().count("\n") > 2
        for name in FIGURES:
            assert (report / "figures" / group / f"{name}.png").read_bytes().startswith(b"\x89PNG")
            assert (report / "figures" / group / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert (report / "tables" / "site=released" / "v3-table-1.csv").exists()
    assert not (report / "figures" / "site=released").exists()  # a variant: its numbers are in the tables and the four cells
    text = (report / "report.md").read_text()
    for link in re.findall(r"\]\((\S+?)\)", text):
        assert (report / link).is_file()
    assert f"Skipped: reverse seed 456: {paper_runs.SKIPPED}." in text


def test_two_protocols_are_two_groups_that_are_never_averaged(root: Path, report: Path) -> None:
    groups = gather([root])
    assert [group.name for group in groups] == ["default", "released", "site=released"]
    for group in groups[:2]:
        (line,) = [
            line
            for line in (report / "tables" / group.name / "v3-table-1.csv").read_text().splitlines()
            if line.startswith("sorting")
        ]
        rhos = [data["gap"]["mean"]["rho"] for data in paper_runs.finals(root, group.name, "sort")]
        assert float(line.split(",")[1]) == pytest.approx(sum(rhos) / 3)
        assert line.split(",")[5] == "3"


def test_the_same_run_twice_under_one_protocol_is_refused(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(root / "default" / "sort-seed42", tmp_path / "again" / "sort-seed42")
    assert main(["report", str(root), str(copy), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "same run" in said
    assert str(copy / "gap" / "final.json") in said
    assert not (tmp_path / "out").exists()


def test_records_that_cannot_be_of_one_run_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gcgap.report.write.write_report", lambda *_: None)
    gap = tmp_path / "run" / "gap"
    final = paper_runs.record("sort", 42).write(gap / "final.json")
    early = paper_runs.record("sort", 42, 50, final=False).write(gap / "step=000050.json")
    for changes in ({}, {"checkpoint_sha256": final["checkpoint_sha256"]}, {"step": 60}):
        Record(early.to_dict() | changes).write(gap / "step=000050.json")
        assert main(["report", str(gap.parent), "--out", str(tmp_path / "out")]) == 0
        said = capsys.readouterr().err
        if not changes:
            assert said == ""
        elif "step" in changes:
            assert said.startswith(f"gcgap: warning: `{gap}/step=000050.json` is a record of step 60, and not of the one")
        else:
            assert f"`{gap}/step=000050.json` and `{gap}/final.json` are of steps 50 and 1000 but of the same checkpoint" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report", "missing", "--out", "out"], "`missing` does not exist"),
        (["report", ".", "--out", "out"], "no records"),
        (["report", "."], "--out"),
        (["report", ".", "--out", "file"], "`file` is a file"),
        (["report", ".", "--out", "out", "--rec"], "--rec"),
        (["report", "run", "--out", "out", "--attention", "missing"], "`missing`"),
    ],
)
def test_what_is_typed_wrong_is_said_in_three_lines(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    if "run" in arguments:
        paper_runs.record("sort", 42).write(tmp_path / "run" / "gap" / "final.json")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") <= 3
    assert not (tmp_path / "out").exists()


def test_help_tells_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["report", "--help"])
    assert done.value.code == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--out DIR", "--records", "--attention RUN", "PATH"))


def test_shipped_records_are_the_records(root: Path, report: Path) -> None:
    found = [
        {(str(r["protocol"]), r["task"], r["seed"], r["step"], r["final"]): r.data | {"sha256": ""} for r in find_records(p)}
        for p in (root, report)
    ]
    assert found[0] == found[1]
    assert len(found[0]) == len(find_records(root))
    assert len(gcgap.read(report)) == len(gcgap.read(root))


def test_the_report_of_shipped_records_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.report.write.png", png)
    run, out = tmp_path / "default" / "sort-seed42" / "gap", tmp_path / "out"
    paper_runs.record("sort", 42).write(run / "final.json")
    for step in (50, 100):
        paper_runs.record("sort", 42, step, final=False).write(run / f"step={step:06d}.json")
    assert main(["report", str(tmp_path / "default"), "--out", str(out), "--records"]) == 0
    before = tiny.files(out)
    assert "default/sort-seed42/gap/step=000050.json" in before
    assert main(["report", str(out), "--out", str(out), "--records"]) == 0
    assert tiny.files(out) == before


def test_two_runs_that_would_be_shipped_to_one_place_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root, changes in (("a", {}), ("b", {"site": "released"})):
        paper_runs.record("sort", 42, changes=changes).write(tmp_path / root / "x" / "run" / "gap" / "final.json")
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out"), "--records"]) == 2
    assert "would both be copied" in capsys.readouterr().err


def test_a_single_untracked_run_has_a_report(tmp_path: Path) -> None:
    paper_runs.record("copy", 7, model={"n_layers": 1, "n_heads": 2}).write(tmp_path / "run" / "gap" / "final.json")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "index.html").read_text()
    assert "v3-figure-1" in text
    assert "emergence-copy" not in text
    assert "paper</button>" not in text


def test_runs_that_were_all_skipped_have_a_report(tmp_path: Path) -> None:
    paper_runs.skipped("sort", 7).write(tmp_path / "run" / "gap" / "final.json")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert f"Skipped: sort seed 7: {paper_runs.SKIPPED}." in (tmp_path / "out" / "index.html").read_text()


def test_the_page_has_no_external_address(report: Path) -> None:
    text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", (report / "index.html").read_text())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text, re.IGNORECASE)
    for address in re.findall(r'(?:href|src)="([^"]*)"', text):
        inside = address.startswith(("#", "data:"))
        assert inside or (report / address).is_file(), address
    ids = re.findall(r' id="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    for link in re.findall(r'href="#([^"]*)"', text):
        assert link in ids


def test_what_was_typed_is_escaped(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>"
    record = paper_runs.record(name, 7, changes={"note": "<img src=x>"})
    record.data["run"] = name
    record.write(tmp_path / "run" / "gap" / "final.json")
    early = paper_runs.record(name, 7, 50, changes={"note": "<img src=x>"}, final=False)
    early.write(tmp_path / "run" / "gap" / "step=000050.json")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    for file in ("index.html", "report.md"):
        text = (tmp_path / "out" / file).read_text()
        assert text.count("<script") == (file == "index.html")
        assert "&lt;script&gt;alert(1)" in text
        assert "<img src=x" not in text


def test_extra_sections_stand_before_the_groups(root: Path) -> None:
    own = Section("My section", ["A paragraph.", Table("mine", "Mine", "all", [Column("x", [1])])])
    titles = [section.title for section in contents(gather([root / "default" / "sort-seed42"]), [own])]
    assert titles[:5] == ["Verdict", TOGETHER, "My section", "Group: default", "Group: site=released"]


browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")
CLICKS = """
<script>
window.onerror = (message) => { document.title = "error: " + message; };
const table = document.querySelector("table"), seen = [];
const told = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent).join(" ");
for (const column of [1, 1, 0, 2, 2]) {
  const heading = table.tHead.rows[0].cells[column];
  heading.querySelector("button").click();
  seen.push(`${told()} ${heading.getAttribute("aria-sort")} ${table.querySelectorAll("th[aria-sort=none]").length}`);
}
document.body.dataset.seen = seen.join("; ") + "; foot " + table.tFoot.rows[0].cells[0].textContent;
</script>
"""


def dom(path: Path, tmp_path: Path) -> str:
    """The page as a headless browser has it after its scripts ran; an error in its console is one of the test."""
    assert CHROMIUM is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    command = [CHROMIUM, *options, "--enable-logging=stderr", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout


@browser
def test_a_click_sorts_by_number_and_missing_numbers_stay_last(tmp_path: Path) -> None:
    columns = [
        Column("name", ["b", "a", "d", "c"], foot=["mean"]),
        Column("number", [10.0, 9.0, None, -1e-7]),
        Column("text", ["n2", "n10", "", "N1"]),
    ]
    text = page("title", [Section("one", [Table("key", "table", "group", columns)])], {})
    path = tmp_path / "index.html"
    path.write_text(text.replace("</body>", f"{CLICKS}</body>"))
    (seen,) = re.findall(r'data-seen="([^"]*)"', dom(path, tmp_path))
    assert seen.split("; ") == [
        "c a b d ascending 2",
        "b a c d descending 2",
        "a b c d ascending 2",
        "c a b d ascending 2",
        "b a c d descending 2",
        "foot mean",
    ]


@browser
def test_the_whole_page_opens_without_an_error_and_fits_a_phone(report: Path, tmp_path: Path) -> None:
    text = (report / "index.html").read_text()
    probe = """<script>window.onload = () => {
  const boxed = (e) => e.closest(".scroll, figure.wide") && !e.matches(".scroll, figure.wide");
  const free = [...document.querySelectorAll("body *")].filter((e) => !boxed(e));
  document.body.dataset.over = free.filter((e) => e.getBoundingClientRect().right > innerWidth + 1).length;
  document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth;
  document.body.dataset.broken = [...document.images].filter((image) => !image.naturalWidth).length;
  document.body.dataset.buttons = document.querySelectorAll("th button").length; };</script>"""
    path = tmp_path / "index.html"
    path.write_text(text.replace("</body>", f"{probe}</body>"))
    found = dom(path, tmp_path)
    assert 'data-over="0"' in found
    assert 'data-wide="false"' in found
    assert 'data-broken="0"' in found
    assert int(re.findall(r'data-buttons="(\d+)"', found)[0]) > 200
