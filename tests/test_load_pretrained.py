"""Loading pretrained models: from a directory, without a network; and what is refused, and how that is said."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import config, network, save
from test_pretrained import TOKENS

from gcgap.pretrained.load import load_pretrained, step_of
from gcgap.pretrained.weights import weights_sha256


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["gpt2", "qwen3"])
def test_a_directory_is_loaded_with_the_logits_of_the_model_that_was_saved(name: str, tmp_path: Path) -> None:
    saved = network(name)
    saved.save_pretrained(tmp_path)
    model = load_pretrained(tmp_path)
    assert not model.training
    assert torch.equal(model(TOKENS), saved(input_ids=TOKENS).logits)
    rounded = load_pretrained(tmp_path, dtype="bfloat16", attention="eager").network
    assert isinstance(rounded, transformers.PreTrainedModel)
    assert (rounded.dtype, rounded.config._attn_implementation) == (torch.bfloat16, "eager")


def test_what_the_weights_are_read_by_reaches_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network("gpt2").save_pretrained(tmp_path)
    asked, real = dict[str, Any](), transformers.AutoModelForCausalLM.from_pretrained

    def noted(where: str, **options: Any) -> Any:
        asked.update(options)
        return real(where, **options)

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", noted)
    model = load_pretrained(tmp_path, dtype="float64", device_map="auto", attention="eager", memory=0.5)
    wanted = {"dtype": "float64", "device_map": "auto", "attn_implementation": "eager", "use_safetensors": True}
    assert asked == wanted | {"revision": "main", "trust_remote_code": False}
    assert (model.memory, model.settings["name"], model.settings["dtype"]) == (0.5, str(tmp_path), "float64")
    load_pretrained(tmp_path)
    assert asked["dtype"] == "float32"
    with pytest.raises(ValueError, match="`memory` must be more than 0 GiB; got 0"):
        load_pretrained(tmp_path, memory=0)


def test_a_name_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(ValueError, match=r"`nobody/nothing` cannot be loaded as a model"):
        load_pretrained("nobody/nothing")


def test_a_missing_extra_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.pretrained.fresh.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"install `gcgap\[hf\]`"):
        load_pretrained("gpt2")


@pytest.mark.parametrize("kind", ["BertConfig", "T5Config"])
def test_a_model_that_is_no_decoder_of_a_known_family_is_refused(kind: str, tmp_path: Path) -> None:
    getattr(transformers, kind)().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"no model family is declared for `model_type`[^\n]*known are [^\n]*llama") as refused:
        load_pretrained(tmp_path)
    assert "Pretrained(network, wiring)" in str(refused.value)


def test_a_pickle_is_refused_unless_it_is_allowed_and_never_run(tmp_path: Path) -> None:
    saved = network("gpt2")
    config("gpt2").save_pretrained(tmp_path)
    torch.save(saved.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="its weights are a pickle, which `--allow-pickle` reads") as told:
        load_pretrained(tmp_path)
    assert "safetensors" in str(told.value)
    assert torch.equal(load_pretrained(tmp_path, allow_pickle=True)(TOKENS), saved(input_ids=TOKENS).logits)

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save(saved.state_dict() | {"payload": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded as a model"):
        load_pretrained(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


def test_a_file_of_weights_that_is_cut_is_told(tmp_path: Path) -> None:
    network("gpt2").save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"`{tmp_path}` cannot be loaded as a model: a file of weights is harmed"):
        load_pretrained(tmp_path)


def test_code_that_comes_with_a_model_is_not_run(tmp_path: Path) -> None:
    network("gpt2").save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()
    assert "own" not in sys.modules


@pytest.mark.parametrize("trusted", [False, True])
def test_the_hub_is_asked_for_the_revision_and_its_code_runs_only_on_your_word(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[dict[str, Any]]()

    def away(name: str, **options: Any) -> Any:
        asked.append({"name": name} | options)
        raise OSError("not today")

    wanted = {"trust_remote_code": trusted}
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", away)
    network("gpt2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer that can be loaded"):
        load_pretrained(tmp_path, prompts="induction", trust_remote_code=trusted)
    assert asked.pop() == {"name": str(tmp_path), "revision": "main"} | wanted
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", away)
    for revision in ("step1000", None):
        with pytest.raises(
            ValueError,
            match=r"`nobody/nothing` cannot be loaded as a model: there is no such directory, and on the hub: not today",
        ):
            load_pretrained("nobody/nothing", revision, trust_remote_code=trusted)
        assert asked.pop() == {"name": "nobody/nothing", "revision": revision or "main"} | wanted


@pytest.mark.parametrize(
    ("revision", "step"),
    [("step0", 0), ("step1000", 1000), ("step-20", 20), ("step_3", 3), ("step=000400", 400), ("Step_9", 9)]
    + [("checkpoint-500", 500), ("ckpt-1000", 1000), ("ckpt_042", 42), ("iter_0001000", 1000), ("iteration-7", 7)]
    + [("global_step1000", 1000), ("globalstep6", 6), ("training-step-8", 8), ("step=12.ckpt", 12)]
    + [("stage1-step101000-tokens424B", 101_000), ("step1-tokens2", 1), ("step-50K-105b", 50_000), ("step-2m", 2_000_000)]
    + [("epoch3-step500", 500), ("epoch=3-step=500", 500), ("checkpoint-2-step-500", 500), ("step-500-iter-3", 500)]
    + [(one, None) for one in (None, "main", "step", "step1.5", "step1-step2", "substep5", "step12abc", "epoch3", "v2")]
    + [(one, None) for one in ("1000", "tokens424B", "ckpt-12.5", "3f2504e0")],
)
def test_a_revision_that_names_a_step_tells_it(revision: str | None, step: int | None) -> None:
    assert step_of(revision) == step


def test_a_word_that_the_tokenizer_does_not_know_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"clean": f"Then, {one} gave", "answer": " a"}) + "\n" for one in ("Mary", "Zoe")))
    with pytest.raises(ValueError, match=r"line 2: the tokenizer of .* does not know all words of 'Then, Zoe gave'"):
        load_pretrained(save(tmp_path / "tiny"), prompts=str(path))


def test_the_hash_of_weights_is_of_each_of_them_with_name_format_and_size() -> None:
    def hashed(**weights: torch.Tensor) -> str:
        made = torch.nn.Module()
        for name, weight in weights.items():
            made.register_parameter(name, torch.nn.Parameter(weight))
        return weights_sha256(made)

    a, b = torch.arange(6.0).reshape(2, 3), torch.ones(2)
    last = a.clone()
    last[1, 2] += 1
    whole = hashed(a=a, b=b)
    assert whole == hashed(b=b.clone(), a=a.T.contiguous().T), "in no matter which order, layout and place"
    others = [hashed(a=last, b=b), hashed(c=a, b=b), hashed(a=a.reshape(3, 2), b=b), hashed(a=a), hashed(a=b, b=a)]
    others += [hashed(a=a.half()), hashed(a=a.half().view(torch.bfloat16))]  # the same bytes
    assert len({whole, *others}) == 8
    tied = network("llama, tied")
    assert weights_sha256(copy.deepcopy(tied)) == weights_sha256(tied)
    assert weights_sha256(network("llama, tied", seed=1)) != weights_sha256(tied)
    with torch.device("meta"), pytest.raises(ValueError, match=r"the weight `a` is not in memory .*`--device-map`"):
        hashed(a=torch.ones(2))


def test_attention_without_second_derivatives_is_refused() -> None:
    with pytest.raises(ValueError, match="eager or sdpa"):
        load_pretrained("gpt2", attention="flash_attention_2")
