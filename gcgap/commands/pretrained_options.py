"""The options by which commands name a pretrained model and the prompts that it is measured on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gcgap.data.prompt_tasks import PROMPTS
from gcgap.training.usage import UsageError

TEXTS = {
    "model": "instead of checkpoints, a model of Hugging Face: its name on the hub, such as gpt2, or a directory",
    "prompts": "what the model is measured on: ioi, greater_than, induction, or a file of JSON lines with clean, "
    "corrupted, answer and wrong",
    "seed": "seed of everything random (default 42); a run's own for checkpoints",
    "device_map": "where the weights go, such as auto (needs the package accelerate); the CPU by default",
    "attention": "eager or sdpa; the model's own by default. Curvature takes sdpa's math path",
    "memory": "GiB that activations may take; by default numbers of rows as for small models",
    "trust_remote_code": "run Python code that comes with the model",
    "allow_pickle": "read weights that are no safetensors",
}
FLAGS = ("trust_remote_code", "allow_pickle")


@dataclass(frozen=True)
class Given:
    """A model and its prompts, as the options of a command name them.

    Args:
        model: Name or directory.
        prompts: Name or file.
        seed: Of everything random.
        length: Filler sentences of ioi.
        precision: Number format of the weights.
        device_map: Where they go.
        attention: How attention is computed.
        memory: GiB for activations.
        trust_remote_code: See `load_pretrained`.
        allow_pickle: See `load_pretrained`.
    """

    model: str
    prompts: str = "ioi"
    seed: int = 42
    length: int = 0
    precision: str = "float32"
    device_map: str | None = None
    attention: str | None = None
    memory: float | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any], **more: Any) -> Given:
        """What the options of a command say; those that are not given have their defaults."""
        names = (field.name for field in fields(cls))
        return cls(**{name: options[name] for name in names if options.get(name) is not None} | more)

    @property
    def run(self) -> str:
        """Name of the run directory: the model's, the prompts' (a file's with its hash) and the seed; no part leads elsewhere."""
        name = Path(self.model).resolve().name if Path(self.model).is_dir() else self.model
        prompts, file = plain(Path(self.prompts).stem), Path(self.prompts)
        if file.is_file() and self.prompts not in PROMPTS:
            prompts += f"-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
        return f"{plain(name)}-{prompts}-seed{self.seed}"

    def load(self, revision: str | None) -> Any:
        """The model, with its prompts for origin."""
        from gcgap.models.loading import load_pretrained

        dtype = {"bf16": "bfloat16"}.get(self.precision, self.precision)
        same = ("prompts", "seed", "length", "device_map", "attention", "memory", "trust_remote_code", "allow_pickle")
        return load_pretrained(self.model, revision, dtype=dtype, **{name: getattr(self, name) for name in same})


def check_alone(options: Mapping[str, Any]) -> None:
    """Raise a UsageError for an option that belongs to `--model` and is given without it."""
    for name in (*TEXTS, "revision"):
        got = options.get(name)
        if name != "model" and got is not False and got not in (None, []):  # 0 is given too
            raise UsageError(f"`--{name.replace('_', '-')}` belongs to `--model`.")


def plain(name: str) -> str:
    """A name as part of a path: letters, digits and _.+- alone, and no dot at its beginning."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip(".-") or "model"
