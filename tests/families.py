"""Tiny random models of every family, as Hugging Face makes them: no network, and a second or less for each."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn

SHAPE: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 20,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = SHAPE | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 8}  # heads wider than hidden_size / heads
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", SHAPE | {"n_inner": 20}),
    "gpt_neox": ("GPTNeoXConfig", SHAPE),
    "gpt_neox, one after the other": ("GPTNeoXConfig", SHAPE | {"use_parallel_residual": False}),
    "llama": ("LlamaConfig", GROUPED),
    "llama, one value for all heads": ("LlamaConfig", SHAPE | {"num_key_value_heads": 1}),
    "llama, tied": ("LlamaConfig", SHAPE | {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", GROUPED | {"sliding_window": 4}),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", WIDE),
    "gemma2": ("Gemma2Config", WIDE | {"query_pre_attn_scalar": 8}),
    "gemma3_text": ("Gemma3TextConfig", WIDE | {"query_pre_attn_scalar": 8}),
}


def config(name: str) -> Any:
    """The config of a tiny model."""
    kind, settings = CONFIGS[name]
    return getattr(transformers, kind)(**settings)


def network(name: str, seed: int = 0) -> Any:
    """A tiny model with random weights, biases and norms included."""
    made = transformers.AutoModelForCausalLM.from_config(config(name)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.2, generator=generator)
    return made
