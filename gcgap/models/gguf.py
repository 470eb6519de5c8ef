"""GGUF: one file with the settings, the tokenizer and the weights of a model, most of them quantised.

transformers reads such a file, and passes over whatever it does not know: a tensor without a place, a setting without a name, the
way a tokenizer splits a text. So the file is read here first and held to the network that its settings ask for; what transformers
leaves out is added, or the model is refused by name.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from gcgap.models.checkpoints import sha256
from gcgap.models.families import OTHER_MODEL, check_installed
from gcgap.models.weight_files import FLOATS

ENDING = ".gguf"
INTEGERS = ("I8", "I16", "I32", "I64")

SAME = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "vocab_size": "vocab_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "rope.dimension_count": "head_dim",
    "rope.freq_base": "rope_theta",
    "rope.scaling.type": "rope_type",
    "rope.scaling.factor": "factor",
}
"""Settings of a file, and the config's for each, which must come to the same."""
NEEDED = ("block_count", "context_length", "embedding_length", "attention.head_count")
"""Settings for which transformers would take those of another model."""
UNREAD = {"context_length": "max_position_embeddings", "attention.key_length": "head_dim", "feed_forward_length": "n_inner"}
"""Settings that transformers does not read for all families, and the config's for each."""
PLAIN = {"attention.causal": True, "rope.scaling.attn_factor": 1.0, "expert_count": 0, "expert_used_count": 0}
"""Settings that change nothing at this value alone."""
SHOWN = ("feed_forward_length", "rope.scaling.finetuned", "rope.scaling.original_context_length")
"""Settings that the sizes of weights show, or that change nothing."""
LARGEST = {("gemma2", 46), ("gemma3", 62)}
"""Architecture and layers of the Gemmas whose scores are scaled by the width of the stream over the heads, which no file says."""

ROPE_FACTORS = "rope_freqs.weight"
"""What the frequencies of rotary positions are divided by in Llama 3.1 and later."""
WITH_BOS = ("llama3", "llama-v3", "llama-bpe", "falcon3")
"""Ways to split a text with which BOS comes first, unless the file says otherwise, and whole words come before merges."""
BY_WORDS = ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion")
"""Ways to split a text that are GPT-2's."""
BY_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
"""Ways to split a text that are GPT-2's after each digit is split off."""


def gguf_files(folder: Path) -> list[Path]:
    """The files of GGUF in a directory that has no other weights."""
    others = any(one for pattern in ("*.safetensors", "*.bin") for one in folder.glob(pattern))
    return [] if others else sorted(folder.glob(f"*{ENDING}"))


@dataclass(frozen=True)
class GgufFile:
    """What a file of GGUF holds, without its weights.

    Args:
        path: Where it is.
        architecture: As GGUF calls it, such as `llama`.
        settings: Its metadata, without the vocabulary.
        tensors: By name, the format and the shape of each.
        rope_factors: What the frequencies of rotary positions are divided by, if the file says so.
    """

    path: Path
    architecture: str
    settings: dict[str, Any]
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    rope_factors: torch.Tensor | None

    @property
    def formats(self) -> dict[str, str]:
        """The format of every tensor, a number format as torch calls it."""
        return {name: FLOATS.get(kind, kind) for name, (kind, _) in self.tensors.items()}

    def describe(self) -> dict[str, str]:
        """What a record says of it: the format of most numbers, how many tensors have each, and the hash of the file."""
        numbers = Counter[str]()
        for kind, shape in self.tensors.values():
            numbers[kind] += math.prod(shape)
        each = Counter(kind for kind, _ in self.tensors.values())
        stored = ", ".join(f"{kind} ({count})" for kind, count in each.most_common())
        return {"quantization": numbers.most_common(1)[0][0], "stored_as": stored, "file_sha256": sha256(self.path)}

    def complete(self, config: Any) -> None:
        """Set in a config what transformers does not read.

        Raises:
            ValueError: A setting of the file is not known, or the config does not have it.
        """
        before = f"{self.architecture}."
        own = {name.removeprefix(before): value for name, value in self.settings.items() if name.startswith(before)}
        if lacking := [name for name in NEEDED if name not in own]:
            raise ValueError(f"it lacks the setting `{before}{lacking[0]}`. Convert the model again.")
        for name, attribute in UNREAD.items():
            if name in own and hasattr(config, attribute):
                setattr(config, attribute, own[name])
        if own.get("rope.scaling.type") == "linear":
            _rope(config).update(rope_type="linear", factor=own["rope.scaling.factor"])
        if hasattr(config, "query_pre_attn_scalar"):
            widest = (self.architecture, config.num_hidden_layers) in LARGEST
            config.query_pre_attn_scalar = config.hidden_size // config.num_attention_heads if widest else config.head_dim
        for name, value in own.items():
            if name in SHOWN:
                continue
            known = name in SAME or name in PLAIN
            wanted = _of(config, SAME[name]) if name in SAME else PLAIN.get(name)
            if not known or not _same(value, wanted):
                knows = f"transformers reads it as {wanted!r}" if known else "gcgap does not know what it changes"
                raise ValueError(f"its setting `{before}{name}` is {value!r:.60}, and {knows}.\n{OTHER_MODEL}")

    def report(self, config: Any) -> dict[str, list[Any]]:
        """The weights of the network of a config that the file lacks, has too many, or has in another size.

        Raises:
            ValueError: The file has fewer tensors than the network has layers.
        """
        from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
        from transformers import AutoModelForCausalLM

        if not 0 < config.num_hidden_layers <= len(self.tensors):  # before so many layers are made
            raise ValueError(f"it asks for {config.num_hidden_layers} layers, and has {len(self.tensors)} tensors.")
        arch = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == self.architecture)
        names = get_tensor_name_map(arch, config.num_hidden_layers)
        with torch.device("meta"):
            network = AutoModelForCausalLM.from_config(config)
        wanted, missing, sizes = set[str](), list[str](), list[Any]()
        for own, weight in network.named_parameters():
            part, _, kind = own.rpartition(".")
            wanted.add(name := f"{names.get_name(part)}.{kind}")
            if name not in self.tensors:
                missing.append(own)
            elif sorted(got := self.tensors[name][1]) != sorted(weight.shape):  # some are stored transposed
                sizes.append((own, got, weight.shape))
        left = sorted(set(self.tensors) - wanted - {ROPE_FACTORS})
        return {"missing_keys": missing, "unexpected_keys": left, "mismatched_keys": sizes}

    def finish(self, network: Any) -> None:
        """Make of what transformers loaded a network of plain weights, with the rotary positions of the file."""
        if (quantizer := getattr(network, "hf_quantizer", None)) is not None:  # it has taken the blocks apart
            quantizer.remove_quantization_config(network)
        if self.rope_factors is not None:
            frequencies = network.get_decoder().rotary_emb.inv_freq
            if frequencies.shape != self.rope_factors.shape:
                raise ValueError(f"`{ROPE_FACTORS}` must have {len(frequencies)} numbers; got {len(self.rope_factors)}.")
            frequencies.div_(self.rope_factors.to(frequencies))

    def tokenizer(self) -> Any:
        """The tokenizer in the file, whatever lies beside it.

        Raises:
            ValueError: The file says that texts are split in a way that is not known here.
        """
        from tokenizers import pre_tokenizers
        from transformers import PreTrainedTokenizerFast
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        split = self.settings.get("tokenizer.ggml.pre")
        if (by_bytes := self.settings.get("tokenizer.ggml.model") == "gpt2") and split not in (
            *GGUF_PRE_TOKENIZER_SPLITS,
            *BY_WORDS,
            *BY_DIGITS,
        ):
            raise ValueError(f"it splits texts in a way, {split!r} (`tokenizer.ggml.pre`), that gcgap does not know")
        made: Any = PreTrainedTokenizerFast(gguf_file=self.path.name, name_or_path=str(self.path.parent))
        if by_bytes and split in BY_DIGITS:
            digits = pre_tokenizers.Digits(individual_digits=True)
            made.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
                [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
            )
        if by_bytes and split in WITH_BOS:
            made.backend_tokenizer.model.ignore_merges = True
            if "tokenizer.ggml.add_bos_token" not in self.settings:
                made.add_bos_token = True
        return made


