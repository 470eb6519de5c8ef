"""The command line: what is refused and how, what a run leaves behind, and that starting is light."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch  # noqa: F401
import pytest
import tiny
import torch
import yaml
from filelock import FileLock
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcgap.cli import COMMANDS, main
from gcgap.data import tasks
from gcgap.data.tasks import TASKS
from gcgap.importance.protocol import Protocol
from gcgap.records.record import Record
from gcgap.training.callbacks import GapTracker
from gcgap.training.module import SequenceModel
from gcgap.training.usage import UsageError

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

Refuse = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command in an empty directory; it must end with 2, one to three lines on stderr, and no file. Gives the lines."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)

    def refused(*arguments: str | Path) -> str:
        for name in ("lightning", "lightning.fabric", "lightning.pytorch"):
            for handler in logging.getLogger(name).handlers:  # they hold the stderr of the time when they were imported
                monkeypatch.setattr(handler, "stream", sys.stderr, raising=False)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert code == 2, said.err
        assert list(here.rglob("*")) == []
        assert "Traceback" not in said.err + said.out
        lines = [line for line in said.err.splitlines() if not line.startswith("INFO: ")]  # Lightning's, before the error
        assert 1 <= len(lines) <= 3, said.err
        assert lines[0].startswith("gcgap: error: ")
        return "\n".join(lines)

    return refused


def subprocess_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("data.task", "frob", ("data.task", "'frob'", "sort")),
        ("data.ood_lengths", "[8,40]", ("data.ood_lengths", "40", "31", "model.n_ctx")),
        ("data.ood_lengths", "[5,9]", ("data.ood_lengths", "5", "3..7")),
        ("data.ood_lengths", "[]", ("data.ood_lengths", "[]")),
        ("data.lengths", "[7,3]", ("data.lengths", "[7, 3]")),
        ("data.lengths", "[3,40]", ("data.lengths", "40")),
        ("data.batch_size", "0", ("data.batch_size", "0")),
        ("data.frob", "1", ("data.frob", "1")),
        ("model.d_model", "30", ("model.d_model", "30", "model.n_heads", "4")),
        ("model.d_model", "wide", ("model.d_model", "wide")),
        ("model.n_layers", "0", ("model.n_layers", "0")),
        ("model.n_layers", "2147483647", ("model", "n_layers 2147483647")),
        ("model.positions", "spiral", ("model.positions", "spiral")),
        ("model.learning_rate", "-1", ("model.learning_rate", "-1")),
        ("protocol.sets", "[[L0_H0,L9_H9]]", ("protocol.sets", "'L9_H9'", "L0_H0")),
        ("protocol.sets", "[[]]", ("protocol.sets", "empty")),
        ("protocol.sets", "[[L0_H0,L0_H0]]", ("protocol.sets", "different", "['L0_H0', 'L0_H0']")),
        ("protocol.sets", "[[L0_H0,L1_H0],[L1_H0,L0_H0]]", ("protocol.sets", "different")),
        ("trainer.callbacks", "{class_path: EarlyStopping, init_args: {monitor: x, mode: frob}}", ("frob", "EarlyStopping")),
        ("trainer.strategy", "{class_path: Frob}", ("trainer", "strategy", "frob")),
        ("trainer.devices", "{a: 1}", ("trainer", "devices")),
        ("import", "nowhere", ("--import", "nowhere")),
        ("import", "nowhere.py", ("--import", "nowhere.py", "no such file")),
        ("protocol.baselines", "[median]", ("protocol.baselines", "median", "mean")),
        ("protocol.baselines", "[mean,mean]", ("protocol.baselines", "mean")),
        ("protocol.window", "[0.8,0.2]", ("protocol.window", "[0.8, 0.2]")),
        ("protocol.site", "elsewhere", ("protocol.site", "elsewhere", "component", "released")),
        ("protocol.sequences", "1", ("sequences", "1")),
        ("protocol.tracking.length", "5", ("protocol.tracking.length", "5", "3..7")),
        ("protocol.tracking.length", "50", ("protocol.tracking.length", "50", "31")),
        ("protocol.tracking.dense_every", "0", ("protocol.tracking.dense_every", "0")),
        ("protocol.frob", "1", ("protocol.frob", "1")),
        ("target.accuracy", "90", ("target.accuracy", "90")),
        ("seed_everything", "-1", ("seed_everything", "-1")),
        ("seed_everything", "true", ("seed_everything", "True")),
        ("seed_everything", "1.5", ("seed_everything", "1.5")),
        ("trainer.max_steps", "many", ("trainer.max_steps", "many")),
        ("trainer.accelerator", "frob", ("accelerator", "frob")),
        ("ckpt_path", "nowhere.ckpt", ("ckpt_path", "nowhere.ckpt")),
        ("ckpt_path", "last", ("ckpt_path", "last.ckpt")),
        ("frob", "1", ("frob", "1")),
    ],
)
def test_a_bad_option_of_fit_is_refused_with_its_key_and_what_was_got(
    option: str, value: str, told: tuple[str, ...], refuse: Refuse
) -> None:
    said = refuse("fit", f"--{option}={value}")
    assert all(part in said for part in told), said


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("data:\n  task: frob\n", ("data.task", "'frob'")),
        ("data:\n  frob: 1\n", ("data.frob",)),
        ("frob: 1\n", ("frob",)),
        ("model:\n  d_model: wide\n", ("model.d_model", "wide")),
        ("protocol:\n  tracking:\n    frob: 1\n", ("protocol.tracking.frob",)),
        ("protocol:\n  baselines: [median]\n", ("protocol.baselines", "median")),
        ("seed_everything: -1\n", ("seed_everything", "-1")),
        ("data: [\n", ("bad.yaml",)),
        ("a: b: c\n", ("bad.yaml",)),
        ("- data\n", ("bad.yaml",)),
        ("", ("bad.yaml",)),
        ("\0", ("bad.yaml",)),
    ],
)
def test_a_bad_config_file_is_refused_with_what_is_wrong(
    text: str, told: tuple[str, ...], refuse: Refuse, tmp_path: Path
) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(text)
    said = refuse("fit", "--config", config)
    assert all(part in said for part in told), said
    assert config.read_text() == text


def test_a_missing_config_file_is_refused_by_name(refuse: Refuse) -> None:
    for command in ("fit", "validate", "test", "predict"):
        assert "nowhere.yaml" in refuse(command, "--config", "nowhere.yaml")


def test_an_unknown_command_is_refused_with_those_there_are(refuse: Refuse) -> None:
    said = refuse("frob")
    assert all(part in said for part in ("'frob'", *COMMANDS))


def test_a_missing_checkpoint_is_refused_by_name(refuse: Refuse) -> None:
    for command in ("fit", "validate", "test", "predict"):
        assert "nowhere.ckpt" in refuse(command, "--ckpt_path", "nowhere.ckpt")
    assert "nowhere.ckpt" in refuse("measure", "nowhere.ckpt")
    assert "nowhere" in refuse("measure", "nowhere")
    assert "give run directories or .ckpt files, or `--model`." in refuse("measure")


@pytest.mark.parametrize(
    ("command", "content"), [("fit", b""), ("fit", b"hello"), ("fit", None), ("validate", None), ("test", None)]
)
def test_a_broken_checkpoint_is_refused_by_name(
    content: bytes | None, command: str, run: Path, refuse: Refuse, tmp_path: Path
) -> None:
    path = tmp_path / "broken.ckpt"
    path.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes()[:5000] if content is None else content)
    assert "broken.ckpt" in refuse(command, *tiny.arguments(Path("new"))[1:], "--ckpt_path", path)


def test_a_checkpoint_of_another_model_or_without_optimiser_is_refused_by_name(run: Path, refuse: Refuse) -> None:
    last, weights_only = run / "checkpoints" / "last.ckpt", run / "checkpoints" / "step=000150.ckpt"
    for command in ("fit", "validate", "test", "predict"):
        arguments = tiny.arguments(Path("new"), model__d_model=16)[1:]
        assert str(last) in refuse(command, *arguments, "--ckpt_path", last)
    assert str(weights_only) in refuse(*tiny.arguments(Path("new")), "--ckpt_path", weights_only)


@pytest.mark.parametrize("name", ["checkpoints/step=000000.ckpt", "gap/final.json", "config.yaml"])
def test_a_directory_that_holds_any_part_of_a_run_is_left_alone(name: str, refuse: Refuse, tmp_path: Path) -> None:
    held = tmp_path / "held"
    (held / name).parent.mkdir(parents=True)
    (held / name).write_bytes(b"mine")
    said = refuse(*tiny.arguments(held, **tiny.SHORT))
    assert "trainer.default_root_dir" in said
    assert str(held) in said
    assert tiny.files(held) == {name: b"mine"}


def test_two_processes_do_not_train_in_one_directory(refuse: Refuse, tmp_path: Path) -> None:
    held = tmp_path / "held"
    held.mkdir()
    with FileLock(held / ".fit.lock"):
        assert f"another process trains in {held} now" in refuse(*tiny.arguments(held, **tiny.SHORT))
    assert tiny.files(held).keys() <= {".fit.lock"}


def test_a_run_is_never_overwritten(run: Path, refuse: Refuse) -> None:
    before = tiny.files(run)
    for arguments in (tiny.arguments(run), tiny.arguments(run, data__task="reverse"), ["fit", "--config", run / "config.yaml"]):
        assert str(run) in refuse(*arguments, "--trainer.default_root_dir", run)
        assert tiny.files(run) == before


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("model.d_ff", "128", ("model", "d_ff", "64", "128")),
        ("data.task", "reverse", ("data", "task", "sort", "reverse")),
        ("seed_everything", "7", ("seed_everything", "42", "7")),
        ("protocol.site", "released", ("protocol", "site", "component", "released")),
        ("protocol.tracking.length", "5", ("protocol", "tracking", "length", "4", "5")),
        ("target.accuracy", "0.5", ("target", "accuracy", "1.0", "0.5")),
    ],
)
def test_resuming_with_a_changed_setting_is_refused(
    option: str, value: str, told: tuple[str, ...], run: Path, refuse: Refuse
) -> None:
    before = tiny.files(run)
    said = refuse(*tiny.arguments(run), f"--{option}={value}", "--ckpt_path", "last")
    assert all(part in said for part in told), said
    assert tiny.files(run) == before


def test_only_debug_prints_a_traceback(refuse: Refuse, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["fit", "--data.task", "frob"], ["frob"], ["measure", "nowhere"]):
        refuse(*arguments)
        assert main([*arguments, "--debug"]) == main(["--debug", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("Traceback (most recent call last)") >= 2
        assert said.splitlines()[-1].startswith(("gcgap: error: ", "  "))


def test_a_failure_that_the_user_did_not_type_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gcgap.commands.measure_command

    def fail(arguments: list[str]) -> int:
        raise FloatingPointError("The loss is nan at step 3.")

    monkeypatch.setattr(gcgap.commands.measure_command, "run", fail)
    assert main(["measure", "runs"]) == 1
    assert capsys.readouterr().err == "gcgap: error: FloatingPointError: The loss is nan at step 3.\n"


@pytest.mark.parametrize(("hook", "code"), [("setup", 2), ("on_train_start", 1)])
def test_a_value_error_is_what_was_typed_until_training_begins(
    hook: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("no such length")

    monkeypatch.setattr(GapTracker, hook, fail)
    assert main(tiny.arguments(tmp_path / "run", **tiny.SHORT)) == code
    assert capsys.readouterr().err.endswith(f"gcgap: error: {'ValueError: ' * (code == 1)}no such length\n")


def test_a_table_that_cannot_be_shown_fails_no_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tracker, barriers = GapTracker(Protocol()), []
    strategy = SimpleNamespace(barrier=barriers.append, broadcast=lambda value: value)
    tracker.run = SimpleNamespace(finish=lambda *_: tiny.ten(), writes=False)  # type: ignore[assignment]
    monkeypatch.setattr("gcgap.training.callbacks.table", lambda record: 1 / 0)
    module = SequenceModel(n_layers=1, n_heads=1, d_model=4, d_ff=4)
    trainer: Any = SimpleNamespace(global_step=3, is_global_zero=True, strategy=strategy)
    tracker._finish(trainer, module)
    assert capsys.readouterr().err.startswith("gcgap: warning: the table of the final model cannot be shown (ZeroDivisionError")
    assert barriers == ["gcgap final measurement"]


def test_an_error_of_many_lines_is_cut_to_its_first_two_and_its_last(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gcgap.commands.measure_command

    def fail(arguments: list[str]) -> int:
        raise UsageError("first\n\n  second\nthird\nfourth\n")

    monkeypatch.setattr(gcgap.commands.measure_command, "run", fail)
    assert main(["measure", "runs"]) == 2
    assert capsys.readouterr().err == "gcgap: error: first\n  second\n  fourth\n"


def test_processes_end_with_the_exit_codes_and_without_traceback(tmp_path: Path) -> None:
    for arguments, code in ((["frob"], 2), ([], 0)):
        done = subprocess_of("-m", "gcgap", *arguments)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert bool(done.stderr) == (code == 2)
    refused = subprocess_of("-m", "gcgap", "fit", "--data.task", "frob", "--trainer.default_root_dir", str(tmp_path / "run"))
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) <= 3
    assert "data.task" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_help_and_version_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gcgap {version('gcgap')}\n"
    for arguments in ([], ["-h"], ["--help"]):
        assert main(arguments) == 0
        said = capsys.readouterr().out
        assert all(part in said for part in (*COMMANDS, "--version", "--debug", "--help"))


def test_the_installed_command_and_the_module_are_the_same() -> None:
    command = Path(sys.executable).with_name("gcgap")
    for option in ("--version", "--help"):
        installed = subprocess.run([command, option], capture_output=True, text=True, check=True).stdout
        assert subprocess_of("-m", "gcgap", option).stdout == installed != ""


def test_help_and_version_import_nothing_heavy() -> None:
    heavy = "{'torch', 'lightning', 'pandas', 'matplotlib', 'scipy', 'numpy', 'jsonargparse'}"
    for option in ("--help", "--version"):
        code = f"import sys; from gcgap.cli import main; main(['{option}']); print(sorted({heavy} & set(sys.modules)))"
        assert subprocess_of("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"fit", "validate", "test", "predict"}))
def test_the_help_of_a_command_imports_no_torch_and_is_short(command: str) -> None:
    code = (
        f"import sys, atexit; from gcgap.cli import main; sys.argv = ['gcgap', {command!r}, '--help'];"
        "atexit.register(lambda: print(sorted({'torch', 'lightning', 'matplotlib'} & set(sys.modules)))); main()"
    )
    *lines, imported = subprocess_of("-c", code).stdout.splitlines()
    assert imported == "[]"
    assert len(lines) <= 83
    assert max(map(len, lines)) <= 100


def test_reading_records_imports_neither_torch_nor_lightning(tmp_path: Path) -> None:
    tiny.ten().write(tmp_path / "gap" / "final.json")
    code = (
        f"import sys, gcgap; frame = gcgap.read({str(tmp_path)!r});"
        "print(len(frame), sorted({'torch', 'lightning'} & set(sys.modules)))"
    )
    assert subprocess_of("-c", code).stdout == "20 []\n"


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    import gcgap

    with pytest.raises(AttributeError, match="frob"):
        gcgap.frob  # noqa: B018


@pytest.mark.parametrize("command", ["fit", "measure"])
def test_every_option_of_ours_has_a_text(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert help_of(command, "--help-all" if command == "fit" else "--help") == 0
    said = capsys.readouterr().out
    section = said[said.index("\noptions:") :]
    entries = re.findall(
        r"^  --((?:data|model|protocol|target|length|full|force)[.\w]*)\s(.*?)(?=^  -|^\S|\Z)", section, re.M | re.S
    )
    blocks = ("data", "model", "protocol", "target", "protocol.tracking")
    options = {name: " ".join(text.split()) for name, text in entries if name not in blocks}
    wanted = {"protocol.site", "protocol.window", "protocol.sets", "protocol.tracking.length", "protocol.tracking.sequences"}
    wanted |= {"data.task", "data.ood_lengths", "model.positions", "target.accuracy"} if command == "fit" else {"length", "force"}
    assert wanted <= options.keys()
    for name, text in options.items():
        words = re.sub(r"^(\{.*?\}|\[ITEM,...\]|[A-Z_]+)\s", "", text.split("(type:")[0])
        assert len(words.split()) >= 1, f"--{name} has no text"
        assert words.strip() != "", f"--{name} has no text"
    assert len(options) > (30 if command == "fit" else 20)


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_short_help_fits_two_screens_and_begins_with_our_options(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for option in ("-h", "--help") if command == "fit" else ("--help",):
        assert help_of(command, option) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= 100
        assert all(len(line) <= 120 for line in lines)
        options = [line.split()[0] for line in lines if line.startswith("  ")]
        assert options[:5] == ["--config", "--seed_everything", "--ckpt_path", "--import", "default_root_dir"]
        assert {"max_steps", "precision", "devices", "task", "n_layers", "window", "dense_every", "accuracy"} <= set(options)
        assert any(line.split()[:2] == ["batch_size", "64"] and "per optimiser step" in line for line in lines)
        assert any("--help-all" in line for line in lines)


def help_of(command: str, option: str = "--help") -> int:
    """The exit code of `gcgap COMMAND --help`, whichever way the parser ends."""
    try:
        return main([command, option])
    except SystemExit as leaving:
        return int(leaving.code or 0)


def test_a_run_directory_holds_what_the_contract_names(run: Path) -> None:
    names = set(tiny.files(run))
    steps = {f"{step:06d}" for step in tiny.STEPS}
    wanted = {"config.yaml", "checkpoints/last.ckpt", "gap/final.json", "gap/emergence.png"}
    wanted |= {f"checkpoints/step={step}.ckpt" for step in steps} | {f"gap/step={step}.json" for step in steps}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events - {"hparams.yaml"} == wanted
    assert (run / "gap" / "emergence.png").read_bytes().startswith(b"\x89PNG")


def test_the_records_of_a_run_say_what_they_are(run: Path) -> None:
    from gcgap.models.checkpoints import sha256

    for step in tiny.STEPS:
        record = Record.read(run / "gap" / f"step={step:06d}.json")
        assert (record["step"], record["length"], record["task"], record["seed"]) == (step, 4, "sort", 42)
        assert (record["run"], record["final"]) == ("sort-tiny", False)
        assert record["checkpoint_sha256"] == sha256(run / "checkpoints" / f"step={step:06d}.ckpt")
        assert set(record["accuracy"]["by_length"]) == {"4", "5"}
    final = Record.read(run / "gap" / "final.json")
    assert final["final"] is True
    assert final["step"] == tiny.STEPS[-1]
    assert final["checkpoint_sha256"] == sha256(run / "checkpoints" / f"step={tiny.STEPS[-1]:06d}.ckpt")
    assert final["length"] == final["window"]["length"]
    assert final["protocol"]["window"] == [0.05, 0.95]


def test_the_config_of_a_run_is_resolved(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["seed_everything"] == 42
    assert config["data"] | {"task": "sort", "layout": "contiguous", "ood_lengths": [4, 5], "lengths": [1, 3]} == config["data"]
    assert config["model"] | {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "positions": "none"} == config["model"]
    assert config["protocol"]["baselines"] == ["mean", "zero", "resample"]
    assert config["protocol"]["tracking"]["length"] == 4
    assert config["trainer"]["max_steps"] == tiny.STEPS[-1]


def logged(run: Path) -> dict[tuple[str, int], float]:
    """Every scalar in the event files of a run, with every bit."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
    return {(tag, event.step): event.value for tag in events.Tags()["scalars"] for event in events.Scalars(tag)}


