"""SIGINT and SIGTERM: training finishes its step and saves it, everything else stops at once; one line says so."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import ends
import pytest
import sweeps
from ends import check_same, fit
from zygote import Zygote

from gcgap.cli import main
from gcgap.signals import Held, Interrupted, handled_by, interrupt

CODES = {"SIGINT": 130, "SIGTERM": 143}
GOES_ON = "the same command with `--ckpt_path last` goes on.\n"
HELD = [  # where the signal comes, and the step that is saved
    ("hook on_before_optimizer_step", 11, 12),
    ("write step=000000.json", 0, 0),
    ("write step=000005.ckpt", 0, 5),
    ("sync last.ckpt", 2, 10),
    ("hook on_validation_batch_start", 1, 10),
    ("hook on_validation_end", 1, 20),
    ("hook on_train_end", 0, 25),
]


def lines(said: Path) -> list[str]:
    """The lines that are not Lightning's usual ones."""
    usual = ("Seed set", "GPU available", "TPU available", "`Trainer.fit`", "Restoring", "Restored", "Loaded")
    return [line for line in said.read_text().splitlines() if line and not line.startswith(usual)]


@pytest.mark.parametrize("number", range(len(HELD)))
def test_training_finishes_its_step_saves_it_and_goes_on_to_the_same_bits(
    number: int, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    place, count, step = HELD[number]
    name, run, said = list(CODES)[number % 2], tmp_path / "run", tmp_path / "said.txt"
    code = zygote(fit(run, "steps"), said, faults={"below": str(run), "at": place, "numbers": [count], "act": name})
    assert code == CODES[name]
    assert lines(said) == [f"gcgap: Interrupted at step {step}; {GOES_ON}".strip()]
    assert ends.step(run) == step
    assert not (run / "gap" / "final.json").exists()
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


@pytest.mark.parametrize(("place", "name"), [("hook setup", "SIGINT"), ("hook on_train_start", "SIGTERM")])
def test_before_training_a_signal_stops_at_once_and_the_same_command_begins_again(
    place: str, name: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    assert zygote(fit(run, "steps"), said, faults={"below": str(run), "at": place, "numbers": [0], "act": name}) == CODES[name]
    assert lines(said) == [f"gcgap: Interrupted by {name}."]
    assert not (run / "checkpoints").exists()
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


@pytest.mark.parametrize("end", ends.ENDS)
def test_in_the_final_measurement_a_signal_stops_at_once(
    end: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    faults = {"below": str(run), "at": "write final.json", "numbers": [0], "act": "SIGTERM"}
    assert zygote(fit(run, end), said, faults=faults) == 143
    assert lines(said) == [f"gcgap: Interrupted at step {ends.step(run)}; {GOES_ON}".strip()]
    assert not (run / "gap" / "final.json").exists()
    assert ends.unfinished(run) == []
    assert zygote(fit(run, end), said) == 0
    assert (run / "gap" / "final.json").exists()


def test_a_second_signal_stops_at_once_and_costs_only_what_was_not_saved(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    faults = {"below": str(run), "at": "hook on_*_backward", "numbers": [26, 27], "act": "SIGINT"}
    assert zygote(fit(run, "steps"), said, faults=faults) == 130
    assert lines(said) == [f"gcgap: Interrupted at step 13; {GOES_ON}".strip()]
    assert ends.step(run) == 10
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


@pytest.mark.parametrize(("command", "name"), [("validate", "SIGINT"), ("test", "SIGTERM"), ("predict", "SIGINT")])
def test_judging_stops_at_once(command: str, name: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path) -> None:
    config, said = short_runs["steps"].with_name("config.yaml"), tmp_path / "said.txt"
    arguments = [command, f"--config={config}", f"--ckpt_path={short_runs['steps'] / 'checkpoints' / 'last.ckpt'}"]
    faults = {"below": str(tmp_path), "at": f"hook on_{command}_batch_start".replace("validate", "validation"), "numbers": [1]}
    assert zygote(arguments, said, faults=faults | {"act": name}) == CODES[name]
    assert lines(said) == [f"gcgap: Interrupted by {name}."]


@pytest.mark.parametrize("name", CODES)
def test_measuring_again_stops_at_once_and_goes_on_where_it_stopped(
    name: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    shutil.copytree(short_runs["steps"], run)
    arguments = ["measure", str(run), "--protocol.site=released"]
    faults = {"below": str(run), "at": "write step=000005.json", "numbers": [0], "act": name}
    assert zygote(arguments, said, faults=faults) == CODES[name]
    assert said.read_text().splitlines()[-1] == f"gcgap: Interrupted by {name}."
    assert "Traceback" not in said.read_text()
    assert [path.name for path in (run / "gap" / "site=released").iterdir()] == ["step=000000.json"]
    assert zygote(arguments, said) == 0
    assert "1 of 6 records are there already" in said.read_text()


@pytest.mark.parametrize("name", CODES)
def test_reporting_stops_at_once(name: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path) -> None:
    arguments, said = ["report", str(short_runs["steps"]), f"--out={tmp_path / 'report'}"], tmp_path / "said.txt"
    faults = {"below": str(tmp_path), "at": "write *", "numbers": [0], "act": name}
    assert zygote(arguments, said, faults=faults) == CODES[name]
    assert lines(said)[-1] == f"gcgap: Interrupted by {name}."
    assert "Traceback" not in said.read_text()


def test_a_sweep_that_is_terminated_ends_its_workers_and_says_how_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    path, said = sweeps.write(tmp_path, sweeps.callback(tmp_path / "flag", "SIGTERM", step=2)), tmp_path / "said.txt"
    assert zygote(["sweep", f"--config={path}", "--workers=1"], said) == 143
    assert said.read_text().splitlines()[-1] == "gcgap: Interrupted. The same command goes on where this one stopped."
    assert "Traceback" not in said.read_text()
    assert sweeps.workers(tmp_path) == []
    assert ends.step(tmp_path / "runs" / "sort-seed1") == 0


def test_handlers_are_there_for_a_time_and_leave_an_ignored_signal_ignored() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handled_by(interrupt):
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Interrupted) as raised:
                os.kill(os.getpid(), signal.SIGTERM)
        assert raised.value.code == 143
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_IGN, before[1]]
    finally:
        signal.signal(signal.SIGINT, before[0])


def test_only_the_first_signal_is_held_back() -> None:
    held = Held()
    with handled_by(interrupt):
        held.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        assert held.number == signal.SIGTERM
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        held.release()
        assert signal.getsignal(signal.SIGTERM) is interrupt


def test_commands_work_in_a_thread_that_may_not_handle_signals(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "gcgap" in capsys.readouterr().out
