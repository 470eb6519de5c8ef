"""What a checkpoint says otherwise than the config that it is used with."""

from __future__ import annotations

from typing import Any


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
    return [
        f"`{key}`: the config's {mine} wins over the checkpoint's {other}."
        for key, (mine, other) in pairs.items()
        if mine != other
    ]
