"""Files of GGUF, written from tiny models as llama.cpp's converter does it: names, layouts, settings and a tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers

NAMES = {"gpt2": "gpt2", "llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2", "gemma3_text": "gemma3"}
"""What GGUF calls a family, by the `model_type` of its config."""


def write(
    path: Path,
    network: Any,
    kind: str = "F32",
    settings: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
    tokenizer: tokenizers.Tokenizer | None = None,
    split: str = "gpt-2",
) -> Path:
    """Write a file of GGUF.

    Args:
        path: Where.
        network: A model of transformers.
        kind: What its matrices are stored as; all else is F32.
        settings: Other settings than those of the model's config; None leaves one out.
        tensors: Other tensors than those of the model; None leaves one out.
        tokenizer: A byte-level BPE; else the vocabulary is made up.
        split: How it splits a text.
    """
    config, name = network.config, NAMES[network.config.model_type]
    writer = gguf.GGUFWriter(path, name)
    for key, value in (_settings(config, name) | _vocabulary(config, tokenizer, split) | (settings or {})).items():
        if value is not None:
            _add(writer, key.replace("{arch}", name), value)
    for key, value in (_tensors(network, name) | (tensors or {})).items():
        if value is not None:
            wide = value.ndim == 2 and key != "position_embd.weight"
            stored = gguf.GGMLQuantizationType[kind if wide else "F32"]
            writer.add_tensor(key, gguf.quantize(value, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _settings(config: Any, name: str) -> dict[str, Any]:
    rope = (getattr(config, "rope_parameters", None) or {}) if name != "gpt2" else {}
    found = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.n_inner if name == "gpt2" else config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": getattr(config, "num_key_value_heads", None),
        "attention.layer_norm_epsilon": getattr(config, "layer_norm_epsilon", None),
        "attention.layer_norm_rms_epsilon": getattr(config, "rms_norm_eps", None),
        "attention.key_length": getattr(config, "head_dim", None),
        "attention.sliding_window": config.sliding_window if name.startswith("gemma") else None,
        "attn_logit_softcapping": getattr(config, "attn_logit_softcapping", None),
        "final_logit_softcapping": getattr(config, "final_logit_softcapping", None),
        "rope.freq_base": rope.get("full_attention", rope).get("rope_theta"),
        "vocab_size": config.vocab_size if name == "llama" else None,
    }
    return {f"{{arch}}.{key}": value for key, value in found.items()}


def _vocabulary(config: Any, tokenizer: tokenizers.Tokenizer | None, split: str) -> dict[str, Any]:
    found = {} if tokenizer is None else {token: name for name, token in tokenizer.get_vocab().items()}
    special = {} if tokenizer is None else tokenizer.get_added_tokens_decoder()
    merges = [] if tokenizer is None else json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": [found.get(token, f"[PAD{token}]") for token in range(config.vocab_size)],
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in range(config.vocab_size)],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges] or ["a b"],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _add(writer: Any, key: str, value: Any) -> None:
    add = {bool: "add_bool", int: "add_uint32", float: "add_float32", str: "add_string", list: "add_array"}[type(value)]
    getattr(writer, add)(key, value)


def _tensors(network: Any, name: str) -> dict[str, np.ndarray]:
    config = network.config
    arch = next(arch for arch, own in gguf.MODEL_ARCH_NAMES.items() if own == name)
    names, found = gguf.get_tensor_name_map(arch, config.num_hidden_layers), {}
    for own, weight in network.named_parameters():
        part, _, kind = own.rpartition(".")
        value, key = weight.detach().float().numpy(), f"{names.get_name(part)}.{kind}"
        if name == "llama" and (".attn_q." in key or ".attn_k." in key):
            heads = config.num_attention_heads if ".attn_q." in key else config.num_key_value_heads
            value = value.reshape(heads, 2, -1, value.shape[-1]).swapaxes(1, 2).reshape(value.shape)
        if name == "gpt2" and kind == "weight" and value.ndim == 2 and key.startswith("blk."):
            value = value.T
        if name.startswith("gemma") and key.endswith("norm.weight"):
            value = value + 1
        found[key] = np.ascontiguousarray(value)
    return found
