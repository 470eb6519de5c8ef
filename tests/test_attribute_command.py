"""`gcgap attribute`: what it writes and where, what it skips and refuses, and what it prints."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.cells import cell_len

from gcgap.attribution.methods import METHODS, default_methods
from gcgap.attribution.setup import default_protocol
from gcgap.cli import main
from gcgap.importance.protocol import Baseline
from gcgap.models.checkpoints import sha256
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.circuit_tables import read_truth
from gcgap.report.figures_methods import FIGURES

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

METHOD_NAMES = ("exact", "attribution_patching", "layer_index")
SHORT = ("--sequences=8", f"--methods={','.join(METHOD_NAMES)}")
TINY: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 1, "batch_size": 4, "resamples": 100, "window": (0.0, 1.0)}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to change at will."""
    return Path(shutil.copytree(original, tmp_path / "runs" / "sort-tiny"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes that no option changes, as small as can be; no figures."""
    monkeypatch.setattr("gcgap.attribution.setup.default_protocol", lambda *given: replace(default_protocol(*given), **TINY))
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
    monkeypatch.setenv("COLUMNS", "80")


def attribute(*arguments: str | Path) -> int:
    return main(["attribute", *(str(argument) for argument in arguments)])


def new_files(before: dict[str, bytes], folder: Path) -> set[str]:
    """Names of the files that are new; every old one still has its bytes."""
    after = tiny.files(folder)
    assert {name: after[name] for name in before} == before
    return set(after) - set(before)


def written(*names: str) -> set[str]:
    """The files of records of these names, without figures."""
    ends = (".json", "/methods.csv", "/components.csv", "/files.sha256")
    return {f"attribution/{name}{end}" for name in names for end in ends}


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The command ends with 2 and one to three lines, and changes no file below the folder."""
    before = tiny.files(folder)
    capsys.readouterr()
    assert attribute(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("gcgap: error: ")
    assert 1 <= len(said.splitlines()) <= 3
    assert tiny.files(folder) == before
    return said


def numbers(path: Path) -> dict[str, Any]:
    """A record without what differs between two measurements of the same."""
    data = json.loads(path.read_text())
    for entry in data["methods"].values():
        del entry["cost"]
    return {key: value for key, value in data.items() if key not in ("created", "seconds", "advice", "sha256")}


def test_a_record_its_tables_and_its_figures_are_written(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.report.write.FIGURES", FIGURES)
    before = tiny.files(run)
    assert attribute(run, *SHORT) == 0
    pictures = {f"attribution/mean/{name}.{end}" for name in FIGURES for end in ("png", "pdf")}
    assert new_files(before, run) == written("mean") | pictures
    folder = run / "attribution" / "mean"
    record = AttributionRecord.read(folder.with_suffix(".json"))
    assert (record["task"], record["run"], record["step"]) == ("sort", "sort-tiny", tiny.STEPS[-1])
    assert record["checkpoint_sha256"] == sha256(run / "checkpoints" / "step=000300.ckpt")
    assert record["protocol"]["sequences"] == 8
    assert list(record["methods"]) == list(METHOD_NAMES)
    methods = list(csv.DictReader((folder / "methods.csv").read_text().splitlines()))
    assert [row["method"] for row in methods] == list(METHOD_NAMES)
    for row in methods:
        entry = record["methods"][row["method"]]
        for effect in ("exact_match", "log_prob"):
            rho = entry["agreement"][effect]["all"]["rho"]
            assert row[f"{effect}_all_rho"] == ("" if rho is None else str(rho))
        assert float(row["seconds"]) == entry["cost"]["seconds"]
    components = list(csv.DictReader((folder / "components.csv").read_text().splitlines()))
    for row, component in zip(components, record["components"], strict=True):
        assert row["name"] == component["name"]
        assert float(row["log_prob_drop"]) == component["exact"]["log_prob"]["value"]
        assert float(row["attribution_patching"]) == component["scores"]["attribution_patching"]["value"]
    for name in FIGURES:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_several_baselines_make_several_records(run: Path) -> None:
    before = tiny.files(run)
    assert attribute(run, "--baseline", "zero, patch_token", *SHORT) == 0
    assert new_files(before, run) == written("zero", "patch_token")
    records = {name: AttributionRecord.read(run / "attribution" / f"{name}.json") for name in ("zero", "patch_token")}
    assert {name: record["setup"]["baseline"] for name, record in records.items()} == {name: name for name in records}
    effects = [[c["exact"]["log_prob"]["value"] for c in record["components"]] for record in records.values()]
    assert effects[0] != effects[1]


@pytest.mark.parametrize(
    ("options", "name", "said"),
    [
        (["--metric=logit_difference"], "mean,metric=logit_difference", {}),
        (["--positions=scored"], "mean,positions=scored", {"positions": "scored"}),
        (["--positions=0,3"], "mean,positions=0+3", {"positions": [0, 3]}),
        (["--length=5"], "mean,length=5", {}),
        (
            ["--baseline=patch_swap", "--direction=denoising", "--positions=input", "--length=4"],
            "patch_swap,direction=denoising,positions=input,length=4",
            {"baseline": "patch_swap", "direction": "denoising", "positions": "input"},
        ),
    ],
)
def test_what_is_not_the_default_is_in_the_name(options: list[str], name: str, said: dict[str, Any], run: Path) -> None:
    before = tiny.files(run)
    assert attribute(run, *options, *SHORT) == 0
    assert new_files(before, run) == written(name)
    record = AttributionRecord.read(run / "attribution" / f"{name}.json")
    assert record["setup"] == {"baseline": "mean", "direction": "noising", "positions": "all"} | said
    assert record["length_given"] is any("length=" in option for option in options)
    assert record["protocol"]["attribution"]["metric"] in (name, "log_prob", "logit_difference")
    assert (record["protocol"]["attribution"]["metric"] == "logit_difference") == ("logit" in name)


def test_what_is_done_is_skipped_and_force_measures_it_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attribute(run, *SHORT) == 0
    before = tiny.files(run)
    capsys.readouterr()
    assert attribute(run, *SHORT) == 0
    assert tiny.files(run) == before
    assert "1 of 1 records are there already; `--force` measures them again." in " ".join(capsys.readouterr().out.split())
    assert attribute(run, "--baseline=mean,zero", *SHORT) == 0
    assert new_files(before, run) == written("zero")
    assert "1 of 2 records are there already" in capsys.readouterr().out
    old = numbers(run / "attribution" / "mean.json")
    assert attribute(run, "--force", *SHORT) == 0
    assert numbers(run / "attribution" / "mean.json") == old
    assert tiny.files(run)["attribution/mean.json"] != before["attribution/mean.json"]  # the seconds, at least


@pytest.mark.parametrize("change", ["--sequences=9", "--methods=exact", "--budget=2", "--steps=7", "--pairs=3"])
def test_other_settings_of_the_same_name_are_refused_without_force(
    change: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quickest = ("--sequences=8", "--methods=exact,layer_index")
    assert attribute(run, *quickest) == 0
    said = refused(run, capsys, run, *quickest, change)
    assert f"`{run}/attribution/mean.json` holds a record with `protocol." in said
    assert f".{change[2:].split('=')[0]}` " in said
    assert "`--force`" in said


def test_force_replaces_a_record_of_other_settings_or_of_another_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attribute(run, *SHORT) == 0
    assert attribute(run, *SHORT, "--sequences=9", "--force") == 0
    assert AttributionRecord.read(run / "attribution" / "mean.json")["protocol"]["sequences"] == 9
    checkpoints = run / "checkpoints"
    content = torch.load(checkpoints / "step=000300.ckpt", weights_only=True)
    next(iter(content["state_dict"].values())).add_(0.01)
    torch.save(content, checkpoints / "step=000300.ckpt")
    assert "holds a record of other weights" in refused(run, capsys, run, *SHORT, "--sequences=9")
    shutil.copyfile(checkpoints / "step=000150.ckpt", checkpoints / "step=000300.ckpt")
    assert "another checkpoint" in refused(run, capsys, run, *SHORT, "--sequences=9")


def test_a_broken_record_is_refused_by_name_until_it_is_replaced(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attribute(run, *SHORT) == 0
    path = run / "attribution" / "mean.json"
    path.write_text(path.read_text()[:100])
    said = refused(run, capsys, run, *SHORT)
    assert f"`{path}` is not an attribution record" in said
    assert "--force" in said
    assert attribute(run, *SHORT, "--force") == 0
    assert AttributionRecord.read(path)["length"]


@pytest.mark.parametrize("name", ["mean.json", "mean/methods.csv", "mean/agreement.png"])
@pytest.mark.parametrize("more", [(), ("--force",)])
def test_a_file_of_the_user_s_is_no_record_and_is_never_replaced(
    name: str, more: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "attribution" / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}')
    assert f"`{path}`" in refused(run, capsys, run, *SHORT, *more)


def test_what_was_kept_of_an_interrupted_attribution_is_removed_and_nothing_else(run: Path) -> None:
    kept = run / "attribution" / ".mean.partial"
    for name in (f"{'0' * 16}/exact.npz", "mine.npz", "mine/a.npz"):
        (kept / name).parent.mkdir(parents=True, exist_ok=True)
        (kept / name).touch()
    assert attribute(run, *SHORT) == 0
    assert {str(path.relative_to(kept)) for path in kept.rglob("*") if path.is_file()} == {"mine.npz", "mine/a.npz"}


WRONG = [
    (["--methods=magic"], ("`methods`", "exact, gradient", "'magic'")),
    (["--methods=exact,exact"], ("methods", "different ones", "exact, exact")),
    (["--methods="], ("`methods`", "''")),
    (["--baseline=frob"], ("`--baseline`", ", ".join(Baseline), "'frob'")),
    (["--baseline=mean,frob"], ("`--baseline`", "'frob'")),
    (["--direction=sideways"], ("direction", "noising or denoising", "'sideways'")),
    (["--direction=denoising"], ("direction", "patch_*", "`mean`")),
    (["--positions=somewhere"], ("`--positions`", "all, input, scored", "'somewhere'")),
    (["--positions=1,2.5"], ("`--positions`", "'1,2.5'")),
    (["--positions=99"], ("`positions`", "numbers from 0 to", "99")),
    (["--metric=loss"], ("metric", "log_prob, logit_difference", "'loss'")),
    (["--length=3"], ("`length`", "1..3", "got 3")),
    (["--length=40"], ("`length`", "31", "got 40")),
    (["--length=long"], ("--length", "'long'")),
    (["--sequences=1"], ("`sequences`", "at least 2", "got 1")),
    (["--budget=-1"], ("budget", "got -1")),
    (["--steps=0"], ("steps", "got 0")),
    (["--pairs=none"], ("--pairs", "'none'")),
    (["--meth=exact"], ("--meth",)),
    (["--frob=1"], ("--frob",)),
    (["--out=RUN/config.yaml"], ("`--out`", "config.yaml` is a file")),
]


@pytest.mark.parametrize(("options", "told"), WRONG, ids=[" ".join(options) for options, _ in WRONG])
def test_what_is_typed_wrong_is_said_by_its_name(
    options: list[str], told: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(run, capsys, run, *SHORT, *(option.replace("RUN", str(run)) for option in options))
    assert all(part in said for part in told), said


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("nowhere", "`nowhere` does not exist; give a run directory or a .ckpt file."),
        ("empty", "`empty` holds no checkpoint; expected checkpoints/step=*.ckpt in it."),
        ("broken.ckpt", "`broken.ckpt` is not a readable checkpoint"),
    ],
)
def test_a_wrong_path_is_said_by_its_name(
    path: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.ckpt").write_text("no checkpoint")
    assert told in refused(tmp_path, capsys, path, *SHORT)


def test_one_wrong_path_among_several_stops_before_anything_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "`nowhere`" in refused(run, capsys, run, "nowhere", *SHORT)


def test_no_length_in_the_window_is_said_with_what_to_give(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    impossible = TINY | {"window": (0.99, 1.0)}
    monkeypatch.setattr(
        "gcgap.attribution.setup.default_protocol", lambda *given: replace(default_protocol(*given), **impossible)
    )
    said = refused(run, capsys, run, *SHORT)
    assert re.search(r"no OOD length has an accuracy inside the window \(4: .*%, 5: .*%\); give `--length`", said)


def test_out_takes_the_files_instead_of_the_run(run: Path, tmp_path: Path) -> None:
    before = tiny.files(run)
    assert attribute(run, "--out", tmp_path / "elsewhere", *SHORT) == 0
    assert tiny.files(run) == before
    assert set(tiny.files(tmp_path / "elsewhere")) == {f"sort-tiny/{name}" for name in written("mean")}


def test_two_runs_of_one_name_do_not_share_a_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(run, tmp_path / "more" / "sort-tiny")
    said = refused(tmp_path, capsys, run, other, "--out", tmp_path / "elsewhere", *SHORT)
    assert "sort-tiny/attribution/mean.json` would be written twice" in said
    assert "`--out`" in said


def test_several_runs_are_attributed_at_once(run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(run, tmp_path / "runs" / "other")
    assert attribute(run, other, *SHORT) == 0
    mine, theirs = (numbers(one / "attribution" / "mean.json") for one in (run, other))
    assert theirs == mine | {"run": "other"}


def test_one_checkpoint_is_attributed_alone_and_named(run: Path) -> None:
    before = tiny.files(run)
    assert attribute(run / "checkpoints" / "step=000150.ckpt", *SHORT) == 0
    assert new_files(before, run) == written("mean,step=000150")
    assert AttributionRecord.read(run / "attribution" / "mean,step=000150.json")["step"] == 150


def test_a_checkpoint_without_a_run_is_attributed_beside_itself(run: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone" / "some.model.ckpt"
    alone.parent.mkdir()
    shutil.copyfile(run / "checkpoints" / "step=000300.ckpt", alone)
    assert attribute(alone, *SHORT) == 0
    assert set(tiny.files(alone.parent)) == {"some.model.ckpt"} | written("mean,some.model")
    assert attribute(run, *SHORT) == 0
    mine, theirs = (numbers(path) for path in (run / "attribution/mean.json", alone.parent / "attribution/mean,some.model.json"))
    assert theirs["components"] == mine["components"]


def test_every_method_and_the_advice_are_printed_within_80_columns(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert attribute(run, "--sequences=8") == 0  # all methods
    said = capsys.readouterr().out
    record = AttributionRecord.read(run / "attribution" / "mean.json")
    assert list(record["methods"]) == list(default_methods())
    for name in default_methods():
        assert len(re.findall(rf"^ {name} +[–\d-]", said, re.MULTILINE)) == 3, name  # two agreements and a cost
    lines = said.splitlines()
    assert not [line for line in lines if cell_len(line) > 80 and "mean.json" not in line]
    flowing = " ".join(said.split())
    assert record["advice"] in flowing
    assert f"sort, seed {record['seed']}, step 300, length {record['length']}: exact match" in flowing
    assert f"{run}/attribution/mean.json" in said
    assert "Screen-Flag-Fix: " in flowing
    rho = record["methods"]["attribution_patching"]["agreement"]["log_prob"]["all"]["rho"]
    (row,) = [line for line in lines if line.strip().startswith("attribution_patching ")][:1]
    assert row.split()[1] == f"{rho:.2f}"


def test_help_names_every_method_and_option_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        attribute("--help")
    assert done.value.code == 0
    text = capsys.readouterr().out
    flowing = " ".join(text.split())
    assert attribute("--list-methods") == 0
    listed = capsys.readouterr().out
    for name, one in METHODS.items():
        assert re.search(rf"^  {name} +{re.escape(one.text)}$", listed, re.MULTILINE), name
    for option in ("--methods", "--metric", "--baseline", "--direction", "--positions", "--length", "--out", "--force"):
        assert option in text
    assert all(baseline in flowing for baseline in Baseline)
    assert "nats per scored token" in flowing
    assert "evaluation sequences (default 128)" in flowing


def test_a_record_tells_how_the_model_was_trained(run: Path) -> None:
    assert attribute(run, "--methods", "exact", "--sequences", "4", "--length", "4") == 0
    (path,) = (run / "attribution").glob("*.json")
    assert AttributionRecord.read(path)["training"]["learning_rate"] == tiny.SETTINGS["model.learning_rate"]


def test_known_circuits_are_written_reported_and_not_replaced_without_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: tuple[str | Path, ...] = (
        "--known",
        "--methods",
        "exact,attribution_patching",
        "--sequences",
        "8",
        "--out",
        tmp_path / "known",
    )
    assert attribute(*asked) == 0
    assert "put" in capsys.readouterr().out
    found = read_truth(tmp_path / "known" / "known.json")
    kept = (tmp_path / "known" / "known.json").read_bytes()
    assert found["settings"]["sequences"] == 8
    assert list(found["methods"]) == ["exact", "attribution_patching"]
    names = ("known-auc.csv", "known-summary.csv", "auc.png", "auc.pdf", "files.sha256")
    assert set(tiny.files(tmp_path / "known")) == {"known.json", *(f"known/{name}" for name in names)}
    assert "replace it with `--force`" in refused(tmp_path, capsys, *asked)
    (tmp_path / "known" / "known.json").write_text('{"mine": 1}')
    assert "holds no record" in refused(tmp_path, capsys, *asked, "--force")
    (tmp_path / "known" / "known.json").unlink()
    (tmp_path / "known" / "known" / "auc.png").write_text("mine")
    assert "was changed after gcgap wrote it" in refused(tmp_path, capsys, *asked)
    (tmp_path / "known" / "known" / "files.sha256").unlink()
    assert "and 3 more were not written by gcgap" in refused(tmp_path, capsys, *asked, "--force")
    (tmp_path / "known" / "known.json").write_bytes(kept)
    assert main(["report", str(tmp_path / "known"), "--out", str(tmp_path / "report")]) == 0
    assert found["verdict"] in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--known",), "needs `--out DIR`"),
        (("--known", "somewhere"), "takes no checkpoints"),
        (("--known", "--baseline", "zero"), "`--baseline` is not for `--known`"),
        (("--known", "--length", "9"), "`--length` is not for `--known`"),
        ((), "give run directories or .ckpt files, or `--model`, or `--known`"),
    ],
)
def test_what_known_circuits_cannot_be_asked_is_said(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ("--out", str(tmp_path / "known")) if "`" in said and "needs" not in said and "--known" in arguments else ()
    assert said in refused(tmp_path, capsys, *arguments, *out)


def test_a_file_that_is_no_record_of_known_circuits_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("{", "[]", '{"kind": "attribution", "schema": 1}'):
        (tmp_path / "known.json").write_text(text)
        assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 2
        assert "is not a record of known circuits" in capsys.readouterr().err
