"""A tiny run and tiny records for the tests: small enough to train in seconds, large enough that nothing of it is null."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock
from pictures import figures
from scipy.stats import rankdata

from gcgap.cli import main
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.records.record import Record

STEPS = (0, 150, 300)  # optimiser steps whose checkpoints the tiny run measures
SIZES: dict[str, Any] = {"gradient_batches": 8, "mean_batches": 2, "sequences": 40, "resamples": 100}
SETTINGS: dict[str, Any] = {
    "model.n_layers": 2,
    "model.n_heads": 2,
    "model.d_model": 32,
    "model.d_ff": 64,
    "model.learning_rate": 0.01,
    "data.lengths": [1, 3],
    "data.ood_lengths": [4, 5],
    "data.validation_sequences": 20,
    "protocol.batch_size": 20,
    "protocol.window": [0.05, 0.95],
    "protocol.tracking.length": 4,
    "protocol.tracking.dense_every": 150,
    "trainer.max_steps": STEPS[-1],
    "trainer.val_check_interval": 150,
    "trainer.enable_progress_bar": "false",
    "target.accuracy": 1.0,
}
SETTINGS |= {f"protocol.{block}{name}": size for block in ("", "tracking.") for name, size in SIZES.items()}
SHORT: dict[str, Any] = {"trainer.max_steps": 4, "trainer.val_check_interval": 2, "protocol.tracking.dense_every": 4}
RUN_DEPENDENT = ("created", "seconds", "run", "checkpoint_sha256", "versions", "sha256")
LIGHTNING_WARNINGS = (
    "ignore:.*LeafSpec.*:FutureWarning",  # lightning 2.6 with torch 2.13
    "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning",  # of calls that lightning 2.6 makes
)


def arguments(directory: Path, **changes: Any) -> list[str]:
    """The arguments of `gcgap fit` for a tiny run; `__` in a name stands for a dot."""
    settings = SETTINGS | {name.replace("__", "."): value for name, value in changes.items()}
    return ["fit", *(f"--{name}={value}" for name, value in settings.items()), f"--trainer.default_root_dir={directory}"]


def trained(base: Path) -> Path:
    """The tiny run below `base`, a folder of pytest's for one process; trained by the first process that asks for it."""
    directory = base / "sort-tiny"
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return _trained(directory)
    if not directory.exists():
        shared = base.parent / "sort-tiny"
        with FileLock(f"{shared}.lock"):
            shutil.copytree(_trained(shared), directory)
    return directory


def _trained(directory: Path) -> Path:
    if not directory.exists():
        with figures():
            assert main(arguments(directory)) == 0
    return directory


def files(directory: Path) -> dict[str, bytes]:
    """Every file below a directory with its bytes."""
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


def forget(run: Path, *steps: int) -> None:
    """Take the checkpoints of some steps and their records out of a run."""
    for step in steps:
        (run / "checkpoints" / f"step={step:06d}.ckpt").unlink()
        (run / "gap" / f"step={step:06d}.json").unlink(missing_ok=True)


def told(path: Path) -> dict[str, Any]:
    """A record file without what differs between two runs of the same config."""
    return {key: value for key, value in json.loads(path.read_text()).items() if key not in RUN_DEPENDENT}


