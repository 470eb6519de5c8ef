"""What a training step costs: Lightning's against bare loops over the same model, and other ways to feed it."""

from __future__ import annotations

import logging
import random
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bench.timing import Rows, ratios, spread
from gcgap.data.batches import Batch, Source
from gcgap.data.tasks import END, LARGEST, PAD, SEP, START
from gcgap.models.transformer import Transformer
from gcgap.training.callbacks import StepProgress
from gcgap.training.datamodule import SequenceData
from gcgap.training.module import SequenceModel, scored_logits

WARM, STEPS, SIZE = 3, 25, 64  # steps before the clock starts, steps that are timed, examples per step
LOG = 10  # steps from one logged loss to the next
SOURCE = Source("sort")


def training(repeats: int) -> Rows:
    """The whole table: seconds of a step, in turns."""
    ways: dict[str, Callable[[], float]] = {
        "lightning": lambda: _lightning("32-true"),
        "bare": lambda: _loop(_ours, fused=True),
        "lists": lambda: _loop(_from_lists, fused=False),
        "padded": lambda: _loop(_padded, fused=False),
        "bf16": lambda: _lightning("bf16-mixed"),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            found[name].append(way())
    return [
        ("a training step by Lightning (ms)", spread([1000 * one for one in found["lightning"]])),
        ("  Lightning / a bare loop over the same model and data", spread(ratios(found["lightning"], found["bare"]))),
        ("  a loop with batches of Python lists, padded / Lightning", spread(ratios(found["lists"], found["lightning"]))),
        ("  a bare loop with padded batches and plain Adam / ours", spread(ratios(found["padded"], found["bare"]))),
        ("  float32 / bf16-mixed (above 1: bf16-mixed is faster)", spread(ratios(found["lightning"], found["bf16"]))),
    ]


class Clock(L.Callback):
    """Seconds per step, from the end of step WARM on."""

    def __init__(self) -> None:
        self.begun = self.per_step = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        """Start and stop."""
        if trainer.global_step == WARM:
            self.begun = time.perf_counter()
        if trainer.global_step == WARM + STEPS:
            self.per_step = (time.perf_counter() - self.begun) / STEPS


def _lightning(precision: Any) -> float:
    """As `gcgap fit` trains between two validations and measurements, with its progress bar; it logs more often here."""
    clock = Clock()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with TemporaryDirectory() as place, warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_steps=WARM + STEPS,
            precision=precision,
            accelerator="cpu",
            devices=1,
            callbacks=[clock, StepProgress()],
            log_every_n_steps=LOG,
            logger=TensorBoardLogger(place, default_hp_metric=False),
            default_root_dir=place,
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        trainer.fit(SequenceModel(), SequenceData())
    return clock.per_step


def _loop(loss_of: Callable[[Transformer, int], Tensor], fused: bool) -> float:
    """A bare loop; seconds per step."""
    model, begun = Transformer(seed=42), 0.0
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=fused)
    for step in range(WARM + STEPS):
        if step == WARM:
            begun = time.perf_counter()
        loss = loss_of(model, step)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return (time.perf_counter() - begun) / STEPS


def _ours(model: Transformer, step: int) -> Tensor:
    batch = SOURCE.training_batch(step, SIZE)
    return F.cross_entropy(scored_logits(model, batch.inputs, batch.scored), batch.targets[batch.scored])


def _padded(model: Transformer, step: int) -> Tensor:
    batch = SOURCE.training_batch(step, SIZE)
    return F.cross_entropy(model(batch.inputs)[batch.scored], batch.targets[batch.scored])


def _from_lists(model: Transformer, step: int) -> Tensor:
    """As the first public pipeline does: lists of integers, padded to the longest of the batch, and the loss over all tokens."""
    batch = _lists(random.Random(step))
    logits = model(batch.inputs)
    targets = batch.targets.masked_fill(~batch.scored, -100)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def _lists(rng: random.Random) -> Batch:
    examples = [[rng.randint(1, LARGEST) for _ in range(rng.randint(3, 7))] for _ in range(SIZE)]
    longest = max(len(example) for example in examples)
    tokens, scored = [], []
    for example in examples:
        gap = [PAD] * (longest - len(example))
        tokens.append([START, *example, SEP, *gap, *sorted(example), END, *gap])
        before = len(example) + 2 + len(gap)
        scored.append([False] * before + [True] * (len(example) + 1) + [False] * len(gap))
    all_tokens, which = torch.tensor(tokens), torch.tensor(scored)
    return Batch(all_tokens[:, :-1], all_tokens[:, 1:], which[:, 1:], int(which.sum()))
