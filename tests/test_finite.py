"""NaN and Inf stop training with the step and the tensor's name, and are neither saved nor measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ends
import lightning as L  # noqa: N812
import pytest
import tiny
import torch
from ends import CONFIG, check_same, fit
from faults import Spoil
from lightning.pytorch.plugins import MixedPrecision
from zygote import Zygote

from gcgap.models.transformer import Transformer
from gcgap.training.datamodule import SequenceData
from gcgap.training.module import SequenceModel

WEIGHT = "model.blocks.1.mlp.W_out.weight"
pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]


@pytest.mark.robust
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"step": 12, "gradient": "true"}, f"The gradient of `{WEIGHT}` is not finite at step 12; lower `model.learning_rate`."),
        (
            {"step": 19, "gradient": "true", "value": "-.inf"},
            f"The gradient of `{WEIGHT}` is not finite at step 19; lower `model.learning_rate`.",
        ),
        (
            {"step": 12, "value": ".inf"},
            f"The loss is not finite at step 12: nan, and so is the weight `{WEIGHT}`. Lower `model.learning_rate`.",
        ),
        (
            {"step": 20},
            f"The weight `{WEIGHT}` is not finite at step 20, and is not saved; lower `model.learning_rate`.",
        ),
    ],
)
def test_training_stops_with_the_name_and_resumes_from_what_was_sound(
    options: dict[str, Any], told: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    spoil = ["--trainer.callbacks+=faults.Spoil", f"--trainer.callbacks.name={WEIGHT}"]
    spoil += [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    assert zygote([*fit(run, "steps"), *spoil], said) == 1
    assert said.read_text().splitlines()[-1] == f"gcgap: error: FloatingPointError: {told}"
    assert "Traceback" not in said.read_text()
    assert ends.step(run) == 10
    assert not (run / "checkpoints" / "step=000020.ckpt").exists()
    assert zygote(fit(run, "steps"), said) == 0
    check_same(run, short_runs["steps"])


def train(steps: int, scale: float, *callbacks: L.Callback) -> tuple[SequenceModel, torch.amp.GradScaler]:
    """Train in half precision, from an initial scale of the loss."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    model, data = SequenceModel(**CONFIG["model"], seed=3), SequenceData(**CONFIG["data"], seed=3)
    precision = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = L.Trainer(
        accelerator="cpu", plugins=[precision], max_steps=steps, limit_val_batches=0, callbacks=list(callbacks), logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    return model, scaler


def test_a_step_that_the_scaler_skips_does_not_stop_training() -> None:
    before = SequenceModel(**CONFIG["model"], seed=3).state_dict()
    skipped, _ = train(3, 2.0**40)
    assert all(torch.equal(weight, before[name]) for name, weight in skipped.state_dict().items())
    trained, scaler = train(40, 2.0**40)
    assert isinstance(trained.model, Transformer)
    assert 1 < scaler.get_scale() < 2.0**38
    assert not torch.equal(trained.model.unembedding.weight, before["model.unembedding.weight"])
    assert all(bool(weight.isfinite().all()) for weight in trained.state_dict().values())


def test_a_gradient_that_no_scale_makes_finite_stops_training() -> None:
    spoil = [Spoil(WEIGHT, step, gradient=True) for step in range(10)]
    with pytest.raises(FloatingPointError, match=rf"The gradient of `{WEIGHT}` is not finite at step 3"):
        train(10, 8.0, *spoil)


def test_a_gradient_is_finite_even_if_its_norm_is_not() -> None:
    model = SequenceModel(**CONFIG["model"])
    for weight in model.parameters():
        weight.grad = torch.full_like(weight, 1e30)
    model._trainer = type("T", (), {"precision_plugin": None, "global_step": 0})()  # type: ignore[assignment]
    model.on_before_optimizer_step(torch.optim.Adam(model.parameters()))


@pytest.mark.robust
def test_weights_that_are_not_finite_are_not_measured_again(zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path) -> None:
    content = torch.load(short_runs["steps"] / "checkpoints" / "step=000010.ckpt", weights_only=True)
    content["state_dict"][WEIGHT][0, 0] = torch.nan
    path, said = tmp_path / "checkpoints" / "step=000010.ckpt", tmp_path / "said.txt"
    path.parent.mkdir()
    torch.save(content, path)
    assert zygote(["measure", str(path), "--length=4"], said) == 2
    refused, unknown = said.read_text().splitlines()[-1], f"there is no `{tmp_path / 'config.yaml'}`"
    assert f"`{path}`" in refused
    assert f"the weight `{WEIGHT}` is not finite" in refused
    assert f"{unknown}; `{path}` is measured with the default protocol" in said.read_text()
    assert not list(tmp_path.rglob("*.json"))
