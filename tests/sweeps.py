"""Tiny sweeps for the tests, and a callback that ends the sweep from within one of its runs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import tiny
import yaml
from pictures import draw_quickly

ROOT = Path(__file__).parents[1]
FEWER: dict[str, Any] = {"trainer.max_steps": 60, "trainer.val_check_interval": 20, "protocol.tracking.dense_every": 20}
FEWER |= {"protocol.window": [0.0, 0.95]}
"""Settings that make the tiny run shorter: what a sweep does with its runs does not depend on what they learn."""


class Interrupt(L.Callback):
    """Sends a signal to the sweep when a run reaches a step, unless `flag` exists: once for all its runs.

    They draw no figures.
    """

    def __init__(self, flag: str, sent: str, step: int) -> None:
        self.flag, self.sent, self.step = Path(flag), signal.Signals[sent], step
        draw_quickly()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.global_step == self.step and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getppid(), self.sent)
            time.sleep(60)  # the end of the sweep ends this process too


def write(folder: Path, settings: dict[str, Any] | None = None, **sweep: Any) -> Path:
    """A sweep file of two seeds of a shorter tiny run beside its config; both can be changed."""
    flat = (
        tiny.SETTINGS
        | FEWER
        | {"trainer.enable_progress_bar": False, "data.task": "sort", "seed_everything": 7}
        | (settings or {})
    )
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *blocks, last = key.split(".")
        inner = nested
        for block in blocks:
            inner = inner.setdefault(block, {})
        inner[last] = value
    (folder / "tiny.yaml").write_text(yaml.safe_dump(nested))
    content = {"directory": str(folder / "runs"), "configs": ["tiny.yaml"], "grid": {"seed_everything": [1, 2]}} | sweep
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def callback(flag: Path, sent: str = "SIGKILL", step: int = 30) -> dict[str, Any]:
    """The setting that puts `Interrupt` into a run; the flag disarms it."""
    arguments = {"flag": str(flag), "sent": sent, "step": step}
    return {"trainer.callbacks": [{"class_path": "sweeps.Interrupt", "init_args": arguments}]}


def workers(folder: Path) -> list[int]:
    """The processes of the workers of a sweep below a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        if "gcgap.sweep.worker" in line and str(folder) in line:
            found.append(int(process.name))
    return found
