"""Training on packed tokens is training on padded ones."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.profiler import ProfilerActivity, profile

from gcgap.data.batches import Batch, Layout, Source
from gcgap.data.tasks import VOCABULARY, Task
from gcgap.models.transformer import Positions, Transformer
from gcgap.training.module import packed_logits, scored_logits


def mixed(layout: Layout) -> Batch:
    batch = Source("sort", 3, layout, (2, 5)).training_batch(0, 12)
    assert not batch.scored[:, -1].all(), "some rows are shorter than the longest"
    return batch


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("positions", get_args(Positions))
def test_packed_logits_and_gradients_are_those_of_the_padded_batch(positions: Positions, layout: Layout) -> None:
    model, batch = Transformer(2, 2, 16, 24, positions, n_ctx=12, seed=1).double(), mixed(layout)
    found: list[tuple[Tensor, ...]] = []
    for logits in (packed_logits(model, batch.inputs, batch.scored), model(batch.inputs)[batch.scored]):
        loss = F.cross_entropy(logits, batch.targets[batch.scored])
        found.append((logits, *torch.autograd.grad(loss, list(model.parameters()))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=1e-10)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize("m", [0, 1, 9])
def test_packed_logits_are_those_of_the_padded_batch_for_any_number_of_targets(
    m: int, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", {})
    type("Own", (Task,), {"name": "own", "target": lambda self, inputs: inputs[:, :1].expand(-1, m)})()
    model, batch = Transformer(2, 2, 16, 24, seed=1).double(), Source("own", 3, layout, (2, 5)).training_batch(0, 12)
    packed = packed_logits(model, batch.inputs, batch.scored)
    assert len(packed) == 12 * (m + 1)
    torch.testing.assert_close(packed, model(batch.inputs)[batch.scored], atol=1e-13, rtol=1e-10)


def test_tokens_with_another_past_are_not_shared() -> None:
    model, batch = Transformer(2, 2, 16, 24, n_ctx=12, seed=1).double(), mixed(Layout.CONTIGUOUS)
    batch.inputs[1] = batch.inputs[0]
    batch.scored[1] = batch.scored[0]
    batch.inputs[1, 0] = 7  # what begins otherwise shares nothing that follows
    packed = packed_logits(model, batch.inputs, batch.scored)
    torch.testing.assert_close(packed, model(batch.inputs)[batch.scored], atol=1e-13, rtol=1e-10)


def test_packed_gradients_in_bfloat16_are_as_far_from_exact_ones_as_padded_ones() -> None:
    exact, batch = Transformer(2, 2, 32, 64, n_ctx=12, seed=1).double(), mixed(Layout.CONTIGUOUS)
    model = copy.deepcopy(exact).float()

    def gradient(of: Transformer, logits: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, batch.targets[batch.scored])
        return torch.cat([part.flatten().double() for part in torch.autograd.grad(loss, list(of.parameters()))])

    wanted = gradient(exact, exact(batch.inputs)[batch.scored])
    with torch.autocast("cpu", torch.bfloat16):
        packed = gradient(model, packed_logits(model, batch.inputs, batch.scored))
        padded = gradient(model, model(batch.inputs)[batch.scored])
    assert 0 < (packed - wanted).norm() < 1.5 * (padded - wanted).norm() < 0.05 * wanted.norm()


@pytest.mark.parametrize("layout", Layout)
def test_only_tokens_that_are_needed_are_computed_and_those_with_the_same_past_once(layout: Layout) -> None:
    model, batch = Transformer(3, 2, 16, 24, n_ctx=12), mixed(layout)
    batch.inputs[4:6] = batch.inputs[3]  # at the third position nothing is shared any more
    batch.scored[4:6] = batch.scored[3]
    seen: dict[str, list[int]] = {"norm_attention": [], "mlp": []}
    for name, numbers in seen.items():
        for block in model.blocks:
            block.get_submodule(name).register_forward_hook(lambda *of, to=numbers: to.append(of[-1].shape[:-1].numel()))
    scored_logits(model, batch.inputs, batch.scored)
    rows = [row[: int(of.nonzero().max()) + 1].tolist() for row, of in zip(batch.inputs, batch.scored, strict=True)]
    shared = {tuple(row[: 1 + pos]) for row in rows for pos in range(2)}
    assert len(shared) < 2 * len(rows) - 2
    needed = len(shared) + sum(len(row) - 2 for row in rows)
    assert seen == {"norm_attention": [VOCABULARY, needed, needed], "mlp": [needed, needed, int(batch.scored.sum())]}


def test_an_example_learns_nothing_of_its_neighbours() -> None:
    model, batch = Transformer(2, 2, 16, 24, n_ctx=12).double(), Source("reverse", seed=4, lengths=(2, 5)).training_batch(0, 6)
    together = packed_logits(model, batch.inputs, batch.scored).split(batch.scored.sum(1).tolist())
    for row, own in enumerate(together):
        alone = packed_logits(model, batch.inputs[row : row + 1], batch.scored[row : row + 1])
        torch.testing.assert_close(own, alone, atol=1e-13, rtol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "learns", "fused"), [("float32", True, True), ("bfloat16", False, True), ("bfloat16", True, False)]
)
def test_gradients_in_bfloat16_on_a_cpu_take_plain_products(dtype: str, learns: bool, fused: bool) -> None:
    model = Transformer(1, 2, 16, 24, n_ctx=12)
    with (
        profile(activities=[ProfilerActivity.CPU]) as profiled,
        torch.set_grad_enabled(learns),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"),
    ):
        model(mixed(Layout.CONTIGUOUS).inputs)
    assert any("flash_attention" in event.key for event in profiled.key_averages()) == fused
