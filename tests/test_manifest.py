"""gcgap replaces and removes only the files that a list of its own says it wrote."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import paper_runs
import pytest
import sweeps
import tiny

from gcgap.cli import main
from gcgap.records.atomic import check_folder
from gcgap.report.blocks import Column, Section, Table
from gcgap.report.write import COPIES, PAGES, Manifest

OLD = {"a.csv": b"one", "tables/x/b.csv": b"two", "tables/y/c.csv": b"three"}
NEW = {"a.csv": b"four", "tables/x/d.csv": b"five"}


@pytest.fixture
def mine(tmp_path: Path) -> Manifest:
    """A folder with files that were written, and files of the user's beside them."""
    Manifest(tmp_path / "files.sha256").write(OLD)
    for name in ("notes.txt", "tables/x/mine.csv", "figures/photo.svg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"precious")
    return Manifest(tmp_path / "files.sha256")


def refused(one: Manifest, said: str, force: bool = False) -> None:
    """Neither a check nor writing goes on, and nothing is changed."""
    before = tiny.files(one.folder)
    for act in (one.check, one.write):
        with pytest.raises(ValueError, match=said):
            act(NEW, force)
    assert tiny.files(one.folder) == before


def test_what_was_written_is_replaced_and_removed_and_nothing_else(mine: Manifest) -> None:
    mine.write(NEW)
    found = tiny.files(mine.folder)
    assert found.pop("files.sha256").count(b"\n") == 2
    assert found == NEW | dict.fromkeys(("notes.txt", "tables/x/mine.csv", "figures/photo.svg"), b"precious")
    assert not (mine.folder / "tables" / "y").exists()


def test_the_list_is_read_by_sha256sum(tmp_path: Path) -> None:
    Manifest(tmp_path / "files.sha256").write(OLD | {"a\\b\nc": b"odd", "\udcff": b"bytes"})
    done = subprocess.run(["sha256sum", "--check", "--strict", "files.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"OK") == 5
    Manifest(tmp_path / "files.sha256").write({})
    assert tiny.files(tmp_path) == {"files.sha256": b""}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("name", ["tables/x/d.csv", "a.csv"])
def test_a_file_of_the_user_s_is_never_replaced(name: str, force: bool, mine: Manifest) -> None:
    (mine.folder / name).unlink(missing_ok=True)
    if name in OLD:
        mine.path.write_text("".join(line for line in mine.path.read_text().splitlines(True) if name not in line))
    (mine.folder / name).write_bytes(b"precious")
    refused(mine, f"`{mine.folder / name}` was not written by gcgap", force)


@pytest.mark.parametrize("name", ["a.csv", "tables/y/c.csv"])  # one that is written again, one that is removed
def test_a_file_that_was_changed_since_is_replaced_only_by_force(name: str, mine: Manifest) -> None:
    (mine.folder / name).write_bytes(b"edited")
    refused(mine, f"`{mine.folder / name}` was changed after gcgap wrote it. .*`--force`")
    mine.write(NEW, force=True)
    assert tiny.files(mine.folder).get(name) == NEW.get(name)


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_written_through_a_link(force: bool, mine: Manifest, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(mine.folder / "tables", elsewhere / "tables")
    shutil.rmtree(mine.folder / "tables")
    (mine.folder / "tables").symlink_to(elsewhere / "tables")
    before = tiny.files(elsewhere)
    refused(mine, "`.*tables` must be a folder; it is a link", force)
    assert tiny.files(elsewhere) == before
    (mine.folder / "tables").unlink()
    (elsewhere / "a.csv").write_bytes(b"one")
    (mine.folder / "a.csv").unlink()
    (mine.folder / "a.csv").symlink_to(elsewhere / "a.csv")
    refused(mine, r"a\.csv` was changed")
    mine.write(NEW, force=True)
    assert (elsewhere / "a.csv").read_bytes() == b"one"


def test_a_folder_where_a_file_goes_is_left_alone(mine: Manifest) -> None:
    (mine.folder / "a.csv").unlink()
    (mine.folder / "a.csv").mkdir()
    refused(mine, r"a\.csv` was not written by gcgap", force=True)


@pytest.mark.parametrize("name", ["../notes.txt", "/etc/passwd", "tables/../../notes.txt"])
def test_a_list_that_names_files_elsewhere_is_refused(name: str, mine: Manifest) -> None:
    mine.path.write_text(f"{'0' * 64}  {name}\n")
    refused(mine, r"files\.sha256`, line 1, must be a hash and a name in this folder", force=True)


def test_a_list_that_is_something_else_is_refused(mine: Manifest) -> None:
    mine.path.write_text("my own hashes\n")
    refused(mine, "line 1, must be a hash and a name")


def test_what_an_interrupted_write_has_left_is_known(mine: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "_remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            mine.write(NEW)
    assert (mine.folder / "tables" / "y" / "c.csv").exists()
    mine.write(OLD)
    mine.write(NEW)
    assert not (mine.folder / "tables" / "y").exists()


def test_a_file_of_the_user_s_with_the_same_bytes_stays_the_user_s(mine: Manifest) -> None:
    (mine.folder / "tables" / "x" / "d.csv").write_bytes(NEW["tables/x/d.csv"])
    mine.write(NEW)
    mine.write(OLD)
    assert (mine.folder / "tables" / "x" / "d.csv").read_bytes() == NEW["tables/x/d.csv"]


def test_copies_of_records_are_never_removed(tmp_path: Path) -> None:
    one = Manifest(tmp_path / "records.sha256", clears=False)
    one.write(OLD)
    one.write(NEW)
    assert tiny.files(tmp_path).keys() == {"records.sha256", *OLD, *NEW}
    one.write(OLD | NEW | {"tables/x/b.csv": b"six"})  # still known as its own


def test_a_folder_may_be_new_and_may_not_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path, tmp_path / "new" / "folder", Path("new")):
        check_folder(path, "--out")
    for path in (tmp_path / "file", tmp_path / "file" / "folder", tmp_path / "broken"):
        with pytest.raises(ValueError, match=r"`--out`: `.*(file|broken)` is a file; give a directory"):
            check_folder(path, "--out")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one run below, and reports of a single table."""
    monkeypatch.setattr(
        "gcgap.report.contents.contents", lambda *_: [Section("One", [Table("key", "One", "group", [Column("x", [1])])])]
    )
    paper_runs.record("sort", 42).write(tmp_path / "runs" / "default" / "sort-seed42" / "gap" / "final.json")
    return tmp_path / "runs"


REPORT = {"report.md", "index.html", "report.sha256", "tables/group/key.csv"}


def report(*arguments: str | Path) -> int:
    return main(["report", *map(str, arguments)])


@pytest.mark.parametrize("name", ["report.md", "index.html", "tables/group/key.csv"])
def test_a_report_over_files_of_the_user_s_is_refused(
    name: str, study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    proj = tmp_path / "proj"
    for own in (name, "figures/photo.svg", "tables/data.csv"):
        (proj / own).parent.mkdir(parents=True, exist_ok=True)
        (proj / own).write_text("precious")
    before = tiny.files(tmp_path)
    for more in ([], ["--force"], ["--records"]):
        assert report(study, "--out", proj, *more) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"gcgap: error: `{proj / name}` was not written by gcgap")
        assert said.count("\n") <= 3
    assert tiny.files(tmp_path) == before
    (proj / name).unlink()
    assert report(study, "--out", proj) == report(study, "--out", proj) == 0
    assert set(tiny.files(proj)) == REPORT | {"figures/photo.svg", "tables/data.csv"}


def test_an_edited_report_is_replaced_only_by_force(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert report(study, "--out", out) == 0
    before = tiny.files(out)
    (out / "report.md").write_text("my own words")
    assert report(study, "--out", out) == 2
    assert "was changed after gcgap wrote it" in capsys.readouterr().err
    assert (out / "report.md").read_text() == "my own words"
    assert report(study, "--out", out, "--force") == 0
    assert tiny.files(out) == before


@pytest.mark.parametrize("out", [".", "runs", "runs/default", "runs/default/sort-seed42"])
def test_a_report_beside_or_above_its_runs_leaves_their_records(
    out: str, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tiny.files(tmp_path)
    if out == "runs":
        assert report(study, "--out", out, "--records") == 2
        assert "final.json` was not written by gcgap" in capsys.readouterr().err
        assert tiny.files(tmp_path) == before
    assert report(study, "--out", out) == 0
    after = tiny.files(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {str(Path(out, name)) for name in REPORT}


def test_runs_in_a_folder_called_tables_are_no_report(study: Path, tmp_path: Path) -> None:
    runs = study.rename(tmp_path / "tables")
    before = tiny.files(tmp_path)
    assert report(runs, "--out", tmp_path) == report(runs, "--out", tmp_path) == 0
    after = tiny.files(tmp_path)
    assert {name: after[name] for name in before} == before


def test_copied_records_outlive_the_report_of_others(study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert report(study, "--out", out, "--records") == 0
    copy = "default/sort-seed42/gap/final.json"
    record = tiny.files(out)[copy]
    assert report(out, "--out", out) == 0
    paper_runs.record("sort", 7).write(tmp_path / "more" / "default" / "sort-seed7" / "gap" / "final.json")
    assert report(tmp_path / "more", "--out", out, "--records") == 0
    assert tiny.files(out)[copy] == record
    (out / copy).write_text("{}")
    assert report(study, "--out", out, "--records") == 2
    assert report(study, "--out", out, "--records", "--force") == 0
    assert tiny.files(out)[copy] == record


@pytest.mark.parametrize("name", ["reproduction", "checks", "attribution", "ioi"])
def test_the_shipped_reports_are_known_as_gcgap_s_own(name: str) -> None:
    folder = sweeps.ROOT / "docs" / name
    listed = [line.split("  ", 1)[1] for one in (PAGES, COPIES) for line in (folder / one).read_text().splitlines()]
    assert sorted([*listed, PAGES, COPIES]) == sorted(tiny.files(folder))
    for one in (PAGES, COPIES):
        Manifest(folder / one).check({})


def test_a_list_with_line_ends_of_windows_is_the_same_list(mine: Manifest) -> None:
    mine.path.write_bytes(mine.path.read_bytes().replace(b"\n", b"\r\n"))
    mine.write(NEW)
    assert set(tiny.files(mine.folder)) > set(NEW)
