"""Training ends the same whether or not it is watched, interrupted, or shared between processes."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import tiny
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy

import gcgap
from gcgap.cli import main
from gcgap.importance.protocol import Baseline, Protocol, Tracking
from gcgap.models.checkpoints import last_checkpoint, sha256
from gcgap.models.transformer import Transformer
from gcgap.records.record import Record
from gcgap.training.callbacks import GapTracker
from gcgap.training.datamodule import SequenceData
from gcgap.training.module import AccuracyTarget, SequenceModel

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

SIZES: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 2, "sequences": 8, "resamples": 100}
TRACKING: dict[str, Any] = {"length": 4, "dense_every": 10, "dense_until": 20, "then_every": 20, **SIZES}
CONFIG: dict[str, Any] = {
    "seed_everything": 3,
    "data": {"task": "copy", "batch_size": 16, "lengths": [1, 2], "ood_lengths": [4, 5], "validation_sequences": 20},
    "model": {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 32, "learning_rate": 0.01},
    "protocol": {"batch_size": 8, **SIZES, "tracking": TRACKING},
    "target": {"accuracy": 0.09},
    "trainer": {"max_steps": 200, "val_check_interval": 20, "accelerator": "cpu", "enable_progress_bar": False},
}
# The gradient of a key bias is exactly zero (softmax does not see a constant): Adam turns its rounding noise into steps.
NOISE_ONLY = "W_K.bias"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def uninterrupted(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert main(["fit", f"--config={config}", f"--trainer.default_root_dir={run}"]) == 0
    return run


def fit(config: Path, run: Path, *extra: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "gcgap", "fit", "--config", str(config), "--trainer.default_root_dir", str(run), *extra]
    with (run.parent / f"{run.name}.txt").open("a") as output:
        return subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)},
        )


def weights(run: Path, name: str = "last.ckpt") -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / name, weights_only=True)["state_dict"]


def step(run: Path) -> int:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_target_stops_training_at_a_validation_step(uninterrupted: Path) -> None:
    state = torch.load(uninterrupted / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] < CONFIG["trainer"]["max_steps"]
    assert state["global_step"] % CONFIG["trainer"]["val_check_interval"] == 0
    assert state["callbacks"]["AccuracyTarget"] == {"reached_at": state["global_step"], "accuracy": 0.09}


@pytest.mark.robust
def test_two_processes_see_the_batches_of_one_and_agree_to_rounding(config: Path, uninterrupted: Path, tmp_path: Path) -> None:
    run = tmp_path / "two"
    assert fit(config, run, "--trainer.devices", "2", "--trainer.strategy", "ddp").wait() == 0
    one, two = weights(uninterrupted), weights(run)
    assert step(run) == step(uninterrupted)
    for name in one:
        if not name.endswith(NOISE_ONLY):
            torch.testing.assert_close(two[name], one[name], atol=2e-5, rtol=0)
    one_record, two_record = (Record.read(where / "gap" / "step=000020.json") for where in (uninterrupted, run))
    G = [[component["gradient"]["value"] for component in record["components"]] for record in (one_record, two_record)]
    np.testing.assert_allclose(G[1], G[0], rtol=1e-3)
    assert len(list((run / "gap").glob("step=*.json"))) == len(list((uninterrupted / "gap").glob("step=*.json")))


def train(tmp_path: Path, tracked: bool) -> tuple[L.Trainer, SequenceModel]:
    L.seed_everything(3, verbose=False)
    model = SequenceModel(**CONFIG["model"], seed=3)
    data = SequenceData(**CONFIG["data"], seed=3)
    protocol = Protocol(batch_size=8, **SIZES, tracking=Tracking(**TRACKING))
    settings = CONFIG["trainer"] | {"max_steps": 40, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    callbacks: list[L.Callback] = [AccuracyTarget(), *([GapTracker(protocol)] if tracked else [])]
    trainer = L.Trainer(
        **settings, default_root_dir=tmp_path, logger=False, callbacks=callbacks, enable_checkpointing=tracked,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return trainer, model


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_tracking_changes_neither_weights_nor_optimiser_nor_generators(tmp_path: Path) -> None:
    ends = []
    for tracked in (False, True):
        trainer, model = train(tmp_path / str(tracked), tracked)
        generators = (torch.random.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index]
        moments = [tensor.clone() for state in trainer.optimizers[0].state_dict()["state"].values() for tensor in state.values()]
        ends.append((model.state_dict(), moments, generators, [module.training for module in model.modules()]))
    assert len(list((tmp_path / "True" / "gap").glob("step=*.json"))) == 4
    assert same_bits(ends[0][0], ends[1][0])
    assert all(torch.equal(one, two) for one, two in zip(ends[0][1], ends[1][1], strict=True))
    for name, before, after in zip(("torch", "python", "numpy"), ends[0][2], ends[1][2], strict=True):
        assert before == after, name
    assert ends[0][3] == ends[1][3]


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_step_in_between_is_watched_without_a_trace(tmp_path: Path) -> None:
    """Gradients, modes and hooks are as before on either side of a measurement within training."""
    seen = []

    class Witness(GapTracker):
        def _track(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            before = trace(pl_module)
            super()._track(trainer, pl_module)
            seen.append(before == trace(pl_module))

    def trace(module: L.LightningModule) -> list[Any]:
        grads = [None if p.grad is None else p.grad.tolist() for p in module.parameters()]
        hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in module.modules()]
        return [grads, hooks, torch.is_grad_enabled(), torch.random.get_rng_state().tolist()]

    model, data = SequenceModel(**CONFIG["model"], seed=3), SequenceData(**CONFIG["data"], seed=3)
    protocol = Protocol(batch_size=8, **SIZES, tracking=Tracking(**TRACKING))
    settings = CONFIG["trainer"] | {"max_steps": 20, "check_val_every_n_epoch": None, "enable_model_summary": False}
    trainer = L.Trainer(**settings, default_root_dir=tmp_path, logger=False, callbacks=[Witness(protocol)])
    trainer.fit(model, data)
    assert seen == [True] * 3


def test_the_loss_of_the_slices_is_the_loss_of_the_global_batch() -> None:
    """What DDP averages is the gradient of the mean over all scored tokens, also where ranks hold different numbers of them."""
    model = SequenceModel(**CONFIG["model"], seed=3).double()
    transformer = model.model
    assert isinstance(transformer, Transformer)
    batch = SequenceData(**CONFIG["data"], seed=3).source.training_batch(5, 16)

    class Rank:
        def __init__(self, rank: int, world: int) -> None:
            self.global_rank, self.world_size, self.global_step, self.accumulate_grad_batches = rank, world, 5, 1

    def gradient(rank: int, world: int) -> torch.Tensor:
        data = SequenceData(**CONFIG["data"], seed=3)
        data.trainer = model._trainer = Rank(rank, world)  # type: ignore[assignment]
        model._fabric = None
        model.log = lambda *_, **__: None  # type: ignore[method-assign,assignment]
        mine = next(iter(data.train_dataloader()))
        assert len(mine.inputs) == 16 // world
        assert mine.world_scored == batch.world_scored
        return torch.autograd.grad(model.training_step(mine, 0), transformer.embedding.weight)[0]

    averaged = (gradient(0, 2) + gradient(1, 2)) / 2
    torch.testing.assert_close(averaged, gradient(0, 1), atol=1e-14, rtol=1e-10)


def test_a_batch_that_cannot_be_shared_is_refused_by_name() -> None:
    from gcgap.data.batches import rank_slice

    batch = SequenceData(**CONFIG["data"]).source.training_batch(0, 15)
    with pytest.raises(ValueError, match=r"`data.batch_size` must be divisible by the number of processes, 2; got 15"):
        rank_slice(batch, 0, 2, "data.batch_size")


def test_a_loss_that_is_not_finite_stops_training() -> None:
    model = SequenceModel(**CONFIG["model"])
    assert isinstance(model.model, Transformer)
    with torch.no_grad():
        model.model.unembedding.bias[0] = float("inf")
    model._trainer = type("T", (), {"world_size": 1, "global_step": 7})()  # type: ignore[assignment]
    batch = SequenceData(**CONFIG["data"]).source.training_batch(0, 4)
    with pytest.raises(FloatingPointError, match=r"loss is .* at step 7"):
        model.training_step(batch, 0)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_batches_go_on_where_training_is_cut_into_epochs(tmp_path: Path) -> None:
    seen = []

    class Witness(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
            seen.append(batch.inputs.tolist())

    model, data = SequenceModel(**CONFIG["model"], seed=3), SequenceData(**CONFIG["data"], seed=3)
    settings = CONFIG["trainer"] | {"max_steps": 6, "val_check_interval": 3, "limit_train_batches": 3}
    trainer = L.Trainer(
        **settings, default_root_dir=tmp_path, logger=False, callbacks=[Witness()], enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    assert seen == [data.source.training_batch(index, 16).inputs.tolist() for index in range(6)]


class Halve(L.Callback):
    """Puts other weights in the place of those that were trained, as averaging does."""

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for weight in pl_module.parameters():
            weight.data *= 0.5


class Remove(L.Callback):
    """Removes a part of the run directory after the 12th step."""

    def __init__(self, part: str) -> None:
        self.part = part

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        path = Path(trainer.default_root_dir) / self.part
        if trainer.global_step == 12:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time of a short run."""
    monkeypatch.setattr("gcgap.training.run.emergence", lambda records: None)
    monkeypatch.setattr("gcgap.training.run.png", lambda figure: b"")


