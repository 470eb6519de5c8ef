"""Signals that end a process: training finishes its step and saves it, everything else stops at once; one line says so."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ends
import lightning as L  # noqa: N812
import pytest
import sweeps
import tiny
import torch
from ends import check_same, fit
from lightning.pytorch.loggers import CSVLogger
from zygote import Zygote

import gcgap.cli
import gcgap.training.run
from gcgap.cli import main
from gcgap.importance.protocol import Protocol
from gcgap.training.callbacks import GapTracker
from gcgap.training.cluster import NUMBERS, DeferredSignals, Interrupted, handled_by, interrupt, requeue
from gcgap.training.datamodule import SequenceData
from gcgap.training.module import SequenceModel

pytestmark = pytest.mark.robust
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138}
HOOKS = [  # of Lightning, one for each resumption of a run, each signal at the first call
    *("on_train_epoch_start", "on_before_zero_grad", "on_train_batch_end", "on_after_backward"),
    *("on_validation_start", "on_validation_epoch_end", "on_train_batch_start"),
]
RESUMES = "the same command with `--ckpt_path last` resumes it.\n"
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
    name, run, said = list(CODES)[number % len(CODES)], tmp_path / "run", tmp_path / "said.txt"
    code = zygote(fit(run, "steps"), said, faults={"below": str(run), "at": place, "numbers": [count], "act": name})
    assert code == CODES[name]
    assert lines(said) == [f"gcgap: Interrupted at step {step}; {RESUMES}".strip()]
    assert ends.step(run) == step
    assert not (run / "gap" / "final.json").exists()
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


def test_at_whatever_hook_signals_come_no_scalar_is_lost_or_doubled(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said, steps = tmp_path / "run", tmp_path / "said.txt", []
    for number, hook in enumerate(HOOKS):
        name = list(CODES)[number % len(CODES)]
        faults = {"below": str(run), "at": f"hook {hook}", "numbers": [2 * (hook == "on_train_batch_end")], "act": name}
        assert zygote(fit(run, "steps"), said, faults=faults) == CODES[name], hook
        steps.append(ends.step(run))
    assert steps == [0, 1, 4, 5, 10, 20, 20]
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
    assert lines(said) == [f"gcgap: Interrupted at step {ends.step(run)}; {RESUMES}".strip()]
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
    assert lines(said) == [f"gcgap: Interrupted at step 13; {RESUMES}".strip()]
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_reporting_stops_at_once(name: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path) -> None:
    arguments, said = ["report", str(short_runs["steps"]), f"--out={tmp_path / 'report'}"], tmp_path / "said.txt"
    faults = {"below": str(tmp_path), "at": "write *", "numbers": [0], "act": name}
    assert zygote(arguments, said, faults=faults) == CODES[name]
    assert lines(said)[-1] == f"gcgap: Interrupted by {name}."
    assert "Traceback" not in said.read_text()


def test_a_sweep_that_is_terminated_ends_its_workers_and_says_how_it_goes_on(zygote: Zygote, tmp_path: Path) -> None:
    path, said = sweeps.write(tmp_path, sweeps.callback(tmp_path / "flag", "SIGTERM", step=2)), tmp_path / "said.txt"
    assert zygote(["sweep", f"--config={path}", "--workers=1"], said) == 143
    assert said.read_text().splitlines()[-1] == "gcgap: Interrupted. The same command resumes where this one stopped."
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
    held = DeferredSignals()
    with handled_by(interrupt):
        held.hold()
        os.kill(os.getpid(), signal.SIGTERM)
        assert held.number == signal.SIGTERM
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        held.release()
        assert signal.getsignal(signal.SIGTERM) is interrupt
        with held:
            assert held.number is None  # training may be called again in the same process


def test_commands_work_in_a_thread_that_may_not_handle_signals(capsys: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert codes == [0]
    assert "gcgap" in capsys.readouterr().out


@pytest.fixture
def received() -> Iterator[list[int]]:
    """What a caller's own handler has received: it handles every signal but SIGINT, which raises KeyboardInterrupt."""
    seen: list[int] = []
    before = {number: signal.getsignal(number) for number in NUMBERS}
    for number in NUMBERS:
        signal.signal(number, lambda number, _: seen.append(number))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_ends_a_command_goes_on_to_the_handler_of_its_caller_unless_gcgap_is_the_program(
    number: int, received: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gcgap.cli, "_dispatch", lambda arguments: os.kill(os.getpid(), number))
    monkeypatch.setattr("sys.argv", ["gcgap", "report"])
    assert main() == 128 + number
    assert received == []
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            main(["report"])
    else:
        assert main(["report"]) == 128 + number
        assert received == [number]
    assert capsys.readouterr().err == 2 * f"gcgap: Interrupted by {signal.Signals(number).name}.\n"


