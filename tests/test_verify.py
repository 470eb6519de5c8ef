"""`gcgap measure --verify`: what is the same, what differs and where, and what cannot be told; nothing is written."""

from __future__ import annotations

import copy
import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.cli import main
from gcgap.commands.verify import ABSENT, differences, values
from gcgap.models.checkpoints import sha256
from gcgap.records.read_records import find_records
from gcgap.records.record import Record

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

WIDE = 200  # columns of the terminal, so that no line is broken


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def run(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny run that has the records of one checkpoint and of the final model alone."""
    monkeypatch.setenv("COLUMNS", str(WIDE))
    directory = Path(shutil.copytree(original, tmp_path / "sort-tiny"))
    for name in ("step=000000.json", "step=000300.json"):
        (directory / "gap" / name).unlink()
    return directory


def verified(run: Path, capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, output and errors; no file of the run is changed."""
    before = tiny.files(run)
    capsys.readouterr()
    code = main(["measure", "--verify", *(str(argument) for argument in arguments or (run,))])
    said = capsys.readouterr()
    assert tiny.files(run) == before
    assert "Traceback" not in said.err
    return code, said.out, said.err


def change(path: Path, place: str, value: Any) -> Any:
    """Change one value of a record and seal it again; gives the old value."""
    data: Any = Record.read(path).to_dict()
    *keys, last = place.split(".")
    inner = data
    for key in keys:
        inner = inner[int(key) if isinstance(inner, list) else key]
    old, inner[last] = inner[last], value
    Record(data).write(path)
    return old


def test_an_honest_run_verifies_in_every_record(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verified(run, capsys)
    assert (code, err) == (0, "")
    for name in ("step=000150.json", "final.json"):
        count = values(Record.read(run / "gap" / name).data)
        assert f"{run}/gap/{name}: the same in every number ({count} values)." in out
        assert count > 900


def test_records_of_other_protocols_and_lengths_verify_as_they_say(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ("--protocol.site=released", "--protocol.sets=[[L0_H0,L1_MLP]]", "--protocol.attribution.methods=[gradient]")
    assert main(["measure", str(run / "checkpoints" / "step=000150.ckpt"), *changes, "--length=5"]) == 0
    (folder,) = (run / "gap").glob("site=*")
    (run / "gap" / "final.json").unlink()
    code, out, _ = verified(run, capsys)
    assert code == 0
    assert out.count("the same in every number") == 2
    assert folder.name in out


def test_several_checkpoints_of_a_run_read_its_records_once(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = list[Path]()
    monkeypatch.setattr("gcgap.commands.verify.find_records", lambda path: reads.append(path) or find_records(path))
    monkeypatch.setattr("gcgap.commands.verify.repeat", lambda case, _: case.record.data)
    checkpoints = [run / "checkpoints" / f"step={step:06d}.ckpt" for step in (150, 300)]
    assert verified(run, capsys, *checkpoints)[0] == 0
    assert reads == [run / "gap"]


def test_a_changed_number_is_named_with_both_values(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = "components.3.causal.zero.exact_match.value"
    old = change(run / "gap" / "final.json", place, 0.123)
    code, out, err = verified(run, capsys)
    assert (code, err) == (1, "")
    assert "step=000150.json: the same in every number" in out
    (line,) = [line for line in out.splitlines() if "components.L1_H0.causal.zero.exact_match.value  " in line]
    assert line.split()[1:3] == ["0.123", repr(old)]
    assert "final.json: 1 of " in out
    assert "The versions and the number of threads are those of the record" in out


def test_a_number_that_was_changed_without_its_checksum_is_refused_before_anything_is_measured(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = run / "gap" / "final.json"
    path.write_text(path.read_text().replace('"step": 300', '"step": 301'))
    code, out, err = verified(run, capsys)
    assert (code, out) == (2, "")
    assert f"`{path}` was changed after it was written" in err


def test_a_tolerance_lets_rounding_pass_and_no_more(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "step=000150.json").unlink()
    value = Record.read(run / "gap" / "final.json")["components"][0]["gradient"]["value"]
    change(run / "gap" / "final.json", "components.0.gradient.value", value * (1 + 1e-6))
    assert verified(run, capsys, run, "--tolerance=1e-5")[0] == 0
    code, out, _ = verified(run, capsys, run, "--tolerance=1e-7")
    assert code == 1
    assert "at most by 1e-06 of the larger one (components.L0_H0.gradient.value)" in out


def test_a_record_under_the_name_of_another_step_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "step=000150.json").rename(run / "gap" / "step=000300.json")
    code, out, err = verified(run, capsys)
    assert code == 1
    assert out.count("the same in every number") == 2
    assert f"`{run}/gap/step=000300.json` is a record of step 150, another than its name says." in err


def test_what_a_config_says_of_training_by_now_changes_no_record(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run may be resumed with more steps or another precision; its config is that of its beginning."""
    tiny.forget(run, 0, 150)
    config, before = run / "config.yaml", tiny.told(run / "gap" / "final.json")
    assert before["training"]["max_steps"] == 300
    config.write_text(config.read_text().replace("max_steps: 300", "max_steps: 900"))
    assert verified(run, capsys)[0] == 0
    assert main(["measure", str(run), "--force"]) == 0
    assert tiny.told(run / "gap" / "final.json") == before


def test_a_record_of_an_older_checkpoint_is_compared_in_what_it_tells(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / "step=000300.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    del content["training"]
    torch.save(content, checkpoint)
    (run / "gap" / "step=000150.json").unlink()
    change(run / "gap" / "final.json", "checkpoint_sha256", sha256(checkpoint))
    assert verified(run, capsys)[0] == 0  # by the config
    training = Record.read(run / "gap" / "final.json")["training"]
    change(run / "gap" / "final.json", "training", {key: value for key, value in training.items() if key != "precision"})
    assert verified(run, capsys)[0] == 0


def test_an_older_record_is_compared_without_what_it_summed_on_the_sequences_that_chose_it(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = run / "gap" / "final.json"
    (run / "gap" / "step=000150.json").unlink()
    data = Record.read(final).to_dict()
    del data["accuracy"]["held_out"]
    for component in data["components"]:
        del component["held_out"]
    Record(data).write(final)
    change(final, "joint.mean.bloats.joint", 0.5)
    code, _, errors = verified(run, capsys)
    assert code == 0
    assert "is older than held-out sequences: its drops of sets are not compared" in errors
    change(final, "gap.mean.rho", 0.123)
    assert verified(run, capsys)[0] == 1


def test_other_versions_and_threads_are_told_as_a_likely_reason(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "gap" / "step=000150.json").unlink()
    path = run / "gap" / "final.json"
    change(path, "versions", Record.read(path)["versions"] | {"torch": "1.0", "threads": "64"})
    assert verified(run, capsys)[0] == 0  # they are no numbers of the model
    change(path, "gap.mean.rho", 0.5)
    said = verified(run, capsys)[1]
    assert f"torch 1.0 then, {version('torch')} now; threads 64 then, 1 now" in said


def test_a_replaced_checkpoint_is_named_and_the_other_records_are_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "checkpoints" / "step=000150.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.embedding.weight"] += 1
    torch.save(content, path)
    code, out, err = verified(run, capsys)
    assert code == 2
    assert f"`{run}/gap/step=000150.json` cannot be verified: `{path}` has another hash" in err
    assert "final.json: the same in every number" in out
    code, out, err = verified(run, capsys, path)
    assert (code, out) == (2, "")
    assert str(path) in err


def test_a_record_without_its_checkpoint_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints" / "step=000150.ckpt").unlink()
    code, out, err = verified(run, capsys)
    assert code == 0
    assert f"1 of 2 records cannot be verified, their checkpoints are not here: `{run}/gap/step=000150.json`" in err
    assert "final.json: the same in every number" in out
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    code, out, err = verified(run, capsys)
    assert (code, out) == (2, "")
    assert "nothing to verify" in err


@pytest.mark.parametrize("name", ["step=000300.ckpt", "last.ckpt"])
def test_one_checkpoint_verifies_its_own_records(name: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = verified(run, capsys, run / "checkpoints" / name)
    assert (code, err) == (0, "")
    assert "final.json: the same" in out
    assert "step=000150" not in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["{run}", "--protocol.site=released"], ("`--verify`", "`--protocol.site`")),
        (["{run}", "--protocol.tracking.length=5"], ("`--verify`", "`--protocol.tracking.length`")),
        (["{run}", "--length=5"], ("`--verify`", "`--length`")),
        (["{run}", "--full"], ("`--verify`", "`--full`")),
        (["{run}", "--force"], ("`--verify`", "`--force`")),
        (["{run}", "--tolerance=-1"], ("`--tolerance`", "-1")),
        (["{run}", "--tolerance=nan"], ("tolerance", "nan")),
        (["{run}", "--verify=false", "--tolerance=0.1"], ("`--tolerance`", "`--verify`")),
        (["nowhere"], ("`nowhere`",)),
        (["{run}/checkpoints/step=000000.ckpt"], ("step=000000.ckpt", "no record")),
        (["{run}/checkpoints"], ("no records", "checkpoints/gap")),
    ],
)
def test_what_cannot_be_verified_is_refused_by_its_name(
    arguments: list[str], told: tuple[str, ...], run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = verified(run, capsys, *(argument.format(run=run) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("gcgap: error: ")
    assert all(part in err for part in told), err


BASE: dict[str, Any] = {"a": 1.5, "b": None, "c": {"d": [1, 2.5, "x"], "e": True}, "components": [{"name": "L0_H0", "v": 0.25}]}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"a": 1.5000001}, [("a", 1.5, 1.5000001)]),
        ({"a": None}, [("a", 1.5, None)]),
        ({"a": "1.5"}, [("a", 1.5, "1.5")]),
        ({"b": 0}, [("b", None, 0)]),
        ({"b": "null"}, [("b", None, "null")]),
        ({"later": None}, [("later", ABSENT, None)]),
        ({"c": {"d": [1, 2.5, "x"]}}, [("c.e", True, ABSENT)]),
        ({"c": {"d": [1, 2.5, "x"], "e": 1}}, [("c.e", True, 1)]),
        ({"c": {"d": [1, 2.5], "e": True}}, [("c.d", [1, 2.5, "x"], [1, 2.5])]),
        ({"c": {"d": [1, 2.5, "y"], "e": True}}, [("c.d.2", "x", "y")]),
        ({"c": None}, [("c", {"d": [1, 2.5, "x"], "e": True}, None)]),
        ({"components": [{"name": "L0_H0", "v": 0.5}]}, [("components.L0_H0.v", 0.25, 0.5)]),
        ({"a": 1.5, "created": "now", "seconds": {"x": 1}, "versions": {}, "run": "other", "sha256": "0"}, []),
        ({"c": {"d": [1.0, 2.5, "x"], "e": True}}, []),  # the same number
        ({"c": {"d": [1, 2.5, "x"], "e": True, "seconds": 3.5}}, []),
        ({"c": {"d": [1, 2.5, "x"], "e": True, "run": 3.5}}, [("c.run", ABSENT, 3.5)]),
    ],
)
def test_every_difference_is_found_where_it_is(change: dict[str, Any], found: list[tuple[str, Any, Any]]) -> None:
    told = differences(BASE, BASE | change)
    assert [(one.key, one.recorded, one.repeated) for one in told] == found
    assert [(one.key, one.repeated, one.recorded) for one in differences(BASE | change, BASE)] == found


def test_two_numbers_are_the_same_within_the_share_of_the_larger_one() -> None:
    for one, other, relative in ((100.0, 99.0, 0.01), (-2.0, 2.0, 2.0), (0.0, 1e-300, 1.0), (3, 4, 0.25)):
        (found,) = differences({"a": one}, {"a": other})
        assert found.relative == relative
        assert differences({"a": one}, {"a": other}, relative) == []
        assert differences({"a": one}, {"a": other}, 0.99 * relative) == [found]
    assert differences({"a": 0.0}, {"a": 0}) == []
    assert differences({"a": True}, {"a": False}, 1.0) != []  # a truth is no number
    (found,) = differences({"a": None}, {"a": 1.0}, 1.0)
    assert found.relative == float("inf")


def leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [leaf for key, value in inner for leaf in leaves(value, (*path, key))] or [path]


@given(place=st.integers(0, 10**6), value=st.sampled_from([None, "text", -7.25, True, [], {"x": 1}, ABSENT]))
def test_whatever_value_of_a_record_is_changed_is_the_one_that_is_found(place: int, value: Any) -> None:
    data = json.loads(json.dumps(tiny.ten().to_dict()))
    compared = [leaf for leaf in leaves(data) if leaf[0] not in ("created", "versions", "run", "seconds")]
    *path, last = compared[place % len(compared)]
    other = copy.deepcopy(data)
    inner = other
    for key in path:
        inner = inner[key]
    old = inner.pop(last) if value is ABSENT else inner[last]
    if value is not ABSENT:
        inner[last] = value
    found = differences(data, other)
    shorter = value is ABSENT and isinstance(inner, list)  # a shorter list is another one
    assert len(found) == (0 if old == value and type(old) is type(value) else 1)
    for one in found:
        assert isinstance(one.recorded, list) if shorter else one.recorded == old
        assert shorter or one.key.endswith(str(last)) or last == "name"
