"""Harmed checkpoints, records and configs: refused by name, or exactly what they were; never a traceback, and nothing runs."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import mutants
import pytest
import sweeps
import tiny
import torch
from hypothesis import HealthCheck, given, settings

import gcgap
import gcgap.commands.attribute_command
import gcgap.commands.measure_command
import gcgap.models.checkpoints
import gcgap.sweep.plan
import gcgap.training.config_file
import gcgap.training.lightning_cli
from gcgap.cli import main
from gcgap.models.checkpoints import new_model, read_checkpoint
from gcgap.models.transformer import Decoder
from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record
from gcgap.records.record_file import with_checksum
from gcgap.report.circuit_tables import read_truth
from gcgap.training.lightning_cli import ConfigOnly
from gcgap.training.usage import UsageError

pytestmark = [pytest.mark.robust, *(pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS)]
many = settings(
    max_examples=200, derandomize=True, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands make their parsers anew, which takes most of the time of these tests."""
    measure, fit = gcgap.commands.measure_command.build_parser(), ConfigOnly()
    monkeypatch.setattr(gcgap.commands.measure_command, "build_parser", lambda: measure)
    monkeypatch.setattr(gcgap.sweep.plan, "ConfigOnly", lambda: fit)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


class Payload:
    """Unpickling this creates a directory."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.mkdir, (self.target,))


class ReachedError(Exception):
    """Raised in the place of a measurement: the file was believed."""


def tried(call: Callable[[], Any]) -> tuple[Any, str]:
    """What a call gives, or else what it is refused with; every other exception is an error of the test."""
    try:
        return call(), ""
    except (UsageError, ValueError) as refusal:
        return None, str(refusal) or "nothing is said"


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def commanded(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Exit code and errors of a command, which shows no traceback and says nothing at length."""
    capsys.readouterr()
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [
        line for line in said.splitlines() if not line.startswith(("INFO: ", "Seed set to", "TPU available", "GPU available"))
    ]
    assert code == 0 or 1 <= len(lines) <= 3, said
    assert all(len(line) < 1000 for line in lines)
    return code, said


# Checkpoints


def test_a_corrupted_checkpoint_is_refused_by_name_or_holds_the_same_weights(run: Path, tmp_path: Path) -> None:
    whole, seen = (run / "checkpoints" / "step=000300.ckpt").read_bytes(), dict[str, bool]()
    original, path = gcgap.load(run), tmp_path / "corrupted.ckpt"

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(mutants.corrupted(whole, edits))
        model, refusal = tried(lambda: gcgap.load(path))
        seen[sha256(path.read_bytes()).hexdigest()] = not refusal
        if refusal:
            assert str(path) in refusal
            assert "\n" not in refusal
        else:
            assert equal(weights(model), weights(original))
            assert (model.origin.source, model.origin.step, model.settings) == (original.origin.source, 300, original.settings)

    check()
    assert len(seen) >= 190  # different files
    assert sum(seen.values()) < 100
    path.write_bytes(whole)
    assert not tried(lambda: gcgap.load(path))[1]