def read_gguf(path: Path) -> GgufFile:
    """What a file holds, checked to be all there.

    Raises:
        ImportError: A package that reads GGUF is not installed.
        ValueError: The file is truncated or corrupted, one part of several, or its weights are integers.
    """
    check_installed("gguf", f"models in a file of GGUF, such as `{path.name}`,")
    from gguf import GGUFReader

    class WholeReader(GGUFReader):
        """A reader that notices the end of a file, at which gguf 0.19 goes on with nothing."""

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
            found = super()._get(offset, dtype, count, override_order)
            if len(found) < int(count):
                raise ValueError("it ends too early")
            return found

    try:
        read = WholeReader(path)
        few = {name: field.contents() for name, field in read.fields.items() if len(field.data) < 1000}
        tensors = {one.name: (one.tensor_type.name, tuple(int(size) for size in one.shape)) for one in read.tensors}
        factors = next((torch.tensor(one.data) for one in read.tensors if one.name == ROPE_FACTORS), None)
        architecture = few["general.architecture"]
    except OSError:
        raise
    except Exception as error:  # of a corrupted file gguf raises nearly anything
        raise ValueError(f"it is truncated, corrupted or no GGUF ({_said(error)}); copy it again.") from error
    if (parts := few.get("split.count", 1)) > 1:
        raise ValueError(f"it is one of {parts} parts; make one file of them (`llama-gguf-split --merge`).")
    for name, (kind, _) in tensors.items():
        if kind in INTEGERS:
            raise ValueError(f"`{name}` must be quantised or of floating point; got {kind}.")
    return GgufFile(path, architecture, few, tensors, factors)


@contextmanager
def read_by_transformers() -> Iterator[None]:
    """Make a ValueError of what transformers raises for a file that it cannot read, and no bar of progress but on a terminal.

    Raises:
        ValueError: transformers raised something.
    """
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        try:
            yield
        except (ValueError, OSError):
            raise
        except Exception as error:
            raise ValueError(f"transformers cannot read it ({_said(error)}).") from error


def _said(error: Exception) -> str:
    """The kind of an error and what it says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split()):.160}"


def _rope(config: Any) -> dict[str, Any]:
    """The rotary positions of a config: those of full attention where kinds of layers have their own."""
    found = getattr(config, "rope_parameters", None) or {}
    return found.get("full_attention", found)


def _of(config: Any, name: str) -> Any:
    """A setting of a config, as GGUF means it."""
    if name in ("rope_theta", "rope_type", "factor"):
        return {"rope_type": "default", "factor": 1.0, **_rope(config)}.get(name)
    heads, found = config.num_attention_heads, getattr(config, name, None)
    usual = {"head_dim": config.hidden_size // heads, "num_key_value_heads": heads}
    return usual.get(name) if found is None else found


def _same(value: Any, wanted: Any) -> bool:
    """Whether two settings come to the same; numbers of a file have seven digits."""
    if isinstance(value, float) and isinstance(wanted, int | float):
        return math.isclose(value, wanted, rel_tol=1e-6)
    return value == wanted or (value, wanted) == ("none", "default")
