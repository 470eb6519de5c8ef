"""What the user typed is wrong, and options whose errors say so."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(Exception):
    """Something that the user typed is wrong."""


class ArgumentParser(argparse.ArgumentParser):
    """A parser whose errors become a `UsageError`."""

    def error(self, message: str) -> NoReturn:  # noqa: D102
        raise UsageError(message)
