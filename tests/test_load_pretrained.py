"""Loading pretrained models: from a directory, without a network; and what is refused, and how that is said."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from families import config, network
from test_pretrained import TOKENS

from gcgap.pretrained.load import load_pretrained


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
    with pytest.raises(ValueError, match="safetensors"):
        load_pretrained(tmp_path)
    assert torch.equal(load_pretrained(tmp_path, allow_pickle=True)(TOKENS), saved(input_ids=TOKENS).logits)

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    torch.save(saved.state_dict() | {"payload": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be loaded as a model"):
        load_pretrained(tmp_path, allow_pickle=True)
    assert not (tmp_path / "ran").exists()


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


def test_attention_without_second_derivatives_is_refused() -> None:
    with pytest.raises(ValueError, match="eager or sdpa"):
        load_pretrained("gpt2", attention="flash_attention_2")