class Send(L.Callback):
    """Sends this process a signal at the first call of a hook.

    Args:
        hook: The hook.
        number: The signal.
    """

    def __init__(self, hook: str, number: int) -> None:
        self.number = number
        setattr(self, hook, self.send)

    def send(self, *_: Any) -> None:
        if self.number:
            number, self.number = self.number, 0
            os.kill(os.getpid(), number)


def train(directory: Path, hook: str, number: int, **options: Any) -> L.Trainer:
    """A trainer with a `GapTracker`, as one writes it in Python; the signal comes in its `fit`."""
    tracker, send = GapTracker(Protocol(batch_size=8, window=(0.0, 1.0))), Send(hook, number)
    options = {"max_steps": 3, "num_sanity_val_steps": 0, "logger": False, "enable_progress_bar": False} | options
    return L.Trainer(
        **options,
        default_root_dir=directory,
        callbacks=[send, tracker],
        accelerator="cpu",
        enable_model_summary=False,
        limit_val_batches=1,
        val_check_interval=10,
        check_val_every_n_epoch=None,
    )


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is trained; nothing is measured."""
    monkeypatch.setattr(gcgap.training.run.Run, "track", lambda *_: None)
    model = SequenceModel(n_layers=1, n_heads=1, d_model=8, d_ff=8, n_ctx=32)
    return {"model": model, "datamodule": SequenceData("copy", batch_size=2, lengths=(1, 2), ood_lengths=(8, 9))}


FITTING = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
FITTING += [pytest.mark.filterwarnings(f"ignore:.*{text}.*") for text in ("num_workers", "eval mode", "exists and is not empty")]


def fitted(marked: Any) -> Any:
    """A test that calls `fit`, which warns."""
    for mark in FITTING:
        marked = mark(marked)
    return marked


@fitted
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_sanity_check_start", "on_train_epoch_end"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_that_ends_fit_goes_on_to_the_handler_of_its_caller(
    hook: str, number: int, received: list[int], parts: dict[str, Any], tmp_path: Path
) -> None:
    trainer = train(tmp_path, hook, number, num_sanity_val_steps=1)
    before, last = [signal.getsignal(one) for one in NUMBERS], tmp_path / "checkpoints" / "last.ckpt"
    at_once = hook == "on_sanity_check_start"  # nothing is saved yet: gcgap holds nothing back
    if number == signal.SIGINT:
        with pytest.raises(KeyboardInterrupt):
            trainer.fit(**parts)
    elif at_once:
        signal.signal(number, lambda *_: pytest.exit("the caller's handler"))
        with pytest.raises(pytest.exit.Exception):
            trainer.fit(**parts)
        signal.signal(number, before[NUMBERS.index(number)])
    else:
        with pytest.raises(Interrupted, match=str(128 + number)):
            trainer.fit(**parts)
        assert received == [number]
    assert [signal.getsignal(one) for one in NUMBERS] == before
    assert last.exists() != at_once
    if not at_once:
        assert torch.load(last, weights_only=True)["global_step"] == {"on_train_batch_end": 1}.get(hook, 3)


@fitted
def test_a_second_signal_while_saving_is_handed_over_too(
    received: list[int], parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = train(tmp_path, "on_train_batch_start", signal.SIGTERM)
    monkeypatch.setattr(trainer, "save_checkpoint", lambda *_, **__: os.kill(os.getpid(), signal.SIGHUP))
    with pytest.raises(Interrupted, match="129"):
        trainer.fit(**parts)
    assert received == [signal.SIGHUP]


@fitted
def test_what_is_logged_is_in_the_files_of_loggers_before_a_checkpoint_is(
    received: list[int], parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This logger keeps a hundred rows in memory."""
    logger, read = CSVLogger(tmp_path / "csv"), []
    trainer, metrics = train(tmp_path / "run", "none", 0, logger=logger), Path(logger.log_dir, "metrics.csv")

    def track(*_: Any) -> None:
        logger.log_metrics({"gap/rho/mean": 0.5}, step=0)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(gcgap.training.run.Run, "track", track)
    monkeypatch.setattr(trainer, "save_checkpoint", lambda *_, **__: read.append(metrics.exists() and metrics.read_text()))
    with pytest.raises(Interrupted):
        trainer.fit(**parts)
    assert read == [False, False, "gap/rho/mean,step\n0.5,0\n"]  # last.ckpt, the weights, and last.ckpt after measuring


