"""Options that several commands share, of pretrained models above all, and the help that shows one line for each."""

from __future__ import annotations

import argparse
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from gcgap.training.usage import UsageError

COLUMNS = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
"""Columns of a bar of progress."""
WIDTH = 100
NAMES = 26  # columns of a help in which the names of options stand


def option(default: Any, text: str) -> Any:
    """A field that is an option of every command which takes pretrained models."""
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class PretrainedOptions:
    """A model and its prompts, as the options of a command name them; each field with a text is an option."""

    model: str = option("", "a name on the hub, such as gpt2, a directory, or a .gguf file")
    prompts: str = option("ioi", "ioi (default), greater_than, facts, induction, or a file of prompts")
    prefix: str = option("", "text before every prompt")
    chat: bool = option(False, "put each prompt into the model's chat template, as what a user says")
    twins: str = option("own", "own (default), or random tokens where corrupted prompts differ")
    seed: int = option(42, "seed of everything random (default 42)")
    length: int = 0
    precision: str = "float32"
    device_map: str | None = option(None, "cpu, cuda or auto (default the GPU where there is one)")
    attention: str | None = option(None, "eager or sdpa (default the model's own; curvature: sdpa's math path)")
    memory: float | None = option(None, "GiB that activations may take (default as many as small models need)")
    trust_remote_code: bool = option(False, "run Python code that comes with the model")
    allow_pickle: bool = option(False, "read weights that are no safetensors")

    @classmethod
    def of(cls, options: Mapping[str, Any], **more: Any) -> PretrainedOptions:
        """What the options of a command say; those that are not given have their defaults."""
        names = (field.name for field in fields(cls))
        return cls(**{name: options[name] for name in names if options.get(name) is not None} | more)

    @property
    def run(self) -> str:
        """Name of the run directory: the model's, the prompts' (a file's with its hash) and the seed; no part leads elsewhere."""
        from gcgap.data.prompt_tasks import PROMPTS

        name = Path(self.model).resolve().name if Path(self.model).exists() else self.model
        prompts, file = plain(Path(self.prompts).stem), Path(self.prompts)
        if file.is_file() and self.prompts not in PROMPTS:
            prompts += f"-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}"
        around = [f"prefix-{hashlib.sha256(self.prefix.encode()).hexdigest()[:8]}"] * bool(self.prefix) + ["chat"] * self.chat
        return "-".join([plain(name), prompts, *around, *[self.twins] * (self.twins != "own"), f"seed{self.seed}"])

    def load(self, revision: str | None) -> Any:
        """The model, with its prompts for origin."""
        from gcgap.models.loading import load_pretrained

        more = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("model", "precision")}
        return load_pretrained(self.model, revision, dtype={"bf16": "bfloat16"}.get(self.precision, self.precision), **more)


_HINTS = get_type_hints(PretrainedOptions)
TEXTS: dict[str, str] = {one.name: one.metadata["help"] for one in fields(PretrainedOptions) if one.metadata}
FLAGS = tuple(name for name in TEXTS if _HINTS[name] is bool)


def option_kinds() -> Iterator[tuple[str, type, str]]:
    """Name, type and text of every option of a pretrained model."""
    for name, text in TEXTS.items():
        yield name, next(kind for kind in (*get_args(_HINTS[name]), _HINTS[name]) if kind is not type(None)), text


def check_alone(options: Mapping[str, Any]) -> None:
    """Raise a UsageError for an option that belongs to `--model` and is given without it."""
    for name in (*TEXTS, "revision"):
        got = options.get(name)
        if name != "model" and got is not False and got not in (None, []):  # 0 is given too
            raise UsageError(f"`--{name.replace('_', '-')}` belongs to `--model`.")


def plain(name: str) -> str:
    """A name as part of a path: letters, digits and _.+- alone, and no dot at its beginning."""
    return re.sub(r"[^\w.+-]+", "-", name, flags=re.ASCII).strip(".-") or "model"


class CompactHelp:
    """A parser's help as one line for each option, in groups: its name, what it is, its choices and default.

    A setting of the protocol shows the first clause of its text.
    """

    def format_help(self, formatter: argparse.HelpFormatter | None = None) -> str:  # noqa: D102
        parser: Any = self
        what = next((str(action.metavar or "PATH") for action in parser._actions if action.dest == "paths"), "PATH")
        lines = [f"usage: {parser.prog} [OPTION ..] [{what} ..]", "", *(parser.description or "").splitlines()]
        for group in parser._action_groups:  # as argparse's formatters do
            shown = [line for action in group._group_actions if action.help != argparse.SUPPRESS for line in _entry(action)]
            lines += ["", f"{str(group.title).rstrip(':')}:", *shown] if shown else []
        return "\n".join([*lines, *(["", parser.epilog] if parser.epilog else []), ""])


def _entry(action: argparse.Action) -> list[str]:
    names = list(dict.fromkeys(action.option_strings))
    name = names[-1] if names else str(action.metavar or action.dest)
    kind, text = getattr(action, "_typehint", None), " ".join((action.help or "").split())
    if text == "Path to a configuration file.":  # a whole block
        return []
    if name.startswith("--protocol."):
        text = re.split(r"[;:,] |\. |[.;:]$", text.strip(" ."))[0]
        choices = [*_choices(kind)]
        text += f"; any of {', '.join(choices)}" if len(choices) > 3 else f" ({'|'.join(choices)})" if choices else ""
        text += f" [{_shown(action.default)}]"
    first, *rest = textwrap.wrap(text, WIDTH - NAMES - 3) or [""]
    head = f"  {name:{NAMES}} "
    if len(name) > NAMES:
        first, *rest = textwrap.wrap(text, WIDTH - len(head)) or [""]
    return [f"{head}{first}".rstrip(), *(f"{'':{NAMES + 3}}{line}" for line in rest)]


def _choices(kind: Any) -> Iterable[str]:
    """The names that a type allows, such as those of a tuple of literals."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return next((found for inner in get_args(kind) if (found := _choices(inner))), ())


def _shown(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
