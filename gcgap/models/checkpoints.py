"""The models that are trained here: new ones, and those of checkpoints, which are found and loaded without unpickling."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from gcgap.data.batches import Layout, Source
from gcgap.data.tasks import TASKS
from gcgap.models.families import check_installed, find_wiring
from gcgap.models.number_format import check_one_format, check_tensors, not_finite
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Decoder, Origin, Transformer, check_sizes
from gcgap.models.weight_files import prefix_advice
from gcgap.records.read_records import named_step

PREFIX = "model."
FINAL = "final.ckpt"
"""The final model, where callbacks left other weights than those of the last step, such as averages."""
SCALAR = str | int | float | None
Architecture = Literal["gcgap", "gpt2"]
MODEL_SETTINGS = ("n_layers", "n_heads", "d_model", "d_ff", "positions", "n_ctx", "attention", "architecture", "vocabulary")
SINCE: dict[str, Any] = {"architecture": "gcgap", "vocabulary": 104}  # what older checkpoints, which do not say, have


@torch.inference_mode(False)  # tensors that are made in it never have a gradient
def load(where: str | Path) -> Decoder:
    """The model of a checkpoint, or of the last checkpoint of a run directory, in evaluation mode on the CPU.

    Its weights have the number format that they were saved in; what `gcgap.measure` computes in is the protocol's `precision`.
    Its `origin` holds task, seed, step, hash and the settings of its training, which `gcgap.measure` writes into the record.
    Loading never unpickles.

    Raises:
        ValueError: There is no checkpoint, or the file is truncated, foreign, or of another model.
    """
    with torch.device("cpu"):  # whatever the default of the caller
        return _loaded(last_checkpoint(where))


def _loaded(path: Path) -> Decoder:
    content = read_checkpoint(path)
    _check_task(path, content)
    try:
        settings, weights = model_settings(content["hyper_parameters"]), content["state_dict"]
        source, step, training = _source(content), content["global_step"], content.get("training")
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise TypeError(f"`global_step` must be a number of steps; got {step!r:.60}")
        if not isinstance(training, dict | None) or not all(isinstance(one, SCALAR) for one in (training or {}).values()):
            raise TypeError(f"`training` must hold settings; got {training!r:.60}")
        check_weights(settings, weights)
        with torch.random.fork_rng(devices=[]):
            model = new_model(**settings).to(next(iter(weights.values())).dtype)
        model.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights.items()})
        source.check_context([source.lengths[1], *source.ood_lengths], model.n_ctx, "data.ood_lengths")
        model.origin = Origin(source, run_directory(path).name, step, sha256(path), training)
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else "empty"
        raise ValueError(f"`{path}` is not a checkpoint of a gcgap model ({type(error).__name__}: {reason}).") from error
    return model.eval()


def _source(content: dict[str, Any]) -> Source:
    """The data that a model was trained on."""
    data = content["datamodule_hyper_parameters"]
    source = {field.name: data[field.name] for field in fields(Source)}
    source |= {"layout": Layout(source["layout"])} | {key: tuple(source[key]) for key in ("lengths", "ood_lengths")}
    for key, numbers in {"seed": (source["seed"],), "lengths": source["lengths"], "ood_lengths": source["ood_lengths"]}.items():
        if not all(isinstance(number, int) and not isinstance(number, bool) for number in numbers):
            raise TypeError(f"`data.{key}` must be of integers; got {data[key]!r:.60}")
    return Source(**source)


def _check_task(path: Path, content: dict[str, Any]) -> None:
    """Raise a ValueError for the task of a user's own that is not imported; what a file names is never imported by itself."""
    data, module = content.get("datamodule_hyper_parameters"), content.get("task_module")
    task = data.get("task") if isinstance(data, dict) else None
    if not isinstance(module, str) or not isinstance(task, str) or task in TASKS:
        return
    raise ValueError(
        f"`{path}` is a checkpoint of the task {task!r:.60}, of the module {module:.300}, which is not imported here.\n"
        f"If you trust that module, give `--import {module.partition(' ')[0]:.100}`; in Python, import it first."
    )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The dictionary of a checkpoint file: tensors and plain values only.

    Raises:
        ValueError: The file cannot be read without unpickling, or at all.
    """
    try:
        _check_archive(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"`{path}` does not exist; give a run directory or a .ckpt file.") from None
    except Exception as error:  # a damaged file makes the restricted unpickler raise nearly anything
        reason = str(error).splitlines()[0][:100] if str(error) else "it is empty"
        raise ValueError(f"`{path}` is not a readable checkpoint ({reason}). Give another file.") from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` is not a checkpoint: it holds a {type(content).__name__}, not a dictionary.")
    return content


def _check_archive(path: Path) -> None:
    """Raise unless a file is a zip archive that holds what it says; torch checks no sums, and a flipped bit is a wrong weight."""
    with zipfile.ZipFile(path) as archive:
        if sum(part.file_size for part in archive.infolist()) > path.stat().st_size:
            raise ValueError("what is in it would take more room than the file itself")
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"{damaged} in it is damaged")


def check_weights(settings: dict[str, Any], weights: dict[str, Any]) -> None:
    """Raise a ValueError unless the weights are those that the settings say, before any room is made for a model.

    They must have the right names and sizes, be dense, of one format of floating point, and finite.

    Args:
        settings: Of the model.
        weights: By their names in a checkpoint.
    """
    formats = check_tensors(weights.items())
    if settings["n_layers"] > len(weights):
        raise ValueError(f"`n_layers` is {settings['n_layers']}, of {len(weights)} weights")
    with torch.device("meta"):
        expected = {f"{PREFIX}{name}": weight for name, weight in new_model(**settings).state_dict().items()}
    for name in [*expected, *weights]:
        if name not in weights or name not in expected:
            advice = prefix_advice(expected.keys() - weights.keys(), weights.keys() - expected.keys())
            what = "missing" if name in expected else "no weight of the model that its settings say"
            raise ValueError(f"{name} is {what}. {advice}" if advice else f"{name} is {what}")
    for name, weight in expected.items():
        if weights[name].shape != weight.shape:
            raise ValueError(f"{name} must be of size {list(weight.shape)}, as its settings say; got {list(weights[name].shape)}")
    check_one_format(formats)
    if name := not_finite(weights.items()):
        raise ValueError(f"the weight `{name}` is not finite")


def same_weights(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two sets of weights have the same names, number formats and numbers."""
    if first.keys() != second.keys() or not all(isinstance(one, Tensor) for one in (*first.values(), *second.values())):
        return False
    return all(one.dtype == second[name].dtype and torch.equal(one.cpu(), second[name].cpu()) for name, one in first.items())


