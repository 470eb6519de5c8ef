"""Constants of optimal ablation: for each component the one that harms least where it always stands for the component's output.

    a_i = argmin_a E[L(M with a for z_i)]

Li and Janson, "Optimal ablation for interpretability" (arXiv:2409.09951); L is the mean cross entropy over the scored tokens. The
constant of a component is found while all others run untouched, so those of a set are not the best ones for the set.

Adam starts from the mean and visits sequences of the means in turn, never those of evaluation. Its steps are in units of the
component's own spread, so that the scale of a head does not matter, and shrink to nothing. A constant under which the loss over
those sequences is not below that under the mean is dropped for the mean. Nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.data.batches import NOTHING, Batch
from gcgap.importance.ablation import First, Intervention, ablated_logits, ablated_scores
from gcgap.importance.gates import Activations, recorded
from gcgap.importance.protocol import Site
from gcgap.importance.scores import log_prob
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.transformer import Decoder, State, frozen_weights
from gcgap.models.wiring import Wiring

STEPS = 100  # of Adam, each on one batch, forward and backward
RATE = 0.3  # the first step, in spreads of a component
BATCHES, ROWS = 32, 16  # most batches of the means that are visited, and most sequences of each


@torch.enable_grad()
def optimal_activations(
    model: Decoder,
    wiring: Wiring,
    batches: Sequence[Batch],
    mean: Activations,
    site: Site = Site.COMPONENT,
    sharing: Sharing = ALONE,
) -> Activations:
    """The constant of every component under which the loss over the first sequences of `batches` is least.

    Costs each component `STEPS` passes of `ROWS` sequences forward and backward, and two of all of them forward, from its layer
    up. Processes share the layers.

    Args:
        model: Left as it is.
        wiring: Where its components are.
        batches: Sequences to find the constants on, such as those of the means.
        mean: Where to start: the means, with one row and one position.
        site: Where a head is replaced.
        sharing: The processes that share the work.

    Raises:
        FloatingPointError: A constant is not finite.
    """
    few = [batch.rows(slice(ROWS)) for batch in batches[:BATCHES]]
    start = torch.cat([torch.stack([value.flatten() for value in part]) for part in mean[:2]], -1)  # (layer, heads then MLP)

    def own(mine: slice) -> Tensor:
        with frozen_weights(model):
            spread = spreads(model, wiring, few[0], mean)
            layers = range(mine.start, mine.stop)
            return torch.stack([_Layer(model, wiring, layer, few, start[layer], site).optimum(spread[layer]) for layer in layers])

    found = sharing.gather(tuple(start.shape), own, axis=0).to(start)
    heads, mlps = found.split([wiring.n_heads * model.d_head, model.d_model], -1)
    return Activations([one.reshape(1, 1, wiring.n_heads, -1) for one in heads], [one.reshape(1, 1, -1) for one in mlps])


@torch.no_grad()
def spreads(model: Decoder, wiring: Wiring, batch: Batch, mean: Activations) -> Float[Tensor, "layer component"]:
    """How far the outputs of a layer's heads and MLP are from their means, root mean square over tokens and entries."""
    inputs = batch.inputs[: model.fits(len(batch.inputs), batch.inputs.shape[1], "forward")]
    there = (inputs != NOTHING).to(model.device)
    with recorded(model, wiring) as seen:
        model.run(inputs.to(model.device))
    outputs = zip(seen.heads, (one.unsqueeze(-2) for one in seen.mlps), strict=True)
    means = zip(mean.heads, (one.unsqueeze(-2) for one in mean.mlps), strict=True)
    return torch.stack(
        [
            torch.cat(
                [(value - middle).double()[there].square().mean((0, -1)).sqrt() for value, middle in zip(*both, strict=True)]
            )
            for both in zip(outputs, means, strict=True)
        ]
    )


class _Layer:
    """The components of one layer, each replaced alone; `start` holds their means side by side, heads before the MLP."""

    def __init__(
        self, model: Decoder, wiring: Wiring, layer: int, batches: Sequence[Batch], start: Float[Tensor, " width"], site: Site
    ) -> None:
        self.model, self.wiring, self.layer, self.batches, self.start, self.site = model, wiring, layer, batches, start, site
        heads, mlp = wiring.columns(layer)
        self.members = range(heads.start, mlp + 1)
        self.widths = torch.tensor([model.d_head] * wiring.n_heads + [model.d_model], device=start.device)
        self.states = [[(rows, self._state(batch, rows)) for rows in self._pieces(batch)] for batch in batches]

    def optimum(self, spread: Float[Tensor, " component"]) -> Float[Tensor, " width"]:
        """The constants side by side."""
        unit = spread.to(self.start).repeat_interleave(self.widths)
        moved = torch.zeros_like(self.start, requires_grad=True)
        adam = torch.optim.Adam([moved], lr=RATE)
        for step in range(STEPS):
            adam.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            moved.grad = self._gradient(moved, unit, step % len(self.batches))
            adam.step()
        found = (self.start + unit * moved).detach()
        better = self._log_probs(found) > self._log_probs(self.start)
        return torch.where(better.to(found.device).repeat_interleave(self.widths), found, self.start).cpu()

    def _gradient(self, moved: Tensor, unit: Tensor, number: int) -> Tensor:
        """That of the sum of the components' losses over one batch; each loss depends on its own constant alone."""
        batch, total = self.batches[number], torch.zeros_like(moved)
        for rows, state in self.states[number]:
            size = len(state[0])
            few = max(1, self.model.fits(len(self.members) * size, batch.inputs.shape[1], "backward") // size)
            for some in (self.members[at : at + few] for at in range(0, len(self.members), few)):
                sets, values = [frozenset([member]) for member in some], self._activations(self.start + unit * moved)
                first = First(self.layer, skips=False)
                logits = ablated_logits(self.model, self.wiring, state, first, sets, values, self.site, None, batch.last)
                loss = -log_prob(logits, *batch.answers(rows, logits.device, len(some))).sum() / len(batch.inputs)
                total += torch.autograd.grad(loss, moved)[0]
        return total

    def _log_probs(self, values: Tensor) -> Float[Tensor, " component"]:
        """Mean log-probability over all sequences with each component replaced: minus its loss."""
        given = self._activations(values)
        asked = [Intervention(frozenset([member]), lambda rows: given) for member in self.members]
        found = [ablated_scores(self.model, self.wiring, batch, asked, self.site)[1].log_prob for batch in self.batches]
        return torch.cat(found, -1).mean(-1)

    def _activations(self, values: Float[Tensor, " width"]) -> Activations:
        """What stands in for the layer; other layers are never asked for."""
        heads, mlp = values.split([self.wiring.n_heads * self.model.d_head, self.model.d_model])
        every = self.wiring.n_layers
        return Activations([heads.reshape(1, 1, self.wiring.n_heads, -1)] * every, [mlp.reshape(1, 1, -1)] * every)

    def _pieces(self, batch: Batch) -> list[slice]:
        return self.model.pieces(len(batch.inputs), batch.inputs.shape[1], "backward")

    @torch.no_grad()
    def _state(self, batch: Batch, rows: slice) -> State:
        """What lies below the layer, which no constant changes."""
        return self.model.states(batch.inputs[rows].to(self.model.device), batch.last)[self.layer]
