"""YAML files that a user writes: whatever is wrong with a file said by its name. How values are read is `plain_yaml`'s."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from gcgap.data.strict_text import user_text
from gcgap.models.checkpoints import load, run_directory
from gcgap.models.transformer import Decoder
from gcgap.training import plain_yaml

SHORT_NAMES = {"None": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's
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


def read_config(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        ValueError: It cannot be read, or is no YAML of plain values, or holds a key twice; names the file.
    """
    try:
        return plain_yaml.load(user_text(path.read_bytes()))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # of a broken file the loader raises nearly anything, RecursionError among it
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path} is not YAML of plain values: {reason}") from error


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
            if isinstance(number, int) and abs(number) >= plain_yaml.LARGEST:
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
    """The model of a checkpoint; what an older file does not tell of its training is that of its run's config.

    Raises:
        ValueError: The checkpoint or the config cannot be read.
    """
    model = load(checkpoint)
    if model.origin.training is None:
        model.origin = replace(model.origin, training=training_of(run_directory(checkpoint) / "config.yaml"))
    return model


def training_of(config: Path) -> dict[str, Any] | None:
    """The settings of training that a record tells, from a run's config; None where there is none.

    Raises:
        ValueError: The config does not tell one of them.
    """
    if not (found := read_run_config(config)):
        return None
    told: dict[str, Any] = {"optimizer": "Adam"}
    for block, key in (("model", "learning_rate"), ("data", "batch_size"), ("trainer", "max_steps"), ("target", "accuracy")):
        value = found[block].get(key)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"`{config}` does not hold a run's config: `{block}.{key}` must be a number; got {value!r:.60}.")
        told["target_accuracy" if key == "accuracy" else key] = value
    return told | {"precision": _precision(found["trainer"])}


def _precision(trainer: dict[str, Any]) -> str | None:
    """The precision of training by its full name; None where a plugin might have set another one."""
    asked = str(trainer.get("precision"))
    return None if trainer.get("plugins") else SHORT_NAMES.get(asked, asked)
