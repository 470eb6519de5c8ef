"""Throughput of stacked runs against one run after another, at the paper's size: its reason is a GPU (`--device cuda`).

One run at a time gives as many steps per second whatever the number of runs, so one is timed.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from torch.nn import functional as F  # noqa: N812

from bench.timing import Rows, ratios, spread
from gcgap.batches import Source
from gcgap.data import Stream
from gcgap.lightning_cli import quieten
from gcgap.model import Transformer
from gcgap.packing import scored_logits
from gcgap.stack.module import Stack
from gcgap.stack.replicas import losses, stack, training_batch
from gcgap.stack.seat import PreparedRun, speaking

WARM = 5  # steps before the clock starts
STEPS = {"cpu": 5, "cuda": 200}  # that are timed
SIZE = 64
REPLICAS = (2, 5, 10)


class Clock(L.Callback):
    """Seconds from the end of the warm-up to the end of training."""

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARM:
            self.begun = now()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = now() - self.begun


def now() -> float:
    """The time at which all that was asked of a GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def trained(seeds: Sequence[int], device: str, steps: int) -> float:
    """Seconds of steps as `gcgap fit` takes them for one seed, and as a stack takes them for several; nothing is measured."""
    accelerator, clock = "gpu" if device == "cuda" else device, Clock()
    with tempfile.TemporaryDirectory() as folder, speaking(Path(os.devnull)):
        runs = [
            PreparedRun(
                [
                    f"--seed_everything={seed}",
                    f"--trainer.default_root_dir={folder}/{seed}",
                    f"--trainer.accelerator={accelerator}",
                    f"--trainer.max_steps={WARM + steps}",
                    "--trainer.enable_progress_bar=false",
                ],
                Path(os.devnull),
            )
            for seed in seeds
        ]
        trainer = runs[0].shared_trainer(clock)
        if len(runs) == 1:
            trainer.fit(runs[0].model, datamodule=runs[0].datamodule)
        else:
            trainer.fit(Stack(runs), Stream(int))
    return clock.seconds


def bare(seeds: Sequence[int], device: str, steps: int) -> float:
    """Seconds of steps without Lightning: a plain loop over one model, or over a stack."""
    source, on = Source("sort", seeds[0]), torch.device(device)
    models = [Transformer(seed=seed) for seed in seeds]
    model = (models[0] if len(seeds) == 1 else stack(models)).to(on)
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)
    begun = 0.0
    for step in range(WARM + steps):
        if step == WARM:
            begun = now()
        if len(seeds) == 1:
            inputs, targets, scored = (part.to(on) for part in source.training_batch(step, SIZE)[:3])
            loss = F.cross_entropy(scored_logits(model, inputs, scored), targets[scored])
        else:
            loss = losses(model, training_batch(source, seeds, step, SIZE).to(on)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return now() - begun


def stacking(repeats: int, device: str = "cpu", sizes: Sequence[int] = REPLICAS) -> Rows:
    """Replica-steps per second of one run, and of stacks of these sizes beside it."""
    quieten()
    logging.getLogger("lightning").setLevel(logging.ERROR)
    rows, steps = Rows(), STEPS[device]
    ways: dict[str, Callable[[Sequence[int], str, int], float]] = {"bare loop": bare, "Lightning": trained}
    for way, run in ways.items():
        turns = [[size * steps / run(range(1, 1 + size), device, steps) for size in (1, *sizes)] for _ in range(repeats)]
        alone, *stacked = (list(found) for found in zip(*turns, strict=True))
        rows.append((f"one run, {way} (steps per second)", spread(alone)))
        for size, found in zip(sizes, stacked, strict=True):
            rows.append((f"a stack of {size}, {way} (replica-steps per second)", spread(found)))
            rows.append(("  ratio", spread(ratios(found, alone))))
    source, seeds = Source("sort"), range(max(sizes))
    drawn = []
    for index in range(50):
        begun = time.perf_counter()
        training_batch(source, seeds, index, SIZE)
        drawn.append(1000 * (time.perf_counter() - begun))
    return [*rows, (f"drawing the batches of a stack of {len(seeds)} (ms per step)", spread(drawn))]
