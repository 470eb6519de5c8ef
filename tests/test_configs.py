"""Every config that is shipped parses, runs, and writes nothing while it is only tried."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from gcgap.cli import main
from gcgap.sweep.plan import read

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
SWEEPS = [path for path in FILES if "configs" in yaml.safe_load(path.read_text())]
CONFIGS = [path for path in FILES if path not in SWEEPS]
NAMES = [str(path.relative_to(ROOT)) for path in CONFIGS]


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_there_is_a_config_for_each_task_and_for_the_released_pipeline() -> None:
    wanted = {f"configs/{folder}{task}.yaml" for folder in ("", "released/") for task in ("sort", "reverse")}
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_config_runs_and_writes_nothing_when_tried(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    tried = ["--trainer.fast_dev_run", "1", "--trainer.default_root_dir", str(run), "--trainer.enable_progress_bar", "false"]
    assert main(["fit", "--config", str(config), *tried]) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_a_config_says_only_what_differs_from_the_defaults(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = flat(yaml.safe_load(config.read_text()))
    assert asked.pop("seed_everything") == 42  # named in every config, because every run has one
    capsys.readouterr()
    assert print_config() == 0
    default = flat(yaml.safe_load(capsys.readouterr().out))
    assert asked.keys() <= default.keys()
    kept = {"data.task", "protocol.tracking.length"}  # named with their reason, whatever the default is
    assert {key for key, value in asked.items() if value == default[key]} <= kept


def print_config() -> int:
    """The exit code of printing the defaults of `gcgap fit`."""
    try:
        return main(["fit", "--print_config"])
    except SystemExit as leaving:
        return int(leaving.code or 0)


@pytest.mark.parametrize("key", ["frob", "data.frob", "model.frob", "protocol.frob", "protocol.tracking.frob", "trainer.frob"])
@pytest.mark.parametrize("config", CONFIGS[:1], ids=NAMES[:1])
def test_an_unknown_key_in_a_config_is_refused_by_name(
    config: Path, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(config.read_text())
    *blocks, last = key.split(".")
    inner = settings
    for block in blocks:
        inner = inner.setdefault(block, {})
    inner[last] = 1
    changed = tmp_path / "changed.yaml"
    changed.write_text(yaml.safe_dump(settings))
    assert main(["fit", "--config", str(changed), "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert key in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["changed.yaml"]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_sweep_starts_from_the_configs_that_are_shipped(path: Path) -> None:
    runs = read(path)
    assert {run.config.resolve() for run in runs} <= set(CONFIGS)
    assert len({run.job.directory for run in runs}) == len(runs)


def test_the_sweep_of_the_paper_is_its_seeds_and_tasks_under_both_protocols(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = {run.job.name: run for run in read(ROOT / "configs" / "paper.yaml")}
    seeds = (42, 123, 456, 789, 1010, 2020, 3030, 4040, 5050, 6060)
    groups = ("default", "released")
    assert list(runs) == [f"{group}/{task}-seed{seed}" for group in groups for task in ("sort", "reverse") for seed in seeds]
    for name, run in runs.items():
        group, task, seed = re.fullmatch(r"(\w+)/(\w+)-seed(\d+)", name).groups()  # type: ignore[union-attr]
        layout, site = ("contiguous", "component") if group == "default" else ("released", "released")
        found = flat(run.resolved)
        wanted = {"data.task": task, "seed_everything": int(seed), "data.layout": layout, "protocol.site": site}
        assert wanted.items() <= found.items()
        assert run.job.run == tmp_path / "runs" / "paper" / name
        assert len(run.job.records) == {"default": 1, "released": 2}[group]
    assert list(tmp_path.iterdir()) == []


def test_the_released_configs_name_every_switch_of_the_public_pipeline() -> None:
    for task in ("sort", "reverse"):
        asked = flat(yaml.safe_load((ROOT / "configs" / "released" / f"{task}.yaml").read_text()))
        switches = {"data.layout": "released", "protocol.site": "released", "protocol.paired": False, "protocol.ranks": "ordinal"}
        switches |= {"protocol.normalise_gradient": False, "protocol.strict": True, "protocol.sequences": 100}
        assert switches.items() <= asked.items()
        plain = flat(yaml.safe_load((ROOT / "configs" / f"{task}.yaml").read_text()))
        assert not switches.keys() & plain.keys()
