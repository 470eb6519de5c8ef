"""What the user typed is wrong, options whose errors say so, and the option `--import` of every command.

Nothing is imported because a checkpoint or a run names it, only because a user does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, NoReturn

TEXT = "modules or .py files with tasks or methods of your own, by commas"


class UsageError(Exception):
    """Something that the user typed is wrong."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors become a `UsageError`."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise UsageError(message)


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """The option `--import` for a command."""
    parser.add_argument("--import", dest="imports", type=modules, default=[], metavar="MODULE", help=TEXT)


def modules(text: str | Iterable[str] | None) -> list[str]:
    """The names that an option or a config gives; files by their whole path, which holds wherever it is used again."""
    names = [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text or [])
    return [str(Path(name).absolute()) if name.endswith(".py") else name for name in names]


def import_modules(names: Iterable[str], option: str = "--import") -> None:
    """Import what `modules` gives; errors name the option.

    Raises:
        UsageError: A module cannot be imported.
    """
    for name in names:
        try:
            _import_file(Path(name)) if name.endswith(".py") else _import_module(name)
        except Exception as error:  # whatever the code of a module raises
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise UsageError(f"`{option}`: {name} cannot be imported ({reason:.300}); give a module or a .py file.") from error


def _import_module(name: str) -> None:
    if str(Path.cwd()) not in sys.path:  # as `python -m` has it, and an installed command has not
        sys.path.append(str(Path.cwd()))
    import_module(name)


def _import_file(path: Path) -> None:
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        if Path(getattr(sys.modules.get(name), "__file__", None) or "") != path:
            raise ImportError(f"there is another module `{name}`; rename the file")
        return
    if not path.is_file():
        raise FileNotFoundError("there is no such file")
    spec: Any = spec_from_file_location(name, path)
    sys.modules[name] = module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