def test_the_config_of_a_run_makes_the_same_run_again(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert main(["fit", "--config", str(run / "config.yaml"), "--trainer.default_root_dir", str(again)]) == 0
    for step in tiny.STEPS:
        name = f"checkpoints/step={step:06d}.ckpt"
        first, second = (torch.load(one / name, weights_only=True)["state_dict"] for one in (run, again))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
        assert tiny.told(run / "gap" / f"step={step:06d}.json") == tiny.told(again / "gap" / f"step={step:06d}.json")
    assert tiny.told(run / "gap" / "final.json") == tiny.told(again / "gap" / "final.json")
    assert logged(run) == logged(again)
    assert len(logged(run)) > 100
    configs = [yaml.safe_load((one / "config.yaml").read_text()) for one in (run, again)]
    for config in configs:
        del config["trainer"]["default_root_dir"]
    assert configs[0] == configs[1]


def test_another_seed_makes_another_run(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert main(tiny.arguments(other, **tiny.SHORT, seed_everything=43)) == 0
    first, second = (torch.load(one / "checkpoints/step=000000.ckpt", weights_only=True)["state_dict"] for one in (run, other))
    assert not any(torch.equal(first[key], second[key]) for key in first if "weight" in key and "norm" not in key)


def test_without_a_directory_a_run_goes_to_runs_by_task_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [one for one in tiny.arguments(tmp_path, **tiny.SHORT) if not one.startswith("--trainer.default_root_dir")]
    assert main([*arguments, "--data.task=copy", "--seed_everything=5"]) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["copy-seed5"]
    assert (tmp_path / "runs" / "copy-seed5" / "gap" / "final.json").exists()


def test_validate_test_and_predict_run_on_the_config_of_a_run_and_write_nothing(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = tiny.files(run)
    for command, wanted in (("validate", "accuracy/validation"), ("test", "accuracy/length_4"), ("predict", "")):
        arguments = [command, "--config", str(run / "config.yaml"), "--ckpt_path", "last"]
        assert main([*arguments, f"--trainer.default_root_dir={run}"]) == 0
        assert wanted in capsys.readouterr().out
    assert tiny.files(run) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--model.n_head=2", "--protocol.sequence=3", "--trainer.max_step=5"])
def test_the_beginning_of_a_key_is_not_the_key(option: str, refuse: Refuse) -> None:
    assert option.split("=")[0].lstrip("-") in refuse("fit", option)


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_untrained_weights_are_not_judged_by_mistake(command: str, refuse: Refuse) -> None:
    assert "ckpt_path" in refuse(command)


OWN = """
from gcgap.data.tasks import Task

class Sum(Task):
    name = "sum_of_test_cli"

    def target(self, inputs):
        return inputs.sum(-1, keepdim=True) % 97
"""


def test_a_task_of_ones_own_is_imported_by_every_command_and_named_by_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))
    monkeypatch.setattr("gcgap.models.checkpoints.TASKS", dict(TASKS))
    monkeypatch.delitem(sys.modules, "tasks_of_test_cli", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "tasks_of_test_cli.py").write_text(OWN)
    run, short = (
        tmp_path / "run",
        tiny.SHORT | {"data.task": "sum_of_test_cli", "data.layout": "released", "protocol.window": [0, 1]},
    )
    arguments = tiny.arguments(run, **{name.replace(".", "__"): value for name, value in short.items()})
    assert main(arguments) == 2
    assert "`data.task`" in (said := capsys.readouterr().err)
    assert "`--import MODULE`" in said
    assert main([*arguments, "--import=tasks_of_test_cli.py"]) == 0
    assert yaml.safe_load((run / "config.yaml").read_text())["import"] == [str(tmp_path / "tasks_of_test_cli.py")]
    record = Record.read(run / "gap" / "final.json")
    assert (record["task"], record["window"]["length"]) == ("sum_of_test_cli", 4)
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0
    assert "accuracy/length_4" in capsys.readouterr().out
    for command in ("measure", "attribute"):
        assert main([command, str(run), "--force"]) == 2
        said = capsys.readouterr().err
        assert "the task 'sum_of_test_cli', of the module tasks_of_test_cli (" in said
        assert "`--import tasks_of_test_cli`" in said
    monkeypatch.setattr("gcgap.models.checkpoints.TASKS", tasks.TASKS)
    assert main(["measure", str(run / "checkpoints" / "last.ckpt"), "--force", "--import", "tasks_of_test_cli"]) == 0
