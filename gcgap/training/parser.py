"""Options and config files of `gcgap fit` and `gcgap measure`: what jsonargparse reads, and how its errors reach the user.

Owns no key: those are added where a command is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from jsonargparse import _loaders_dumpers

from gcgap.training import plain_yaml
from gcgap.training.usage import UsageError

NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
UNION = "Does not validate against any of the Union subtypes"
KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a text (quote it in a file)",
    "bool": "true or false",
    "NoneType": "null",
}
GENERAL = re.compile(r"Expected (an? \w+(\.|$| \(quote)|an integer|true or|one of|null)|Not a valid subclass|Not of type")
ROOM = 200  # characters of a value in an error


class Parser(jsonargparse.ArgumentParser):
    """A parser whose errors become a `UsageError`, to which no key has a short form; it reads values as `plain_yaml` does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **settings: Any) -> Any:
        """As jsonargparse does, but for the meaning of values."""
        _check_texts(args or ())
        with _plain_values():
            return super().parse_args(args, *more, **settings)

    def parse_object(self, *args: Any, **settings: Any) -> Any:
        """Likewise."""
        with _plain_values():
            return super().parse_object(*args, **settings)

    def instantiate_classes(self, *args: Any, **settings: Any) -> Any:
        """As jsonargparse does; of a class that refuses its settings the reason alone is told."""
        try:
            return super().instantiate_classes(*args, **settings)
        except ValueError as error:
            if UNION not in str(error):
                raise
            raise UsageError(plain_error(str(error))) from error

    def dump(self, *args: Any, **settings: Any) -> str:
        """Likewise: what is written is read again as what it was."""
        with _plain_values():
            return super().dump(*args, **settings)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        raise UsageError(plain_error(message)) from ex


@contextmanager
def _plain_values() -> Iterator[None]:
    """Let jsonargparse read and write YAML as `plain_yaml` does.

    Its `set_loader` is not enough: text for a number goes through this loader, whatever is set.
    """
    before = _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"]
    _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"] = plain_yaml.Loader, plain_yaml.dump
    try:
        yield
    finally:
        _loaders_dumpers.yaml_default_loader, _loaders_dumpers.dumpers["yaml"] = before


def _check_texts(arguments: Sequence[str]) -> None:
    """Raise a UsageError that names the option, for values that jsonargparse would read without naming it or without its loader.

    Those are numbers that would become infinite or zero, and mappings, lists and files that `plain_yaml` refuses.
    """
    for flag, value in zip(arguments, [*arguments, ""][1:], strict=True):
        name, joined, text = flag.partition("=")
        text = text if joined else value
        if not name.startswith("--"):
            continue
        try:
            if NUMBER.fullmatch(text):
                plain_yaml.check_number(text)
            elif text.startswith(("{", "[")):
                plain_yaml.load(text)
            elif text.endswith((".yaml", ".yml")) and Path(text).is_file():
                plain_yaml.load(Path(text).read_text(encoding="utf-8"))
        except (yaml.YAMLError, OSError, UnicodeError) as error:  # jsonargparse says what is wrong with it
            if name == "--config":
                raise UsageError(f"`{name}`: {text} cannot be read ({' '.join(str(error).split())[:ROOM]}).") from error
        except ValueError as error:
            file = f" {text}:" if text.endswith((".yaml", ".yml")) else ""
            raise UsageError(f"`{name.removeprefix('--')}`:{file} {error}") from error


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
        return re.sub(r'^Parser key "([^"]+)":\s*', r"`\1`: ", message)
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