@pytest.mark.usefixtures("one_parser")
@pytest.mark.parametrize("command", ["measure", "attribute"])
def test_a_command_refuses_a_corrupted_checkpoint_by_name_or_has_the_same_weights(
    command: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, original, path = (run / "checkpoints" / "step=000300.ckpt").read_bytes(), weights(gcgap.load(run)), tmp_path / "h.ckpt"
    codes, had = list[int](), list[dict[str, torch.Tensor]]()

    def believe(model: Any, **_: Any) -> None:
        had.append(weights(model))
        raise ReachedError

    monkeypatch.setattr("gcgap.commands.targets.measure", believe)
    monkeypatch.setattr("gcgap.attribution.attribute.attribute", believe)

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(mutants.corrupted(whole, edits))
        code, said = commanded(capsys, command, path)
        assert str(path) in said if code == 2 else "ReachedError" in said
        codes.append(code)

    check()
    path.write_bytes(whole)
    assert commanded(capsys, command, path)[0] == 1
    assert all(equal(one, original) for one in had)
    assert len(had) == codes.count(1) + 1
    assert codes.count(2) > 150
    assert [one.name for one in tmp_path.iterdir()] == ["h.ckpt"]


def test_what_training_resumes_from_is_refused_by_name_or_the_same(run: Path, tmp_path: Path) -> None:
    """The stage of `gcgap fit --ckpt_path` that reads the file, before Lightning does."""
    whole, path = (run / "checkpoints" / "last.ckpt").read_bytes(), tmp_path / "last.ckpt"
    path.write_bytes(whole)
    original, read = read_checkpoint(path), list[bool]()

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(mutants.corrupted(whole, edits))
        content, refusal = tried(lambda: read_checkpoint(path))
        read.append(not refusal)
        if refusal:
            assert str(path) in refusal
        else:
            assert equal(content["state_dict"], original["state_dict"])
            moments = [one["optimizer_states"][0]["state"] for one in (content, original)]
            assert all(equal(moments[0][i], moments[1][i]) for i in moments[1])

    check()
    assert sum(read) < 100
    path.write_bytes(whole)
    assert not tried(lambda: read_checkpoint(path))[1]


def foreign(kind: str, run: Path, target: Path) -> bytes:
    """The bytes of a file that is no checkpoint."""
    buffer = io.BytesIO()
    match kind:
        case "empty":
            pass
        case "text":
            buffer.write(b"global_step: 300\n" * 400)
        case "safetensors":
            header = json.dumps({"embedding.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).encode()
            buffer.write(len(header).to_bytes(8, "little") + header + bytes(16))
        case "pickle":
            pickle.dump(Payload(target), buffer)
        case "legacy":
            torch.save({"state_dict": Payload(target)}, buffer, _use_new_zipfile_serialization=False)
        case "payload":
            honest = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
            torch.save(honest | {"hyper_parameters": honest["hyper_parameters"] | {"later": Payload(target)}}, buffer)
        case "tar":
            with tarfile.open(fileobj=buffer, mode="w") as archive:
                archive.add(run / "checkpoints" / "last.ckpt", "last.ckpt")
        case "gzip":
            buffer.write(gzip.compress((run / "checkpoints" / "last.ckpt").read_bytes(), 1))
        case "zip":
            with zipfile.ZipFile(buffer, "w") as archive:
                archive.write(run / "config.yaml")
        case "script":
            torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
        case "record":
            buffer.write((run / "gap" / "final.json").read_bytes())
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol", "ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    "kind", ["empty", "text", "safetensors", "pickle", "legacy", "payload", "tar", "gzip", "zip", "script", "record"]
)
def test_a_foreign_file_is_refused_by_every_command_and_never_runs(
    kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, target = tmp_path / "foreign.ckpt", tmp_path / "it-ran"
    path.write_bytes(foreign(kind, run, target))
    fit = tiny.arguments(tmp_path / "new")
    for arguments in (["measure", path], ["attribute", path], ["measure", "--verify", path], [*fit, "--ckpt_path", path]):
        code, said = commanded(capsys, *arguments)
        assert code == 2
        assert str(path) in said or "--verify" in arguments
    assert [one.name for one in tmp_path.iterdir()] == ["foreign.ckpt"]


def test_lightning_does_not_unpickle_what_it_loads_itself(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It reads the file of `--ckpt_path` a second time; here the first reading lets everything pass."""
    path, target = tmp_path / "last.ckpt", tmp_path / "it-ran"
    honest = read_checkpoint(run / "checkpoints" / "last.ckpt")
    torch.save(honest | {"loops": Payload(target)}, path)
    monkeypatch.setattr(gcgap.training.lightning_cli, "read_checkpoint", lambda path: honest)
    for command in ("fit", "validate", "test"):
        arguments = [command, *tiny.arguments(tmp_path / "new")[1:], f"--ckpt_path={path}"]
        assert main(arguments) != 0
        assert "weights_only" in capsys.readouterr().err.lower() or "Unpickling" in capsys.readouterr().err
        assert not target.exists()


def test_an_archive_that_would_fill_the_memory_is_refused_before_it_is_unpacked(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(run / "checkpoints" / "step=000300.ckpt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, bytes(2**22) if name.endswith("data/0") else data)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it is being unpacked"))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda *_: pytest.fail("it is being unpacked"))
    with pytest.raises(ValueError, match=r"bomb\.ckpt.*more room"):
        gcgap.load(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("d_model", 2**20), ("d_ff", 2**40), ("n_layers", 10**9), ("n_ctx", 10**18), ("d_model", 10**30), ("n_heads", 10**30)],
)
def test_a_checkpoint_that_asks_for_a_giant_model_is_refused_without_making_one(
    key: str, value: int, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**sizes: Any) -> Decoder:
        assert torch.empty(0).device.type == "meta", "room is made for the weights"
        assert sizes["n_layers"] < 100, "its parts are being made"
        return new_model(**sizes)

    monkeypatch.setattr(gcgap.models.checkpoints, "new_model", made)
    content = torch.load(run / "checkpoints" / "step=000300.ckpt", weights_only=True)
    content["hyper_parameters"] |= {key: value} | ({"positions": "learned"} if key == "n_ctx" else {})
    path = tmp_path / "giant.ckpt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"giant\.ckpt"):
        gcgap.load(path)


# Records


def attribution(path: Path) -> Path:
    """A small attribution record that has been written."""
    cost = dict.fromkeys(("forward", "backward", "double_backward", "forward_equivalents", "seconds"), 1.5)
    all_of = {
        "rho": 0.5,
        "tau_b": 0.25,
        "top_k": 1.0,
        "missed": 0.0,
        "l1": None,
        "ci": [0.1, 0.9],
        "ceiling": 0.95,
        "reason": None,
    }
    method = {"family": "exact", "estimates": "drop", "agreement": {"exact_match": {"all": all_of}}, "cost": cost}
    component = {"name": "L0_H0", "layer": 0, "kind": "head", "exact": {"exact_match": {"value": 0.125}}}
    component |= {"scores": {"exact": {"value": 0.125}}, "trust": {"reliability": 0.75}}
    data = {"kind": "attribution", "schema": 1, "task": "sort", "seed": 1, "step": 5, "protocol": {}, "setup": {}, "length": 9}
    data |= {"components": [component], "methods": {"exact": method}, "advice": "none", "length_given": True, "training": None}
    data |= {key: {} for key in ("model", "patching", "sets", "trust", "workflow", "versions")}
    AttributionRecord(data).write(path)
    return path


def known(path: Path) -> Path:
    return Path(shutil.copyfile(sweeps.ROOT / "docs" / "attribution" / "known.json", path))


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "record": (lambda path: tiny.ten().write(path).path or path, lambda path: Record.read(path).data),
    "compact": (lambda path: tiny.ten().write(path, compact=True).path or path, lambda path: Record.read(path).data),
    "attribution": (attribution, lambda path: AttributionRecord.read(path).data),
    "known": (known, read_truth),
}


def same(found: Any, original: Any) -> bool:
    """Whether a record tells what it told; a checksum whose very name was corrupted is an unknown key, and those are kept."""
    if not isinstance(original, dict):
        return found == original
    return all(found.get(key, "nothing") == value for key, value in original.items() if key != "sha256")


@pytest.mark.parametrize("kind", KINDS)
def test_a_corrupted_record_is_refused_by_name_or_has_the_very_same_numbers(kind: str, tmp_path: Path) -> None:
    write, read = KINDS[kind]
    path = write(tmp_path / "final.json")
    whole, original, outcomes = path.read_bytes(), read(path), list[bool]()

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(mutants.corrupted(whole, edits))
        found, refusal = tried(lambda: read(path))
        outcomes.append(not refusal)
        assert str(path) in refusal if refusal else same(found, original)

    check()
    assert outcomes.count(False) > 150


def test_every_digit_of_a_record_is_held_by_its_checksum(tmp_path: Path) -> None:
    path = tiny.ten().write(tmp_path / "final.json").path
    assert path is not None
    text, original, refused = path.read_text(), Record.read(path).data, 0
    places = [i for i in range(0, len(text), 47) if text[i].isdigit()]
    assert len(places) > 50
    for i in places:
        path.write_text(f"{text[:i]}{(int(text[i]) + 1) % 10}{text[i + 1 :]}")
        found, refusal = tried(lambda: Record.read(path))
        assert str(path) in refusal if refusal else found.data == original  # the 17th digit of a number, which says nothing
        refused += bool(refusal)
    assert refused > 0.9 * len(places)


def test_spaces_and_the_order_of_keys_do_not_count(tmp_path: Path) -> None:
    record = tiny.ten().write(tmp_path / "final.json")
    data = record.to_dict()
    assert next(iter(data)) == "sha256"
    (tmp_path / "final.json").write_text(json.dumps(dict(reversed(data.items())), indent=7, ensure_ascii=True))
    assert Record.read(tmp_path / "final.json").to_dict() == data


def test_a_record_without_a_checksum_is_read_as_before_and_gains_one_when_it_is_written(tmp_path: Path) -> None:
    old = tiny.ten().to_dict()
    assert "sha256" not in old
    (tmp_path / "old.json").write_text(json.dumps(old))
    record = Record.read(tmp_path / "old.json")
    assert record.to_dict() == old
    assert record.write(tmp_path / "new.json").to_dict() == with_checksum(old) == json.loads((tmp_path / "new.json").read_text())


def test_a_stale_checksum_is_never_written(tmp_path: Path) -> None:
    data = tiny.ten().write(tmp_path / "first.json").to_dict()
    Record(data | {"step": 251}).write(tmp_path / "second.json")
    assert Record.read(tmp_path / "second.json")["step"] == 251
    Record(data | {"step": 251, "sha256": None}).write(tmp_path / "third.json")
    assert (tmp_path / "third.json").read_bytes() == (tmp_path / "second.json").read_bytes()


@pytest.mark.parametrize("seal", [None, "", "0" * 64, 7, [], {}])
def test_a_checksum_that_is_none_is_a_wrong_one(seal: Any, tmp_path: Path) -> None:
    (tmp_path / "final.json").write_text(json.dumps({"sha256": seal} | tiny.ten().to_dict()))
    with pytest.raises(ValueError, match=r"final\.json` was changed after it was written"):
        Record.read(tmp_path / "final.json")


@pytest.mark.parametrize("text", ['"\\ud800"', "1e999", "NaN", "-Infinity", "[" * 100_000, "9" * 5000])
def test_what_json_allows_and_no_record_holds_is_refused_in_every_kind(text: str, tmp_path: Path) -> None:
    for kind in ("record", "attribution", "known"):
        write, read = KINDS[kind]
        path = write(tmp_path / "final.json")
        path.write_text(f'{{"later": {text}, {path.read_text()[1:]}')
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            read(path)
        assert str(path) in str(refused.value)


# Configs

PIECES = [
    *("!!python/object/apply:os.mkdir [it-ran]", "!!python/name:os.system", "!!python/object/new:os.mkdir [it-ran]"),
    *("9" * 5000, "1e999", ".nan", "-1", "3.5", "true", "null", "text", '""', '"\\ud800"', "2001-99-99", "0x", "1:99:99"),
    *("!!timestamp x", "!!bool x", "!!float x", "!!binary x", "!!set {a}", "!!omap [a: 1]", "&a [*a]", "*a", "<<: 3"),
    *(
        "[" * 30 + "]" * 30,
        "[" * 500,
        "{a: {b: {c: {}}}}",
        "[null]",
        "[[]]",
        "[]",
        "{}",
        "? [a]",
        "|",
        '"',
        "\t",
        "- - -",
        "...",
    ),
    *("../../x", "{class_path: nowhere.Nothing}", "[1, 2, 3, 4, 5, 6, 7]", "{a: 1, a: 2}"),
]


def corrupted_config(original: bytes, edits: list[mutants.Edit]) -> bytes:
    """Bytes are corrupted, or lines."""
    if edits[0][3] % 3 == 0:
        return mutants.corrupted(original, edits)
    return mutants.corrupted_lines(original, edits, PIECES)


def named(text: str, path: Path) -> bool:
    """Whether a refusal names the file or a key."""
    return (
        str(path) in text
        or "`" in text
        or "Parser key" in text
        or "does not accept option" in text
        or "in keys" in text
        or text.startswith("Option '")
    )


def test_a_corrupted_config_is_refused_by_file_or_key_or_resolves_and_runs_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resolver = ConfigOnly()
    path, outcomes, modules = tmp_path / "corrupted.yaml", list[bool](), set(sys.modules)
    originals = [(run / "config.yaml").read_bytes(), (sweeps.ROOT / "configs" / "attribution.yaml").read_bytes()]

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(corrupted_config(originals[edits[0][1] % 2], edits))
        found, refusal = tried(lambda: resolver.resolve([f"--config={path}"]))
        outcomes.append(not refusal)
        if refusal:
            assert named(refusal, path), refusal
        else:
            assert None not in [value for block in ("model", "data", "protocol", "target") for value in found[block].values()]

    check()
    assert min(outcomes.count(True), outcomes.count(False)) > 20
    assert [one.name for one in tmp_path.iterdir()] == ["corrupted.yaml"]
    loaded = {name for name in set(sys.modules) - modules if not name.startswith(("hypothesis.", "encodings."))}
    assert not loaded  # nothing that a config names was imported


EVIL = {
    "object": ("data: !!python/object/apply:os.mkdir [it-ran]\n", "python/object"),
    "twice": ("model:\n  d_ff: 64\nmodel:\n  d_model: 32\n", "`model` is there a second time in line 3"),
    "twice inside": ("model:\n  d_ff: 64\n  d_ff: 32\n", "`d_ff` is there a second time in line 3"),
    "binary": ("\x00\x01\x02", "not YAML"),
    "utf-16": ("data: {}\n".encode("utf-16"), "got the BOM (byte order mark) of UTF-16"),
    "two": ("data: {}\n---\nmodel: {}\n", "not YAML"),
}


@pytest.mark.usefixtures("one_parser")
@pytest.mark.parametrize(("text", "told"), EVIL.values(), ids=EVIL)
def test_an_evil_config_is_refused_by_name_wherever_it_is_read(
    text: str | bytes, told: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run" / "config.yaml"
    shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("*.json", "events*"))
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    sweeps.write(tmp_path)
    (tmp_path / "sweep.yaml").write_text(f"configs: [{path}]\ndirectory: runs\n")
    before = tiny.files(tmp_path)
    checkpoint = tmp_path / "run" / "checkpoints" / "step=000300.ckpt"
    fit = ["fit", f"--config={path}"]
    for arguments in (fit, ["sweep", "--config", path], ["sweep", "--config", "sweep.yaml"], ["measure", tmp_path / "run"],
                      ["measure", checkpoint]):  # fmt: skip
        code, said = commanded(capsys, *arguments)
        assert code == 2, said
        assert str(path) in said
        assert told in said
    assert tiny.files(tmp_path) == before


@pytest.mark.usefixtures("one_parser")
def test_a_corrupted_sweep_file_is_refused_by_file_or_key_or_names_runs_inside_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sweeps.write(tmp_path)
    content = {"configs": {"tiny": ["tiny.yaml"]}, "grid": {"seed_everything": [1]}, "again": {"tiny": [{"site": "released"}]}}
    whole = "directory: runs\n" + "".join(f"{line}\n" for line in _lines(content))
    path, outcomes = tmp_path / "sweep.yaml", list[bool]()
    path.write_text(whole)
    assert [one.job.name for one in gcgap.sweep.plan.read(path)] == ["tiny/sort-seed1"]

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(corrupted_config(whole.encode(), edits))
        runs, refusal = tried(lambda: gcgap.sweep.plan.read(path))
        outcomes.append(not refusal)
        assert not refusal or named(refusal, path), refusal
        for one in runs or ():
            home = Path(one.job.log.removesuffix(f"logs/{one.job.name}.log"))
            assert ".." not in one.job.run.relative_to(home).parts

    check()
    assert min(outcomes.count(True), outcomes.count(False)) > 5
    assert sorted(one.name for one in tmp_path.iterdir()) == ["sweep.yaml", "tiny.yaml"]


def _lines(value: Any, indent: str = "") -> list[str]:
    """YAML with a line for each key and item."""
    found = []
    for key, inner in value.items():
        if isinstance(inner, dict):
            found += [f"{indent}{key}:", *_lines(inner, f"{indent}  ")]
        else:
            found += [f"{indent}{key}:", *(f"{indent}  - {json.dumps(item)}" for item in inner)]
    return found


@pytest.mark.usefixtures("one_parser")
def test_a_corrupted_config_of_a_run_is_refused_by_name_or_measures_as_it_says(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = Path(shutil.copytree(run, tmp_path / "sort-tiny"))
    whole, path, codes = (home / "config.yaml").read_bytes(), home / "config.yaml", list[int]()
    before = {name: content for name, content in tiny.files(home).items() if name != "config.yaml"}

    def believe(*_: Any, **__: Any) -> None:
        raise ReachedError

    monkeypatch.setattr("gcgap.commands.targets.measure", believe)

    @many
    @given(mutants.EDITS)
    def check(edits: list[mutants.Edit]) -> None:
        path.write_bytes(corrupted_config(whole, edits))
        code, said = commanded(capsys, "measure", home)
        codes.append(code)
        assert code == 0 or "ReachedError" in said or str(home) in said

    check()
    assert {name: content for name, content in tiny.files(home).items() if name != "config.yaml"} == before
    assert codes.count(2) > 100
    assert codes.count(0) > 5


@pytest.mark.usefixtures("one_parser")
def test_what_a_cut_config_of_a_run_has_lost_never_becomes_a_default(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "sort-tiny"
    shutil.copytree(run, home, ignore=shutil.ignore_patterns("*.json"))
    lines, believed = (home / "config.yaml").read_text().splitlines(keepends=True), list[Any]()

    def believe(*_: Any, protocol: Any, **__: Any) -> None:
        believed.append(protocol)
        raise ReachedError

    monkeypatch.setattr("gcgap.commands.targets.measure", believe)
    for kept in sorted({*range(0, len(lines), 4), *range(len(lines) - 5, len(lines) + 1)}):
        (home / "config.yaml").write_text("".join(lines[:kept]))
        code, said = commanded(capsys, "measure", home)
        assert code == 1 or f"{home}/config.yaml" in said
    assert len(believed) == 3  # whole, and without the two keys after its blocks
    assert all(one == believed[-1] for one in believed)
    assert believed[-1].sequences == tiny.SIZES["sequences"]
