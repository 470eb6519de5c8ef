"""`gcgap sweep --engine ray`: a local Ray ends with the files of local processes, and Ray is asked for by name."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import sweeps
import tiny

from gcgap.cli import main
from gcgap.sweep.plan import read

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
GRID = {"seed_everything": [1], "data.ood_lengths": [[4, 5], [4, 40]]}


@pytest.mark.robust
def test_a_sweep_on_ray_ends_with_the_numbers_of_local_processes(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    path = sweeps.write(tmp_path, tiny.SHORT, grid=GRID, again=[{"window": [0.0, 1.0]}])
    command = [sys.executable, "-m", "gcgap", "sweep", "--config", str(path), "--engine", "ray"]
    environment = os.environ | {"RAY_ADDRESS": "local"}  # never a cluster that happens to be there
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=400)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "1 of 2 runs are done" in ended.stdout
    assert "4+40 failed: `data.ood_lengths` must be between 1 and 31" in ended.stdout
    assert sweeps.workers(tmp_path) == []
    (good, _) = read(path)
    assert main(["sweep", "--config", str(path), "--directory", str(tmp_path / "local"), "--only", "*4+5"]) == 0
    for record in (record for records in good.job.records for record in records):
        assert tiny.told(good.job.run / record) == tiny.told(tmp_path / "local" / good.job.name / record)


def test_missing_ray_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", "--config", str(sweeps.write(tmp_path, tiny.SHORT)), "--engine", "ray"]) == 2
    assert "pip install 'gcgap[ray]'" in capsys.readouterr().err