def synthetic(
    G: list[float],
    C: dict[Any, list[float]],
    n_heads: int = 4,
    *,
    step: int = 250,
    protocol: dict[str, Any] | None = None,
    reason: str | None = None,
    **gap: Any,
) -> Record:
    """A record with known numbers: G, and C by baseline, in the order of the components.

    `protocol` changes settings, and `gap` entries of every baseline's gap. `reason` makes it a record whose rank correlation does
    not exist.
    """
    components, entries = [], {}
    deltas = {b: [float(d) for d in rankdata(G) - rankdata(values)] for b, values in C.items()}
    changed: dict[str, Any] = {"baselines": tuple(C)} | (protocol or {})
    settings = Protocol(**changed)
    cut = settings.threshold * len(G)
    roles = {b: ["hero" if d <= -cut else "bloat" if d >= cut else "aligned" for d in values] for b, values in deltas.items()}
    for i, value in enumerate(G):
        layer, place = divmod(i, n_heads + 1)
        kind = "mlp" if place == n_heads else "head"
        causal, delta, role = {}, {}, {}
        for b in C:
            drops = {"exact_match": C[b][i], "log_prob": 10 * C[b][i], "token_accuracy": C[b][i] / 2}
            causal[b] = {metric: {"value": drop, "ci": [drop - 0.05, drop + 0.05]} for metric, drop in drops.items()}
            change: dict[str, Any] = {"value": deltas[b][i], "ci": [deltas[b][i] - 1, deltas[b][i] + 1]}
            sure: dict[str, Any] = {"name": roles[b][i], "probability": 0.875}
            if reason:
                change, sure = dict.fromkeys(change), dict.fromkeys(sure)
            delta[b] = change | {"by_metric": {metric: dict(change) for metric in ("log_prob", "token_accuracy")}}
            role[b] = sure | {"by_metric": {metric: dict(sure) for metric in ("log_prob", "token_accuracy")}}
        name = f"L{layer}_MLP" if kind == "mlp" else f"L{layer}_H{place}"
        gradient = {"value": value, "ci": [0.9 * value, 1.1 * value]}
        parts = {"gradient": gradient, "causal": causal, "delta": delta, "role": role}
        components.append({"name": name, "layer": layer, "kind": kind} | parts)
    for b in C:
        keys = ("rho", "ci", "p_value", "ceiling", "corrected", "heroes", "bloats", "expected_by_chance")
        found: dict[str, Any] = dict.fromkeys(keys) | {"reason": reason}
        if not reason:
            found |= {"rho": 0.5, "ci": [0.25, 0.75], "p_value": 0.01, "ceiling": 0.8, "corrected": 0.625}
            found |= {"heroes": roles[b].count("hero"), "bloats": roles[b].count("bloat")}
            found |= {"expected_by_chance": {"heroes": 5.1, "bloats": 5.2}} | gap
        entries[b] = found | {"by_metric": {metric: dict(found) for metric in ("log_prob", "token_accuracy")}}
    layers = [
        {"layer": layer, "all": {b: None if reason else _counts(components, layer, b) for b in C}}
        for layer in sorted({component["layer"] for component in components})
    ]
    return Record(_head(step, settings) | {"components": components, "layers": layers, "gap": entries})


def _counts(components: list[dict[str, Any]], layer: int, baseline: str) -> dict[str, int]:
    names = [component["role"][baseline]["name"] for component in components if component["layer"] == layer]
    return {"heroes": names.count("hero"), "bloats": names.count("bloat")}


def _head(step: int, protocol: Protocol) -> dict[str, Any]:
    return {
        "schema": 1,
        "task": "sort",
        "seed": 7,
        "step": step,
        "run": "sort-seed7",
        "protocol": protocol.to_dict() | {"layout": "contiguous", "lengths": [3, 7], "ood_lengths": [8, 9]},
        "checkpoint_sha256": "0" * 64,
        "versions": {"gcgap": "0.0.1"},
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": {"causal": 1.5},
        "accuracy": {"in_distribution": 0.9375, "by_length": {"8": 0.875, "9": 0.5}},
        "window": {"length": 9, "accuracy": 0.5, "in_window": True},
        "length": 9,
        "pruning": {},
        "joint": {},
    }


def skipped(baselines: tuple[Baseline, ...] = (Baseline.MEAN, Baseline.ZERO)) -> Record:
    """A record whose model has no OOD length inside the window."""
    reason = "no OOD length has an accuracy in [20%, 75%] (8: 90.0%, 9: 0.0%)"
    nothing = dict.fromkeys(("rho", "ci", "p_value", "ceiling", "corrected", "heroes", "bloats", "expected_by_chance"))
    data = _head(500, Protocol(baselines=baselines))
    data |= {"length": None, "window": {"length": None, "accuracy": None, "in_window": False}, "skipped": reason}
    return Record(data | {"components": [], "layers": [], "gap": {b: nothing | {"reason": reason} for b in baselines}})


def ten(**changes: Any) -> Record:
    """Two layers of four heads and an MLP. By the mean L0_H0 is a Hero and L1_MLP a Bloat; by zero there are none."""
    G = [0.001 * (i + 1) for i in range(10)]
    mean = [0.0125 * i for i in (9, 1, 2, 3, 4, 5, 6, 7, 8, 0)]
    return synthetic(G, {"mean": mean, "zero": [0.0125 * i for i in range(10)]}, **changes)
