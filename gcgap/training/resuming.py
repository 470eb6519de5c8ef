"""What a checkpoint must hold that training resumes from or a model is judged by, and which of its settings the config overrides.

Lightning asks for little and Adam's kernel for nothing: a part that is missing would begin anew without a word, and a moment of
the wrong size would be read beyond its end.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from gcgap.models import checkpoints
from gcgap.models.checkpoints import PREFIX, new_model
from gcgap.models.number_format import not_finite
from gcgap.records.record_file import read_json
from gcgap.training.config_file import SHORT_NAMES

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
STEPS = ("fit_loop", "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed")
OWN = ("lr", "fused")  # settings of Adam that follow from the config; every other one has its default
TRAINING = ("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "val_check_interval")
DTYPES = {"64-true": torch.float64, "16-true": torch.float16, "bf16-true": torch.bfloat16}  # other precisions: float32


def check_saved_weights(content: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise a ValueError unless a checkpoint of Lightning 2 holds all weights of a model, each of its size and finite.

    Args:
        content: Of the checkpoint.
        settings: Those of the model.
    """
    version = content.get("pytorch-lightning_version")
    if not isinstance(version, str) or not re.fullmatch(LIGHTNING, version):
        raise ValueError(f"`pytorch-lightning_version` must be one of Lightning 2; got {version!r:.60}")
    for key in ("state_dict", AVERAGED):
        if key in content:
            checkpoints.check_weights(settings, content[key])


