"""What must be in a checkpoint that training goes on from, or a model is judged by.

Lightning asks for little and Adam's kernel for nothing: a part that is missing would begin anew without a word, and a moment of
the wrong size would be read beyond its end.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch

from gcgap.models import checkpoints
from gcgap.models.checkpoints import PREFIX, new_model
from gcgap.models.number_format import not_finite
from gcgap.models.transformer import Decoder

LIGHTNING = r"2(\.\d+)+((\.post|\.dev|rc)\d+)?"  # the versions that this project has had; of others Lightning changes the content
AVERAGED = "current_model_state"  # where Lightning keeps the weights that train, if `state_dict` holds their averages
NEEDED = {
    "global_step": int,
    "loops": dict,
    "callbacks": dict,
    "optimizer_states": list,
    "lr_schedulers": list,
    "datamodule_hyper_parameters": dict,
}
STATES = {"AccuracyTarget": ("reached_at", "accuracy"), "GapTracker": ("measured",)}  # of callbacks
STEPS = ("epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed")
OWN = ("lr", "fused")  # settings of Adam that follow from the config; every other one has its default


def check_weights(content: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise a ValueError unless a checkpoint of Lightning 2 holds all weights of a model, each of its size and finite.

    Args:
        content: Of the checkpoint.
        settings: Those of the model.
    """
    version = content.get("pytorch-lightning_version")
    if not isinstance(version, str) or not re.fullmatch(LIGHTNING, version):
        raise ValueError(f"`pytorch-lightning_version` must be one of Lightning 2; got {version!r:.60}")
    data = content.get("datamodule_hyper_parameters", {})
    if not isinstance(data, dict):
        raise ValueError(f"`datamodule_hyper_parameters` must hold settings; got {data!r:.60}")
    json.dumps([content["hyper_parameters"], data])  # plain values, which can be compared with the config's
    for key in ("state_dict", AVERAGED):
        if key in content:
            checkpoints.check_weights(settings, content[key])


def check_state(content: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise a ValueError unless a checkpoint, whose weights are right, holds all else that training needs to go on.

    What Lightning counts is looked at by `check_loops`, once there is a trainer.
    """
    for key, kind in NEEDED.items():
        if not isinstance(content.get(key), kind) or isinstance(content[key], bool):
            raise ValueError(f"`{key}` must be of type {kind.__name__}; got {content.get(key)!r:.60}")
    for callback, keys in STATES.items():
        state = content["callbacks"].get(callback)
        if not isinstance(state, dict) or any(not isinstance(state.get(key, ""), int | float | None) for key in keys):
            raise ValueError(f"`callbacks` must hold {' and '.join(keys)} of {callback}; got {state!r:.60}")
    if content["lr_schedulers"]:
        raise ValueError(
            "`lr_schedulers` must be empty: a run whose learning rate is scheduled, as by StochasticWeightAveraging, cannot be "
            "resumed"
        )
    if len(content["optimizer_states"]) != 1:
        raise ValueError(f"`optimizer_states` must hold one state, Adam's; got {len(content['optimizer_states'])}")
    with torch.device("meta"):
        model = new_model(**settings)
    _check_settings(content["optimizer_states"][0]["param_groups"], model)
    _check_moments(content, model)


def _check_settings(groups: list[dict[str, Any]], model: Decoder) -> None:
    """Lightning takes the settings of Adam from the checkpoint."""
    (expected,) = torch.optim.Adam(model.parameters()).state_dict()["param_groups"]
    if len(groups) != 1 or not isinstance(groups[0]["fused"], bool):
        raise ValueError("`param_groups` of Adam must hold one group of parameters")
    for key, value in expected.items():
        if key not in OWN and groups[0].get(key, value) != value:
            raise ValueError(f"`{key}` of Adam must be {value!r:.60}; got {groups[0][key]!r:.60}")


def _check_moments(content: dict[str, Any], model: Decoder) -> None:
    step, state = content["global_step"], content["optimizer_states"][0]["state"]
    scaled = "MixedPrecision" in content  # its scaler skips steps that are not finite, perhaps all
    if not state and (step == 0 or scaled):
        return
    parameters = dict(model.named_parameters())
    if state.keys() != set(range(len(parameters))):
        raise ValueError(f"Adam must have an entry for each of {len(parameters)} parameters; got {len(state)}")
    for (name, parameter), of in zip(parameters.items(), (state[number] for number in range(len(parameters))), strict=True):
        dtype = content["state_dict"][f"{PREFIX}{name}"].dtype
        for key in ("exp_avg", "exp_avg_sq"):
            value = of[key]
            if value.shape != parameter.shape or value.dtype != dtype or not value.is_contiguous():
                size = f"of size {list(parameter.shape)} and {dtype}"
                raise ValueError(f"`{key}` of `{name}` must be {size}; got {list(value.shape)} and {value.dtype}")
            if not_finite([(name, value)]) or (key == "exp_avg_sq" and bool((value < 0).any())):
                raise ValueError(f"`{key}` of `{name}` is not finite or negative")
        taken = of["step"].item() if of["step"].ndim == 0 else None
        if taken != step and not (scaled and taken in range(step)):
            raise ValueError(f"`step` of `{name}` must be {step}, the steps of Adam; got {of['step']!r:.60}")


def check_loops(found: dict[str, Any], expected: dict[str, Any], step: int) -> None:
    """Raise a ValueError unless what Lightning has counted is whole and of the step that the checkpoint says.

    Args:
        found: `loops` of a checkpoint.
        expected: What a trainer's `fit_loop` has counted before it trains.
        step: `global_step` of the checkpoint.
    """
    loop = found.get("fit_loop")
    if wrong := _unlike(loop, expected, "fit_loop"):
        raise ValueError(f"`loops` must hold what Lightning counts; {wrong}")
    for key in STEPS:
        loop = loop[key]  # pyright: ignore[reportOptionalSubscript]
    if loop != step:
        raise ValueError(f"`global_step` is {step}, but `loops` is of step {loop}")


def _unlike(found: Any, expected: Any, key: str) -> str:
    """Where counters are missing or none; empty if they are all there."""
    if not isinstance(expected, dict):
        fits = type(found) is type(expected) and found >= 0
        return "" if fits else f"{key} is {found!r:.60}"
    if not isinstance(found, dict):
        return f"{key} is {found!r:.60}"
    return next(filter(None, (_unlike(found.get(name), one, f"{key}.{name}") for name, one in expected.items())), "")
