"""Runs that one program trains together end as each would by itself."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sweeps
import tiny
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import gcgap
from gcgap.batches import Layout, Source
from gcgap.cli import main
from gcgap.files import write_whole
from gcgap.model import Transformer
from gcgap.stack import module
from gcgap.stack.replicas import UNSCORED, losses, stack, training_batch
from gcgap.stack.train import train
from gcgap.sweep import plan, stacks, worker
from gcgap.sweep.command import end
from gcgap.sweep.live import Row
from gcgap.tasks import PAD

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

SEEDS = (4, 6, 3)
STOPS = {4: 30, 6: 20, 3: 40}  # the step at which each ends: the target is reached there, or by seed 3 never
SETTINGS: dict[str, Any] = {
    "data.task": "copy",
    "data.batch_size": 16,
    "data.lengths": [1, 2],
    "data.ood_lengths": [3, 4],
    "data.validation_sequences": 50,
    "model.n_ctx": 16,
    "protocol.precision": "float64",
    "protocol.window": [0.0, 1.0],
    "protocol.tracking.length": 3,
    "protocol.tracking.dense_every": 20,
    "trainer.precision": "64-true",
    "trainer.max_steps": 40,
    "trainer.val_check_interval": 10,
    "trainer.log_every_n_steps": 10,
    "target.accuracy": 0.015,
}
SETTINGS |= {f"protocol.{block}{name}": 2 for block in ("", "tracking.") for name in ("gradient_batches", "mean_batches")}
SETTINGS |= {f"protocol.{block}sequences": 8 for block in ("", "tracking.")}
# The gradient of a key bias is exactly zero (softmax does not see a constant): Adam turns its rounding noise into steps.
NOISE_ONLY = "W_K.bias"
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "n_ctx": 16}
UNSEEN = "import gcgap.run; gcgap.run.png = lambda _: b''; gcgap.run.emergence = gcgap.run.write_pictures = lambda *_: None"


@pytest.fixture(scope="module", autouse=True)
def without_pictures() -> Iterator[None]:
    """Drawing takes longer than everything else here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gcgap.run.png", lambda _: b"")
        patch.setattr("gcgap.run.emergence", lambda _: None)
        patch.setattr("gcgap.run.write_pictures", lambda *_: None)
        yield


def arguments(directory: Path, seed: int, **changes: Any) -> list[str]:
    """The arguments of `gcgap fit` for the run of a seed below a directory."""
    return tiny.arguments(directory / f"{seed}", **SETTINGS | {"seed_everything": seed} | changes)[1:]


def together(directory: Path, seeds: tuple[int, ...] = SEEDS, *extra: str, **changes: Any) -> bool:
    """Train a stack; each run's log lies beside it."""
    directory.mkdir(exist_ok=True)
    return train([([*arguments(directory, seed, **changes), *extra], directory / f"{seed}.log") for seed in seeds])


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of all seeds, one after the other."""
    directory = tmp_path_factory.mktemp("alone")
    for seed in SEEDS:
        assert main(["fit", *arguments(directory, seed)]) == 0
    return directory


@pytest.fixture(scope="module")
def stacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs as one stack."""
    directory = tmp_path_factory.mktemp("stacked")
    assert together(directory)
    return directory


def checkpoint(run: Path, name: str = "last.ckpt") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / name, weights_only=True)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Everything in nested dictionaries and lists, by its path."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {name: inner for key, part in items for name, inner in flat(part, f"{path}/{key}").items()} | {f"{path}/": type(value)}


def close(one: Any, two: Any) -> None:
    """Equal but for rounding in float64."""
    one, two = flat(one), flat(two)
    assert one.keys() == two.keys()
    for name, value in one.items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(two[name], value, rtol=1e-9, atol=1e-9 * (1e-30 + float(value.abs().max())), msg=name)
        else:
            assert two[name] == (pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value), name


