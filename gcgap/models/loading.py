"""Loading a Hugging Face model by its name or from a directory: nothing that comes with it is ever run unasked.

Name or directory -> its config, of a known family -> its files, complete and of one number format -> the network -> evidence of
two short rows -> `Pretrained`. The checks of the files of weights, and the hash of the weights, come last.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from gcgap.data.prompt_tasks import find_prompts
from gcgap.models.families import OTHER_MODEL, check_attention, check_installed, find_wiring, needs_eager
from gcgap.models.number_format import check_formats, check_one_format, plain
from gcgap.models.pretrained import Pretrained
from gcgap.models.tokenizer import first_lines, read_tokenizer
from gcgap.models.transformer import Origin
from gcgap.models.wiring import Wiring

STEP_WORDS = ("(?:global[-_]?)?steps?", "iter(?:ation)?s?", "checkpoint|ckpt")
"""Words before the number of a step in the name of a revision, as regular expressions."""
THOUSANDS = {"": 1, "k": 1000, "m": 1_000_000}


@torch.inference_mode(False)  # tensors that are made in it never have a gradient
def load_pretrained(
    name: str | Path,
    revision: str | None = None,
    *,
    prompts: str | None = None,
    seed: int = 42,
    length: int = 0,
    prefix: str = "",
    chat: bool = False,
    twins: str = "own",
    dtype: str = "float32",
    device_map: str | None = None,
    attention: str | None = None,
    memory: float | None = None,
    trust_remote_code: bool = False,
    allow_pickle: bool = False,
) -> Pretrained:
    """A model of the hub, or of a directory that `save_pretrained` has written, in evaluation mode.

    Args:
        name: Its name on the hub, such as `gpt2`, or a directory.
        revision: A branch, tag or commit, such as `step1000` of Pythia; of a directory a directory in it.
        prompts: What it is measured on: the name of a task (`gcgap.data.prompt_tasks`), or a file of prompts.
        seed: Of the prompts.
        length: Of the prompts: filler sentences of `ioi`.
        prefix: Of the prompts: what each begins with.
        chat: Each prompt is what a user says in the model's chat template, and the answer begins the reply.
        twins: `own`, or `random`: corrupted prompts have random tokens where they differ from clean ones.
        dtype: Number format of the weights, such as `bfloat16`; `auto` is the one they were saved in. Logits and everything made
            of them are float32 or wider.
        device_map: Where the weights go, such as `auto` (needs the package accelerate); the CPU by default.
        attention: `eager` or `sdpa`; if None the model's own default, or eager for a config that sdpa does not follow, such as
            one with soft caps on attention scores. Both have second derivatives, flash attention has none.
        memory: GiB that activations may take; as many rows as for small models by default.
        trust_remote_code: Run Python code that comes with the model. Never without your word.
        allow_pickle: Read weights that are no safetensors; a pickle file is read without running what it holds.

    Raises:
        ImportError: The extra `gcgap[hf]` is not installed.
        ValueError: There is no such model, it cannot be reached, it is no causal decoder of a known family, its weights are not
            all there or no floating point numbers, or it needs one of the permissions above.
    """
    if memory is not None and memory <= 0:
        raise ValueError(f"`memory` must be more than 0 GiB; got {memory}.")
    if attention not in (None, "eager", "sdpa"):
        raise ValueError(f"`attention` must be eager or sdpa, which have second derivatives; got {attention!r}.")
    where, version = local(name, revision)
    options: dict[str, Any] = {"revision": version, "trust_remote_code": trust_remote_code}
    given = {"dtype": dtype, "device_map": device_map, "attn_implementation": attention}
    try:
        network, wiring = _network(where, options, allow_pickle, given)
        model = Pretrained(network, wiring).eval()
        check_forward(model)
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"`{name}` cannot be loaded as a model: {_hint(where, allow_pickle)}{first_lines(error)}") from error
    model.settings |= {"name": str(name), "replayed": model.keeps_tokens}
    if model.not_replayed:
        warnings.warn(f"`{name}` is run whole for every intervention, which is slow: {model.not_replayed}.", stacklevel=2)
    model.memory = memory
    if prompts is not None:
        encode, vocabulary = read_tokenizer(where, options, network.config.get_text_config())
        source = find_prompts(prompts, encode, vocabulary, seed, length, prefix=prefix, chat=chat, twins=twins)
        model.origin = Origin(source, None, step_of(revision), weights_sha256(network))
    return model


def _network(where: str, options: dict[str, Any], allow_pickle: bool, given: dict[str, Any]) -> tuple[Any, Wiring]:
    """The network of a family that is known, and where it keeps its components."""
    check_installed()
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()
    config = AutoConfig.from_pretrained(where, **options)
    wiring = find_wiring(config)
    check_attention(config, given["attn_implementation"])
    if needs_eager(config) is not None:
        given = given | {"attn_implementation": "eager"}
    given = given | {"use_safetensors": None if allow_pickle else True, "output_loading_info": True}
    check_no_adapter(where, options["revision"])
    try:
        formats = stored_formats(where, options["revision"], allow_pickle)
        check_formats(formats)
        if given["dtype"] == "auto":
            check_one_format(formats)
        with _quiet_report():
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, ignore_mismatched_sizes=True, **given, **options)
    except SafetensorError as error:
        raise ValueError(f"a file of weights is corrupted ({error}); copy it again.") from error
    network, report = loaded
    check_complete(report)
    check_tied(network)
    return network, wiring


@contextmanager
def _quiet_report() -> Iterator[None]:
    """Leave out what transformers warns of weights that are missing: `check_complete` makes an error of it."""
    loggers = [logging.getLogger(f"transformers.{name}") for name in ("modeling_utils", "utils.loading_report")]

    def other(record: logging.LogRecord) -> bool:
        return not any(text in record.getMessage() for text in ("LOAD REPORT", "both are absent from the checkpoint"))

    for logger in loggers:
        logger.addFilter(other)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(other)


def _hint(where: str, allow_pickle: bool) -> str:
    """What may help with a model that cannot be loaded."""
    path = Path(where)
    if not path.exists():
        return "there is no such directory, and on the hub: "
    pickles = not allow_pickle and not any(path.glob("*.safetensors*")) and any(path.glob("*.bin"))
    return "its weights are a pickle, which `--allow-pickle` reads. " if pickles else ""


def check_forward(model: Pretrained) -> None:
    """Raise a ValueError unless no token sees later ones, and the attention used gives the logits of plain matrix products.

    Two short rows that differ in their last token are run. Logits may differ by the square root of the format's precision,
    relative to the largest one. A network that cannot run at all is left to say so when it is measured.
    """
    network: Any = model.network
    tokens = model.probe()
    near = torch.finfo(network.dtype).eps ** 0.5
    with torch.no_grad():
        try:
            logits = model(tokens)
        except RuntimeError:
            return
        if (logits[1, :-1] - logits[0, :-1]).abs().max() > near * logits[0, :-1].abs().max():
            raise ValueError(f"a token sees what comes after it: gcgap measures causal models only.\n{OTHER_MODEL}")
        if (used := network.config._attn_implementation) == "eager":
            return
        with model.eager():
            plain = model(tokens)
    apart, largest = float((logits - plain).abs().max()), float(plain.abs().max())
    if apart > near * largest:
        raise ValueError(
            f"attention by {used} leaves out something of this model: its logits differ by {apart:.2g} from those of eager "
            f"attention, of which the largest is {largest:.2g}.\nGive `--attention eager`."
        )


def local(name: str | Path, revision: str | None) -> tuple[str, str]:
    """What to load at which revision: of a directory a revision is a directory in it.

    Raises:
        ValueError: A path, and there is no directory; or a directory without that revision.
    """
    path, is_path = Path(name), str(name).startswith((".", "~", "/")) or len(Path(name).parts) > 2 or Path(name).exists()
    if is_path and not path.is_dir():
        raise ValueError(f"`--model` {name} is no directory; give one that `save_pretrained` wrote, or a name on the hub.")
    if not path.is_dir():
        return str(path), revision or "main"
    there = ", ".join(sorted(inner.parent.name for inner in path.glob("*/config.json"))) or "no directory of a model"
    if revision is None:
        if not (path / "config.json").exists():
            raise ValueError(f"the directory {path} has no config.json in it, but {there}; choose one with `--revision`.")
        return str(path), "main"
    if not (path / revision).is_dir():
        raise ValueError(f"`--revision`: the directory {path} has no directory {revision} in it, but {there}.")
    return str(path / revision), "main"


def step_of(revision: str | None) -> int | None:
    """The optimiser step that a revision names; None if it names none, or several.

    It is the number after one of `STEP_WORDS`: step1000, checkpoint-500, stage1-step101000-tokens424B, step-50K-105b. Where there
    are two of these words, as in epoch-3-checkpoint-2-step-500, the first in their order counts.
    """
    for words in STEP_WORDS:
        found = re.findall(rf"(?<![a-z\d])(?:{words})[-_=]?(\d+)([km]?)(?![a-z\d]|\.\d)", (revision or "").lower())
        if steps := {int(number) * THOUSANDS[unit] for number, unit in found}:
            return steps.pop() if len(steps) == 1 else None
    return None


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
SAFETENSORS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Number formats as safetensors call them."""


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
            found |= {name: SAFETENSORS.get(kind, kind) for name, kind in kinds.items()}
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


def check_complete(report: Mapping[str, Collection[Any]]) -> None:
    """Raise a ValueError unless the files held every weight of the model, each of its size, and no other one.

    Args:
        report: What transformers gives beside a model if asked for `output_loading_info`.
    """
    missing, unexpected = (
        sorted(name for name in report[kind] if not COMPUTED.search(name)) for kind in ("missing_keys", "unexpected_keys")
    )
    problems = {
        "weights are missing": [f"`{name}`" for name in missing],
        "weights have another size than config.json says": [
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
        advice = prefix_advice(missing, unexpected) or "Copy the model again, with the config.json of these weights."
        raise ValueError("; ".join(lines) + f".\n{advice}")


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
