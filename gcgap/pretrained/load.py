"""Loading a Hugging Face model by its name or from a directory: nothing that comes with it is ever run unasked."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from gcgap.pretrained.families import find_wiring
from gcgap.pretrained.model import Pretrained


def load_pretrained(
    name: str | Path,
    revision: str | None = None,
    *,
    dtype: str = "auto",
    device_map: str | None = None,
    attention: str | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Pretrained:
    """A model of the hub, or of a directory that `save_pretrained` has written, in evaluation mode.

    Args:
        name: Its name on the hub, such as `gpt2`, or a directory.
        revision: A branch, tag or commit, such as `step1000` of Pythia.
        dtype: Number format of the weights, such as `bfloat16`; `auto` is the one they were saved in. Logits and everything made
            of them are float32.
        device_map: Where the weights go, such as `auto` (needs the package accelerate); the CPU by default.
        attention: `eager` or `sdpa`; the model's own default if None. Both have second derivatives, flash attention has none.
        trust_remote_code: Run Python code that comes with the model. Never without your word.
        allow_pickle: Read weights that are no safetensors; a pickle file is read without running what it holds.

    Raises:
        ImportError: The extra `gcgap[hf]` is not installed.
        ValueError: There is no such model, it cannot be reached, it is no decoder of a known family, or it needs one of the
            permissions above.
    """
    if find_spec("transformers") is None:
        raise ImportError("pretrained models need the package transformers; install `gcgap[hf]`.")
    from transformers import AutoConfig, AutoModelForCausalLM

    if attention not in (None, "eager", "sdpa"):
        raise ValueError(f"`attention` must be eager or sdpa, which have second derivatives; got {attention!r}.")
    options: dict[str, Any] = {"revision": revision or "main", "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(str(name), **options)
        wiring = find_wiring(config)
        network = AutoModelForCausalLM.from_pretrained(
            str(name),
            dtype=dtype,
            device_map=device_map,
            attn_implementation=attention,
            use_safetensors=None if allow_pickle else True,
            **options,
        )
    except (OSError, ValueError, UnpicklingError) as error:
        raise ValueError(f"`{name}` cannot be loaded as a model: {_first_lines(error)}") from error
    return Pretrained(network, wiring).eval()


def _first_lines(error: Exception) -> str:
    return "\n".join(line.strip() for line in str(error).strip().splitlines()[:3] if line.strip())