def judged(content: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without what follows rounding noise."""
    noise = [number for number, name in enumerate(content["state_dict"]) if name.endswith(NOISE_ONLY)]
    weights = {name: value for name, value in content["state_dict"].items() if not name.endswith(NOISE_ONLY)}
    moments = [state["state"] for state in content.get("optimizer_states", [])]
    return (
        content
        | {"state_dict": weights}
        | {f"moments {place}": {k: v for k, v in state.items() if k not in noise} for place, state in enumerate(moments)}
        | {"optimizer_states": [state["param_groups"] for state in content.get("optimizer_states", [])]}
    )


def names(run: Path) -> set[str]:
    return {re.sub(r"tfevents.*", "tfevents", str(path.relative_to(run))) for path in run.rglob("*") if path.is_file()}


def same_run(one: Path, two: Path, events: bool = True) -> None:
    """Everything that a run leaves is the same, but for rounding and where it lies.

    Only what a run saves as it leaves a stack that goes on tells Lightning's progress differently: its only epoch does not end.
    """
    assert names(one) == names(two)
    configs = [re.sub("default_root_dir: .*", "", (run / "config.yaml").read_text()) for run in (one, two)]
    assert configs[0] == configs[1]
    assert (one / "hparams.yaml").read_text() == (two / "hparams.yaml").read_text()
    for path in (one / "checkpoints").iterdir():
        first, second = (judged(checkpoint(run, path.name)) for run in (one, two))
        if first["global_step"] == STOPS[int(one.name)] < SETTINGS["trainer.max_steps"]:
            first, second = (content | {"epoch": None, "loops": None} for content in (first, second))
        close(first, second)
    for path in (one / "gap").glob("*.json"):
        close(tiny.told(path), tiny.told(two / "gap" / path.name))
    if events:
        close(*(logged(run) for run in (one, two)))


def logged(run: Path) -> dict[str, list[Any]]:
    """Every scalar of a run's events by tag, with its steps."""
    found = EventAccumulator(str(run))
    found.Reload()
    return {tag: [[event.step, round(event.value, 6)] for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stack_leaves_what_single_runs_leave(alone: Path, stacked: Path, seed: int) -> None:
    assert checkpoint(stacked / f"{seed}")["global_step"] == STOPS[seed]
    same_run(alone / f"{seed}", stacked / f"{seed}")
    assert {"loss", "epoch", "accuracy/validation"} < logged(stacked / f"{seed}").keys()
    assert f"seed {seed}, step {STOPS[seed]}" in (stacked / f"{seed}.log").read_text()


def test_a_run_of_a_stack_is_loaded_and_measured_like_any_other(alone: Path, stacked: Path, tmp_path: Path) -> None:
    model = gcgap.load(stacked / "6")
    assert (model.origin.source.seed, model.origin.step) == (6, 20)
    tokens = Source("copy", 6, lengths=(1, 2), ood_lengths=(3,)).training_batch(0, 4).inputs
    torch.testing.assert_close(model(tokens), gcgap.load(alone / "6")(tokens))
    run = shutil.copytree(stacked / "6", tmp_path / "6")
    assert main(["measure", str(run / "checkpoints" / "step=000020.ckpt"), "--protocol.site=released"]) == 0


def test_a_run_that_left_a_stack_and_was_not_measured_then_is_measured_when_it_is_resumed(
    alone: Path, stacked: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(stacked / "6", tmp_path / "6")
    (run / "gap" / "final.json").unlink()
    assert main(["fit", *arguments(tmp_path, 6), "--ckpt_path=last"]) == 0
    same_run(alone / "6", run, events=False)


def test_runs_that_were_killed_before_their_final_measurement_are_measured_when_they_are_resumed(
    alone: Path, stacked: Path, tmp_path: Path
) -> None:
    for name in ("left", "done"):  # seed 6 left the stack before the others; seed 3 went on to the most steps
        shutil.copytree(stacked, tmp_path / name)
    for seed, name in ((6, "left"), (3, "done")):
        (tmp_path / name / f"{seed}" / "gap" / "final.json").unlink()
        assert together(tmp_path / name, (seed,), "--ckpt_path=last")
        same_run(alone / f"{seed}", tmp_path / name / f"{seed}", events=False)


KILLED = f"""
import json, os, signal, sys
from pathlib import Path
from gcgap.stack.train import train
from gcgap.sweep import plan, stacks, worker
from gcgap.sweep.command import end
from gcgap.sweep.live import Row
{UNSEEN}
write, left = gcgap.run.write_whole, [int(sys.argv[2])]
def write_and_die(path, content):
    write(path, content)
    left[0] -= path.suffix == ".ckpt"
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
gcgap.run.write_whole = write_and_die
train([(arguments, Path(log)) for arguments, log in json.loads(sys.argv[1])])
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stack that was killed after step 20, when the run that reaches its target there had saved its end and not measured it."""
    directory = tmp_path_factory.mktemp("killed")
    runs = [(arguments(directory, seed), str(directory / f"{seed}.log")) for seed in SEEDS]
    saves = 2 * 3 + 3 + 2 * 3 + 1  # weights and last.ckpt at step 0; last.ckpt at 10; both at 20; last.ckpt of one that leaves
    command = [sys.executable, "-c", KILLED, json.dumps(runs), str(saves)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    return directory


def test_a_killed_stack_goes_on_to_the_same_ends(alone: Path, killed: Path, tmp_path: Path) -> None:
    found = [checkpoint(killed / f"{seed}") for seed in SEEDS]
    assert [one["global_step"] for one in found] == [20, 20, 20]
    assert [one["callbacks"]["AccuracyTarget"]["reached_at"] for one in found] == [None, 20, None]
    directory = shutil.copytree(killed, tmp_path / "resumed")
    assert together(directory, (6, 4, 3), "--ckpt_path=last")
    for seed in SEEDS:
        same_run(alone / f"{seed}", directory / f"{seed}", events=False)


def test_runs_that_have_come_equally_far_go_on_together(
    alone: Path, killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(killed, tmp_path / "resumed")
    shutil.copy(alone / "3" / "checkpoints" / "last.ckpt", directory / "3" / "checkpoints" / "last.ckpt")
    found = prepared(monkeypatch)
    resumed = [([*arguments(directory, seed), "--ckpt_path=last"], directory / "log") for seed in (6, 4, 3)]
    assert train([(arguments(directory, seed), directory / "log") for seed in (5, 2)] + resumed)
    assert sorted(found) == [[3], [4], [5, 2], [6]]


def prepared(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds of each stack that would be trained from now on."""
    found: list[list[int]] = []
    monkeypatch.setattr("gcgap.stack.train._fit", lambda runs: found.append([run.chosen.seed_everything for run in runs]) or True)
    return found


def test_a_run_whose_checkpoint_is_not_whole_is_refused_in_its_log_and_the_others_go_on(
    killed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = shutil.copytree(killed, tmp_path / "resumed")
    paths = {seed: directory / f"{seed}" / "checkpoints" / "last.ckpt" for seed in SEEDS}
    torch.save(checkpoint(directory / "4") | {"optimizer_states": []}, paths[4])
    torch.save(checkpoint(directory / "6") | {"loops": {}}, paths[6])
    found = prepared(monkeypatch)
    assert not together(directory, SEEDS, "--ckpt_path=last")
    assert found == [[3]]
    for seed in (4, 6):
        assert f"gcgap: error: `ckpt_path`: {paths[seed]} is not a whole" in (directory / f"{seed}.log").read_text()


def test_the_learning_rate_of_the_config_is_that_of_a_resumed_stack(killed: Path, tmp_path: Path) -> None:
    """Here no config.yaml is left, which would refuse it."""
    changes = {"model__learning_rate": 0.05, "trainer__max_steps": 21}
    for name in ("alone", "stack"):
        for seed in (4, 3):
            shutil.copytree(killed / f"{seed}", tmp_path / name / f"{seed}", ignore=lambda *_: {"config.yaml"})
    assert together(tmp_path / "stack", (4, 3), "--ckpt_path=last", **changes)
    assert main(["fit", *arguments(tmp_path / "alone", 3, **changes), "--ckpt_path=last"]) == 0
    one, two = (checkpoint(tmp_path / name / "3") for name in ("alone", "stack"))
    assert [group["lr"] for group in two["optimizer_states"][0]["param_groups"]] == [0.05]
    close(judged(one)["state_dict"], judged(two)["state_dict"])
    said = (tmp_path / "stack" / "3.log").read_text()
    assert "`model.learning_rate`: the config's 0.05 wins over the checkpoint's 0.01." in said


def test_a_run_of_a_killed_stack_can_be_resumed_by_itself(alone: Path, killed: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(killed, tmp_path / "resumed")
    for seed in SEEDS[:2]:
        run = directory / f"{seed}"
        command = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path=last", f"--trainer.default_root_dir={run}"]
        assert main(command) == 0
        same_run(alone / f"{seed}", run, events=False)


def test_runs_that_fail_say_why_and_leave_the_others_alone(alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def spoilt(*given: Any) -> Tensor:
        """The second run's loss is not a number from step 7 on."""
        calls.append(1)
        found = losses(*given)
        return found * torch.tensor([1.0, torch.nan, 1.0]) if len(calls) > 7 and len(found) == 3 else found

    def failing(path: Path, content: bytes) -> None:
        """The first run's directory cannot be written any more from step 20 on."""
        if path.parts[-3:] == ("4", "checkpoints", "step=000020.ckpt"):
            raise OSError("No space left on device")
        write_whole(path, content)

    monkeypatch.setattr(module, "losses", spoilt)
    monkeypatch.setattr("gcgap.run.write_whole", failing)
    assert not together(tmp_path)
    told = "gcgap: error: FloatingPointError: The loss is not finite at step 7: nan, and by now so is the weight `model.embedding"
    assert told in (tmp_path / "6.log").read_text()
    assert "gcgap: error: OSError: No space left on device" in (tmp_path / "4.log").read_text()
    assert [checkpoint(tmp_path / f"{seed}")["global_step"] for seed in (6, 4)] == [0, 10]
    assert not list(tmp_path.glob("[46]/gap/final.json"))
    assert "error" not in (tmp_path / "3.log").read_text()
    same_run(alone / "3", tmp_path / "3")


def test_a_run_that_cannot_begin_and_an_error_of_the_whole_program_are_told_in_each_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(*_: Any) -> None:
        raise RuntimeError("out of memory")

    (tmp_path / "6").mkdir()
    (tmp_path / "6" / "config.yaml").write_text("seed_everything: 5")
    monkeypatch.setattr(module, "losses", out_of_memory)
    assert not together(tmp_path)
    assert "gcgap: error: `trainer.default_root_dir`" in (tmp_path / "6.log").read_text()
    for seed in (4, 3):
        assert "gcgap: error: RuntimeError: out of memory" in (tmp_path / f"{seed}.log").read_text()


def test_mixed_precision_agrees_to_its_own_rounding(tmp_path: Path) -> None:
    """Over few steps: training is chaotic, and over many the runs agree only statistically."""
    changes = {"trainer__precision": "bf16-mixed", "trainer__max_steps": 4, "protocol__tracking__dense_every": 4}
    assert together(tmp_path / "stack", SEEDS[:2], **changes)
    assert main(["fit", *arguments(tmp_path / "alone", SEEDS[1], **changes)]) == 0
    one, two, other = (checkpoint(tmp_path / run)["state_dict"] for run in ("alone/6", "stack/6", "stack/4"))
    assert {value.dtype for value in two.values()} == {torch.float32}
    for name in one:
        if not name.endswith(NOISE_ONLY):
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=0.03, msg=name)
            assert (other[name] - one[name]).abs().max() > 0.03


POSITIONS = [("none", "fused"), ("learned", "fused"), ("sinusoidal", "math"), ("rotary", "fused")]


@pytest.mark.parametrize(("positions", "attention"), POSITIONS)
@pytest.mark.parametrize("last", [None, 3])
def test_the_stacked_model_is_each_model_on_its_own_examples(positions: Any, attention: Any, last: int | None) -> None:
    models = [Transformer(**SIZES, positions=positions, attention=attention, seed=seed).double() for seed in (1, 2, 3)]
    together = stack(models)
    assert [name for name, _ in together.named_parameters()] == [name for name, _ in models[0].named_parameters()]
    tokens = torch.randint(1, 100, (3, 5, 9), generator=torch.Generator().manual_seed(1))
    found = together(tokens.flatten(0, 1), last).unflatten(0, (3, 5))
    gradients = torch.autograd.grad(found.square().sum(), list(together.parameters()))
    for number, model in enumerate(models):
        own = model(tokens[number], last)
        torch.testing.assert_close(found[number], own, rtol=1e-12, atol=1e-12)
        for stacked, one in zip(gradients, torch.autograd.grad(own.square().sum(), list(model.parameters())), strict=True):
            torch.testing.assert_close(stacked[number], one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", list(Layout))
def test_a_stacked_batch_is_each_batch_with_more_pad_and_has_its_loss(layout: Layout) -> None:
    source, seeds = Source("sort", 0, layout), (1, 2, 3, 4)
    widths = set()
    models = [Transformer(**SIZES, seed=seed).double() for seed in seeds]
    for index in range(6):
        batch = training_batch(source, seeds, index, 3)
        found = losses(stack(models), batch)
        for number, seed in enumerate(seeds):
            own = replace(source, seed=seed).training_batch(index, 3)
            width = own.inputs.shape[1]
            widths.add(width)
            assert torch.equal(batch.inputs[number, :, :width], own.inputs)
            assert torch.equal(batch.targets[number, :, :width], own.targets.masked_fill(~own.scored, UNSCORED))
            assert (batch.inputs[number, :, width + 1 :] == PAD).all()
            assert (batch.targets[number, :, width:] == UNSCORED).all()
            loss = F.cross_entropy(models[number](own.inputs)[own.scored], own.targets[own.scored])
            torch.testing.assert_close(found[number], loss, rtol=1e-12, atol=1e-12)
    assert len(widths) > 2


def trained(seeds: tuple[int, ...]) -> dict[str, Tensor]:
    """Stacked weights after some steps in float32."""
    together = stack([Transformer(**SIZES, seed=seed) for seed in seeds])
    adam = torch.optim.Adam(together.parameters(), 0.01)
    for index in range(8):
        adam.zero_grad()
        losses(together, training_batch(Source("sort", lengths=(1, 2), ood_lengths=(3,)), seeds, index, 16)).sum().backward()
        adam.step()
    return together.state_dict()


def test_no_replica_depends_on_another() -> None:
    one, two = trained((1, 2, 3)), trained((1, 7, 3))
    for name in one:
        assert torch.equal(one[name][::2], two[name][::2])
        assert not torch.equal(one[name][1], two[name][1])


def waiting(path: Path) -> list[Row]:
    return [Row(run) for run in plan.read(path)]


def test_runs_that_differ_only_in_their_seeds_share_a_worker(stacked: Path, tmp_path: Path) -> None:
    grid = {"model.learning_rate": [0.1, 0.2], "seed_everything": [1, 2, 3, 4]}
    rows = waiting(sweeps.write(tmp_path, grid=grid))
    (rows[1].run.job.run / "gap").mkdir(parents=True)
    shutil.copy(stacked / "6" / "gap" / "final.json", rows[1].run.job.run / "gap" / "final.json")  # trained: only `again` is left
    rows[5].state = "done before"
    found = [[re.sub(".*seed|,.*=", " ", row.run.job.name) for row in share] for share in stacks.shares(rows, 2)]
    assert found == [[" 1 0.1", " 3 0.1"], [" 4 0.1"], [" 2 0.1"], [" 1 0.2", " 3 0.2"], [" 4 0.2"]]
    assert [len(share) for share in stacks.shares(rows, 1)] == [1] * 7


@pytest.mark.parametrize(
    ("key", "value"),
    [("gradient_clip_val", 1.0), ("precision", "16-mixed"), ("accumulate_grad_batches", 2), ("min_steps", 3), ("logger", False)],
)
def test_settings_that_would_couple_runs_are_refused_by_name(
    key: str, value: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweeps.write(tmp_path, {f"trainer.{key}": value})
    assert main(["sweep", "--config", str(path), "--stack", "2"]) == 2
    said = capsys.readouterr().err
    assert f"`--stack`: sort-seed1 has `trainer.{key}` {value}" in said
    assert len(said.splitlines()) == 2
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", ["0", "65", "two"])
def test_a_stack_has_a_number_of_runs(number: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--config", str(sweeps.write(tmp_path)), "--stack", number]) == 2
    assert f"must be a number of 1..64; got '{number}'" in capsys.readouterr().err


def test_every_run_of_a_stack_ends_as_its_own_files_say(stacked: Path, tmp_path: Path) -> None:
    rows = waiting(sweeps.write(tmp_path, grid={"seed_everything": [1, 2, 3]}, again=[{"site": "released"}]))
    done, trained, broken = rows
    for row in rows:
        Path(row.run.job.log).parent.mkdir(exist_ok=True, parents=True)
        row.begin(0.0, stacked=True)
    for row, names in ((done, ("final.json", "site=released/final.json")), (trained, ("final.json",))):
        for name in names:
            (row.run.job.run / "gap" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(stacked / "6" / "gap" / "final.json", row.run.job.run / "gap" / name)
    Path(broken.run.job.log).write_text("gcgap: error: FloatingPointError: why\n")
    for row in rows:
        row.look()
    assert [row.state for row in rows] == ["trained", "trained", "running"]
    for row in rows:
        end(row, 1, 10.0)
    assert [(row.state, row.reason) for row in rows] == [("done", ""), ("waiting", ""), ("failed", "FloatingPointError: why")]
    assert stacks.shares(rows, 3) == [[trained]]
    assert done.seconds is None


def test_a_worker_of_several_runs_trains_those_that_are_not_trained(
    stacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [row.run.job for row in waiting(sweeps.write(tmp_path, grid={"seed_everything": [1, 2, 3]}))]
    (jobs[0].run / "gap").mkdir(parents=True)
    shutil.copy(stacked / "6" / "gap" / "final.json", jobs[0].run / "gap" / "final.json")
    jobs[1].last.parent.mkdir(parents=True)
    jobs[1].last.touch()
    (jobs[2].run / "gap").mkdir(parents=True)  # of a run that was killed before its first checkpoint
    called: list[Any] = []
    monkeypatch.setattr("gcgap.stack.train.train", lambda runs: called.extend(runs) or len(called) == 2)
    assert worker.train_together(jobs) == 0
    assert called == [([*jobs[1].fit, "--ckpt_path=last"], Path(jobs[1].log)), (jobs[2].fit, Path(jobs[2].log))]
    assert not (jobs[2].run / "gap").exists()
    assert worker.train_together(jobs) == 1


def test_a_sweep_trains_its_seeds_as_a_stack_and_measures_them_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweeps.write(tmp_path, tiny.SHORT, again=[{"window": [0.0, 1.0]}])
    assert main(["sweep", "--config", str(path), "--stack", "2", "--workers", "2"]) == 0
    assert "2 of 2 runs are done." in capsys.readouterr().out
    logs = [(tmp_path / "runs" / "logs" / f"sort-seed{seed}.log").read_text() for seed in (1, 2)]
    assert [log.count("--- sort-seed") for log in logs] == [2, 2]
    assert [log.count("`max_steps=4` reached") for log in logs] == [1, 0], "one process has trained both"
    for run in plan.read(path):
        assert run.job.is_done()
        assert {"config.yaml", "hparams.yaml", "gap/emergence.png", "gap/step=000004.json"} < names(run.job.run)
