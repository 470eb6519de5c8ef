"""A model may be trained in any precision; it is measured in the one that the protocol names, and the record tells both."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import paper_runs
import pytest
import tiny
import torch
import yaml

import gcgap
from gcgap.cli import main
from gcgap.data.batches import Purpose
from gcgap.importance.protocol import NumberFormat, Protocol
from gcgap.models.number_format import in_precision
from gcgap.models.transformer import Transformer
from gcgap.records.record import Record
from gcgap.study.groups import gather
from gcgap.training.callbacks import GapTracker
from gcgap.training.config_file import training_of

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
pytestmark += [pytest.mark.filterwarnings("ignore:.*AMP with fp16 is not supported on CPU.*")]

SHORT: dict[str, Any] = {"trainer.max_steps": 20, "trainer.val_check_interval": 20, "protocol.tracking.dense_every": 20}
SHORT |= {"protocol.window": [0.0, 0.95], "protocol.baselines": ["mean"]}
USED = {"32-true": "32-true", "64-true": "64-true", "bf16-mixed": "bf16-mixed", "16-mixed": "bf16-mixed"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would take most of the time."""
    monkeypatch.setattr("gcgap.training.run.emergence", lambda records: None)
    monkeypatch.setattr("gcgap.training.run.png", lambda figure: b"")
    monkeypatch.setattr("gcgap.training.run.write_pictures", lambda *of: None)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("precisions")


def run(base: Path, precision: str, **changes: Any) -> Path:
    """A short run in a precision."""
    directory = base / "-".join([precision, *map(str, changes.values())])
    if not directory.exists():
        assert main([*tiny.arguments(directory, **SHORT, **changes), f"--trainer.precision={precision}"]) == 0
    return directory


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.mark.parametrize("precision", ["64-true", "16-mixed"])
def test_a_run_is_measured_in_float32_whatever_it_was_trained_in(precision: str, base: Path, tmp_path: Path) -> None:
    """What training records inside autocast or in float64 is, bit for bit, what the checkpoint gives by itself."""
    trained, again = run(base, precision), tmp_path / "again"
    shutil.copytree(trained, again)
    assert main(["measure", str(again), "--force"]) == 0
    for name in ("step=000000", "step=000020", "final"):
        written, measured = (tiny.told(where / "gap" / f"{name}.json") for where in (trained, again))
        assert written["training"]["precision"] == USED[precision]
        assert written["protocol"]["precision"] == "float32"
        assert written == measured
    assert len({component["causal"]["mean"]["log_prob"]["value"] for component in written["components"]}) == 6
    numbers = torch.float64 if USED[precision] == "64-true" else torch.float32
    assert {value.dtype for value in weights(trained).values()} == {numbers}


def test_the_precisions_train_different_models(base: Path) -> None:
    ends = [
        weights(run(base, precision))["model.embedding.weight"].double() for precision in ("32-true", "64-true", "bf16-mixed")
    ]
    distances = [float((one - ends[1]).abs().max()) for one in ends]
    assert 0 < distances[0] < distances[2]


def test_a_config_tells_the_precision_that_was_used(base: Path) -> None:
    told = {name: yaml.safe_load((run(base, name) / "config.yaml").read_text())["trainer"]["precision"] for name in USED}
    assert told == USED


@pytest.mark.parametrize(
    ("trainer", "told"),
    [
        ({"precision": None}, "32-true"),
        ({"precision": 64}, "64-true"),
        ({"precision": "bf16"}, "bf16-mixed"),
        ({"precision": "bf16-true", "plugins": None}, "bf16-true"),
        ({"precision": None, "plugins": [{"class_path": "lightning.pytorch.plugins.DoublePrecision"}]}, None),
    ],
)
def test_a_precision_is_told_by_its_full_name(trainer: dict[str, Any], told: str | None, base: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((run(base, "32-true") / "config.yaml").read_text())
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config | {"trainer": config["trainer"] | trainer}))
    training = training_of(path)
    assert training is not None
    assert training["precision"] == told


def test_a_model_of_bfloat16_is_measured_in_the_mixed_format_too() -> None:
    model = Transformer(1, 2, 16, 24, n_ctx=12).bfloat16()
    tokens = torch.tensor([[1, 2, 3]])
    assert in_precision(model, "bf16")(tokens).dtype == torch.float32
    assert torch.equal(in_precision(model, "bf16")(tokens), in_precision(model.float(), "bf16")(tokens))


def test_a_model_of_float64_is_loaded_and_measured_as_it_was_trained(base: Path) -> None:
    directory = run(base, "64-true")
    model, saved = gcgap.load(directory), weights(directory)
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[f"model.{name}"])
    assert any(bool((value != value.float()).any()) for value in saved.values())
    protocol = Protocol(precision=NumberFormat.FLOAT64, batch_size=8, window=(0.0, 1.0), **tiny.SIZES)
    rounded = gcgap.load(directory)
    rounded.load_state_dict({name: value.float().double() for name, value in rounded.state_dict().items()})
    exact, coarse = (
        [component["gradient"]["value"] for component in gcgap.measure(one, length=4, protocol=protocol)["components"]]
        for one in (model, rounded)
    )
    assert exact == pytest.approx(coarse, rel=1e-3)
    assert exact != coarse
    tokens = model.origin.source.batch(Purpose.EVALUATION, 4, 4).inputs
    assert model(tokens).dtype == torch.float64


def test_accumulated_and_clipped_gradients_are_not_disturbed(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring in between, once for each optimiser step, changes no bit of the weights."""
    both = {"trainer.accumulate_grad_batches": 3, "trainer.gradient_clip_val": 0.5}
    short = both | {"trainer.max_steps": 6, "trainer.val_check_interval": 18, "protocol.tracking.dense_every": 2}
    short |= {"trainer.precision": "bf16-mixed"}
    directory = base / "clipped"
    assert main(tiny.arguments(directory, **SHORT | short)) == 0
    assert [path.stem for path in sorted((directory / "gap").glob("step*"))] == [f"step={step:06d}" for step in (0, 2, 4, 6)]
    monkeypatch.setattr(GapTracker, "_track", lambda *_: None)
    other = base / "unwatched"
    monkeypatch.setattr("gcgap.training.run.Run.finish", lambda *_: Record.read(directory / "gap" / "final.json"))
    assert main(tiny.arguments(other, **SHORT | short)) == 0
    one, two = weights(directory), weights(other)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_a_run_that_is_resumed_ends_with_the_same_bits(precision: str, base: Path, tmp_path: Path) -> None:
    half = [*tiny.arguments(tmp_path / "run", **(SHORT | {"trainer.max_steps": 10})), f"--trainer.precision={precision}"]
    assert main(half) == 0
    assert main([*half, "--trainer.max_steps=20", "--ckpt_path=last"]) == 0
    whole, resumed = weights(run(base, precision)), weights(tmp_path / "run")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_records_of_another_training_precision_are_another_group(tmp_path: Path) -> None:
    """And those that do not tell it are of the usual one, the only one that there was when they were written."""

    def write(seed: int, **precision: str) -> None:
        record = paper_runs.record("sort", seed, training=paper_runs.TRAINING | precision)
        record.write(tmp_path / f"sort-seed{seed}" / "gap" / "final.json")

    write(1)
    write(2, precision="32-true")
    write(3, precision="bf16-mixed")
    groups = {group.name: [one.seed for one in group.runs] for group in gather([tmp_path])}
    assert groups == {"default": [1, 2], "training_precision=bf16-mixed": [3]}
    assert {group.settings["precision"] for group in gather([tmp_path])} == {"float32"}
