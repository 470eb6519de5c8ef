"""A checkpoint used with other settings than its own: the config wins, says so, and is what really happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import ends
import pytest
import tiny
import torch
from ends import fit
from zygote import Zygote

from gcgap.training.resuming import overridden_settings

pytestmark = pytest.mark.robust


def said_by_gcgap(said: Path) -> list[str]:
    return [line.removeprefix("gcgap: ") for line in said.read_text().splitlines() if line.startswith("gcgap: ")]


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def from_checkpoint(other: Path, run: Path, *options: str) -> list[str]:
    """Go on from another run's last checkpoint in a new directory."""
    return [*fit(run, "steps", *options), f"--ckpt_path={other / 'checkpoints' / 'last.ckpt'}"]


def test_the_config_wins_over_the_checkpoint_and_each_such_key_is_told(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    options = ["--seed_everything=4", "--data.task=sort", "--data.batch_size=8", "--data.ood_lengths=[4,6]"]
    options += ["--model.learning_rate=0.02", "--target.accuracy=0.5", "--trainer.max_steps=27"]
    assert zygote(from_checkpoint(short_runs["steps"], run, *options), said) == 0
    assert said_by_gcgap(said) == [
        "`seed_everything`: the config's 4 overrides the checkpoint's 3.",
        "`data.task`: the config's sort overrides the checkpoint's copy.",
        "`data.batch_size`: the config's 8 overrides the checkpoint's 16.",
        "`data.ood_lengths`: the config's [4, 6] overrides the checkpoint's [4, 5].",
        "`model.learning_rate`: the config's 0.02 overrides the checkpoint's 0.01.",
        "`target.accuracy`: the config's 0.5 overrides the checkpoint's 1.0.",
    ]
    saved = last(run)
    assert saved["global_step"] == 27
    assert saved["datamodule_hyper_parameters"]["task"] == "sort"


def test_the_learning_rate_of_the_config_is_that_of_the_next_step(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Adam's step is proportional to it, everything else being equal."""
    before, steps = last(short_runs["steps"])["state_dict"], {}
    for rate in (0.01, 0.02):
        run = tmp_path / str(rate)
        options = [f"--model.learning_rate={rate}", "--trainer.max_steps=26"]
        assert zygote(from_checkpoint(short_runs["steps"], run, *options), tmp_path / f"{rate}.txt") == 0
        steps[rate] = {name: weight - before[name] for name, weight in last(run)["state_dict"].items()}
    assert said_by_gcgap(tmp_path / "0.01.txt") == []
    for name, change in steps[0.01].items():
        assert change.abs().max() > 0, name
        torch.testing.assert_close(steps[0.02][name], 2 * change, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("options", "trained"), [([], 0), (["--target.accuracy=0.03"], 3), (["--data.task=sort"], 3)])
def test_a_target_counts_as_reached_only_if_it_is_the_same(
    options: list[str], trained: int, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    done, run = ends.step(short_runs["target"]), tmp_path / "run"
    options = ["--target.accuracy=0.025", f"--trainer.max_steps={done + 3}", *options]
    assert zygote(from_checkpoint(short_runs["target"], run, *options), tmp_path / "said.txt") == 0
    assert ends.step(run) == done + trained


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_judging_tells_what_wins_of_the_data_alone(
    command: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    said, checkpoint = tmp_path / "said.txt", short_runs["steps"] / "checkpoints" / "step=000010.ckpt"
    arguments = [command, f"--config={short_runs['steps'].with_name('config.yaml')}", f"--ckpt_path={checkpoint}"]
    assert zygote([*arguments, "--data.ood_lengths=[5]", "--model.learning_rate=0.5"], said) == 0
    assert said_by_gcgap(said) == ["`data.ood_lengths`: the config's [5] overrides the checkpoint's [4, 5]."]


def test_a_run_cannot_be_resumed_to_fewer_steps_but_to_more(zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path) -> None:
    run, longer, said = tmp_path / "run", tmp_path / "longer", tmp_path / "said.txt"
    shutil.copytree(short_runs["steps"], run)
    before = ends.ends(run)
    assert zygote(fit(run, "steps", "--trainer.max_steps=24"), said) == 2
    told = f"`trainer.max_steps` must be at least 25, the step of {run / 'checkpoints' / 'last.ckpt'}; got 24."
    assert said.read_text().splitlines()[-1] == f"gcgap: error: {told}"
    assert ends.ends(run) == before
    for directory in (run, longer):
        assert zygote(fit(directory, "steps", "--trainer.max_steps=40"), said) == 0
    mine, theirs = ends.ends(run), ends.ends(longer)
    assert mine["last.ckpt"] == theirs["last.ckpt"] | {"epoch": 2}  # which Lightning ends where training does
    assert mine["final.json"] == theirs["final.json"]
    assert mine.keys() - theirs.keys() == {"step=000025.ckpt", "step=000025.json"}


def test_what_changes_the_numbers_of_training_is_told_of_the_runs_own_config(
    zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    shutil.copytree(short_runs["steps"], run)
    same = ["--trainer.precision=32", "--trainer.max_steps=26"]
    assert zygote(fit(run, "steps", *same), said) == 0
    assert said_by_gcgap(said) == []
    changed = ["--trainer.precision=64", "--trainer.accumulate_grad_batches=2", "--trainer.gradient_clip_val=1"]
    assert zygote(fit(run, "steps", *changed, "--trainer.max_steps=27", "--trainer.val_check_interval=5"), said) == 0
    assert said_by_gcgap(said) == [
        "`trainer.precision`: the config's 64-true overrides the torch.float32 of the checkpoint's weights.",
        "`trainer.precision`: the config's 64-true overrides the 32-true of the run's config.yaml.",
        "`trainer.accumulate_grad_batches`: the config's 2 overrides the 1 of the run's config.yaml.",
        "`trainer.gradient_clip_val`: the config's 1.0 overrides the None of the run's config.yaml.",
        "`trainer.val_check_interval`: the config's 5 overrides the 10 of the run's config.yaml.",
    ]


@pytest.mark.parametrize(("option", "told"), [("data.task=sort", "copy"), ("seed_everything=4", "3")])
@pytest.mark.parametrize(("left", "place"), [("gap", "gap/step=000000.json"), ("checkpoints", "checkpoints")])
def test_without_its_config_a_run_is_not_resumed_as_one_of_another_task_or_seed(
    left: str, place: str, option: str, told: str, zygote: Zygote, short_runs: dict[str, Path], tmp_path: Path
) -> None:
    run, said = tmp_path / "run", tmp_path / "said.txt"
    shutil.copytree(short_runs["steps"] / left, run / left)
    (run / "gap").mkdir(exist_ok=True)
    (run / "gap" / "final.json").write_text("{")  # broken, as anything may be that is made again
    before = tiny.files(run)

    def resumed(*options: str) -> list[str]:
        options = (*options, "--trainer.max_steps=27")
        return fit(run, "steps", *options) if left == "checkpoints" else from_checkpoint(short_runs["steps"], run, *options)

    assert zygote(resumed(f"--{option}"), said) == 2
    key, value = option.split("=")
    text = f"gcgap: error: `{key}`: {run} holds a run with another value: {told} in {place}, {value} here."
    assert said.read_text().splitlines()[-2] == text
    assert tiny.files(run) == before
    assert zygote(resumed(), said) == 0


def test_what_a_checkpoint_does_not_tell_is_not_compared() -> None:
    asked = {"seed_everything": 1, "data": {"task": "sort"}, "model": {"learning_rate": 0.1}, "target": {"accuracy": 0.5}}
    assert overridden_settings({"hyper_parameters": {}}, asked, trains=True) == []
    assert overridden_settings({"datamodule_hyper_parameters": {"seed": 2, "task": "sort"}}, asked, trains=False) == [
        "`seed_everything`: the config's 1 overrides the checkpoint's 2."
    ]