def watched(run: Path, *callbacks: L.Callback, steps: int = 20, **settings: Any) -> SequenceModel:
    """Train a small model with these callbacks beside a tracker; goes on from last.ckpt if it is there."""
    L.seed_everything(3, verbose=False)
    model, data = SequenceModel(1, 2, 8, 8, learning_rate=0.01, seed=3), SequenceData(**CONFIG["data"], seed=3)
    sizes: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 1, "sequences": 4, "resamples": 100}
    tracking = Tracking(length=4, dense_every=10, dense_until=10, then_every=20, **sizes)
    protocol = Protocol(batch_size=4, baselines=(Baseline.ZERO,), **sizes, random_pairs=0, inside=False, tracking=tracking)
    usual = CONFIG["trainer"] | {"max_steps": steps, "check_val_every_n_epoch": None, "enable_model_summary": False}
    trainer = L.Trainer(**usual | settings, default_root_dir=run, logger=False, callbacks=[*callbacks, GapTracker(protocol)])
    last = run / "checkpoints" / "last.ckpt"
    trainer.fit(model, data, ckpt_path=str(last) if last.exists() else None, weights_only=True)
    return model


def averaging(kind: str) -> tuple[list[L.Callback], dict[str, Any]]:
    """Callbacks that replace the weights when training ends, and the settings of the trainer that they need."""
    if kind == "swa":
        return [StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)], {"limit_train_batches": 5}
    return [Halve() if kind == "halve" else EMAWeightAveraging(decay=0.5)], {}


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("steps", [20, 25], ids=["a measured step", "a step that is not"])
@pytest.mark.parametrize("kind", ["ema", "swa", "halve"])
def test_every_record_names_the_weights_that_it_measured(kind: str, steps: int, tmp_path: Path) -> None:
    callbacks, settings = averaging(kind)
    left = watched(tmp_path, *callbacks, steps=steps, **settings)
    folder = tmp_path / "checkpoints"
    named = {sha256(path): path.name for path in folder.glob("*.ckpt")}
    for path in (tmp_path / "gap").glob("*.json"):
        expected = "final.ckpt" if path.name == "final.json" else path.with_suffix(".ckpt").name
        assert named[Record.read(path)["checkpoint_sha256"]] == expected
    assert same_bits(weights(tmp_path, "final.ckpt"), left.state_dict())
    assert same_bits(gcgap.load(tmp_path).state_dict(), left.model.state_dict())
    assert last_checkpoint(tmp_path).name == "final.ckpt"
    last = torch.load(folder / "last.ckpt", weights_only=True)
    trained = last.get("current_model_state", last["state_dict"])
    assert same_bits(trained, weights(tmp_path, f"step={steps:06d}.ckpt"))
    assert not same_bits(trained, left.state_dict())


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_run_that_averages_its_weights_is_resumed_to_the_same_bits(tmp_path: Path) -> None:
    watched(tmp_path / "whole", EMAWeightAveraging(decay=0.5), steps=20)
    for steps in (10, 20, 20):  # the last time nothing is left to train, and Lightning does not end training
        watched(tmp_path / "resumed", EMAWeightAveraging(decay=0.5), steps=steps)
        for name in ("last.ckpt", "final.ckpt") if steps == 20 else ():
            assert same_bits(weights(tmp_path / "resumed", name), weights(tmp_path / "whole", name))
        final = [Record.read(tmp_path / run / "gap" / "final.json")["accuracy"] for run in ("whole", "resumed")]
    assert final[0] == final[1]
    (tmp_path / "whole" / "checkpoints" / "final.ckpt").unlink()
    watched(tmp_path / "whole", EMAWeightAveraging(decay=0.5), steps=20)
    assert same_bits(weights(tmp_path / "resumed", "final.ckpt"), weights(tmp_path / "whole", "final.ckpt"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_a_checkpoint_of_other_weights_than_the_measured_ones_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scale(L.Callback):
        def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
            checkpoint["state_dict"] = {name: weight * 0.5 for name, weight in checkpoint["state_dict"].items()}

    saving = GapTracker._save
    monkeypatch.setattr(GapTracker, "_save", lambda self, *given, weights_only=False: saving(self, *given))
    with pytest.raises(RuntimeError, match=r"step=000000\.ckpt` does not hold the weights that are measured"):
        watched(tmp_path, Scale())
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("undrawn")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize("part", ["", "checkpoints", "gap", "config.yaml"])
def test_a_run_whose_directory_is_removed_stops_with_the_reason(part: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    with pytest.raises(RuntimeError, match=r"was removed while this run trained; nothing more is saved") as stopped:
        watched(run, Remove(part))
    assert f"`{run / part}`" in str(stopped.value)
    assert not (run / "checkpoints" / "step=000020.ckpt").exists()
    assert not (run / part).exists()


def test_a_strategy_that_shards_weights_is_refused_by_name(tmp_path: Path) -> None:
    tracker, model, data = GapTracker(Protocol()), SequenceModel(**CONFIG["model"]), SequenceData(**CONFIG["data"])
    trainer = type("T", (), {"strategy": FSDPStrategy(), "datamodule": data, "default_root_dir": tmp_path})()
    with pytest.raises(ValueError, match=r"`trainer\.strategy` must give .*; got FSDPStrategy\. Use ddp\."):
        tracker.setup(trainer, model, "fit")  # type: ignore[arg-type]
