"""YAML files that a user writes: plain values alone, and whatever is wrong with a file said by its name.

PyYAML's safe loader runs nothing that a file holds. But its constructors raise nearly anything, it follows aliases to more values
than memory holds, and of two equal keys it drops the first without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from gcgap.checkpoints import load, run_directory
from gcgap.files import user_text
from gcgap.model import Decoder

MOST = 20_000  # values of a file, those counted again that an alias repeats; the largest sweep file of this project has 60
SHORT_NAMES = {"None": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}  # Lightning's
DEEPEST = 40  # levels; a config has 4
BLOCKS = ("trainer", "model", "data", "protocol", "target")  # of a run's config, in the order in which it is written


def read_config(path: Path) -> Any:
    """The values of a YAML file.

    Raises:
        ValueError: It cannot be read, or is no YAML of plain values, or holds a key twice; names the file.
    """
    try:
        loader = yaml.SafeLoader(user_text(path.read_bytes()))
        node = loader.get_single_node()
        _check(node)
        return None if node is None else loader.construct_document(node)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # of a broken file the loader raises nearly anything, RecursionError among it
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise ValueError(f"{path} is not YAML of plain values: {reason}") from error


def _check(root: yaml.Node | None) -> None:
    """Raise a ValueError for a key that is there twice, and for more values or levels than a config has."""
    waiting, seen = [(root, 1)], 0
    while waiting:
        node, depth = waiting.pop()
        seen += 1
        inner = _inside(node)
        if depth > DEEPEST or seen + len(waiting) + len(inner) > MOST:
            raise ValueError(f"more than {MOST} values or {DEEPEST} levels, counting what aliases repeat.")
        waiting += [(one, depth + 1) for one in inner]


def _inside(node: yaml.Node | None) -> list[yaml.Node]:
    if not isinstance(node, yaml.CollectionNode):
        if node is not None:
            node.value.encode()  # half a surrogate pair, which other loaders of the file refuse
        return []
    if not isinstance(node, yaml.MappingNode):
        return node.value
    seen = set[str]()
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        if key.value in seen:
            raise ValueError(f"the key `{key.value:.60}` is there a second time in line {key.start_mark.line + 1}.")
        seen.add(key.value)
    return [one for pair in node.value for one in pair]


def check_given(settings: Iterable[tuple[str, Any]]) -> None:
    """Raise a ValueError for a setting of a model, its data or a protocol that is null, which jsonargparse lets pass."""
    for key, value in settings:
        if value is None and (key in BLOCKS or key.split(".")[0] in BLOCKS[1:]):
            raise ValueError(f"`{key}` must have a value; got null. Leave it out to have the default.")


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
