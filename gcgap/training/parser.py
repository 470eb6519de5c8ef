"""Options and config files: YAML 1.2 for both, read by jsonargparse, with short errors and a short help.

PyYAML follows YAML 1.1, in which `0123` is 83, `1:30` is 90, `no` is false and `1e3` is text. Here the rules of YAML 1.2 hold
(its core schema), and a key that stands in a mapping twice, of which PyYAML drops the first, is an error.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import get_terminal_size
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import _loaders_dumpers

from gcgap.data.strict_text import user_text
from gcgap.training.usage import UsageError

TAG = "tag:yaml.org,2002:"
PLAIN = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "merge": (r"<<", "<"),
}
"""What a plain scalar may be besides text, and its first characters."""
UNION = "Does not validate against any of the Union subtypes"
KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text (quote it in a file)",
    "bool": "true or false",
    "NoneType": "null",
}
GENERAL = re.compile(r"Expected (an? \w+(\.|$| \(quote)|an integer|true or|one of|null)|Not a valid subclass|Not of type")
LARGEST = 2**63  # integers that other readers of a config hold
ROOM = 200  # characters of a value in an error
HELP_TRAINER = (
    *("default_root_dir", "max_steps", "val_check_interval", "accelerator", "devices", "precision"),
    *("logger", "callbacks", "fast_dev_run"),
)
HELP_TEXTS = {
    "config": "A YAML file with any of these keys; options hold in the order in which they are typed.",
    "seed_everything": "Seed of the data, the initial weights and everything else.",
    "ckpt_path": "A .ckpt file to resume or to judge; `last` is that of the run directory.",
    "trainer.default_root_dir": "The run directory; by default runs/TASK-seedSEED.",
    "trainer.max_steps": "Optimiser steps at most.",
    "trainer.val_check_interval": "Optimiser steps between two looks at the accuracy target.",
    "trainer.accelerator": "cpu, gpu, .. or auto.",
    "trainer.devices": "Processes, one for each device.",
    "trainer.precision": "Number format of training: 32-true, bf16-mixed, 16-mixed, 64-true, ..",
    "trainer.logger": "By default TensorBoard in the run directory.",
    "trainer.callbacks": "Further Lightning callbacks.",
    "trainer.fast_dev_run": "Try this many steps, and write nothing.",
}
HELP_BLOCKS = ("data", "model", "target", "protocol", "protocol.tracking", "protocol.attribution")


class Loader(yaml.SafeLoader):
    """Reads YAML 1.2; raises a `yaml.YAMLError` for a key that is there twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  # not those of YAML 1.1

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As PyYAML does, with a check of the keys as they are written."""
        node = super().compose_mapping_node(anchor)
        names = [str(key.value) for key, _ in node.value]
        for number, name in enumerate(names):
            line = node.value[number][0].start_mark.line + 1
            if name in names[:number]:
                raise yaml.YAMLError(f"the key `{name:.60}` is there a second time in line {line}.")
            if inner := next((other for other in names if other.startswith(f"{name}.")), None):
                raise yaml.YAMLError(f"the keys `{name:.60}` and `{inner:.60}` are both there; put all of it under `{name:.60}`.")
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As PyYAML does, with an error of its own for a tag whose text is of another kind, such as `!!bool 7`."""
        try:
            return super().construct_object(node, deep)
        except (KeyError, ValueError) as error:
            kind = node.tag.removeprefix(TAG)
            raise yaml.YAMLError(f"`{node.value!s:.40}` in line {node.start_mark.line + 1} is no {kind}.") from error


class Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or 1.2 would read as something else."""


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if len(text) < 30 else LARGEST
    if abs(value) >= LARGEST:
        raise yaml.YAMLError(f"{text:.20} in line {node.start_mark.line + 1} is no integer of 64 bits.")
    return value


def _float(loader: Loader, node: yaml.ScalarNode) -> float:
    text = loader.construct_scalar(node).lower().replace(".inf", "inf").replace(".nan", "nan")
    value = float(text)
    if (math.isinf(value) and "inf" not in text) or (value == 0 and re.search("[1-9]", text.split("e")[0])):
        size = "small" if value == 0 else "large"
        raise yaml.YAMLError(f"{text:.20} in line {node.start_mark.line + 1} is too {size} for a number.")
    return value


for _kind, (_regex, _first) in PLAIN.items():
    for _class in (Loader, Dumper):
        _class.add_implicit_resolver(f"{TAG}{_kind}", re.compile(f"^(?:{_regex})$"), list(_first))
Dumper.add_multi_representer(str, Dumper.represent_str)  # members of a StrEnum
Loader.yaml_constructors = {  # plain values alone
    tag: made
    for tag, made in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(TAG) in (*PLAIN, "str", "map", "seq")
}
Loader.add_constructor(f"{TAG}int", _integer)
Loader.add_constructor(f"{TAG}float", _float)


def load(text: str) -> Any:
    """The values of a YAML text."""
    return yaml.load(text, Loader)  # a SafeLoader


def dump(values: Any) -> str:
    """Values as YAML, in their order."""
    return yaml.dump(values, Dumper=Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


def read_config(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        ValueError: It cannot be read, or is no YAML, or holds a key twice; names the file.
    """
    try:
        return load(user_text(path.read_bytes()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"{path} is not YAML of plain values: {reason}") from error


class Parser(jsonargparse.ArgumentParser):
    """A parser of options and config files in YAML 1.2 whose errors become a `UsageError`; no key has a short form."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:  # noqa: D102
        with _yaml_1_2():
            return super().parse_args(args, *more, **settings)

    def parse_object(self, *args: Any, **settings: Any) -> Any:  # noqa: D102
        with _yaml_1_2():
            return super().parse_object(*args, **settings)

    def parse_path(self, cfg_path: Any, *more: Any, **settings: Any) -> Any:
        """As jsonargparse does, but an error names the file."""
        try:
            content = read_config(Path(cfg_path))
        except ValueError as error:
            raise UsageError(f"`--config`: {error}") from error
        if not isinstance(content, dict):
            raise UsageError(f"`--config`: {cfg_path} must hold keys such as `data` and `trainer`; got {content!r:.60}.")
        return super().parse_path(cfg_path, *more, **settings)

    def instantiate_classes(self, *args: Any, **settings: Any) -> Any:
        """As jsonargparse does; of a class that refuses its settings the error gives the reason alone."""
        try:
            return super().instantiate_classes(*args, **settings)
        except ValueError as error:
            if UNION not in str(error):
                raise
            raise UsageError(plain_error(str(error))) from error

    def dump(self, *args: Any, **settings: Any) -> str:  # noqa: D102
        with _yaml_1_2():
            return super().dump(*args, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        raise UsageError(plain_error(message)) from ex


@contextmanager
def _yaml_1_2() -> Iterator[None]:
    """Let jsonargparse read and write YAML 1.2; its `set_loader` does not change how text for a number is read."""
    before = _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"]
    _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"] = Loader, dump
    try:
        yield
    finally:
        _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"] = before


def plain_error(message: str) -> str:
    """What is wrong, of an error of jsonargparse: the key, the reason, and what was got.

    Of a value that fits none of several types it lists why it is none of each, most of which says nothing.
    """
    called = re.match(r"Call to compute_fn of link .*? failed: (.*)", message, re.S)
    if called:
        return called[1]
    message = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", message).replace("Expected a typing.Literal", "Expected one of ")
    message = re.sub(r"Expected a (\w+)", lambda kind: f"Expected {KINDS.get(kind[1], f'a {kind[1]}')}", message)
    key = re.match(r'Parser key "([^"]+)":', message)
    if UNION not in message:
        return re.sub(r'^Parser key "([^"]+)":\s*', r"`\1`: ", f"{message:.500}")
    reasons = list(dict.fromkeys(_reasons(message)))
    reason = "; ".join([one for one in reasons if not GENERAL.match(one)] or reasons)
    needed = re.match(r"the following arguments are required: ([\w.]+)", reason)
    named = f"`{key[1]}`: " if key else ""
    if needed and key:
        reason = f"{reason}; give `--{key[1]}.{needed[1]}` too"
    got = " ".join(message.rpartition("Given value: ")[2].split())
    return f"{named}{reason:.500}\nGot {got if len(got) <= ROOM else f'{got[:ROOM]}..'}"


def _reasons(message: str) -> Iterator[str]:
    """Why a value is not of one type, for each type: the items of the list `Errors:`, each as one line."""
    listed = message.partition("Errors:\n")[2].partition("Given value type:")[0]
    indent = len(listed) - len(listed.lstrip(" "))
    for item in re.split(rf"^ {{{indent}}}- ", listed, flags=re.M)[1:]:
        yield " ".join(re.sub(r'Parser key "([^"]+)":', r"`\1`:", item).split()).rstrip(".")


def short_help(parser: jsonargparse.ArgumentParser, command: str) -> str:
    """A line for each option: its default, and the first clause of what `--help-all` says of it."""
    defaults = {key: value for key, value in parser.get_defaults().items() if not key.endswith(".seed")}
    groups = {
        "--": ["config", "seed_everything", "ckpt_path", "import"],
        "--trainer.": [f"trainer.{name}" for name in HELP_TRAINER],
    }
    groups |= {f"--{block}.": [key for key in defaults if key.rpartition(".")[0] == block] for block in HELP_BLOCKS}
    texts = {action.dest: " ".join(str(action.help).split()) for action in parser._actions} | HELP_TEXTS
    width = min(max(get_terminal_size((130, 24)).columns, 100), 130)  # no terminal: nothing to fit into
    lines = [
        f"usage: gcgap {command} [--config FILE] [--KEY=VALUE ..]",
        "",
        "gcgap's own options and the everyday ones of Lightning's Trainer, with their defaults; `--help-all` says more of each,",
        "and lists all others of the Trainer.",
    ]
    for prefix, keys in groups.items():
        lines += ["", f"{prefix}KEY:" if prefix != "--" else "options:"]
        for key in keys:
            name = f"  --{key}" if prefix == "--" else f"    {key.rpartition('.')[2]}"
            start = f"{name:<26} {_shown(defaults.get(key)):<14} "
            clause = re.split(r"[;:] |\. |[.;:]$", texts[key])[0]
            lines.append(start + textwrap.shorten(clause, width - len(start), placeholder=" .."))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as one types it; nothing if there is none."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
