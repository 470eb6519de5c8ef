"""Tiny random models of every family, as Hugging Face makes them: no network, and a second or less for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import nn

from gcgap.data.ioi import WORDS

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
SEEING: dict[str, Any] = {  # a text model inside one that also sees
    "text_config": WIDE | {"query_pre_attn_scalar": 8},
    "vision_config": {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
                      "image_size": 28, "patch_size": 14},
    "mm_tokens_per_image": 1,
}  # fmt: skip
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
    "gemma": ("GemmaConfig", WIDE),
    "olmo": ("OlmoConfig", GROUPED | {"clip_qkv": 0.5}),
    "olmo2": ("Olmo2Config", GROUPED),
    "olmo3": ("Olmo3Config", GROUPED | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
    "gpt_neo": (
        "GPTNeoConfig",
        SHAPE | {"num_layers": 2, "num_heads": 4, "window_size": 4, "attention_types": [[["global", "local"], 1]]},
    ),
    "phi": ("PhiConfig", GROUPED | {"qk_layernorm": True, "partial_rotary_factor": 0.7}),  # 4 of 6 entries turn
    "gemma2": ("Gemma2Config", WIDE | {"query_pre_attn_scalar": 8, "attn_implementation": "eager"}),  # has soft caps
    "gemma3_text": ("Gemma3TextConfig", WIDE | {"query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3Config", SEEING),
}


def config(name: str, **changes: Any) -> Any:
    """The config of a tiny model."""
    kind, settings = CONFIGS[name]
    return getattr(transformers, kind)(**settings | changes)


def network(name: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny model with random weights, biases and norms included."""
    made = transformers.AutoModelForCausalLM.from_config(config(name, **changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.2, generator=generator)
    return made


def save(directory: Path, name: str = "gpt2", seed: int = 0) -> Path:
    """A tiny model as `save_pretrained` writes it, with a tokenizer that knows the words of indirect-object identification."""
    words = (*WORDS, "<unk>")
    of_words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    of_words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    kind, settings = CONFIGS[name]
    sizes = settings | {"vocab_size": len(words), "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**sizes))
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        nn.init.normal_(parameter, 0.0, 0.2, generator=generator)
    made.save_pretrained(directory)
    transformers.PreTrainedTokenizerFast(tokenizer_object=of_words, unk_token="<unk>").save_pretrained(directory)
    return directory
