"""What configs say: which values are refused, a run's own config, and the protocol that settings make."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

from gcgap.importance.protocol import Protocol
from gcgap.models.checkpoints import load, run_directory
from gcgap.models.transformer import Decoder
from gcgap.training.parser import Parser, read_config

SHORT_NAMES = {"None": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's
LARGEST = 2**63  # of integers, which numpy and torch hold in 64 bits
MOST = 2**31 - 1  # of anything that a model, its data or a protocol count
LEAST = {
    "trainer.accumulate_grad_batches": 1,
    "trainer.check_val_every_n_epoch": 1,
    "trainer.gradient_clip_val": 0,
    "trainer.log_every_n_steps": 0,  # 0 logs nothing
    "trainer.num_sanity_val_steps": -1,  # -1 is all
    "trainer.val_check_interval": 1,  # optimiser steps: the training stream has no epochs of which to take a share
}
"""The smallest values of settings that Lightning takes without a look."""
BLOCKS = ("trainer", "model", "data", "protocol", "target")  # of a run's config, in the order in which it is written
LONGEST = 160  # characters of a folder's name; file systems allow 255


def check_blocks(config: dict[str, Any]) -> None:
    """Raise a ValueError for an empty block, such as `data:` with nothing below it, which jsonargparse lets pass."""
    for block in BLOCKS[1:]:
        if not config.get(block):
            raise ValueError(f"`{block}` must have a value; got null. Leave it out to have the default.")


def check_given(settings: Iterable[tuple[str, Any]]) -> None:
    """Raise a ValueError for a value of a config that jsonargparse lets pass and nothing can compute with.

    That is null for a setting of a model, its data or a protocol, and what `check_numbers` refuses.
    """
    settings = list(settings)
    for key, value in settings:
        if value is None and (key in BLOCKS or key.split(".")[0] in BLOCKS[1:]):
            raise ValueError(f"`{key}` must have a value; got null. Leave it out to have the default.")
    check_numbers(settings)


def check_numbers(settings: Iterable[tuple[str, Any]]) -> None:
    """Raise a ValueError for a number that is not finite, an integer that 64 bits do not hold, and one below those of `LEAST`."""
    for key, value in settings:
        for number in _numbers(value):
            if isinstance(number, int) and abs(number) >= LARGEST:
                raise ValueError(f"`{key}` must be an integer of 64 bits; got one of {len(str(abs(number)))} digits.")
            if key.split(".")[0] in BLOCKS[1:4] and abs(number) > MOST:
                raise ValueError(f"`{key}` must be at most {MOST}; got {number}.")
            if not math.isfinite(number):
                raise ValueError(f"`{key}` must be a finite number; got {number}.")
        least = LEAST.get(key)
        if least is not None and isinstance(value, int | float) and value < least:
            raise ValueError(f"`{key}` must be at least {least}; got {value}.")


def _numbers(value: Any) -> Iterator[int | float]:
    """The numbers of a setting and of its lists; those of classes, such as callbacks, are their own affair."""
    if isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def read_run_config(path: Path) -> dict[str, Any]:
    """The whole config that a run wrote, every block of it; nothing where there is no file.

    Raises:
        ValueError: It cannot be read, or is not whole: what a cut file has lost must not become a default.
    """
    if not path.exists():
        return {}
    found = read_config(path)
    for block in BLOCKS:
        if not isinstance(found, dict) or not isinstance(found.get(block), dict):
            raise ValueError(f"{path} is not the whole config of a run: `{block}` must hold settings. Copy it again.")
    return found


def load_of_run(checkpoint: Path) -> Decoder:
    """The model of a checkpoint; what an older file does not hold of its training is that of its run's config.

    Raises:
        ValueError: The checkpoint or the config cannot be read.
    """
    model = load(checkpoint)
    if model.origin.training is None:
        model.origin = replace(model.origin, training=training_of(run_directory(checkpoint) / "config.yaml"))
    return model


def training_of(config: Path) -> dict[str, Any] | None:
    """The settings of training that a record holds, from a run's config; None where there is none.

    Raises:
        ValueError: The config lacks one of them.
    """
    if not (found := read_run_config(config)):
        return None
    training: dict[str, Any] = {"optimizer": "Adam"}
    for block, key in (("model", "learning_rate"), ("data", "batch_size"), ("trainer", "max_steps"), ("target", "accuracy")):
        value = found[block].get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"`{config}` does not hold a run's config: `{block}.{key}` must be a number; got {value!r:.60}.")
        training["target_accuracy" if key == "accuracy" else key] = value
    return training | {"precision": _precision(found["trainer"])}


def _precision(trainer: dict[str, Any]) -> str | None:
    """The precision of training by its full name; None where a plugin might have set another one."""
    asked = str(trainer.get("precision"))
    return None if trainer.get("plugins") else SHORT_NAMES.get(asked, asked)


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
    return _protocol_of(json.dumps(settings))


@cache  # a sweep asks for the same few protocols again and again, and checking the types of one takes 50 ms
def _protocol_of(settings: str) -> Protocol:
    config = _parser().parse_object({"protocol": json.loads(settings)})
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
