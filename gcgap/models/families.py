"""Families of pretrained models: where each keeps its heads and MLPs, in one short declaration by the name of its config.

A declaration is a function from a config to a `Wiring`, with names of modules as the model itself has them. A new family is one
more, registered under its `model_type`. Query heads count as heads, also where a group of them shares keys and values.

Settings in a config that would make the model another one than gcgap measures are refused by name. A setting is known to be
right at any value (`KNOWN`: the network itself computes it, between the places that the wiring names), or at some values
(`CHECKED`), or it is refused unless it has the value that the family has by default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

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
        query=Slices("transformer.h.{layer}.attn.c_attn", axis=1, blocks=3 * n_heads),
        key=Slices("transformer.h.{layer}.attn.c_attn", axis=1, blocks=3 * n_heads, first=n_heads),
        norms=(
            ("transformer.h.{layer}.ln_1", ("transformer.h.{layer}.attn.c_attn",)),
            ("transformer.h.{layer}.ln_2", ("transformer.h.{layer}.mlp.c_fc",)),
            ("transformer.ln_f", ("lm_head",)),
        ),
    )


@family("gpt_neox")
def gpt_neox(config: Any) -> Wiring:
    """GPT-NeoX (Pythia): one matrix has query, key and value of head 0, then those of head 1, and so on."""
    from transformers import GPTNeoXForCausalLM

    n_heads = config.num_attention_heads
    unembedding = next(iter(GPTNeoXForCausalLM._tied_weights_keys)).removesuffix(".weight")  # `embed_out`, later `lm_head`
    return Wiring(
        config.num_hidden_layers,
        n_heads,
        out_projection="gpt_neox.layers.{layer}.attention.dense",
        mlp="gpt_neox.layers.{layer}.mlp",
        value=Slices("gpt_neox.layers.{layer}.attention.query_key_value", blocks=3 * n_heads, first=2, every=3),
        output=Slices("gpt_neox.layers.{layer}.attention.dense", axis=1),
        mlp_down="gpt_neox.layers.{layer}.mlp.dense_4h_to_h",
        query=Slices("gpt_neox.layers.{layer}.attention.query_key_value", blocks=3 * n_heads, every=3),
        key=Slices("gpt_neox.layers.{layer}.attention.query_key_value", blocks=3 * n_heads, first=1, every=3),
        norms=(
            ("gpt_neox.layers.{layer}.input_layernorm", ("gpt_neox.layers.{layer}.attention.query_key_value",)),
            ("gpt_neox.layers.{layer}.post_attention_layernorm", ("gpt_neox.layers.{layer}.mlp.dense_h_to_4h",)),
            ("gpt_neox.final_layer_norm", (unembedding,)),
        ),
    )


@family("gpt_neo")
def gpt_neo(config: Any) -> Wiring:
    """GPT-Neo: as GPT-2, with a matrix of its own for the values, and local attention in every other layer."""
    attention = "transformer.h.{layer}.attn.attention"
    readers = tuple(f"{attention}.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    return Wiring(
        config.num_hidden_layers,
        config.num_attention_heads,
        out_projection="transformer.h.{layer}.attn.attention.out_proj",
        mlp="transformer.h.{layer}.mlp",
        value=Slices("transformer.h.{layer}.attn.attention.v_proj"),
        output=Slices("transformer.h.{layer}.attn.attention.out_proj", axis=1),
        mlp_down="transformer.h.{layer}.mlp.c_proj",
        query=Slices(readers[0]),
        key=Slices(readers[1]),
        norms=(
            ("transformer.h.{layer}.ln_1", readers),
            ("transformer.h.{layer}.ln_2", ("transformer.h.{layer}.mlp.c_fc",)),
            ("transformer.ln_f", ("lm_head",)),
        ),
    )


@family("phi")
def phi(config: Any) -> Wiring:
    """Phi 1, 1.5 and 2: heads and MLP of a layer read the same norm of the residual stream."""
    n_heads, groups = config.num_attention_heads, config.num_key_value_heads
    readers = tuple(f"model.layers.{{layer}}.self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj"))
    return Wiring(
        config.num_hidden_layers,
        n_heads,
        out_projection="model.layers.{layer}.self_attn.dense",
        mlp="model.layers.{layer}.mlp",
        value=Slices("model.layers.{layer}.self_attn.v_proj", blocks=groups, group=n_heads // groups),
        output=Slices("model.layers.{layer}.self_attn.dense", axis=1),
        mlp_down="model.layers.{layer}.mlp.fc2",
        query=Slices(readers[0]),
        key=Slices(readers[1], blocks=groups, group=n_heads // groups),
        norms=(
            ("model.layers.{layer}.input_layernorm", (*readers, "model.layers.{layer}.mlp.fc1")),
            ("model.final_layernorm", ("lm_head",)),
        ),
    )


@family("llama", "mistral", "qwen2", "qwen3", "olmo")
@family("gemma", gain_offset=1.0)
@family("gemma2", "gemma3_text", gain_offset=1.0, normalises=True)
@family("gemma3", gain_offset=1.0, normalises=True, within="model.language_model")
@family("olmo2", "olmo3", normalises=True, reads_stream=True)
def llama(
    config: Any, gain_offset: float = 0.0, normalises: bool = False, within: str = "model", reads_stream: bool = False
) -> Wiring:
    """Llama and what is built like it.

    Gemma 2 and 3 and OLMo 2 and 3 normalise what heads and MLP put out before it is added. In OLMo 2 and 3 these read the stream
    itself, without a norm, and queries and keys of all heads are normalised together. OLMo can clip queries, keys and values.
    """
    text, layer = config.get_text_config(), f"{within}.layers.{{layer}}"
    n_heads, groups = text.num_attention_heads, text.num_key_value_heads
    shared = Slices(f"{layer}.self_attn.v_proj", blocks=groups, group=n_heads // groups)
    query, key = Slices(f"{layer}.self_attn.q_proj"), replace(shared, module=f"{layer}.self_attn.k_proj")
    before_mlp = "pre_feedforward_layernorm" if normalises else "post_attention_layernorm"
    norms = (
        (f"{layer}.input_layernorm", (query.module, key.module, shared.module)),
        (f"{layer}.{before_mlp}", (f"{layer}.mlp.gate_proj", f"{layer}.mlp.up_proj")),
        (f"{within}.norm", ("lm_head",)),
    )
    together = replace(query, module=f"{layer}.self_attn.q_norm"), replace(key, module=f"{layer}.self_attn.k_norm")
    return Wiring(
        text.num_hidden_layers,
        n_heads,
        out_projection=f"{layer}.self_attn.o_proj",
        mlp=f"{layer}.post_feedforward_layernorm" if normalises else f"{layer}.mlp",
        value=shared,
        output=Slices(f"{layer}.self_attn.o_proj", axis=1),
        mlp_down=f"{layer}.mlp.down_proj",
        attention_norm=f"{layer}.post_attention_layernorm" if normalises else None,
        query=query,
        key=key,
        permuted=together if reads_stream else (),
        norms=norms[-1:] if reads_stream else norms,
        gain_offset=gain_offset,
        not_linear="`clip_qkv` clips values" if getattr(text, "clip_qkv", None) is not None else "",
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


class MissingPackageError(ImportError):
    """A package that is no part of gcgap is needed and not there; it ends a command with code 2."""

    exit_code = 2


def check_installed(package: str = "transformers", what: str = "models of Hugging Face") -> None:
    """Raise an ImportError unless a package of the extra `hf` is there."""
    if find_spec(package) is None:
        raise MissingPackageError(f"{what} need the package {package}; install `gcgap[hf]`.")


_KNOWN = """
_sliding_window_pattern activation_function attention_bias attention_dropout attention_layers attention_types
attn_logit_softcapping attn_pdrop boi_token_index bos_token_id classifier_dropout clip_qkv embd_pdrop embed_dropout
eoi_token_index eos_token_id final_logit_softcapping head_dim hidden_act hidden_activation hidden_dropout hidden_size
ignore_keys_at_rope_validation image_token_index initializer_range intermediate_size is_decoder layer_norm_eps
layer_norm_epsilon max_position_embeddings max_window_layers mlp_bias mm_tokens_per_image n_embd n_head n_inner n_layer
n_positions num_attention_heads num_heads num_hidden_layers num_key_value_heads num_layers original_max_position_embeddings
pad_token_id partial_rotary_factor pretraining_tp qk_layernorm query_pre_attn_scalar reorder_and_upcast_attn resid_dropout
resid_pdrop rms_norm_eps rope_parameters scale_attn_by_inverse_layer_idx scale_attn_weights sliding_window summary_activation
summary_first_dropout summary_proj_to_labels summary_type summary_use_proj text_config tie_word_embeddings use_cache
use_parallel_residual use_sliding_window vision_config vocab_size window_size
"""
KNOWN = frozenset(_KNOWN.split())
"""Settings that may have any value. Attention that leaves one out is found by `gcgap.models.loading.check_forward`."""

OTHER_MODEL = "Measure another model: gcgap measures causal decoders with floating point weights."
_CAUSAL = "no token may see what comes after it"
CHECKED: dict[str, tuple[tuple[Any, ...], str]] = {
    "is_causal": ((True, None), _CAUSAL),
    "use_bidirectional_attention": ((False, None), _CAUSAL),
    "add_cross_attention": ((False, None), "heads that read an encoder are not measured"),
    "quantization_config": ((None,), "gradients need floating point weights"),
    "layer_types": (("full_attention", "sliding_attention"), "other layers have no softmax attention over single tokens"),
    "rope_type": (("default", "linear", "llama3", "yarn"), "other rotary positions depend on the longest row of a batch"),
}
"""Settings that must have one of these values, and why."""
LEFT_OUT = {"attn_logit_softcapping": None, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True}
"""Settings that sdpa leaves out in some version of transformers since 5.0, and the value at which that changes nothing."""


def check_settings(config: Any) -> None:
    """Raise a ValueError for a setting of a declared family that is not known to leave the measurement right."""
    from transformers import PretrainedConfig

    check_values(config)
    common = set(PretrainedConfig().to_dict())  # which configs of all kinds of models have
    for part in _parts(config):
        for name in sorted(set(part.to_dict()) - common - KNOWN - set(CHECKED)):
            got = getattr(part, name)
            if got != (wanted := getattr(type(part)(), name, got)):
                raise ValueError(
                    f"`{name}` in the model's config must be {wanted!r}, since gcgap does not know what it changes in "
                    f"{part.model_type}; got {got!r:.60}.\n{OTHER_MODEL}"
                )


def check_values(config: Any) -> None:
    """Raise a ValueError for a setting with which numbers would be wrong in any family."""
    for part in _parts(config):
        for name, (allowed, why) in CHECKED.items():
            got = _rope_types(getattr(part, "rope_parameters", None)) if name == "rope_type" else getattr(part, name, None)
            for value in (got or ()) if name in ("layer_types", "rope_type") else (got,):
                if value not in allowed:
                    choice = " or ".join(repr(one) for one in allowed if one is not None) or "absent"
                    raise ValueError(
                        f"`{name}` in the model's config must be {choice}, because {why}; got {value!r:.60}.\n{OTHER_MODEL}"
                    )


def _parts(config: Any) -> list[Any]:
    """A config and that of the text model in it; none of a module that is not of Hugging Face."""
    if not hasattr(config, "get_text_config"):
        return []
    text = config.get_text_config()
    return [config] if text is config else [config, text]


def _rope_types(parameters: Any) -> list[str]:
    """Kinds of rotary positions: one for the model, or one for each type of layer."""
    if not isinstance(parameters, dict):
        return []
    if "rope_type" in parameters:
        return [parameters["rope_type"]]
    return [kind for inner in parameters.values() for kind in _rope_types(inner)]


def needs_eager(config: Any) -> str | None:
    """The name of a setting that only eager attention takes; None if there is none."""
    return next(
        (name for part in _parts(config) for name in LEFT_OUT if getattr(part, name, None) not in (None, LEFT_OUT[name])), None
    )


def check_attention(config: Any, attention: str | None) -> None:
    """Raise a ValueError if this way of computing attention leaves out what the config asks for."""
    if attention == "sdpa" and (name := needs_eager(config)) is not None:
        raise ValueError(
            f"`attention` must be eager, because sdpa leaves out the `{name}` that this model's config sets.\n"
            "Give `--attention eager`, or call the network's `set_attn_implementation('eager')`."
        )
