"""Models that are trained here from the start: gcgap's own transformer, or a network of Hugging Face of the same sizes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch

from gcgap.models.families import find_wiring
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Decoder, Transformer, check_sizes

Architecture = Literal["gcgap", "gpt2"]
MODEL_SETTINGS = ("n_layers", "n_heads", "d_model", "d_ff", "positions", "n_ctx", "attention", "architecture", "vocabulary")
SINCE: dict[str, Any] = {"architecture": "gcgap", "vocabulary": 104}  # what older checkpoints, which do not say, have


def new_model(architecture: Architecture = "gcgap", seed: int = 0, **settings: Any) -> Decoder:
    """A model with random weights.

    Args:
        architecture: `gcgap`, or `gpt2`: Hugging Face's GPT-2, which has learned positions and a tied output.
        seed: Of the weights.
        settings: Sizes, as of `Transformer`.

    Raises:
        ValueError: Sizes that do not fit together, or positions that the architecture does not have.
        ImportError: The extra `gcgap[hf]` is needed and is not installed.
    """
    if architecture not in get_args(Architecture):
        raise ValueError(f"`model.architecture` must be one of {', '.join(get_args(Architecture))}; got {architecture!r}.")
    return Transformer(**settings, seed=seed) if architecture == "gcgap" else _gpt2(seed=seed, **settings)


def _gpt2(
    n_layers: int, n_heads: int, d_model: int, d_ff: int, positions: str, n_ctx: int, attention: str, vocabulary: int, seed: int
) -> Pretrained:
    check_sizes(n_layers, n_heads, d_model, d_ff, positions, n_ctx, attention, vocabulary)
    if positions != "learned":
        raise ValueError(f"`model.positions` must be learned for gpt2; got {positions!r}.")
    check_installed()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=vocabulary,
        n_positions=n_ctx,
        n_embd=d_model,
        n_layer=n_layers,
        n_head=n_heads,
        n_inner=d_ff,
        resid_pdrop=0.0,  # dropout would draw from the global generator
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "sdpa" if attention == "fused" else "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GPT2LMHeadModel(config)
    return Pretrained(network, find_wiring(config))


def model_settings(told: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model among those that a checkpoint tells.

    Raises:
        KeyError: One is missing that every checkpoint has.
    """
    return {name: told.get(name, SINCE[name]) if name in SINCE else told[name] for name in MODEL_SETTINGS}


def check_installed() -> None:
    """Raise an ImportError unless transformers is there."""
    if find_spec("transformers") is None:
        raise ImportError("models of Hugging Face need the package transformers; install `gcgap[hf]`.")
