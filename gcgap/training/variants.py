"""A protocol from settings, and the name of the folder that records of a changed protocol go to."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from functools import cache
from typing import Any

from gcgap.importance.protocol import Protocol
from gcgap.training.config_file import check_given
from gcgap.training.parser import Parser

LONGEST = 160  # characters of a folder's name; file systems allow 255


def changed_folder(saved: dict[str, Any], changes: dict[str, Any], length: int | None = None) -> str:
    """Name of the folder below gap/ that a run with these protocol settings is measured again into; empty if nothing changes.

    Raises:
        UsageError: A change is no setting of the protocol, or has a wrong value.
    """
    return variant(protocol_of(saved), protocol_of(merged(saved, changes)), length)


@cache
def _parser() -> Parser:
    parser = Parser()
    parser.add_class_arguments(Protocol, "protocol")
    return parser


def protocol_of(settings: dict[str, Any]) -> Protocol:
    """The protocol that settings make, with the defaults of those that are left out.

    Raises:
        UsageError: A key is no setting of the protocol, or has a wrong value.
    """
    config = _parser().parse_object({"protocol": settings})
    check_given(config.items())
    return _parser().instantiate(config).protocol


def merged(saved: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The saved settings with the changes laid over them, block by block."""
    inner = {key: merged(saved.get(key, {}), value) for key, value in changes.items() if isinstance(value, dict)}
    return saved | changes | inner


def variant(own: Protocol, protocol: Protocol, length: int | None, full: bool = False) -> str:
    """A folder name that says what differs from the run's own measurement; empty if nothing does."""
    flat = [_flat(asdict(one)) for one in (own, protocol)]
    names = [f"{key}={value}" for key, value in flat[1].items() if flat[0][key] != value]
    names += [f"length={length}"] if length is not None else []
    names += ["full"] if full else []
    name = re.sub(r"[^\w=.,+-]+", "+", ",".join(names), flags=re.ASCII).strip("+")
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}+{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in flat.items()}
