"""Families of pretrained models: where each keeps its heads and MLPs, in one short declaration by the name of its config.

A declaration is a function from a config to a `Wiring`, with names of modules as the model itself has them. A new family is one
more, registered under its `model_type`. Query heads count as heads, also where a group of them shares keys and values.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

from gcgap.models.config_checks import check_settings
from gcgap.models.wiring import Slices, Wiring

Family = Callable[[Any], Wiring]
"""From a text model's config to its wiring."""

FAMILIES: dict[str, Family] = {}
"""By the `model_type` of the config."""


def family(*model_types: str, **options: Any) -> Callable[[Family], Family]:
    """Register a declaration under some model types, with options of its own for them."""

    def register(declared: Family) -> Family:
        FAMILIES.update(dict.fromkeys(model_types, partial(declared, **options) if options else declared))
        return declared

    return register


@family("gpt2")
def gpt2(config: Any) -> Wiring:
    """GPT-2: `Conv1D` weights are (in, out), and queries, keys and values stand side by side in one of them."""
    n_heads = config.num_attention_heads
    return Wiring(
        config.num_hidden_layers,
        n_heads,
        out_projection="transformer.h.{layer}.attn.c_proj",
        mlp="transformer.h.{layer}.mlp",
        value=Slices("transformer.h.{layer}.attn.c_attn", axis=1, blocks=3 * n_heads, first=2 * n_heads),
        output=Slices("transformer.h.{layer}.attn.c_proj", axis=0),
        mlp_down="transformer.h.{layer}.mlp.c_proj",
    )


@family("gpt_neox")
def gpt_neox(config: Any) -> Wiring:
    """GPT-NeoX (Pythia): one matrix has query, key and value of head 0, then those of head 1, and so on."""
    n_heads = config.num_attention_heads
    return Wiring(
        config.num_hidden_layers,
        n_heads,
        out_projection="gpt_neox.layers.{layer}.attention.dense",
        mlp="gpt_neox.layers.{layer}.mlp",
        value=Slices("gpt_neox.layers.{layer}.attention.query_key_value", blocks=3 * n_heads, first=2, every=3),
        output=Slices("gpt_neox.layers.{layer}.attention.dense", axis=1),
        mlp_down="gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
    )


@family("gpt_neo")
def gpt_neo(config: Any) -> Wiring:
    """GPT-Neo: as GPT-2, with a matrix of its own for the values, and local attention in every other layer."""
    return Wiring(
        config.num_hidden_layers,
        config.num_attention_heads,
        out_projection="transformer.h.{layer}.attn.attention.out_proj",
        mlp="transformer.h.{layer}.mlp",
        value=Slices("transformer.h.{layer}.attn.attention.v_proj"),
        output=Slices("transformer.h.{layer}.attn.attention.out_proj", axis=1),
        mlp_down="transformer.h.{layer}.mlp.c_proj",
    )


@family("phi")
def phi(config: Any) -> Wiring:
    """Phi 1, 1.5 and 2: heads and MLP of a layer read the same norm of the residual stream."""
    n_heads, groups = config.num_attention_heads, config.num_key_value_heads
    return Wiring(
        config.num_hidden_layers,
        n_heads,
        out_projection="model.layers.{layer}.self_attn.dense",
        mlp="model.layers.{layer}.mlp",
        value=Slices("model.layers.{layer}.self_attn.v_proj", blocks=groups, group=n_heads // groups),
        output=Slices("model.layers.{layer}.self_attn.dense", axis=1),
        mlp_down="model.layers.{layer}.mlp.fc2",
    )


@family("llama", "mistral", "qwen2", "qwen3", "gemma", "olmo")
@family("gemma2", "gemma3_text", "olmo2", "olmo3", normalises=True)
@family("gemma3", normalises=True, layers="model.language_model.layers")
def llama(config: Any, normalises: bool = False, layers: str = "model.layers") -> Wiring:
    """Llama and what is built like it; Gemma 2 and 3 and OLMo 2 and 3 normalise what heads and MLP put out before it is added."""
    text, layer = config.get_text_config(), f"{layers}.{{layer}}"
    n_heads, groups = text.num_attention_heads, text.num_key_value_heads
    return Wiring(
        text.num_hidden_layers,
        n_heads,
        out_projection=f"{layer}.self_attn.o_proj",
        mlp=f"{layer}.post_feedforward_layernorm" if normalises else f"{layer}.mlp",
        value=Slices(f"{layer}.self_attn.v_proj", blocks=groups, group=n_heads // groups),
        output=Slices(f"{layer}.self_attn.o_proj", axis=1),
        mlp_down=f"{layer}.mlp.down_proj",
        attention_norm=f"{layer}.post_attention_layernorm" if normalises else None,
    )


def find_wiring(config: Any) -> Wiring:
    """The wiring of a config's family.

    Raises:
        ValueError: No family is declared for it, or it has a setting that is not known to leave measurements right.
    """
    name = config.model_type
    if config.is_encoder_decoder or not (declared := FAMILIES.get(name)):
        raise ValueError(
            f"no model family is declared for `model_type` {name!r}; known are {', '.join(sorted(FAMILIES))}.\n"
            "Only decoders can be measured. For another one write its `Wiring` and give it to `Pretrained(network, wiring)`:\n"
            "gcgap/models/families.py shows how, in ten lines for each family."
        )
    check_settings(config)
    return declared(config)


def check_installed() -> None:
    """Raise an ImportError unless transformers is there."""
    if find_spec("transformers") is None:
        raise ImportError("models of Hugging Face need the package transformers; install `gcgap[hf]`.")
