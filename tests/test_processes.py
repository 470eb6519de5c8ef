"""Two processes share the measuring, and end together, in bounded time and with a clear message, when one of them fails."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from forks import Forks
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import StrategyRegistry

from gcgap.cli import main
from gcgap.training.lightning_cli import ConfigOnly
from gcgap.training.processes import TIMEOUT, FailFastDDP, Launcher

pytestmark = [pytest.mark.robust, *(pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS)]

SIZES = {"mean_batches": 1, "gradient_batches": 2, "sequences": 20}
SMALL = {f"protocol.{block}{name}": size for block in ("", "tracking.") for name, size in SIZES.items()}
SHORT = tiny.SHORT | SMALL | {"protocol.tracking.dense_every": 2, "data.validation_sequences": 4}
PAIR = {"trainer.devices": 2, "trainer.accelerator": "cpu"}
SAID = "gcgap: error: "

Run = Callable[..., tuple[int, bool, list[str]]]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    started = Forks()
    yield started
    started.close()


@pytest.fixture
def fit(forks: Forks, tmp_path: Path) -> Run:
    """Trains in two processes; the exit code, whether no process was left, and the lines of the errors but gloo's own."""

    def run(*extra: str, patience: float = 0, **changes: Any) -> tuple[int, bool, list[str]]:
        output = tmp_path / "output.txt"
        output.unlink(missing_ok=True)
        code, alone = forks([*tiny.arguments(tmp_path / "run", **(SHORT | PAIR | changes)), *extra], output, patience)
        text = output.read_text()
        said = text[text.find(SAID) :].splitlines() if SAID in text else []
        assert len(said) <= 3
        return code, alone, [line for line in said if "third_party/gloo" not in line]

    return run


def sabotage(rank: int, place: str, how: str, deaf: bool = False) -> list[str]:
    options = {"rank": rank, "place": place, "how": how, "deaf": deaf}
    return ["--trainer.callbacks+=saboteur.Saboteur", *(f"--trainer.callbacks.{key}={value}" for key, value in options.items())]


def raised(place: str) -> list[str]:
    """What is said of an error of rank 1."""
    own = f"{SAID}ArithmeticError: sabotage while {place}"
    return [own, "  in the process of rank 1", f"{SAID}RuntimeError: the process of rank 1 ended with exit code 1"]


KILLED = [f"{SAID}RuntimeError: the process of rank 1 was killed by SIGKILL"]
GONE = "the connection to another process failed; its own output may say why"
LATE = "another process did not answer within 0:00:10, the `timeout` of `trainer.strategy`"
SOON = ["--trainer.strategy=gcgap.training.processes.FailFastDDP", "--trainer.strategy.timeout=0:00:10"]


class Case(NamedTuple):
    """A failure, what is said of it, and how many records of measured steps are there by then."""

    sabotage: list[str]
    said: list[str]
    records: int
    resumed: bool = False