def check_state(content: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise an error unless a checkpoint, whose weights are right, holds all else that training needs to resume."""
    for key, kind in NEEDED.items():
        if not isinstance(content.get(key), kind) or isinstance(content[key], bool):
            raise ValueError(f"`{key}` must be of type {kind.__name__}; got {content.get(key)!r:.60}")
    if content["lr_schedulers"]:
        raise ValueError(
            "`lr_schedulers` must be empty: a run whose learning rate is scheduled, as by StochasticWeightAveraging, cannot be "
            "resumed"
        )
    counted, step = content["loops"], content["global_step"]
    for key in STEPS:
        counted = counted[key]
    if counted != step:
        raise ValueError(f"`global_step` is {step}, but `loops` is of step {counted}")
    if len(content["optimizer_states"]) != 1:
        raise ValueError(f"`optimizer_states` must hold one state, Adam's; got {len(content['optimizer_states'])}")
    with torch.device("meta"):
        parameters = dict(new_model(**settings).named_parameters())
    _check_adam(content, parameters)


def _check_adam(content: dict[str, Any], parameters: dict[str, torch.nn.Parameter]) -> None:
    """Lightning takes Adam's settings from the checkpoint, and Adam's kernel believes the layout of its moments."""
    (adam,), step = content["optimizer_states"], content["global_step"]
    (expected,), groups = torch.optim.Adam(parameters.values()).state_dict()["param_groups"], adam["param_groups"]
    if len(groups) != 1 or not isinstance(groups[0]["fused"], bool):
        raise ValueError("`param_groups` of Adam must hold one group of parameters")
    for key, value in expected.items():
        if key not in OWN and groups[0].get(key, value) != value:
            raise ValueError(f"`{key}` of Adam must be {value!r:.60}; got {groups[0][key]!r:.60}")
    skipped = "MixedPrecision" in content  # its scaler skips steps that are not finite, perhaps all
    if not adam["state"] and (step == 0 or skipped):
        return
    if adam["state"].keys() != set(range(len(parameters))):
        raise ValueError(f"Adam must have an entry for each of {len(parameters)} parameters; got {len(adam['state'])}")
    for number, (name, parameter) in enumerate(parameters.items()):
        of, dtype = adam["state"][number], content["state_dict"][f"{PREFIX}{name}"].dtype
        for key in ("exp_avg", "exp_avg_sq"):
            moment = of[key]
            if moment.shape != parameter.shape or moment.dtype != dtype or not moment.is_contiguous():
                size = f"of size {list(parameter.shape)} and {dtype}"
                raise ValueError(f"`{key}` of `{name}` must be {size}; got {list(moment.shape)} and {moment.dtype}")
            if not_finite([(name, moment)]) or (key == "exp_avg_sq" and bool((moment < 0).any())):
                raise ValueError(f"`{key}` of `{name}` is not finite or negative")
        taken = of["step"].item() if of["step"].ndim == 0 else None
        if taken != step and not (skipped and taken in range(step)):
            raise ValueError(f"`step` of `{name}` must be {step}, the steps of Adam; got {of['step']!r:.60}")


def of_another_run(run: Path, content: dict[str, Any], own: bool, asked: dict[str, Any]) -> str:
    """How the task or the seed of what a directory holds differs from what is asked for; empty if neither does.

    Args:
        run: The directory.
        content: Of the checkpoint that training resumes from.
        own: Whether the checkpoint lies in this directory.
        asked: The whole config.
    """
    held = {run / "checkpoints": content["datamodule_hyper_parameters"]} if own else {}
    held |= {path: _record(path) for path in sorted((run / "gap").glob("[!.]*.json"))}
    for key, mine in {"data.task": asked["data"]["task"], "seed_everything": asked["seed_everything"]}.items():
        for path, settings in held.items():
            there = settings.get("task" if key == "data.task" else "seed", mine)
            if there != mine:
                return f"`{key}`: {run} holds a run with another value: {there} in {path.relative_to(run)}, {mine} here"
    return ""


def _record(path: Path) -> dict[str, Any]:
    """What a record says; nothing if it is broken: a broken final.json is measured again."""
    try:
        content, _ = read_json(path.read_bytes())
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def overridden_settings(saved: dict[str, Any], asked: dict[str, Any], trains: bool) -> list[str]:
    """A line for each setting whose value in a checkpoint the config overrides.

    Args:
        saved: Content of the checkpoint, of a model of the same shape.
        asked: The whole config.
        trains: Whether training resumes; else its settings have no effect.
    """
    there = {"data": saved.get("datamodule_hyper_parameters", {})}
    if trains:
        there |= {"model": saved["hyper_parameters"], "target": saved.get("callbacks", {}).get("AccuracyTarget", {})}
    pairs = {"seed_everything": (asked["seed_everything"], there["data"].get("seed", asked["seed_everything"]))}
    for block, settings in there.items():
        pairs |= {f"{block}.{key}": (value, settings[key]) for key, value in asked[block].items() if key in settings}
    return _differing(pairs, "`{}`: the config's {} overrides the checkpoint's {}.")


def overridden_format(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """A line if the weights of a checkpoint become numbers of another format, that of `trainer` of the config."""
    precision, there = _precision(asked), next(iter(saved["state_dict"].values())).dtype
    if DTYPES.get(precision, torch.float32) == there or asked["plugins"]:  # a plugin may have a format of its own
        return []
    return [f"`trainer.precision`: the config's {precision} overrides the {there} of the checkpoint's weights."]


def overridden_training(saved: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """A line for each setting of `trainer` that changes the numbers of a run and differs from the run's own config.

    Args:
        saved: `trainer` of the run's config.yaml; empty if there is none.
        asked: The config's.
    """
    pairs = {key: (asked[key], saved[key]) for key in TRAINING if key in saved}
    if "precision" in pairs:
        pairs["precision"] = _precision(asked), _precision(saved)
    return _differing(pairs, "`trainer.{}`: the config's {} overrides the {} of the run's config.yaml.")


def _differing(pairs: dict[str, tuple[Any, Any]], text: str) -> list[str]:
    return [text.format(key, mine, other) for key, (mine, other) in pairs.items() if mine != other]


def _precision(trainer: dict[str, Any]) -> str:
    asked = str(trainer["precision"])
    return SHORT_NAMES.get(asked, asked)