def test_a_caller_without_a_handler_ends_by_the_signal_after_all_is_saved(zygote: Zygote, tmp_path: Path) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    faults = {"below": str(run), "at": "hook on_train_batch_end", "numbers": [1], "act": "SIGTERM"}
    assert zygote(fit(run, "steps"), said, faults=faults, called=True) == -signal.SIGTERM
    assert lines(said) == [f"gcgap: Interrupted at step 2; {RESUMES}".strip()]
    assert ends.step(run) == 2


SLURM = {
    **{"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_JOB_NODELIST": "localhost"},
    **{"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"},
}


@pytest.fixture
def slurm(tmp_path: Path) -> dict[str, str]:
    """The environment of a job of SLURM, whose `scontrol` writes down its arguments."""
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path / "requeued.txt"}\n')
    scontrol.chmod(0o755)
    return SLURM | {"PATH": f"{scontrol.parent}:{os.environ['PATH']}"}


def test_a_job_that_slurm_requeues_resumes_with_the_same_command(
    slurm: dict[str, str], zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said, command = tmp_path / "run", tmp_path / "said.txt", fit(tmp_path / "run", "steps")
    for place, number, code in [("on_train_batch_end", 6, 138), ("on_validation_batch_start", 0, -9), ("on_train_end", 0, 138)]:
        faults = {"below": str(run), "at": f"hook {place}", "numbers": [number], "act": "kill" if code < 0 else "SIGUSR1"}
        assert zygote(command, said, faults=faults, environment=slurm) == code
    assert (tmp_path / "requeued.txt").read_text() == 2 * "requeue 77\n"
    assert zygote(command, said, environment=slurm | {"SLURM_JOB_ID": "78"}) == 2
    assert f"{run} already holds a run" in said.read_text()
    assert zygote(command, said, environment=slurm) == 0
    assert list(run.rglob("hpc*")) == []
    check_same(run, short_runs["steps"])


def test_of_an_array_the_task_alone_is_requeued(slurm: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of its tasks has the number of the whole array for its job."""
    for name, value in (slurm | {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3"}).items():
        monkeypatch.setenv(name, value)
    assert requeue() == "SLURM job 77_3 is requeued, and resumes the run with the same command."
    assert (tmp_path / "requeued.txt").read_text() == "requeue 77_3\n"
    monkeypatch.setenv("PATH", "")
    assert requeue().startswith("`scontrol requeue 77_3` could not be started: [Errno 2]")


def test_slurm_is_asked_for_nothing_by_other_signals_and_a_refusal_is_reported(
    slurm: dict[str, str], zygote: Zygote, tmp_path: Path
) -> None:
    run, said, command = tmp_path / "run", tmp_path / "said.txt", fit(tmp_path / "run", "steps")
    faults = {"below": str(run), "at": "hook on_before_zero_grad", "numbers": [0]}
    assert zygote(command, said, faults=faults | {"act": "SIGTERM"}, environment=slurm) == 143
    assert not (tmp_path / "requeued.txt").exists()
    (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho 'Invalid job id' >&2\nexit 1\n")
    assert zygote(command, said, faults=faults | {"act": "SIGUSR1"}, environment=slurm) == 138
    assert lines(said)[-1].endswith("resumes it. `scontrol requeue 77` ended with exit code 1: Invalid job id")
