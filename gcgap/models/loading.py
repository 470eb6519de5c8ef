"""Loading a Hugging Face model by its name or from a directory: nothing that comes with it is ever run unasked.

Name, directory or file of GGUF -> its config, of a known family -> its files, complete and of one number format -> the network
-> evidence of two short rows -> `Pretrained`.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from gcgap.data.prompt_tasks import find_prompts
from gcgap.models.families import OTHER_MODEL, check_attention, check_installed, find_wiring, needs_eager
from gcgap.models.gguf import ENDING, GgufFile, gguf_files, read_by_transformers, read_gguf
from gcgap.models.number_format import check_formats, check_one_format, plain
from gcgap.models.pretrained import Pretrained
from gcgap.models.tokenizer import first_lines, read_tokenizer
from gcgap.models.transformer import Origin
from gcgap.models.weight_files import check_complete, check_no_adapter, check_tied, stored_formats, weights_sha256
from gcgap.models.wiring import Wiring

STEP_WORDS = ("(?:global[-_]?)?steps?", "iter(?:ation)?s?", "checkpoint|ckpt")
"""Words before the number of a step in the name of a revision, as regular expressions."""
SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")
"""Ways to spread a model over several devices."""
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
    """A model of the hub, of a directory that `save_pretrained` has written, or of a file of GGUF, in evaluation mode.

    Args:
        name: Its name on the hub, such as `gpt2`, or a directory; or a file of GGUF, such as `model.gguf`, a directory with one
            such file, or `owner/repository:model.gguf` on the hub.
        revision: A branch, tag or commit, such as `step1000` of Pythia; of a directory a directory in it.
        prompts: What it is measured on: the name of a task (`gcgap.data.prompt_tasks`), or a file of prompts.
        seed: Of the prompts.
        length: Of the prompts: filler sentences of `ioi`.
        prefix: Of the prompts: what each begins with.
        chat: Each prompt is what a user says in the model's chat template, and the answer begins the reply.
        twins: `own`, or `random`: corrupted prompts have random tokens where they differ from clean ones.
        dtype: Number format of the weights, such as `bfloat16`; `auto` is the one they were saved in. Quantised weights are
            made into it. Logits and everything made of them are float32 or wider.
        device_map: Where the weights go: `cpu`, `cuda`, or `auto` for several devices (needs the package accelerate). By default
            the GPU where there is one.
        attention: `eager` or `sdpa`; if None the model's own default, or eager for a config that sdpa does not follow, such as
            one with soft caps on attention scores. Both have second derivatives, flash attention has none.
        memory: GiB that activations may take; as many rows as for small models by default.
        trust_remote_code: Run Python code that comes with the model. Never without your word.
        allow_pickle: Read weights that are no safetensors; a pickle file is read without running what it holds.

    Raises:
        ImportError: The extra `gcgap[hf]` is not installed.
        ValueError: There is no such model, it cannot be reached, it is no causal decoder of a known family, its weights are not
            all there or no floating point numbers, it needs one of the permissions above, or there is no such device.
    """
    if memory is not None and memory <= 0:
        raise ValueError(f"`memory` must be more than 0 GiB; got {memory}.")
    if attention not in (None, "eager", "sdpa"):
        raise ValueError(f"`attention` must be eager or sdpa, which have second derivatives; got {attention!r}.")
    where, version = local(name, revision)
    options: dict[str, Any] = {"revision": version, "trust_remote_code": trust_remote_code}
    given = {"dtype": dtype, "device_map": device(device_map), "attn_implementation": attention}
    check_installed()
    try:
        if (file := _gguf(where, version)) is not None:
            where, options = str(file.path.parent), options | {"revision": "main", "gguf_file": file.path.name}
        network, wiring = _network(where, options, allow_pickle, given, file)
        model = Pretrained(network, wiring).eval()
        check_forward(model)
    except (OSError, ValueError, RuntimeError, UnpicklingError) as error:
        raise ValueError(f"`{name}` cannot be loaded as a model: {_hint(where, allow_pickle)}{first_lines(error)}") from error
    model.settings |= {"name": str(name), "replayed": model.keeps_tokens} | ({} if file is None else file.describe())
    if model.not_replayed:
        warnings.warn(f"`{name}` is run whole for every intervention, which is slow: {model.not_replayed}.", stacklevel=2)
    model.memory = memory
    if prompts is not None:
        label, read = (where, None) if file is None else (str(file.path), file.tokenizer)
        encode, vocabulary = read_tokenizer(label, options, network.config.get_text_config(), read)
        source = find_prompts(prompts, encode, vocabulary, seed, length, prefix=prefix, chat=chat, twins=twins)
        model.origin = Origin(source, None, step_of(revision), weights_sha256(network))
    return model


def _gguf(where: str, version: str) -> GgufFile | None:
    """The file of GGUF that is to be loaded, from the hub if need be; None if another model is."""
    from transformers.utils import cached_file

    if not where.endswith(ENDING) or Path(where).is_dir():
        return None
    if Path(where).exists():
        return read_gguf(Path(where))
    repository, _, inside = where.rpartition(":")
    return read_gguf(Path(str(cached_file(repository, inside, revision=version))))


def _network(
    where: str, options: dict[str, Any], allow_pickle: bool, given: dict[str, Any], file: GgufFile | None
) -> tuple[Any, Wiring]:
    """The network of a family that is known, and where it keeps its components."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if not sys.stderr.isatty():
        disable_progress_bar()
    reading = nullcontext if file is None else read_by_transformers
    with reading():
        config = AutoConfig.from_pretrained(where, **options)
    wiring = find_wiring(config)
    if file is not None:
        file.complete(config)
        with reading():
            needed = file.report(config)
        check_complete(needed, "its settings say", "Convert the model again.")
        given = given | {"config": config}
    check_attention(config, given["attn_implementation"])
    if needs_eager(config) is not None:
        given = given | {"attn_implementation": "eager"}
    given = given | {"use_safetensors": None if allow_pickle else True, "output_loading_info": True}
    check_no_adapter(where, options["revision"])
    try:
        formats = stored_formats(where, options["revision"], allow_pickle) if file is None else file.formats
        if file is None or given["dtype"] == "auto":
            check_formats(formats)
        if given["dtype"] == "auto":
            check_one_format(formats)
            given = given if file is None else given | {"dtype": next(iter(formats.values()))}
        with reading(), _quiet_report():
            loaded: Any = AutoModelForCausalLM.from_pretrained(where, ignore_mismatched_sizes=True, **given, **options)
    except SafetensorError as error:
        raise ValueError(f"a file of weights is corrupted ({error}); copy it again.") from error
    network, report = loaded
    check_complete(report)
    check_tied(network)
    if file is not None:
        file.finish(network)
        check_formats({name: plain(weight.dtype) for name, weight in network.named_parameters()})
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
    """What to load at which revision: of a directory a revision is a directory in it, and a file of GGUF is the model.

    Raises:
        ValueError: A path, and there is no directory and no file of GGUF; or a directory without that revision, or with several
            files of GGUF; or a file and a revision.
    """
    path, on_hub = Path(name), re.fullmatch(rf"[^:]+/[^:]+:[^:]+{re.escape(ENDING)}", str(name))
    is_path = str(name).startswith((".", "~", "/")) or (len(path.parts) > 2 and not on_hub) or path.exists()
    if path.is_file() and path.suffix == ENDING:
        if revision is not None:
            raise ValueError(f"`--revision` is of a directory or of the hub; {name} is one file. Leave it out.")
        return str(path), "main"
    if is_path and not path.is_dir():
        raise ValueError(
            f"`--model` {name} is no directory and no file of GGUF; give one, or a directory that `save_pretrained` wrote, or a "
            "name on the hub."
        )
    if not path.is_dir():
        return str(name), revision or "main"
    there = ", ".join(sorted({inner.parent.name for kind in ("config.json", f"*{ENDING}") for inner in path.glob(f"*/{kind}")}))
    there = there or "no directory of a model"
    if revision is not None and not (path / revision).is_dir():
        raise ValueError(f"`--revision`: the directory {path} has no directory {revision} in it, but {there}.")
    path = path / (revision or ".")
    if files := gguf_files(path):
        if len(files) > 1:
            names = ", ".join(file.name for file in files[:3]) + ", .." * (len(files) > 3)
            raise ValueError(
                f"the directory {path} has {len(files)} files of GGUF in it: {names}. Give one of them as `--model`."
            )
        return str(files[0]), "main"
    if revision is None and not (path / "config.json").exists():
        raise ValueError(f"the directory {path} has no config.json in it, but {there}; choose one with `--revision`.")
    return str(path), "main"


def device(asked: str | None) -> str | None:
    """Where the weights go: as asked, or the GPU where there is one; None is the CPU, without the package accelerate.

    Raises:
        ValueError: There is no such device here.
    """
    if asked is None:
        return "cuda" if torch.cuda.is_available() else None
    if asked in SPREAD:
        return asked
    kind, _, number = asked.partition(":")
    found = torch.accelerator.current_accelerator()
    count = {"cpu": 1} | ({} if found is None else {found.type: torch.accelerator.device_count()})
    if not (number or "0").isdecimal() or int(number or 0) >= count.get(kind, 0):
        there = ", ".join(f"{one}:{index}" if one != "cpu" else one for one, most in count.items() for index in range(most))
        raise ValueError(f"`--device-map` must be auto or a device of this machine ({there}); got {asked}.")
    return asked


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
