"""`gcgap sweep` of pretrained models: the records of single commands, whatever fails or is there already, in one report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest
import sweeps
import tiny
import yaml

from gcgap.cli import main
from gcgap.commands.sweep_models import planned
from gcgap.records.record import Record
from gcgap.sweep import worker
from gcgap.sweep.worker import SweepJob

MEASURE: dict[str, Any] = {"protocol.sequences": [8], "protocol.gradient_batches": [2], "protocol.mean_batches": [1]}
MEASURE |= {"protocol.resamples": [100], "protocol.random_pairs": [1], "protocol.batch_size": [4]}
ATTRIBUTE: dict[str, Any] = {"sequences": [8], "methods": ["exact,attribution_patching"]}
GRIDS = {"measure": MEASURE, "attribute": ATTRIBUTE}
RUN = "family-ioi-seed42"


class Here:
    """An engine that runs each job in this process, where it starts faster."""

    slots = 1

    def __init__(self, *_: Any) -> None:
        self.codes: dict[str, int | str] = {}

    def start(self, job: SweepJob) -> None:
        Path(job.log).parent.mkdir(parents=True, exist_ok=True)
        with Path(job.log).open("a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            self.codes[job.name] = worker.work(job, main)

    def ended(self) -> dict[str, int | str]:
        ended, self.codes = self.codes, {}
        return ended

    def close(self) -> None: ...


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.sweep.engines.Local", Here)
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three small revisions in `family`; the weights of the last are cut off."""
    for step in (0, 1000, 2000):
        families.save(tmp_path / "family" / f"step{step}", seed=step)
    cut = tmp_path / "family" / "step2000" / "model.safetensors"
    cut.with_suffix(".whole").write_bytes(whole := cut.read_bytes())
    cut.write_bytes(whole[: len(whole) // 2])
    return tmp_path


def write(folder: Path, command: str = "measure", **grid: Any) -> Path:
    """A sweep file of the model in `family`; None leaves a key out."""
    found = {"model": ["family"]} | GRIDS.get(command, {}) | grid
    content = {"directory": str(folder / "runs"), "command": command}
    path = folder / f"{command}.yaml"
    path.write_text(yaml.safe_dump(content | {"grid": {key: value for key, value in found.items() if value is not None}}))
    return path


def sweep(path: Path, *options: str) -> int:
    return main(["sweep", "--config", str(path), "--workers", "2", *options])


def records(home: Path) -> dict[str, dict[str, Any]]:
    """What the records of measurements below a folder say, by their names."""
    return {path.name: tiny.told(path) for path in sorted(home.rglob("gap/**/*.json"))}


def test_revisions_are_steps_of_one_run_whatever_fails_or_is_there_and_the_report_shows_all(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = write(folder, revision=["step0", "step2000", "step1000"]), folder / "runs" / RUN
    assert sweep(path) == 1
    said = capsys.readouterr().out
    assert f"{RUN},revision=step2000 failed: " in said
    assert "2 of 3 runs are done" in said
    assert Record.read(next(home.rglob("final.json")))["revision"] == "step1000"
    before = {file: file.stat().st_mtime_ns for file in home.rglob("step=*.json")}
    assert len(before) == 2

    weights = folder / "family" / "step2000" / "model.safetensors"
    weights.with_suffix(".whole").replace(weights)
    assert sweep(path) == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what is there is not measured again"
    alone = [f"--{key}={value}" for key, (value,) in MEASURE.items()]
    single = ["measure", f"--model={folder / 'family'}", f"--out={folder / 'single'}", *alone, "--revision"]
    assert main([*single, "step0", "step1000", "step2000"]) == 0
    assert records(folder / "runs") == records(folder / "single")

    next(home.rglob("final.json")).unlink()  # as a sweep leaves it that is killed at its end
    assert sweep(path) == 0
    assert records(folder / "runs") == records(folder / "single")

    baselines = ["mean", "patch_prompt"]
    attribute = write(folder, "attribute", revision=["step0", "step1000"], baseline=baselines)
    assert sweep(attribute) == 0
    names = {f"{one},revision={step}.json" for one in baselines for step in ("step0", "step1000")}
    assert {file.name for file in (home / "attribution").glob("*.json")} == names
    capsys.readouterr()
    assert main(["report", str(folder / "runs"), "--out", str(folder / "report")]) == 0
    assert "1 run in 1 group, 4 attribution records in 4 groups" in "".join(capsys.readouterr().out.split("\n"))
    text = (folder / "report" / "report.md").read_text()
    for one in baselines:
        for step in ("step0", "step1000"):
            assert f"{one}, noising, logit difference, 8 sequences, revision={step}\n" in text

    write(folder, "attribute", revision=["step0"], baseline=["mean"], sequences=[9])
    before = tiny.files(folder / "runs")
    assert sweep(attribute) == 2
    assert "`protocol.sequences` 8; asked for 9" in capsys.readouterr().err
    assert tiny.files(folder / "runs") == before


@pytest.mark.robust
def test_workers_measure_revisions_of_one_run_side_by_side(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert sweep(write(folder, revision=["step0", "step1000", "step2000"])) == 1
    assert sweeps.workers(folder) == []
    assert Record.read(next((folder / "runs").rglob("final.json")))["revision"] == "step1000"


def cases() -> Iterator[tuple[str, dict[str, Any], str]]:
    both = ("measure", "attribute")
    yield from [(one, {"frob": [1]}, "`grid`: 'frob' cannot be varied") for one in both]
    yield from [(one, {"out": ["elsewhere"]}, "`grid`: 'out' cannot be varied") for one in both]
    yield from [(one, {"model": None}, "`grid.model` is missing") for one in both]
    yield from [(one, {"revision": ["step0", "step7"]}, "has no directory step7 in it") for one in both]
    yield from [(one, {"prompts": ["nowhere.jsonl"]}, "`grid.prompts` must be files, or any of ioi") for one in both]
    yield from [(one, {"chat": ["yes"]}, "`grid.chat` must be true or false; got 'yes'") for one in both]
    yield from [(one, {"seed": [1, 1]}, "`grid.seed` must hold different values; got 1 twice") for one in both]
    yield from [(one, {"precision": ["float33"], "revision": ["step0"]}, "float33") for one in both]
    yield "frob", {}, "`command` in"
    yield "measure", {"protocol.frob": [1]}, "`grid`: 'protocol.frob' cannot be varied"
    yield "measure", {"protocol.sequences": ["many"]}, "protocol.sequences"
    yield "measure", {"revision": ["step0", "checkpoint-0"]}, "both name step 0"
    yield "measure", {"revision": ["step0"], "precision": [None, "float32"]}, "2 jobs would make"
    yield "attribute", {"revision": ["step0"], "baseline": ["frob"]}, "`--baseline` must be any of mean"
    yield "attribute", {"revision": ["step0"], "baseline": ["mean,zero"]}, "`grid.baseline` must list each baseline"
    yield "attribute", {"revision": ["step0"], "methods": ["frob"]}, "frob"
    yield "attribute", {"revision": ["step0"], "steps": ["x"]}, "--steps"
    yield "attribute", {"revision": ["step0"], "sequences": [8, 9]}, "2 jobs would make"


@pytest.mark.parametrize(("command", "grid", "said"), [*cases()])
def test_a_bad_grid_is_refused_by_file_and_key_before_anything_is_written(
    command: str, grid: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "family" / "step0").mkdir(parents=True)
    path = write(tmp_path, command, **grid)
    assert sweep(path) == 2
    error = capsys.readouterr().err
    assert str(path) in error
    assert said in error
    assert len(error.splitlines()) <= 3
    assert {one.name for one in tmp_path.iterdir()} == {"family", path.name}


@pytest.mark.parametrize("key", ["configs", "again"])
def test_keys_of_trainings_are_refused_of_models(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path)
    path.write_text(path.read_text() + f"{key}: [tiny.yaml]\n")
    assert sweep(path) == 2
    assert f"`{key}` is no key of a sweep of `gcgap measure` ({path})" in capsys.readouterr().err


def test_models_and_prompts_lie_beside_the_file_and_every_combination_is_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = tmp_path / "inside"
    for name in ("one", "two"):
        (inside / name).mkdir(parents=True)
        (inside / name / "config.json").touch()
    (inside / "mine.jsonl").write_text("{}")
    grid = {
        "model": ["one", "two"],
        "prompts": ["ioi", "mine.jsonl"],
        "chat": [False, True],
        "metric": ["logit_difference", "log_prob"],
    }
    path = write(inside, "attribute", **grid)
    monkeypatch.chdir(tmp_path)
    runs = planned(path, None, [])
    assert len(runs) == 16
    first, last = runs[0].job, runs[-1].job
    assert first.name == "one-ioi-seed42,metric=logit_difference"
    assert last.name.startswith("two-mine-")
    assert last.name.endswith("-chat-seed42,metric=log_prob")
    wanted = [f"--model={inside / 'two'}", f"--prompts={inside / 'mine.jsonl'}", "--chat", "--metric=log_prob"]
    assert {"attribute", *wanted, f"--out={inside / 'runs'}"} <= set(last.commands[0])
