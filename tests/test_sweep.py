"""`gcgap sweep`: every run ends as a single command would end it, whatever happens to the sweep meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import sweeps
import tiny
import torch
import yaml
from filelock import FileLock
from rich.console import Console

from gcgap.cli import main
from gcgap.commands.sweep_command import reason
from gcgap.sweep import worker
from gcgap.sweep.engines import devices, environment
from gcgap.sweep.live import Row, picture, time_left
from gcgap.sweep.plan import PlannedRun, read
from gcgap.sweep.worker import SweepJob

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
AGAIN = [{"site": "released"}]
SHORT = tiny.SHORT


@pytest.fixture(autouse=True)
def found_by_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny sweep that has run through."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        (folder / "flag").touch()
        assert sweep(sweeps.write(folder, sweeps.callback(folder / "flag"), again=AGAIN)) == 0
    return folder


def sweep(path: Path, *options: str | Path) -> int:
    return main(["sweep", "--config", str(path), "--workers", "2", *map(str, options)])


def refused(capsys: pytest.CaptureFixture[str], path: Path, *options: str | Path) -> str:
    """The sweep ends with 2 and one to three lines."""
    capsys.readouterr()
    assert sweep(path, *options) == 2
    said = capsys.readouterr().err
    assert said.startswith("gcgap: error: ")
    assert 1 <= len(said.splitlines()) <= 3
    return said


def ends(run: Path) -> list[Any]:
    """The final records and weights of a run."""
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    records = [tiny.told(run / "gap" / name) for name in ("final.json", "site=released/final.json")]
    return [*records, {name: value.tolist() for name, value in weights.items()}]


def test_a_sweep_ends_as_single_commands_do(uninterrupted: Path, tmp_path: Path) -> None:
    single = tmp_path / "sort-seed1"
    assert main(tiny.arguments(single, **sweeps.FEWER, seed_everything=1, data__task="sort")) == 0
    assert main(["measure", str(single / "checkpoints" / "last.ckpt"), "--protocol.site=released"]) == 0
    assert ends(uninterrupted / "runs" / "sort-seed1") == ends(single)
    assert ends(uninterrupted / "runs" / "sort-seed2") != ends(single)
    assert not list((uninterrupted / "runs" / "sort-seed1" / "gap" / "site=released").glob("step=*.json"))


def test_what_is_done_is_left_as_it_is(uninterrupted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tiny.files(uninterrupted)
    assert sweep(uninterrupted / "sweep.yaml") == 0
    assert tiny.files(uninterrupted) == before
    assert "2 of 2 runs are done" in capsys.readouterr().out


@pytest.mark.robust
@pytest.mark.parametrize(("sent", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_a_sweep_that_is_ended_leaves_no_worker_and_goes_on_to_the_same_bits(
    uninterrupted: Path, tmp_path: Path, sent: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweeps.write(tmp_path, sweeps.callback(tmp_path / "flag", sent), again=AGAIN)
    command = [sys.executable, "-m", "gcgap", "sweep", "--config", str(path), "--workers", "1"]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # also where the tests ignore it
    )
    assert ended.returncode == code, ended.stderr
    for _ in range(100 if sent == "SIGKILL" else 0):  # the end of a killed parent takes a moment to be seen
        time.sleep(0.1 if sweeps.workers(tmp_path) else 0)
    assert sweeps.workers(tmp_path) == []
    run = tmp_path / "runs" / "sort-seed1"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 20
    assert not (run / "gap" / "final.json").exists()
    assert not (tmp_path / "runs" / "sort-seed2").exists()
    assert "The same command resumes" in ended.stderr or sent == "SIGKILL"
    assert sweep(path) == 0
    assert "sort-seed1: resumed" in capsys.readouterr().out
    for name in ("sort-seed1", "sort-seed2"):
        assert ends(tmp_path / "runs" / name) == ends(uninterrupted / "runs" / name)


@pytest.mark.robust
def test_a_run_that_fails_is_reported_with_its_reason_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = {"data.ood_lengths": [[4, 40], [4, 5]], "seed_everything": [1, 2]}
    (tmp_path / "flag").touch()
    path = sweeps.write(tmp_path, SHORT | sweeps.callback(tmp_path / "flag"), grid=grid)
    assert sweep(path, "--only", "*seed1*") == 1
    said = capsys.readouterr().out
    failed = "sort-seed1,data.ood_lengths=4+40"
    assert f"{failed} failed: `data.ood_lengths` must be between 1 and 31, the model's context; got 40." in said
    assert str(tmp_path / "runs" / "logs" / f"{failed}.log") in said
    assert "1 of 2 runs are done" in said
    assert (tmp_path / "runs" / "sort-seed1,data.ood_lengths=4+5" / "gap" / "final.json").exists()
    assert [path for path in (tmp_path / "runs").glob("sort-seed2*")] == []


def test_two_sweeps_on_one_directory_refuse_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweeps.write(tmp_path, SHORT)
    (tmp_path / "runs").mkdir()
    with FileLock(tmp_path / "runs" / ".lock"):
        assert f"{tmp_path / 'runs'}" in refused(capsys, path)
    assert {file.name for file in (tmp_path / "runs").iterdir()} <= {".lock"}


@pytest.mark.parametrize(("key", "value"), [("data.batch_size", 32), ("protocol.threshold", 0.5), ("trainer.max_steps", 450)])
def test_a_directory_with_a_run_of_another_config_is_refused_by_run_and_key(
    uninterrupted: Path, tmp_path: Path, key: str, value: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uninterrupted / "runs" / "sort-seed2", tmp_path / "runs" / "sort-seed2")
    before = tiny.files(tmp_path / "runs" / "sort-seed2")
    said = refused(capsys, sweeps.write(tmp_path, {key: value}, again=AGAIN))
    assert all(part in said for part in ("sort-seed2", *key.split("."), str(value)))
    assert not (tmp_path / "runs" / "sort-seed1").exists()
    assert tiny.files(tmp_path / "runs" / "sort-seed2") == before


def test_a_run_without_its_config_is_refused_not_skipped(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(uninterrupted / "runs" / "sort-seed2", tmp_path / "runs" / "sort-seed2")
    (tmp_path / "runs" / "sort-seed2" / "config.yaml").unlink()
    said = refused(capsys, sweeps.write(tmp_path, again=AGAIN))
    assert "sort-seed2" in said
    assert "without its config.yaml" in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"frob": 1}, ("frob", "configs")),
        ({"directory": None}, ("directory", "missing")),
        ({"directory": ""}, ("directory", "''")),
        ({"configs": None}, ("configs", "missing")),
        ({"configs": "tiny.yaml"}, ("configs", "tiny.yaml")),
        ({"configs": []}, ("configs", "[]")),
        ({"configs": ["nowhere.yaml"]}, ("configs", "nowhere.yaml")),
        ({"configs": {"a": []}}, ("configs.a", "[]")),
        ({"configs": {"../a": ["tiny.yaml"]}}, ("configs.../a",)),
        ({"configs": {"logs": ["tiny.yaml"]}}, ("configs.logs",)),
        ({"configs": ["tiny.yaml", "tiny.yaml"]}, ("configs", "sort-seed1")),
        ({"grid": [1]}, ("grid", "[1]")),
        ({"grid": {"seed_everything": 1}}, ("grid.seed_everything", "1")),
        ({"grid": {"seed_everything": []}}, ("grid.seed_everything", "[]")),
        ({"grid": {"seed_everything": [1, "many"]}}, ("seed_everything", "many")),
        ({"grid": {"data.frob": [1]}}, ("data.frob", "tiny.yaml")),
        ({"grid": {"frob": [1]}}, ("grid", "frob")),
        ({"grid": {"print_config": [1]}}, ("grid", "print_config")),
        ({"grid": {"trainer.default_root_dir": ["a"]}}, ("grid", "trainer.default_root_dir")),
        ({"grid": {"data.lengths": [[1, 3], [1, 3]]}}, ("grid.data.lengths", "[1, 3] twice")),
        ({"grid": {"seed_everything": [1, 2, 1]}}, ("grid.seed_everything", "1 twice")),
        ({"grid": {"seed_everything": [2**32]}}, ("`seed_everything` must be between 0 and 4294967295; got 4294967296",)),
        ({"grid": {"model.learning_rate": [10**400]}}, ("sweep.yaml", "64 bits")),
        ({"again": [{"site": "released"}, {"site": "released"}]}, ("again", "site=released/final.json")),
        ({"again": [{"frob": 1}]}, ("frob",)),
        ({"again": [{"site": "component"}]}, ("again", "site=component", "nothing")),
        ({"again": {"a": [{"site": "released"}]}}, ("again.a",)),
        ({"again": [1]}, ("again", "[1]")),
        ({"again": [{"length": "4"}]}, ("again", "length", "'4'")),
    ],
)
def test_a_bad_sweep_file_is_refused_by_key_before_anything_is_written(
    change: dict[str, Any], told: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, sweeps.write(tmp_path, **change))
    assert all(part in said for part in told), said
    assert {path.name for path in tmp_path.iterdir()} == {"tiny.yaml", "sweep.yaml"}


@pytest.mark.parametrize("text", ["a: [", "- a", "", "\0"])
def test_a_file_that_is_no_sweep_is_refused_by_name(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert "bad.yaml" in refused(capsys, path)
    assert "nowhere.yaml" in refused(capsys, tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("options", "told"),
    [(("--only", "frob*"), ("--only", "frob*")), (("--workers", "0"), ("--workers", "'0'")), (("--engine", "x"), ("'x'", "ray"))],
)
def test_a_bad_option_is_refused(
    options: tuple[str, ...], told: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(capsys, sweeps.write(tmp_path), *options)
    assert all(part in said for part in told), said


def test_a_config_that_needs_several_processes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "trainer.devices" in refused(capsys, sweeps.write(tmp_path, {"trainer.devices": 2}))


def test_the_plan_is_every_combination_and_the_grid_wins_over_the_config(tmp_path: Path) -> None:
    grid = {"data.task": ["sort", "reverse"], "seed_everything": [1, 2], "model.learning_rate": [0.1]}
    configs = {"a": ["tiny.yaml"], "b": ["tiny.yaml"]}
    runs = read(sweeps.write(tmp_path, configs=configs, grid=grid, again={"b": AGAIN}))
    tail = ",model.learning_rate=0.1"
    names = [f"{group}/{task}-seed{seed}{tail}" for group in "ab" for task in ("sort", "reverse") for seed in (1, 2)]
    assert [run.job.name for run in runs] == names
    assert [run.job.run for run in runs] == [tmp_path / "runs" / name for name in names]
    last = runs[-1]
    assert (last.resolved["data"]["task"], last.resolved["seed_everything"]) == ("reverse", 2)
    assert last.resolved["model"]["learning_rate"] == 0.1
    assert last.resolved["model"]["d_model"] == tiny.SETTINGS["model.d_model"]
    assert last.job.records == [["gap/final.json"], ["gap/site=released/final.json"]]
    assert runs[0].job.records == [["gap/final.json"]]


def test_a_final_model_can_be_measured_again_at_another_length(tmp_path: Path) -> None:
    job = read(sweeps.write(tmp_path, again=[{"length": 4, "site": "released", "sets": [["L0_H0"]]}]))[0].job
    assert job.commands[1][:3] == ["measure", str(job.last), "--force"]
    assert sorted(job.commands[1][3:]) == ["--length=4", '--protocol.sets=[["L0_H0"]]', "--protocol.site=released"]
    assert job.records[1] == ["gap/site=released,sets=+L0_H0+,+,length=4/final.json"]


def test_no_value_leads_out_of_the_directory(tmp_path: Path) -> None:
    grid = {"trainer.profiler": ["../../simple", "/simple"], "protocol.sets": [[["L0_H0", "L1_H1"]]]}
    for run in read(sweeps.write(tmp_path, grid=grid)):
        assert run.job.run.parent == tmp_path / "runs"
        assert run.job.run.resolve() == run.job.run


def test_another_directory_takes_the_runs(tmp_path: Path) -> None:
    runs = read(sweeps.write(tmp_path, directory=None), tmp_path / "elsewhere")
    assert runs[0].job.run == tmp_path / "elsewhere" / "sort-seed1"


def test_each_worker_has_a_device_or_one_thread() -> None:
    assert devices(0, None) == []
    assert devices(2, None) == ["0", "1"]
    assert devices(2, "3, 5") == ["3", "5"]
    assert devices(1, "GPU-abc,GPU-def") == ["GPU-abc"]
    assert [environment(slot, ["3", "5"]) for slot in range(3)] == [{"CUDA_VISIBLE_DEVICES": name} for name in ("3", "5", "3")]
    assert environment(1, []) == {"OMP_NUM_THREADS": "1"}


def job(folder: Path, records: list[str] | None = None) -> SweepJob:
    last = folder / "a" / "checkpoints" / "last.ckpt"
    commands = [["fit", "--x=1"], *[["measure", str(last), "--force", "--protocol.y=2"]] * len(records or [])]
    written = [["gap/final.json"], *([record] for record in records or [])]
    return SweepJob("a", str(folder / "a"), str(folder / "a.log"), commands, written)


def working(job: SweepJob) -> tuple[int, list[list[str]]]:
    """The exit code of a worker, and the commands that it would run; none does anything."""
    calls: list[list[str]] = []
    return worker.work(job, lambda arguments: calls.append(arguments) or 0), calls


def test_a_worker_does_what_is_left(tmp_path: Path, uninterrupted: Path) -> None:
    a = job(tmp_path, ["gap/one/final.json", "gap/two/final.json"])
    measure = ["measure", str(a.last), "--force", "--protocol.y=2"]
    assert working(a) == (0, [["fit", "--x=1"], measure, measure])
    a.last.parent.mkdir(parents=True)
    a.last.touch()
    assert working(a) == (0, [["fit", "--x=1", "--ckpt_path=last"], measure, measure])
    for name in ("gap/final.json", "gap/two/final.json"):
        (a.run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(uninterrupted / "runs" / "sort-seed1" / "gap" / "final.json", a.run / name)
    assert working(a) == (0, [measure])
    assert not a.is_done()
    shutil.copytree(a.run / "gap" / "two", a.run / "gap" / "one")
    assert a.is_done()
    (a.run / "gap" / "final.json").write_text("{")
    assert not a.is_done()


def test_a_worker_stops_at_the_first_command_that_fails(tmp_path: Path) -> None:
    waiting = job(tmp_path, ["gap/one/final.json"])
    assert worker.work(waiting, lambda arguments: {"fit": 0, "measure": 2}[arguments[0]]) == 2
    assert worker.work(waiting, lambda arguments: {"fit": 3}[arguments[0]]) == 3


@pytest.mark.parametrize("file", ["config.yaml", "checkpoints/notes.txt", "gap/mine.png", "checkpoints/step=000150.ckpt"])
def test_a_worker_removes_nothing_and_leaves_it_to_fit_to_refuse_what_is_there(file: str, tmp_path: Path) -> None:
    a = job(tmp_path)
    (a.run / file).parent.mkdir(parents=True, exist_ok=True)
    (a.run / file).write_text("mine: 1")
    assert working(a) == (0, [["fit", "--x=1"]])
    assert tiny.files(a.run) == {file: b"mine: 1"}


def test_a_directory_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweeps.write(tmp_path, SHORT)
    assert "`--directory`: `" in refused(capsys, path, "--directory", path)


def test_the_reason_of_a_failure_is_its_last_error_or_how_it_ended(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("gcgap: error: old\n")
    start = log.stat().st_size
    assert reason(log, start, -9) == "killed by SIGKILL"
    assert reason(log, start, 3) == "exit code 3"
    assert reason(tmp_path / "none", 0, 3) == "exit code 3"
    assert reason(log, start, "WorkerCrashedError: lost") == "WorkerCrashedError: lost"
    log.write_text(log.read_text() + "gcgap: error: first\nmore\ngcgap: error: one\n  two\nafter\n")
    assert reason(log, start, 1) == "one two"


def rows(count: int, folder: Path) -> list[Row]:
    config = {"data": {}}
    return [
        Row(PlannedRun(Path(f"{i % 2}.yaml"), config, SweepJob(f"r{i}", str(folder), str(folder / "log"), [], [])))
        for i in range(count)
    ]


def shown(table: list[Row], height: int, now: float = 0.0) -> list[str]:
    console = Console(width=80, height=height, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(picture(table, 2, height, now))
    console.file.close()
    return console.export_text().splitlines()


def test_time_left_is_known_once_a_run_of_the_same_config_is_done(tmp_path: Path) -> None:
    table = rows(6, tmp_path)
    assert time_left(table, 100) == {}
    table[0].state, table[0].seconds = "done", 60
    table[2].state, table[2].started = "running", 80
    assert time_left(table, 100) == {"r2": 40, "r4": 60}
    assert "time left -" in shown(table, 40, 100)[-1]
    table[1].state, table[1].seconds = "done", 30
    assert time_left(table, 100) == {"r2": 40, "r3": 30, "r4": 60, "r5": 30}
    assert "2 done, 1 active, 3 waiting; time left 1:20" in shown(table, 40, 100)[-1]


def test_a_low_terminal_shows_what_is_active_or_failed_and_counts_the_rest(tmp_path: Path) -> None:
    table = rows(40, tmp_path)
    table[3].state, table[20].state, table[39].state = "failed", "running", "measuring again"
    assert len(shown(table, 60)) == 42
    lines = shown(table, 24)
    assert [line.split()[0] for line in lines[1:-1]] == ["r20", "r39", "r3"]
    assert "40 runs: 37 waiting, 1 failed, 2 active" in lines[-1]
    for row in table:
        row.state = "failed"
    assert len(shown(table, 24)) < 24


def test_a_config_of_the_sweep_is_read_as_gcgap_fit_reads_it(uninterrupted: Path) -> None:
    saved = yaml.safe_load((uninterrupted / "runs" / "sort-seed1" / "config.yaml").read_text())
    resolved = read(uninterrupted / "sweep.yaml")[0].resolved
    for key in ("seed_everything", "data", "model", "protocol", "target"):
        assert resolved[key] == saved[key]
