"""`gcgap measure`: the numbers of training again, other settings in a place of their own, and nothing replaced unasked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from gcgap.cli import main
from gcgap.models.checkpoints import sha256
from gcgap.records.record import Record
from gcgap.records.record_file import check_replaceable

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

RECORDS = [f"step={step:06d}.json" for step in tiny.STEPS] + ["final.json"]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(original: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, to change at will."""
    return Path(shutil.copytree(original, tmp_path / "runs" / "sort-tiny"))


def measure(*arguments: str | Path) -> int:
    return main(["measure", *(str(argument) for argument in arguments)])


def numbers(path: Path) -> dict[str, Any]:
    volatile = ("created", "seconds", "versions", "sha256")
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in volatile}


def records(folder: Path) -> dict[str, Record]:
    return {path.name: Record.read(path) for path in sorted(folder.glob("*.json"))}


def new_files(before: dict[str, bytes], run: Path) -> set[str]:
    """Names of the files that are new; every old one still has its bytes."""
    after = tiny.files(run)
    assert {name: after[name] for name in before} == before
    return set(after) - set(before)


def refused(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Measuring ends with 2 and one to three lines, and changes no file of the run."""
    before = tiny.files(run)
    capsys.readouterr()
    assert measure(*arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("gcgap: error: ")
    assert 1 <= len(said.splitlines()) <= 3
    assert tiny.files(run) == before
    return said


def test_precision_is_short_for_the_setting_of_the_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(run / "checkpoints" / "step=000150.ckpt", "--precision", "float64") == 0
    (record,) = records(run / "gap" / "precision=float64").values()
    assert record["protocol"]["precision"] == "float64"
    assert "give one of the two" in refused(run, capsys, run, "--precision=bf16", "--protocol.precision=float64")
    assert "float16" in refused(run, capsys, run, "--precision=float16")


def test_a_size_that_the_checkpoint_of_a_step_is_not_measured_with_is_refused(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = run / "checkpoints" / "step=000150.ckpt"
    assert "`protocol.tracking.sequences`" in refused(run, capsys, checkpoint, "--protocol.sequences=30")
    assert measure(checkpoint, "--protocol.sequences=30", "--full") == 0
    assert measure(checkpoint, "--protocol.tracking.sequences=30") == 0
    (full, tracked) = (next((run / "gap").glob(f"{name}/*.json")) for name in ("sequences=30,full", "tracking.sequences=30"))
    assert [Record.read(path)["protocol"]["sequences"] for path in (full, tracked)] == [30, 30]


def test_what_is_done_is_skipped(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.files(run)
    assert measure(run) == 0
    assert new_files(before, run) == set()
    assert "4 of 4 records" in capsys.readouterr().out


def test_force_gives_the_numbers_of_training_again(run: Path) -> None:
    before = {name: (numbers(run / "gap" / name), (run / "gap" / name).read_bytes()) for name in RECORDS}
    names = set(tiny.files(run))
    assert measure(run, "--force") == 0
    for name, (values, content) in before.items():
        assert numbers(run / "gap" / name) == values
        assert (run / "gap" / name).read_bytes() != content  # the seconds, at least: it was measured again
    assert set(tiny.files(run)) == names


@pytest.mark.parametrize("missing", RECORDS)
def test_only_what_is_missing_is_measured(missing: str, run: Path, original: Path) -> None:
    (run / "gap" / missing).unlink()
    before = tiny.files(run)
    assert measure(run) == 0
    assert new_files(before, run) == {f"gap/{missing}"}
    assert numbers(run / "gap" / missing) == numbers(original / "gap" / missing)


def test_another_site_goes_to_a_folder_of_its_own_and_says_so(run: Path) -> None:
    before = tiny.files(run)
    assert measure(run, "--protocol.site", "released") == 0
    assert new_files(before, run) == {f"gap/site=released/{name}" for name in RECORDS}
    ours, theirs = records(run / "gap"), records(run / "gap" / "site=released")
    for name in RECORDS:
        assert theirs[name]["protocol"] == ours[name]["protocol"] | {"site": "released"}
        for mine, other in zip(ours[name]["components"], theirs[name]["components"], strict=True):
            assert mine["gradient"] == other["gradient"]
            assert (mine["causal"] == other["causal"]) == (mine["kind"] == "mlp")


def test_a_measurement_with_changes_is_skipped_when_it_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--protocol.site=released", "--protocol.sets=[[L0_H0,L1_MLP],[L0_H1]]", "--protocol.window=[0,1]", "--length=5")
    checkpoint = run / "checkpoints" / "step=000150.ckpt"
    assert measure(checkpoint, *changes) == 0
    after = tiny.files(run)
    capsys.readouterr()
    assert measure(checkpoint, *changes) == 0
    assert "1 of 1 records" in capsys.readouterr().out
    assert tiny.files(run) == after


def test_every_change_is_named_by_its_folder(run: Path) -> None:
    before = tiny.files(run)
    assert measure(run, "--protocol.threshold=0.2", "--protocol.baselines=[zero]", "--protocol.tracking.length=5") == 0
    (folder,) = {Path(name).parent for name in new_files(before, run)}
    assert folder.parent == Path("gap")
    assert all(part in folder.name for part in ("threshold=0.2", "baselines=", "zero", "tracking.length=5"))
    found = records(run / folder)
    assert {record["protocol"]["threshold"] for record in found.values()} == {0.2}
    assert {tuple(record.baselines) for record in found.values()} == {("zero",)}
    assert [found[name]["length"] for name in RECORDS[:-1]] == [5, 5, 5]


def test_a_setting_named_with_the_value_of_the_run_changes_nothing(run: Path) -> None:
    before = tiny.files(run)
    assert measure(run, "--protocol.site=component", "--protocol.sequences=40") == 0
    assert new_files(before, run) == set()


def test_a_length_is_measured_instead_of_the_run_s_own(run: Path) -> None:
    before = tiny.files(run)
    assert measure(run, "--length", "5") == 0
    assert new_files(before, run) == {f"gap/length=5/{name}" for name in RECORDS}
    assert {record["length"] for record in records(run / "gap" / "length=5").values()} == {5}


def test_full_measures_every_checkpoint_with_the_final_sizes_under_the_window_rule(run: Path) -> None:
    before = tiny.files(run)
    assert measure(run, "--full", "--protocol.sequences=30") == 0
    (folder,) = {Path(name).parent for name in new_files(before, run)}
    assert "full" in folder.name
    assert "sequences=30" in folder.name
    found = records(run / folder)
    assert sorted(found) == sorted(RECORDS)
    for record in found.values():
        assert record["protocol"]["sequences"] == 30
        assert record["length"] == record["window"]["length"]
    assert found["step=000000.json"].skipped
    assert not found["final.json"].skipped


def test_without_full_the_tracked_records_keep_the_sizes_of_tracking(run: Path) -> None:
    tiny.forget(run, 0, 150)
    assert measure(run, "--protocol.sequences=30") == 0
    found = records(run / "gap" / "sequences=30")
    assert {name: one["protocol"]["sequences"] for name, one in found.items()} == {"step=000300.json": 40, "final.json": 30}


def test_one_checkpoint_is_measured_alone(run: Path, original: Path) -> None:
    for name in RECORDS:
        (run / "gap" / name).unlink()
    before = tiny.files(run)
    assert measure(run / "checkpoints" / "step=000150.ckpt") == 0
    assert new_files(before, run) == {"gap/step=000150.json"}
    assert numbers(run / "gap" / "step=000150.json") == numbers(original / "gap" / "step=000150.json")


def test_a_checkpoint_without_a_run_is_measured_beside_itself(original: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    shutil.copyfile(original / "checkpoints" / "step=000300.ckpt", alone)
    sizes = [f"--protocol.{name}={size}" for name, size in tiny.SIZES.items()]
    sizes += ["--protocol.inside=false", "--protocol.random_pairs=0"]
    assert measure(alone, "--length=4", "--protocol.batch_size=20", *sizes) == 0
    (written,) = tmp_path.rglob("*.json")
    record = Record.read(written)
    assert (record["step"], record["length"], record["checkpoint_sha256"]) == (300, 4, sha256(alone))
    assert record["components"] == Record.read(original / "gap" / "step=000300.json")["components"]


def test_several_runs_and_checkpoints_are_measured_at_once(run: Path, original: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(original, tmp_path / "runs" / "other"))
    (run / "gap" / "final.json").unlink()
    (other / "gap" / "step=000000.json").unlink()
    assert measure(run, other / "checkpoints" / "step=000000.ckpt") == 0
    assert numbers(run / "gap" / "final.json") == numbers(original / "gap" / "final.json")
    assert numbers(other / "gap" / "step=000000.json") == numbers(original / "gap" / "step=000000.json") | {"run": "other"}


def test_one_missing_path_among_several_stops_before_anything_is_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "final.json").unlink()
    assert "nowhere" in refused(run, capsys, run, "nowhere")


@pytest.mark.parametrize("size", [0, 20_000])
def test_a_truncated_checkpoint_is_refused_and_nothing_is_written(
    size: int, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "checkpoints" / "step=000150.ckpt"
    path.write_bytes(path.read_bytes()[:size])
    (run / "gap" / "step=000150.json").unlink()
    for arguments in ([path], [run]):
        assert str(path) in refused(run, capsys, *arguments)


def test_a_record_of_another_checkpoint_is_replaced_only_by_force(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step=000150.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.embedding.weight"] *= 1.5
    torch.save(content, path)
    said = refused(run, capsys, run)
    assert "step=000150.json" in said
    assert "--force" in said
    assert measure(path, "--force") == 0
    assert Record.read(run / "gap" / "step=000150.json")["checkpoint_sha256"] == sha256(path)


def test_a_checkpoint_with_the_bytes_of_another_step_is_told_and_the_honest_ones_are_measured(
    run: Path, original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints, gap = run / "checkpoints", run / "gap"
    shutil.copyfile(checkpoints / "step=000000.ckpt", checkpoints / "step=000150.ckpt")
    for name in RECORDS:
        (gap / name).unlink()
    capsys.readouterr()
    assert measure(run) == 1
    said = capsys.readouterr().err
    assert f"`{checkpoints / 'step=000150.ckpt'}` is another checkpoint than its name says: it holds step 0" in said
    assert "with the bytes of step=000000.ckpt; it is not measured" in said
    assert sorted(path.name for path in gap.glob("*.json")) == ["final.json", "step=000000.json", "step=000300.json"]
    for path in gap.glob("*.json"):
        assert numbers(path) == numbers(original / "gap" / path.name)
    assert "step=000150.ckpt" in refused(run, capsys, checkpoints / "step=000150.ckpt")


@pytest.mark.parametrize("command", ["measure", "attribute"])
def test_a_file_named_after_another_step_is_measured_under_no_wrong_step(
    command: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = (run / "checkpoints" / "step=000150.ckpt").rename(run / "checkpoints" / "step=000400.ckpt")
    before = tiny.files(run)
    assert main([command, str(path)]) == 2
    assert f"`{path}` is another checkpoint than its name says: it holds step 150." in capsys.readouterr().err
    assert tiny.files(run) == before


def test_the_final_record_is_not_made_from_a_file_named_after_a_later_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(run / "checkpoints" / "step=000150.ckpt", run / "checkpoints" / "step=000400.ckpt")
    before = tiny.files(run)
    assert measure(run) == 1
    assert "it holds step 150, with the bytes of step=000150.ckpt" in capsys.readouterr().err
    assert new_files(before, run) == set()


@pytest.mark.parametrize("change", [{"length": 5}, {"protocol": {"site": "released"}}])
def test_a_record_of_another_protocol_is_replaced_only_by_force(
    change: dict[str, Any], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "gap" / "step=000150.json"
    data = json.loads(path.read_text())
    protocol = data["protocol"] | change.get("protocol", {})
    Record(data | change | {"protocol": protocol}).write(path)
    assert str(path) in refused(run, capsys, run)
    assert measure(run / "checkpoints" / "step=000150.ckpt", "--force") == 0
    assert numbers(path)["protocol"]["site"] == "component"
    assert numbers(path)["length"] == 4


@pytest.mark.parametrize("text", ['{"mine": 1}', "[1]", "notes", "7"])
def test_force_replaces_no_file_that_is_no_record(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "final.json").write_text(text)
    assert "final.json` holds no record" in refused(run, capsys, run, "--force")


@pytest.mark.parametrize("text", ["", "{", '{"schema": 1, "ta'])
def test_force_may_replace_a_broken_record(text: str, tmp_path: Path) -> None:
    (tmp_path / "final.json").write_text(text)
    check_replaceable(tmp_path / "final.json")


def test_a_broken_record_is_refused_by_name(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "final.json").write_text("{")
    assert "final.json" in refused(run, capsys, run)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--protocol.sets=[[L0_H9]]", ("protocol.sets", "L0_H9")),
        ("--protocol.baselines=[median]", ("protocol.baselines", "median")),
        ("--protocol.window=[0.8,0.2]", ("protocol.window", "[0.8, 0.2]")),
        ("--protocol.frob=1", ("protocol.frob",)),
        ("--length=40", ("length", "40", "31")),
        ("--length=0", ("length", "0")),
        ("--length=3", ("length", "3", "1..3")),
        ("--length=-3", ("length", "-3")),
        ("--length=long", ("length", "long")),
        ("--frob", ("frob",)),
    ],
)
def test_a_bad_option_is_refused_and_nothing_is_written(
    option: str, told: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(run, capsys, run, option)
    assert all(part in said for part in told), said


@pytest.mark.parametrize("text", ["protocol: [\n", "- protocol\n", "protocol: 5\n", "protocol:\n  frob: 1\n"])
def test_a_broken_config_of_a_run_is_refused_by_name(text: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text(text)
    assert "config.yaml" in refused(run, capsys, run)


def test_no_length_in_the_window_gives_a_skipped_record(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert measure(run, "--protocol.window=[0.99,1]") == 0
    (path,) = (run / "gap").glob("window=*/final.json")
    record = Record.read(path)
    assert record.skipped
    assert (record["components"], record["length"]) == ([], None)
    assert "Skipped" in capsys.readouterr().out


def test_the_final_table_is_printed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "final.json").unlink()
    assert measure(run) == 0
    said = capsys.readouterr().out
    for component in Record.read(run / "gap" / "final.json")["components"]:
        assert component["name"] in said


def test_the_last_checkpoint_is_the_numbered_one_of_its_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.files(run)
    assert measure(run / "checkpoints" / "last.ckpt") == 0
    assert "1 of 1 records" in capsys.readouterr().out
    assert tiny.files(run) == before


def test_a_run_without_its_config_is_not_measured_by_the_default_protocol(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").unlink()
    before = tiny.files(run)
    assert main(["measure", str(run)]) == 2
    assert f"`{run}` holds no config.yaml, which says how its checkpoints are measured" in capsys.readouterr().err
    assert tiny.files(run) == before
