"""Files of GGUF: what is loaded is what is in them, and what cannot be loaded rightly is refused by name."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import families
import gguf
import gguf_files
import numpy as np
import pytest
import tokenizers
import torch
from test_pretrained import TOKENS
from tokenizers import pre_tokenizers

from gcgap.cli import main
from gcgap.models.gguf import read_gguf
from gcgap.models.loading import device, load_pretrained
from gcgap.models.weight_files import weights_sha256
from gcgap.records.record import Record

SMALL = ["--protocol.sequences=4", "--protocol.gradient_batches=2", "--protocol.mean_batches=1", "--protocol.resamples=100"]
SMALL += ["--protocol.random_pairs=1", "--protocol.batch_size=4"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["gpt2", "llama", "llama, tied", "qwen2", "qwen3", "gemma2", "gemma3_text"])
def test_a_file_is_loaded_with_the_logits_of_the_model_that_was_written(name: str, tmp_path: Path) -> None:
    saved = families.network(name)
    model = load_pretrained(gguf_files.write(tmp_path / "tiny.gguf", saved))
    torch.testing.assert_close(model(TOKENS), saved(input_ids=TOKENS).logits, atol=2e-5, rtol=1e-4)
    assert model.settings["architecture"] == saved.config.model_type
    network: Any = model.network
    assert not hasattr(network, "hf_quantizer")
    if not name.startswith("gemma"):  # whose gains are stored with 1 added
        assert weights_sha256(network) == weights_sha256(saved)


def test_quantised_weights_are_made_into_the_format_asked_for_and_the_record_says_what_they_were(tmp_path: Path) -> None:
    saved = families.network("llama", hidden_size=32, intermediate_size=32)
    file = gguf_files.write(tmp_path / "tiny.gguf", saved, "Q4_1")
    weight = saved.model.layers[1].mlp.up_proj.weight.detach().numpy()
    kind = gguf.GGMLQuantizationType.Q4_1
    wanted = torch.tensor(gguf.dequantize(gguf.quantize(weight, kind), kind))
    for dtype in (torch.float32, torch.bfloat16):
        model = load_pretrained(tmp_path, dtype=str(dtype).removeprefix("torch."))  # the one file of a directory
        network: Any = model.network
        assert torch.equal(network.model.layers[1].mlp.up_proj.weight, wanted.to(dtype))
        assert {one.dtype for one in network.parameters()} == {dtype}
    assert model.settings["quantization"] == "Q4_1"
    assert model.settings["stored_as"] == "Q4_1 (16), F32 (5)"
    assert model.settings["file_sha256"] == sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ValueError, match="of floating point"):
        load_pretrained(file, dtype="auto")


CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({}, {"blk.1.ffn_up.weight": None}, r"weights are missing: `model.layers.1.mlp.up_proj.weight`"),
    ({}, {"blk.0.attn_q.bias": np.zeros(24, np.float32)}, r"weights are not of this model: `blk.0.attn_q.bias`"),
    (
        {"{arch}.feed_forward_length": 10**9},
        {},
        r"weights have another size than its settings say: `model.layers.0.mlp",
    ),
    ({"{arch}.attention.head_count": 2**31}, {}, "transformers cannot read it .*attention heads"),
    ({"{arch}.block_count": 10**9}, {}, "asks for 1000000000 layers, and has 21 tensors"),
    ({"{arch}.block_count": None}, {}, "it lacks the setting `llama.block_count`"),
    ({"{arch}.rope.scaling.type": "yarn"}, {}, "`llama.rope.scaling.type` is 'yarn', and transformers reads it as 'default'"),
    ({"{arch}.attention.clamp_kqv": 8.0}, {}, "`llama.attention.clamp_kqv` is 8.0, and gcgap does not know what it changes"),
    ({"{arch}.attention.causal": False}, {}, "`llama.attention.causal` is False"),
    ({"{arch}.expert_count": 8}, {}, "`llama.expert_count` is 8"),
    ({"{arch}.rope.dimension_count": 4, "{arch}.attention.key_length": 6}, {}, "`llama.rope.dimension_count` is 4"),
    ({"split.count": 3}, {}, "it is one of 3 parts"),
    ({"general.architecture": "stablelm"}, {}, "no model family is declared for `model_type` 'stablelm'"),
    ({"general.architecture": "gptneox"}, {}, "GGUF model with architecture gptneox is not supported"),
]


@pytest.mark.parametrize(("settings", "tensors", "told"), CHANGES)
def test_a_file_that_is_not_what_it_should_be_is_refused_by_name(
    settings: dict[str, Any], tensors: dict[str, Any], told: str, tmp_path: Path
) -> None:
    file = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama"), settings=settings, tensors=tensors)
    with pytest.raises(ValueError, match=rf"`{file}` cannot be loaded as a model: [^\n]*{told}"):
        load_pretrained(file)


def test_rotary_positions_are_scaled_as_the_file_says(tmp_path: Path) -> None:
    scaled = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 16}  # fmt: skip
    saved = families.network("llama", rope_parameters=scaled)
    plain = 1 / 10000.0 ** (torch.arange(3) / 3)
    factors = (plain / saved.model.rotary_emb.inv_freq).numpy()
    assert len(set(factors.tolist())) > 1
    file = gguf_files.write(tmp_path / "llama3.gguf", saved, tensors={"rope_freqs.weight": factors})
    torch.testing.assert_close(load_pretrained(file)(TOKENS), saved(input_ids=TOKENS).logits, atol=2e-5, rtol=1e-4)
    linear = families.network("llama", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    settings = {"{arch}.rope.scaling.type": "linear", "{arch}.rope.scaling.factor": 4.0}
    file = gguf_files.write(tmp_path / "linear.gguf", linear, settings=settings)
    torch.testing.assert_close(load_pretrained(file)(TOKENS), linear(input_ids=TOKENS).logits, atol=2e-5, rtol=1e-4)


def test_a_file_that_is_cut_anywhere_or_no_gguf_is_refused_in_words(tmp_path: Path) -> None:
    whole = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama")).read_bytes()
    file, told = tmp_path / "cut.gguf", "truncated, corrupted or no GGUF"
    for length in (0, 3, 20, 100, 700, 1500, len(whole) // 2, len(whole) - 40):
        file.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=told):
            read_gguf(file)
    for changed in (
        b"gguf" + whole[4:],
        whole[:8] + struct.pack("<QQ", 2**60, 2**60) + whole[24:],
        whole[:24] + struct.pack("<Q", 2**63) + whole[32:],
        whole.replace(struct.pack("<IQ", 8, 40), struct.pack("<IQ", 8, 2**60), 1),  # so many words
        whole.replace(struct.pack("<IQ", 5, 40), struct.pack("<IQ", 5, 2**60), 1),  # and kinds of them
    ):
        assert changed != whole
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=told):
            read_gguf(file)


def test_what_is_no_one_file_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").mkdir()
    file = gguf_files.write(tmp_path / "home" / "a.gguf", families.network("llama"))
    assert main(["attribute", "--model", str(file), "--revision", "step1", "--out", str(tmp_path / "out")]) == 2
    assert "`--revision` is of a directory or of the hub" in capsys.readouterr().err
    assert main(["attribute", "--model", f"{file}s.gguf", "--out", str(tmp_path / "out")]) == 2
    assert "is no directory and no file of GGUF" in capsys.readouterr().err
    shutil.copy(file, file.with_name("b.gguf"))
    assert main(["attribute", "--model", str(file.parent), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "has 2 files of GGUF in it: a.gguf, b.gguf. Give one of them" in said
    file.write_bytes(file.read_bytes()[:-500])
    for command in ("attribute", "measure"):
        assert main([command, "--model", str(file), "--out", str(tmp_path / "out")]) == 2
        said = capsys.readouterr().err
        assert "truncated" in said
        assert said.count("\n") <= 3
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    file = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama"))
    monkeypatch.setattr("gcgap.models.families.find_spec", lambda name: None if name == "gguf" else name)
    assert main(["attribute", "--model", str(file), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "need the package gguf; install `gcgap[hf]`" in said
    assert said.count("\n") == 1


def test_a_file_on_the_hub_is_asked_for_by_repository_file_and_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, asked = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama")), list[Any]()

    def away(*names: str, **more: Any) -> str | None:
        asked.append((*names, more.get("revision")))
        return str(file) if names[1].endswith(".gguf") else None

    monkeypatch.setattr("transformers.utils.cached_file", away)
    model = load_pretrained("owner/many:sub/tiny.gguf", "v2")
    assert asked[0] == ("owner/many", "sub/tiny.gguf", "v2")
    assert model.settings["name"] == "owner/many:sub/tiny.gguf"


TEXT = "Mary and John went to the store in 1732, 1984 and 2001. They'd given 48 drinks to HER, it's said; WE'LL see! "


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS: dict[str, Callable[[], list[Any]]] = {
    "gpt-2": lambda: [],
    "smollm": lambda: [pre_tokenizers.Digits(individual_digits=True)],
    "llama-bpe": lambda: [pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")],
}


@pytest.mark.parametrize("split", SPLITS)
def test_the_tokenizer_in_the_file_is_the_one_that_was_written(split: str, tmp_path: Path) -> None:
    llama3 = split == "llama-bpe"
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ignore_merges=llama3))
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not llama3)
    made.pre_tokenizer = pre_tokenizers.Sequence([by_bytes])  # merges that cross digits, so that the split decides
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<|begin|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([TEXT] * 3, trainer)
    if llama3:  # words that no merge leads to
        content = json.loads(made.to_str())
        content["model"]["merges"] = content["model"]["merges"][:-20]
        made = tokenizers.Tokenizer.from_str(json.dumps(content))
    made.pre_tokenizer = pre_tokenizers.Sequence([*SPLITS[split](), by_bytes])
    saved = families.network("llama", vocab_size=330)
    file = gguf_files.write(tmp_path / "tiny.gguf", saved, tokenizer=made, split=split)
    (tmp_path / "tokenizer.json").write_text("not of this file")
    found = read_gguf(file).tokenizer()
    before = [0] if llama3 else []
    for text in (TEXT, " 1732 and 17325", "<|begin|>Mary"):
        assert found(text)["input_ids"] == [*before, *made.encode(text).ids]


def test_a_split_that_is_not_known_leaves_token_ids(tmp_path: Path) -> None:
    file = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama"), split="chameleon")
    with pytest.raises(ValueError, match=r"token ids: it splits texts in a way, 'chameleon'"):
        load_pretrained(file, prompts="ioi")


def test_a_file_is_measured_from_the_command_line_and_its_record_names_it(tmp_path: Path) -> None:
    file = gguf_files.write(tmp_path / "tiny.gguf", families.network("llama", hidden_size=32, intermediate_size=32), "Q8_0")
    prompts = tmp_path / "mine.jsonl"
    lines = [{"clean": [3, 4 + i, 5, 6], "corrupted": [3, 4 + i, 7, 6], "answer": 8, "wrong": 9} for i in range(30)]
    prompts.write_text("\n".join(map(json.dumps, lines)))
    assert main(["measure", "--model", str(file), "--prompts", str(prompts), "--out", str(tmp_path / "out"), *SMALL]) == 0
    (path,) = (tmp_path / "out").rglob("final.json")
    assert path.relative_to(tmp_path / "out").parts[0].startswith("tiny.gguf-mine-")
    record = Record.read(path)
    model = load_pretrained(file)
    assert record["checkpoint_sha256"] == weights_sha256(model.network)
    assert {key: record["model"][key] for key in ("quantization", "file_sha256")} == {
        key: model.settings[key] for key in ("quantization", "file_sha256")
    }


def test_a_device_that_is_not_there_is_refused_and_the_gpu_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: None)
    for asked in ("cuda", "cuda:1", "cpu:x", "mps", "disk"):
        with pytest.raises(ValueError, match=rf"`--device-map` must be auto or a device of this machine \(cpu\); got {asked}"):
            device(asked)
    assert [device(asked) for asked in ("cpu", "auto", "balanced_low_0")] == ["cpu", "auto", "balanced_low_0"]
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    assert [device(asked) for asked in ("cuda", "cuda:1")] == ["cuda", "cuda:1"]
    with pytest.raises(ValueError, match=r"\(cpu, cuda:0, cuda:1\); got cuda:2"):
        device("cuda:2")
    for there, wanted in ((True, "cuda"), (False, None)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert device(None) == wanted
