"""A GPT-2 of Hugging Face that is trained here: the same callbacks, checkpoints, resuming and commands as gcgap's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml

import gcgap
from gcgap.cli import main
from gcgap.data.tasks import VOCABULARY, find_task
from gcgap.models.checkpoints import model_settings, new_model
from gcgap.models.pretrained import Pretrained
from gcgap.records.record import Record

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
SIZES: dict[str, Any] = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_ff": 32, "n_ctx": 40}
SIZES |= {"positions": "learned", "attention": "fused"}
WORDS = find_task("ioi").vocabulary
FEW: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 1, "sequences": 8, "resamples": 100}


def config(directory: Path, steps: int) -> Path:
    settings: dict[str, Any] = {
        "seed_everything": 3,
        "data": {"task": "ioi", "lengths": [1, 2], "ood_lengths": [2], "batch_size": 8, "validation_sequences": 4},
        "model": SIZES | {"architecture": "gpt2", "vocabulary": WORDS},
        "trainer": {"max_steps": steps, "val_check_interval": 2, "default_root_dir": str(directory / "run")},
        "protocol": {"baselines": ["mean", "patch_prompt"], "window": [0.0, 1.0], "batch_size": 4, **FEW},
    }
    settings["protocol"]["tracking"] = {"length": 2, "dense_every": 2, **FEW}
    path = directory / f"ioi-{steps}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def weights(run: Path) -> dict[str, torch.Tensor]:
    return gcgap.load(run).state_dict()


def test_it_is_trained_measured_resumed_and_measured_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    assert main(["fit", "--config", str(config(whole, 4))]) == 0
    assert main(["fit", "--config", str(config(parts, 2))]) == 0
    assert main(["fit", "--config", str(config(parts, 4)), "--ckpt_path", "last"]) == 0
    one, other = weights(whole / "run"), weights(parts / "run")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    model = gcgap.load(whole / "run")
    assert isinstance(model, Pretrained)
    assert model.get_parameter("network.transformer.wte.weight") is model.get_parameter("network.lm_head.weight"), "tied"
    record = Record.read(whole / "run" / "gap" / "final.json")
    assert [component["name"] for component in record["components"]] == ["L0_H0", "L0_H1", "L0_MLP"]
    assert record["model"]["architecture"] == "gpt2"
    assert (record["length"], record.baselines) == (2, ["mean", "patch_prompt"])
    capsys.readouterr()
    assert main(["measure", str(whole / "run"), "--verify"]) == 0
    assert "the same in every number" in " ".join(capsys.readouterr().out.split())
    few = ["--sequences", "4", "--methods", "exact,hvp,gradient", "--length", "2"]
    assert main(["attribute", str(whole / "run"), "--baseline", "patch_prompt", *few]) == 0
    assert (whole / "run" / "attribution" / "patch_prompt,length=2.json").exists()


def test_weights_follow_from_the_seed_alone_and_training_has_no_dropout() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (new_model("gpt2", seed, **SIZES, vocabulary=WORDS) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    tokens = torch.arange(20).reshape(2, 10)
    assert torch.equal(first(tokens), again(tokens))
    assert not torch.equal(first(tokens), other(tokens))
    assert torch.equal(first.train()(tokens), first.eval()(tokens))


def test_what_older_checkpoints_do_not_say_is_what_they_had() -> None:
    older = model_settings(SIZES)
    assert older == SIZES | {"architecture": "gcgap", "vocabulary": VOCABULARY}
    assert model_settings(older | {"architecture": "gpt2", "vocabulary": WORDS})["architecture"] == "gpt2"
    with pytest.raises(KeyError, match="d_ff"):
        model_settings({name: size for name, size in SIZES.items() if name != "d_ff"})


@pytest.mark.parametrize(("attention", "path"), [("fused", "sdpa"), ("math", "eager")])
def test_it_has_the_sizes_and_the_attention_that_are_asked_for(attention: str, path: str) -> None:
    model = new_model("gpt2", **(SIZES | {"vocabulary": WORDS, "attention": attention}))
    wanted = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_ff": 32, "positions": "learned", "attention": path}
    assert {name: model.settings[name] for name in wanted} == wanted
    assert (model.n_ctx, model(torch.zeros(1, 40, dtype=torch.long)).shape) == (40, (1, 40, WORDS))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"positions": "rotary"}, "`model.positions` must be learned for gpt2; got 'rotary'"),
        ({"n_heads": 3}, "`model.d_model` must be divisible by `model.n_heads`"),
        ({"vocabulary": 0}, "`model.vocabulary` must be at least 1; got 0"),
    ],
)
def test_sizes_that_cannot_be_are_told(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        new_model("gpt2", **(SIZES | {"vocabulary": WORDS} | change))


def test_a_vocabulary_that_is_not_the_tasks_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", str(config(tmp_path, 2)), "--model.vocabulary", "104"]) == 2
    assert f"`model.vocabulary` must be {WORDS}, that of ioi; got 104" in capsys.readouterr().err
