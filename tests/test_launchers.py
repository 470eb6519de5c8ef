"""A run of one process is whole inside the job of any launcher; a run of several is the launcher's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import tiny
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from gcgap.cli import main
from gcgap.sweep import worker
from gcgap.training.cluster import SIZES, as_one_process, without_launcher
from gcgap.training.lightning_cli import SETTINGS, GapCLI

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
pytestmark.append(pytest.mark.filterwarnings("ignore:LightningCLI's args parameter"))

BATCH = {"SLURM_JOB_ID": "77", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_JOB_NAME": "study"}
BATCH |= {"SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "localhost", "SLURM_NNODES": "1"}
TASK = BATCH | {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
TORCH = {"RANK": "1", "LOCAL_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
TORCH |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511"}
ELASTIC = TORCH | {"TORCHELASTIC_RUN_ID": "none"}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment without launchers, to be extended; changes of the real one are undone."""
    for name in os.environ.keys() - without_launcher(os.environ).keys():
        monkeypatch.delenv(name)
    return dict(os.environ)


def surround(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", int(variables.get("RANK", variables.get("SLURM_PROCID", 0))))


class Instantiated(GapCLI):
    """Makes everything and runs nothing; keeps what is known of processes meanwhile."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""
        logger: Any = self.trainer.logger
        self.logs = isinstance(logger.experiment, SummaryWriter)
        self.left = os.environ.keys() - without_launcher(os.environ).keys()


def instantiated(run: Path, **options: Any) -> Any:
    return Instantiated(**SETTINGS, args=tiny.arguments(run, **options))


@pytest.mark.parametrize("variables", [BATCH, TORCH], ids=["sbatch", "RANK"])
def test_a_run_of_one_process_is_whole_in_the_job_of_a_launcher(
    variables: dict[str, str], environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, variables)
    zero: Any = rank_zero_only
    rank = zero.rank
    made = instantiated(tmp_path / "run")
    assert isinstance(made.trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    assert made.logs
    assert made.left == set()
    assert os.environ.items() >= variables.items()
    assert zero.rank == rank


@pytest.mark.parametrize("launcher", SIZES)
def test_several_processes_of_a_launcher_do_not_train_one_run_each(
    launcher: str,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    surround(monkeypatch, dict.fromkeys(SIZES[launcher], "3"))
    assert main(tiny.arguments(tmp_path / "run", **tiny.SHORT)) == 2
    said = capsys.readouterr().err
    assert all(part in said for part in ("`trainer.devices`", launcher, "3", SIZES[launcher][1]))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("variables", "expected"), [(TASK, SLURMEnvironment), (ELASTIC, TorchElasticEnvironment)])
def test_a_run_of_several_processes_is_the_launcher_s(
    variables: dict[str, str],
    expected: type[ClusterEnvironment],
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    surround(monkeypatch, variables)
    made = instantiated(tmp_path / "run", trainer__devices=2, trainer__accelerator="cpu")
    assert isinstance(made.trainer.strategy.cluster_environment, expected)
    assert (made.trainer.global_rank, made.trainer.world_size) == (1, 2)


def test_a_slurm_job_of_one_task_stays_lightning_s(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, BATCH | {"SLURM_NTASKS": "1"})
    made = instantiated(tmp_path / "run")
    assert isinstance(made.trainer._accelerator_connector.cluster_environment, SLURMEnvironment)


def test_a_worker_of_a_sweep_inherits_nothing_of_a_launcher(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    surround(monkeypatch, BATCH | ELASTIC | {"OMPI_COMM_WORLD_SIZE": "4", "PMI_RANK": "1", "JSM_NAMESPACE_SIZE": "4"})
    started: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    worker.launch(worker.SweepJob("a", str(tmp_path), str(tmp_path / "a.log"), [], []), {"CUDA_VISIBLE_DEVICES": "3"})
    own = {"PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", "CUDA_VISIBLE_DEVICES": "3"}
    assert [{**one, "PYTEST_CURRENT_TEST": ""} for one in started] == [environment | own | {"PYTEST_CURRENT_TEST": ""}]


def test_the_environment_comes_back_after_an_error(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    surround(monkeypatch, ELASTIC)
    before = dict(os.environ)
    with pytest.raises(KeyError), as_one_process():
        assert os.environ["RANK"]
    assert dict(os.environ) == before
