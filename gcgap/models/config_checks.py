"""Settings in the config of a pretrained model that would make it another one than gcgap measures: refused by name.

A setting of a declared family is known to be right at any value (`KNOWN`: the network itself computes it, between the places that
the wiring names), or at some values (`CHECKED`), or it is refused unless it has the value that the family has by default.
"""

from __future__ import annotations

from typing import Any

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
