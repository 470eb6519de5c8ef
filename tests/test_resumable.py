"""Training goes on from what a run has saved and from nothing else: what is missing or changed is refused by the file's name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from ends import fit
from zygote import Zygote

pytestmark = pytest.mark.robust
Change = Callable[[dict[str, Any]], Any]
PARTS = (
    *("pytorch-lightning_version", "global_step", "state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers"),
    *("hyper_parameters", "datamodule_hyper_parameters"),
)
"""All of a checkpoint that resuming reads."""
PROGRESS = "epoch_loop.automatic_optimization.optim_progress"


def adam(content: dict[str, Any]) -> dict[str, Any]:
    return content["optimizer_states"][0]


def moments(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    return adam(content)["state"][3]


def counted(content: dict[str, Any]) -> dict[str, Any]:
    return content["loops"]["fit_loop"]


def weight(content: dict[str, Any], value: Any) -> None:
    content["state_dict"]["model.norm.bias"] = value


def refusal(said: Path) -> str:
    """The one line of it."""
    last = said.read_text().splitlines()[-1]
    assert last.startswith("gcgap: error: ")
    return last.removeprefix("gcgap: error: ")


def fill(tensor: torch.Tensor, value: float) -> None:
    tensor.view(-1)[-1] = value


CHANGES: dict[str, tuple[Change, str]] = {
    **{f"no {key}": (lambda content, key=key: content.pop(key), "") for key in PARTS},
    **{f"{key} is a list": (lambda content, key=key: content.update({key: [3]}), "") for key in PARTS},
    **{f"{key} is a number": (lambda content, key=key: content.update({key: 3.5}), "") for key in PARTS},
    "another version": (lambda content: content.update({"pytorch-lightning_version": "1.5.0"}), "1.5.0"),
    "a version that is none": (lambda content: content.update({"pytorch-lightning_version": "2.6.x"}), "2.6.x"),
    "a step of text": (lambda content: content.update(global_step="25"), "global_step"),
    "a true step": (lambda content: content.update(global_step=True), "global_step"),
    "another step": (lambda content: content.update(global_step=20), "`global_step` is 20"),
    "other loops": (lambda content: counted(content)[PROGRESS]["optimizer"]["step"]["total"].update(completed=0), "of step 0"),
    "loops without training": (lambda content: content["loops"].pop("fit_loop"), "fit_loop"),
    "no weight": (lambda content: content["state_dict"].pop("model.norm.bias"), "model.norm.bias is missing"),
    "a weight too many": (lambda content: content["state_dict"].update({"norm.bias": torch.ones(16)}), "norm.bias is no weight"),
    "a weight of another size": (lambda content: weight(content, torch.ones(17)), "model.norm.bias must be of size [16]"),
    "a weight of another format": (lambda content: weight(content, torch.ones(16).double()), "one number format"),
    "a weight of whole numbers": (lambda content: weight(content, torch.ones(16).int()), "floating point"),
    "a complex weight": (lambda content: weight(content, torch.ones(16, dtype=torch.complex64)), "floating point"),
    "averages of whole numbers": (
        lambda content: content.update(current_model_state=content["state_dict"] | {"model.norm.bias": torch.ones(16).int()}),
        "floating point",
    ),
    "a weight that is none": (lambda content: weight(content, [1.0] * 16), ""),
    "a weight that is NaN": (lambda content: weight(content, torch.full((16,), torch.nan)), "model.norm.bias"),
    "no optimiser": (lambda content: content.update(optimizer_states=[]), "optimizer_states"),
    "two optimisers": (lambda content: content.update(optimizer_states=2 * content["optimizer_states"]), "optimizer_states"),
    "an optimiser that is none": (lambda content: content.update(optimizer_states=[3]), ""),
    "no moments": (lambda content: adam(content)["state"].clear(), "37 parameters; got 0"),
    "no moments of a parameter": (lambda content: adam(content)["state"].pop(3), "37 parameters; got 36"),
    "one moment missing": (lambda content: moments(content).pop("exp_avg"), "exp_avg"),
    "a moment of another size": (lambda content: moments(content).update(exp_avg=torch.zeros(1)), "must be of size [16, 16]"),
    "a moment that repeats one number": (lambda content: moments(content).update(exp_avg=torch.zeros(1).expand(16, 16)), "size"),
    "a moment of another format": (lambda content: moments(content).update(exp_avg=torch.zeros(16, 16).half()), "float16"),
    "a moment that is NaN": (lambda content: fill(moments(content)["exp_avg"], torch.nan), "`exp_avg` of"),
    "a moment that is infinite": (lambda content: fill(moments(content)["exp_avg_sq"], torch.inf), "`exp_avg_sq` of"),
    "a square below 0": (lambda content: fill(moments(content)["exp_avg_sq"], -1), "negative"),
    "fewer steps of Adam": (lambda content: fill(moments(content)["step"], 24), "must be 25, the steps of Adam"),
    "many steps of Adam": (lambda content: moments(content).update(step=torch.full((16,), 25.0)), "must be 25"),
    "no parameters": (lambda content: adam(content)["param_groups"].clear(), "one group"),
    "parameters in another order": (lambda content: adam(content)["param_groups"][0]["params"].reverse(), "`params` of Adam"),
    "another Adam": (
        lambda content: adam(content)["param_groups"][0].update(betas=(0.5, 0.9)),
        "`betas` of Adam must be (0.9, 0.999)",
    ),
    "a maximising Adam": (lambda content: adam(content)["param_groups"][0].update(maximize=True), "maximize"),
    "an Adam of no kernel": (lambda content: adam(content)["param_groups"][0].pop("fused"), "fused"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_with_a_part_missing_or_changed_is_refused_by_name(
    change: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    shutil.copytree(short_runs["steps"], run)
    last = run / "checkpoints" / "last.ckpt"
    content, (act, told) = torch.load(last, weights_only=True), CHANGES[change]
    act(content)
    torch.save(content, last)
    before = tiny.files(run)
    assert zygote(fit(run, "steps", "--trainer.max_steps=27"), said) == 2
    assert refusal(said).startswith(f"`ckpt_path`: {last} ")
    assert told in refusal(said)
    assert tiny.files(run) == before


@pytest.mark.parametrize(
    ("name", "told"), [("step=000025.ckpt", "give last.ckpt."), ("last.ckpt", "start anew in another directory.")]
)
def test_weights_alone_are_refused_with_what_there_is_instead(
    name: str, told: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said, path = tmp_path / "run", tmp_path / "said.txt", tmp_path / name
    shutil.copy(short_runs["steps"] / "checkpoints" / "step=000025.ckpt", path)
    assert zygote([*fit(run, "steps"), f"--ckpt_path={path}"], said) == 2
    assert refusal(said) == f"`ckpt_path`: {path} holds weights alone, not what training needs to resume; {told}"
    assert not run.exists()


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
@pytest.mark.parametrize("change", ["no weight", "a weight that is NaN", "no pytorch-lightning_version"])
def test_a_model_is_not_judged_by_a_checkpoint_of_other_weights(
    change: str, command: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    path, said, config = tmp_path / "a.ckpt", tmp_path / "said.txt", short_runs["steps"].with_name("config.yaml")
    content = torch.load(short_runs["steps"] / "checkpoints" / "step=000010.ckpt", weights_only=True)
    CHANGES[change][0](content)
    torch.save(content, path)
    assert zygote([command, f"--config={config}", f"--ckpt_path={path}"], said) == 2
    assert refusal(said).startswith(f"`ckpt_path`: {path} ")