CASES = {
    "rank 1 raises when it starts": Case(sabotage(1, "starting", "raise"), raised("starting"), 0),
    "rank 1 raises in training": Case(sabotage(1, "training", "raise"), raised("training"), 2),
    "rank 1 raises while measuring": Case(sabotage(1, "measuring", "raise"), raised("measuring"), 1),
    "rank 1 raises at the end": Case(sabotage(1, "ending", "raise"), raised("ending"), 3),
    "rank 0 raises while measuring": Case(sabotage(0, "measuring", "raise"), raised("measuring")[:1], 1),
    "rank 0 raises while writing": Case(sabotage(0, "writing", "raise"), raised("writing")[:1], 1),
    "rank 1 is killed in training": Case(sabotage(1, "training", "SIGKILL"), KILLED, 2),
    "rank 1 is killed while measuring": Case(sabotage(1, "measuring", "SIGKILL"), KILLED, 1, resumed=True),
    "rank 1 is killed and rank 0 is busy": Case(sabotage(1, "training", "SIGKILL", deaf=True), KILLED, 2),
    "rank 1 does not answer": Case(
        [*sabotage(1, "measuring", "SIGSTOP"), *SOON], [f"{SAID}RuntimeError: {LATE}"], 1, resumed=True
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_when_one_fails_both_end_and_say_why(case: Case, fit: Run, tmp_path: Path) -> None:
    assert fit(*case.sabotage) == (1, True, case.said)
    gap = tmp_path / "run" / "gap"
    assert [path.name for path in sorted(gap.glob("step=*"))] == [f"step={2 * i:06d}.json" for i in range(case.records)]
    assert [path for path in gap.rglob("*") if path.suffix != ".json" and path.name != "emergence.png"] == []
    if case.resumed:
        assert fit("--ckpt_path=last") == (0, True, [])
        assert len(list(gap.glob("*.json"))) == 4


@pytest.mark.parametrize("deaf", [False, True], ids=["and listens", "and is busy"])
def test_when_the_first_process_is_killed_the_other_one_ends(deaf: bool, fit: Run) -> None:
    said = "the process of rank 0 is gone" if deaf else GONE
    assert fit(*sabotage(0, "training", "SIGKILL", deaf), patience=60) == (-9, True, [f"{SAID}RuntimeError: {said}"])


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_stops_both_with_everything_saved(rank: int, fit: Run) -> None:
    code, alone, _ = fit(*sabotage(rank, "training", "SIGTERM"))
    assert (code, alone) == (143, True)
    assert fit("--ckpt_path=last") == (0, True, [])


def test_what_fails_in_every_process_is_said_once(fit: Run, tmp_path: Path) -> None:
    assert fit(*sabotage(-1, "training", "raise")) == (1, True, raised("training")[:1])
    shutil.rmtree(tmp_path / "run")
    said = f"{SAID}`data.batch_size` must be divisible by the number of processes, 2; got 63."
    assert fit(**{"data.batch_size": 63}) == (2, True, [said])


def test_records_of_two_processes_are_those_that_one_makes_of_their_checkpoints(fit: Run, tmp_path: Path) -> None:
    """In mixed precision too, which training alone is in: bit for bit."""
    changes = {"trainer.max_steps": 150, "protocol.tracking.dense_every": 150, "trainer.precision": "bf16-mixed"}
    assert fit(**changes) == (0, True, [])
    run, again = tmp_path / "run", tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["measure", str(again), "--force"]) == 0
    for name in ("step=000000", "step=000150", "final"):
        one, two = (tiny.told(where / "gap" / f"{name}.json") for where in (again, run))
        assert one == two
    assert len({component["causal"]["mean"]["log_prob"]["value"] for component in one["components"]}) == 6
    weights = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert {value.dtype for value in weights.values()} == {torch.float32}


def test_the_page_on_clusters_holds_scripts_and_a_config_that_can_be_read(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "cluster.md").read_text()
    scripts, configs = (re.findall(f"```{kind}\n(.*?)```", text, re.DOTALL) for kind in ("bash", "yaml"))
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
        assert "gcgap fit --config configs/" in script
    [config] = configs
    path = tmp_path / "config.yaml"
    path.write_text(config)
    resolved = ConfigOnly().resolve(["--config", str(path)])["trainer"]["strategy"]
    assert resolved["class_path"] == "gcgap.training.processes.FailFastDDP"
    assert resolved["init_args"]["timeout"] == "0:30:00"
    assert len(scripts) == 2


class Endless:
    """A process that does not end unless it is killed."""

    code: int | None = None

    def wait(self, timeout: float | None = None) -> int | None:
        if self.code is None and timeout is not None:
            raise subprocess.TimeoutExpired("rank 1", timeout)
        return self.code

    def poll(self) -> int | None:
        return self.code

    def kill(self) -> None:
        self.code = -9


def test_a_process_that_does_not_end_is_reported_as_late_and_not_as_killed() -> None:
    launcher = Launcher(LightningEnvironment(), num_processes=2, num_nodes=1, timeout=timedelta(milliseconds=1))
    launcher.procs = [Endless()]  # type: ignore[list-item]
    late = "^the process of rank 1 had not ended after 0:00:00.001000, the `timeout` of `trainer.strategy`$"
    with pytest.raises(RuntimeError, match=late):
        launcher.join()


@pytest.mark.parametrize(
    ("error", "late"),
    [
        ("[third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection closed by peer [127.0.0.1]:1", False),
        ("[third_party/gloo/gloo/transport/tcp/pair.cc:544] Connection timed out", False),
        ("[third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 600000ms for recv operation", True),
        ("wait timeout after 600000ms, keys: /default_pg/0//cpu//0", True),
    ],
)
def test_only_an_error_that_has_waited_is_reported_with_the_timeout(error: str, late: bool) -> None:
    launcher = Launcher(LightningEnvironment(), num_processes=2, num_nodes=1, timeout=TIMEOUT)
    first, own = launcher._reason(RuntimeError(error)).splitlines()
    assert own == error
    assert first == (LATE.replace("0:00:10", "0:10:00") if late else GONE)


def test_ddp_is_the_one_whose_processes_end_together() -> None:
    strategy = StrategyRegistry.get("ddp")
    assert isinstance(strategy, FailFastDDP)
    assert strategy._timeout == TIMEOUT
    assert FailFastDDP(timedelta(seconds=5))._timeout == timedelta(seconds=5)
