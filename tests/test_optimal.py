"""Constants of optimal ablation against a plain second implementation, a closed form, and what must not change."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import gcgap
from gcgap.attribution.setup import Setup
from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.ablation import Intervention, ablated_scores
from gcgap.importance.baselines import mean_activations
from gcgap.importance.gates import Activations
from gcgap.importance.optimal import BATCHES, RATE, ROWS, STEPS, optimal_activations
from gcgap.importance.protocol import Protocol, Site
from gcgap.models.transformer import Origin, Transformer
from gcgap.models.wiring import Wiring

WIRING = Wiring(2, 2)
SIZES: dict[str, Any] = {"gradient_batches": 2, "mean_batches": 3, "sequences": 16, "resamples": 100, "random_pairs": 1}


def found_on(model: Transformer, batches: list[Batch], site: Site = Site.COMPONENT) -> tuple[Activations, Activations]:
    """The means over the batches and the optimal constants."""
    mean = mean_activations(model, WIRING, batches, by_position=False)
    return mean, optimal_activations(model, WIRING, batches, mean, site)


def losses(model: Transformer, batches: list[Batch], values: Activations, site: Site = Site.COMPONENT) -> Tensor:
    """Mean cross entropy with each component replaced alone."""
    asked = [Intervention(frozenset([i]), lambda rows: values) for i in range(6)]
    return -torch.cat([ablated_scores(model, WIRING, one, asked, site)[1].log_prob for one in batches], -1).mean(-1)


def plain_constant(
    model: Transformer, batches: list[Batch], part: reference.Part, mean: Tensor, spread: Tensor, site: str
) -> Tensor:
    """Adam written out, on the reference, from the mean; steps in spreads."""
    state, x = reference.float64(model.state_dict()), torch.zeros_like(mean)
    first, second = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(STEPS):
        batch = batches[step % len(batches)]
        value = (mean + spread * x).requires_grad_()
        logits = reference.run(state, batch.inputs, 2, "none", {part: 1.0}, {part: value}, site).logits[batch.scored]
        (gradient,) = torch.autograd.grad(F.cross_entropy(logits, batch.targets[batch.scored]), value)
        gradient = gradient * spread
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = RATE * (1 - step / STEPS)
        x = x - size * first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
    return (mean + spread * x).detach()


@pytest.mark.parametrize("site", list(Site))
def test_constants_are_those_of_a_plain_descent_and_harm_less_than_the_mean(
    site: Site, trained: Transformer, source: Source
) -> None:
    model, batches = trained.double(), source.batches(Purpose.MEAN, 4, 3, ROWS)
    mean, found = found_on(model, batches, site)
    better = losses(model, batches, mean, site) - losses(model, batches, found, site)
    assert bool((better > 0.001).all()), better
    own = reference.run(reference.float64(model.state_dict()), batches[0].inputs, 2, "none").parts
    for layer, head in ((0, 1), (1, None)):
        start, theirs = (one.mlps[layer][0, 0] if head is None else one.heads[layer][0, 0, head] for one in (mean, found))
        spread = (own[layer, head] - start).square().mean().sqrt()
        torch.testing.assert_close(
            theirs, plain_constant(model, batches, (layer, head), start, spread, site), atol=1e-6, rtol=1e-6
        )


def test_a_constant_whose_loss_is_known_in_closed_form_is_found() -> None:
    """The logits are the last MLP's constant plus nothing: the best constant makes them the frequencies of the targets."""
    model = Transformer(n_layers=1, n_heads=1, d_model=4, d_ff=8, n_ctx=12, seed=3, vocabulary=4).double()
    with torch.no_grad():
        for weight in (model.embedding.weight, model.blocks[0].attention.W_O.weight, model.blocks[0].attention.W_O.bias):
            weight.zero_()
    model.norm = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue]
    model.unembedding = nn.Linear(4, 4, bias=False).double()
    with torch.no_grad():
        model.unembedding.weight.copy_(torch.eye(4))
        model.embedding.weight.copy_(torch.eye(4))
        model.blocks[0].mlp.W_out.weight.normal_(generator=torch.Generator().manual_seed(0))
        model.embedding.weight.mul_(1e-9)
    share = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    targets = torch.tensor([0, 1, 1, 2, 2, 2, 3, 3, 3, 3])[:, None]
    batch = Batch(targets.roll(3, 0), targets, torch.ones(10, 1, dtype=torch.bool), 10)
    wiring = Wiring(1, 1)
    mean = mean_activations(model, wiring, [batch], by_position=False)
    mean = Activations(mean.heads, [mean.mlps[0] + torch.tensor([0.5, -0.5, 0.2, 0.0])])
    found = optimal_activations(model, wiring, [batch], mean).mlps[0][0, 0].softmax(-1)
    torch.testing.assert_close(found, share, atol=1e-3, rtol=0.0)


def test_only_sequences_of_the_means_are_seen_and_the_model_stays_as_it_was(
    trained: Transformer,
    source: Source,
    unchanged: Callable[[nn.Module], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, draw = set[Purpose](), Source.batches
    batches = source.batches(Purpose.MEAN, 4, BATCHES + 4, ROWS + 8)
    monkeypatch.setattr("gcgap.importance.optimal.STEPS", BATCHES + 3)  # each batch once, and some twice
    with unchanged(trained):
        mean, found = found_on(trained, batches)
        _, again = found_on(trained, batches)
        shorter = optimal_activations(trained, WIRING, [one.rows(slice(ROWS)) for one in batches[:BATCHES]], mean)
    for one, other, third in zip(
        (*found.heads, *found.mlps), (*again.heads, *again.mlps), (*shorter.heads, *shorter.mlps), strict=True
    ):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    drawn: list[Purpose] = []
    monkeypatch.setattr(Source, "batches", lambda self, purpose, *rest: drawn.append(purpose) or draw(self, purpose, *rest))
    monkeypatch.setattr("gcgap.importance.experiment.optimal_activations", lambda *rest: seen.update(drawn[-1:]) or found)
    gcgap.measure(trained, length=4, protocol=Protocol(baselines=("optimal",), **SIZES), origin=Origin(source))  # pyright: ignore[reportArgumentType]
    assert seen == {Purpose.MEAN}


def test_a_measurement_has_its_cost_as_a_stage_and_positions_are_refused(trained: Transformer, source: Source) -> None:
    protocol = Protocol(baselines=("optimal", "mean"), batch_size=8, **SIZES)  # pyright: ignore[reportArgumentType]
    record = gcgap.measure(trained, length=4, protocol=protocol, origin=Origin(source))
    assert record["seconds"]["optimal"] > 0
    drops = [[one["causal"][name]["log_prob"]["value"] for one in record["components"]] for name in protocol.baselines]
    assert sum(drops[0]) < sum(drops[1])
    with pytest.raises(ValueError, match="`positions` must be all for the baseline optimal"):
        Setup("optimal", positions="input")  # pyright: ignore[reportArgumentType]
