"""The files of weights of a Hugging Face model: their number formats, that they are complete, and the hash of what they hold."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gcgap.models.number_format import plain

PREFIXES = {
    "_orig_mod.": "torch.compile adds. Save the module inside, `compiled._orig_mod`",
    "_fsdp_wrapped_module.": "FSDP adds. Save its full state dict",
    "_forward_module.": "Lightning Fabric adds. Save the module inside, `wrapped.module`",
    "base_model.model.": "PEFT adds. Merge the adapter with `merge_and_unload` and save the model that it gives",
    "module.": "DataParallel and DistributedDataParallel add. Save the module inside, `wrapped.module`",
    "network.": "gcgap adds. Save the network inside, `model.network.save_pretrained(..)`",
    "transformer.": "a module adds that has the model as its part `transformer`. Save that part",
    "model.": "a LightningModule adds that has the model as its part `model`. Save that part",
}
"""Parts of weights' names that other programs add, and what to do about each."""
OWN = ("transformer.", "model.")  # which some models' own names have too
COMPUTED = re.compile(r"(^|\.)(rotary_emb\.inv_freq|(attn|attention)\.(masked_)?bias|position_ids)$")
"""Names of tables that models compute and older files hold too."""
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Number formats as safetensors and GGUF call them."""


def weights_sha256(network: nn.Module) -> str:
    """Hash of the names, number formats, sizes and bytes of all weights, in the order of their names; tied ones count once.

    Raises:
        ValueError: A weight is not in memory.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        if weight.is_meta:
            raise ValueError(f"the weight `{name}` is not in memory; choose a `--device-map` that keeps all weights there.")
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_no_adapter(where: str, revision: str) -> None:
    """Raise a ValueError if an adapter lies beside the weights: transformers applies it only if PEFT is installed."""
    if _cached(where, "adapter_config.json", revision) is not None:
        raise ValueError("an adapter lies beside its weights (adapter_config.json). Merge it (`merge_and_unload`) and save that.")


def stored_formats(where: str, revision: str, pickles: bool) -> dict[str, str]:
    """The number formats of the weights of a model, in a directory or on the hub, as its files give them; no weight is read."""
    from safetensors import safe_open

    found: dict[str, str] = {}
    for file in _files(where, revision, pickles):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                kinds = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
            found |= {name: FLOATS.get(kind, kind) for name, kind in kinds.items()}
        else:
            weights = torch.load(file, map_location="meta", weights_only=True)
            found |= {name: plain(value.dtype) for name, value in weights.items()}
    return {name: kind for name, kind in found.items() if not COMPUTED.search(name)}


def _files(where: str, revision: str, pickles: bool) -> list[Path]:
    """The files that transformers reads weights from: the first of these that is there, or the parts that it lists."""
    for name in ("model.safetensors", "pytorch_model.bin")[: 1 + pickles]:
        if (path := _cached(where, name, revision)) is not None:
            return [path]
        if (path := _cached(where, f"{name}.index.json", revision)) is not None:
            parts = sorted(set(json.loads(path.read_text())["weight_map"].values()))
            return [found for part in parts if (found := _cached(where, part, revision)) is not None]
    return []


def _cached(where: str, name: str, revision: str) -> Path | None:
    """A file of a model, from the hub if need be."""
    from transformers.utils import cached_file

    path = cached_file(where, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return None if path is None else Path(path)


def check_complete(
    report: Mapping[str, Collection[Any]],
    config: str = "config.json says",
    advice: str = "Copy the model again, with the config.json of these weights.",
) -> None:
    """Raise a ValueError unless the files held every weight of the model, each of its size, and no other one.

    Args:
        report: What transformers gives beside a model if asked for `output_loading_info`.
        config: What says which weights there must be, with its verb.
        advice: What to do, unless the names show it.
    """
    missing, unexpected = (
        sorted(name for name in report[kind] if not COMPUTED.search(name)) for kind in ("missing_keys", "unexpected_keys")
    )
    problems = {
        "weights are missing": [f"`{name}`" for name in missing],
        f"weights have another size than {config}": [
            f"`{name}` is {list(got)} for {list(wanted)}" for name, got, wanted in sorted(report["mismatched_keys"], key=str)
        ],
        "weights are not of this model": [f"`{name}`" for name in unexpected],
    }
    lines = [
        f"{problem}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for problem, names in problems.items()
        if names
    ]
    if lines:
        raise ValueError("; ".join(lines) + f".\n{prefix_advice(missing, unexpected) or advice}")


def check_tied(network: Any) -> None:
    """Raise a ValueError if the config ties input and output embedding, and the files hold two that differ."""
    first, last = network.get_input_embeddings().weight, network.get_output_embeddings().weight
    if network.config.get_text_config().tie_word_embeddings and first is not last and not torch.equal(first, last):
        raise ValueError(
            "its config.json says that input and output embedding are one matrix (`tie_word_embeddings`), and its weights hold "
            "two that differ.\nIf the model was trained with two, set `tie_word_embeddings` to false."
        )


def prefix_advice(missing: Collection[str], unexpected: Collection[str]) -> str | None:
    """What put a prefix before, or inside, names that would else be the missing ones; None if no known one did."""
    for prefix, added in PREFIXES.items():
        carry, others = ([name for name in names if f".{prefix}" in f".{name}"] for names in (unexpected, missing))
        meant = {name.replace(prefix, "", 1) for name in carry} & set(missing)
        if meant or (carry and missing and not others and prefix not in OWN):  # transformers may rename the rest of a name too
            return f"Their names carry `{prefix}`, which {added}."
    return None
