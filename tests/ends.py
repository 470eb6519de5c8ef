"""A run of a second or two, and what it leaves: for tests in which it is killed, stopped or out of space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator

SIZES: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 2, "sequences": 8, "resamples": 100}
TRACKING: dict[str, Any] = {"length": 4, "dense_every": 5, "dense_until": 10, "then_every": 20, **SIZES}
CONFIG: dict[str, Any] = {
    "seed_everything": 3,
    "data": {"task": "copy", "batch_size": 16, "lengths": [1, 2], "ood_lengths": [4, 5], "validation_sequences": 20},
    "model": {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 32, "learning_rate": 0.01},
    "protocol": {"batch_size": 8, "window": [0, 1], "baselines": ["mean"], **SIZES, "tracking": TRACKING},
    "trainer": {"val_check_interval": 10, "accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
}
ENDS = {"steps": ["--trainer.max_steps=25", "--target.accuracy=1.0"], "target": ["--target.accuracy=0.025"]}
"""Two ways to end, at the most steps or at the target: Lightning resumes them differently."""


def fit(run: Path, end: str, *options: str) -> list[str]:
    """The arguments of `gcgap fit` for a run that ends in one of these ways; it is resumed if it can be."""
    config = run.parent / "config.yaml"
    config.write_text(yaml.safe_dump(CONFIG))
    resumed = ["--ckpt_path=last"] * (run / "checkpoints" / "last.ckpt").exists()
    return ["fit", f"--config={config}", f"--trainer.default_root_dir={run}", *ENDS[end], *options, *resumed]


def step(run: Path) -> int:
    """The step that `last.ckpt` holds."""
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


def ends(run: Path) -> dict[str, Any]:
    """All numbers of a run by file: the weights of each checkpoint, the optimiser, every record, and the picture."""
    found: dict[str, Any] = {"emergence.png": (run / "gap" / "emergence.png").read_bytes()}
    for path in (run / "checkpoints").glob("[!.]*"):
        content = torch.load(path, weights_only=True)
        keys = ("state_dict", "optimizer_states", "callbacks", "global_step", "epoch")
        found[path.name] = listed({key: content.get(key) for key in keys})
    return found | {path.name: tiny.told(path) for path in (run / "gap").glob("[!.]*.json")}


def listed(value: Any) -> Any:
    """The same with lists in place of tensors, which compare by bits since no number here is NaN."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: listed(inner) for key, inner in value.items()}
    return [listed(inner) for inner in value] if isinstance(value, list) else value


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar that TensorBoard shows, by tag: steps and values in their order, one that stands twice included."""
    events = EventAccumulator(str(run), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def unfinished(run: Path) -> list[str]:
    """What writing leaves that was broken off."""
    return [path.name for path in run.rglob(".*") if path.is_file()]


def check_same(run: Path, uninterrupted: Path) -> None:
    """Nothing tells the two apart: numbers, TensorBoard's curves, and no file is left over."""
    mine, theirs = ends(run), ends(uninterrupted)
    assert mine.keys() == theirs.keys()
    for name in theirs:
        assert mine[name] == theirs[name], name
    assert scalars(run) == scalars(uninterrupted)
    assert unfinished(run) == []
