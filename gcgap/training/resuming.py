"""What a checkpoint, or the run that it is of, says otherwise than the config that it is used with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from gcgap.records.record_file import read_json
from gcgap.training.config_file import SHORT_NAMES

TRAINING = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "val_check_interval")
DTYPES = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}  # other precisions: float32


def of_another_run(run: Path, content: dict[str, Any], own: bool, asked: dict[str, Any]) -> str:
    """How the task or the seed of what a directory holds differs from what is asked for; empty if neither does.

    Args:
        run: The directory.
        content: Of the checkpoint that training goes on from.
        own: Whether the checkpoint lies in this directory.
        asked: The whole config.
    """
    held = {run / "checkpoints": content["datamodule_hyper_parameters"]} if own else {}
    held |= {path: _told(path) for path in sorted((run / "gap").glob("[!.]*.json"))}
    for key, mine in {"data.task": asked["data"]["task"], "seed_everything": asked["seed_everything"]}.items():
        for path, settings in held.items():
            there = settings.get("task" if key == "data.task" else "seed", mine)
            if there != mine:
                return f"`{key}`: {run} holds a run with another value: {there} in {path.relative_to(run)}, {mine} here"
    return ""


def _told(record: Path) -> dict[str, Any]:
    """What a record says; nothing if it is broken, which is told where it is needed: a broken final.json is measured again."""
    try:
        content, _ = read_json(record.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def overruled(saved: dict[str, Any], asked: dict[str, Any], trains: bool) -> list[str]:
    """A line for each setting whose value in a checkpoint the config overrules.

    Args:
        saved: Content of the checkpoint, of a model of the same shape.
        asked: The whole config.
        trains: Whether training goes on; else its settings have no effect.
    """
    there = {"data": saved.get("datamodule_hyper_parameters", {})}
    if trains:
        there |= {"model": saved["hyper_parameters"], "target": saved.get("callbacks", {}).get("AccuracyTarget", {})}
    pairs = {"seed_everything": (asked["seed_everything"], there["data"].get("seed", asked["seed_everything"]))}
    for block, settings in there.items():
        pairs |= {f"{block}.{key}": (value, settings[key]) for key, value in asked[block].items() if key in settings}
    return _told_of(pairs, "`{}`: the config's {} wins over the checkpoint's {}.")


def overruled_training(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """A line for each setting of `trainer` that changes the numbers of a run and is another one than in the run's own config.

    Args:
        saved: `trainer` of the run's config.yaml; empty if there is none.
        asked: The config's.
    """
    pairs = {key: (asked[key], saved[key]) for key in TRAINING if key in saved}
    if "precision" in pairs:
        pairs["precision"] = _precision(asked), _precision(saved)
    return _told_of(pairs, "`trainer.{}`: the config's {} wins over the {} of the run's config.yaml.")


def rounded(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """A line if the weights of a checkpoint become numbers of another format.

    Args:
        saved: Content of the checkpoint.
        asked: `trainer` of the config.
    """
    here, there = DTYPES.get(_precision(asked), torch.float32), next(iter(saved["state_dict"].values())).dtype
    if here == there or asked["plugins"]:  # a plugin may have a format of its own
        return []
    return [f"`trainer.precision`: the config's {_precision(asked)} wins over the {there} of the checkpoint's weights."]


def _told_of(pairs: dict[str, tuple[Any, Any]], text: str) -> list[str]:
    """A line for each pair that differs."""
    return [text.format(key, mine, other) for key, (mine, other) in pairs.items() if mine != other]


def _precision(trainer: dict[str, Any]) -> str:
    asked = str(trainer["precision"])
    return SHORT_NAMES.get(asked, asked)