def last_checkpoint(where: str | Path) -> Path:
    """The file itself, or the last checkpoint of a run directory: the one of the highest step, else `last.ckpt`.

    Where callbacks replaced the weights when training ended, by averages say, it is `final.ckpt`.

    Raises:
        ValueError: There is none.
    """
    where = Path(where)
    if not where.is_dir():
        return where
    folder, steps = where / "checkpoints", step_checkpoints(where)
    last, final = folder / "last.ckpt", folder / FINAL
    if final.is_file() and (not steps or read_checkpoint(final).get("global_step") == named_step(steps[-1])):
        return final
    found = steps or [last] * last.is_file()
    if not found:
        raise ValueError(f"`{where}` holds no checkpoint; expected checkpoints/step=*.ckpt in it. Run `gcgap fit` first.")
    return found[-1]


def step_checkpoints(run: Path) -> list[Path]:
    """The numbered checkpoints of a run directory, in the order of their steps."""
    steps = ((named_step(path), path) for path in (run / "checkpoints").glob("step=*.ckpt"))
    return [path for _, path in sorted((step, path) for step, path in steps if step is not None)]


def misnamed(path: Path) -> str:
    """What is wrong with a checkpoint that holds another step than its name says; empty if nothing is."""
    step = read_checkpoint(path).get("global_step")
    if named_step(path) in (None, step) or not isinstance(step, int):
        return ""  # `load` refuses what has no step at all
    others = [other for other in step_checkpoints(run_directory(path)) if other.name != path.name]
    same = [other.name for other in others if sha256(other) == sha256(path)]
    bytes_of = f", with the bytes of {', '.join(same)}" if same else ""
    return f"`{path}` is another checkpoint than its name says: it holds step {step}{bytes_of}"


def run_directory(checkpoint: Path) -> Path:
    """The run directory that a checkpoint file lies in."""
    folder = checkpoint.absolute().parent  # a link stays: a folder of checkpoints may lie on another disk
    return folder.parent if folder.name == "checkpoints" else folder


def sha256(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_model(architecture: Architecture = "gcgap", seed: int = 0, **settings: Any) -> Decoder:
    """A model with random weights.

    Args:
        architecture: `gcgap`, or `gpt2`: Hugging Face's GPT-2, which has learned positions and a tied output.
        seed: Of the weights.
        settings: Sizes, as of `Transformer`.

    Raises:
        ValueError: Sizes that do not fit together, or positions that the architecture does not have.
        ImportError: The extra `gcgap[hf]` is needed and is not installed.
    """
    if architecture not in get_args(Architecture):
        raise ValueError(f"`model.architecture` must be one of {', '.join(get_args(Architecture))}; got {architecture!r}.")
    return Transformer(**settings, seed=seed) if architecture == "gcgap" else _gpt2(seed=seed, **settings)


def _gpt2(seed: int, **settings: Any) -> Pretrained:
    check_sizes(**settings)
    if settings["positions"] != "learned":
        raise ValueError(f"`model.positions` must be learned for gpt2; got {settings['positions']!r}.")
    check_installed()
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=settings["vocabulary"],
        n_positions=settings["n_ctx"],
        n_embd=settings["d_model"],
        n_layer=settings["n_layers"],
        n_head=settings["n_heads"],
        n_inner=settings["d_ff"],
        resid_pdrop=0.0,  # dropout would draw from the global generator
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "sdpa" if settings["attention"] == "fused" else "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = GPT2LMHeadModel(config)
    return Pretrained(network, find_wiring(config))


def model_settings(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model among those that a checkpoint holds.

    Raises:
        KeyError: One is missing that every checkpoint has.
    """
    return {name: saved.get(name, SINCE[name]) if name in SINCE else saved[name] for name in MODEL_SETTINGS}
