"""D(xi) = M(0) - M(xi), the drop as a function of the gates: its values and its first and second derivatives.

Every attribution method is made of these (see `gcgap.importance.gates` for M). D is positive where a component is needed, so
every score made of it is a drop. All of it is per sequence: the mean over sequences is reported, and intervals are made of its
spread. Owns no method. Rows of a batch do not see each other, hence one backward pass gives the gradient of every sequence.

Gates are leaves of the call. The model's weights ask for no gradient meanwhile, and nothing of the model changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from gcgap.data.batches import Batch
from gcgap.importance.ablation import first_changed, repeated
from gcgap.importance.baselines import Replacement
from gcgap.importance.gates import Activations, gated
from gcgap.importance.protocol import Site
from gcgap.importance.scores import MetricFunction, log_prob
from gcgap.models.transformer import Decoder, Kind, State, frozen_weights
from gcgap.models.wiring import Wiring

ROWS = 64  # rows of the batch that go through the model together
KEPT = 16  # pieces of the batch whose replacement, and what lies below it, is kept
Kept = TypeVar("Kept")
OWN_ROWS = 16  # sequences whose prefix is shared by the own paths of all components


@dataclass
class Passes:
    """How often every sequence went through the model, forward, backward, and backward through a backward pass."""

    forward: float = 0.0
    backward: float = 0.0
    double_backward: float = 0.0


@dataclass(frozen=True)
class Drop:
    """D of one batch, one replacement and one metric.

    Args:
        model: The model.
        wiring: Where its components are.
        batch: Sequences of one length: the clean input, or the corrupted one for denoising.
        replacement: What open gates let in.
        metric: M, one number per sequence, larger is better.
        site: Where a head is replaced.
        where: Positions at which gates act; all by default.
        sign: -1 turns the drop into a gain, so that what denoising restores is positive.
        passes: Counts what has been run.
    """

    model: Decoder
    wiring: Wiring
    batch: Batch
    replacement: Replacement
    metric: MetricFunction = log_prob
    site: Site = Site.COMPONENT
    where: Bool[Tensor, " pos"] | None = None
    sign: int = 1
    passes: Passes = field(default_factory=Passes)
    singles: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Exact effects by metric, once `gcgap.attribution.sets.single_drops` has found them."""
    _given: dict[tuple[int, int], Activations] = field(default_factory=dict, init=False, repr=False, compare=False)
    _below: dict[tuple[int, int], list[State]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return len(self.batch.inputs)

    @property
    def components(self) -> int:
        """Number of components."""
        return len(self.wiring.components)

    def zero_gates(self) -> Float[Tensor, " component"]:
        """xi = 0, at which the model is untouched; in the model's number format."""
        return torch.zeros(self.components, dtype=next(self.model.parameters()).dtype)

    @torch.no_grad()
    def untouched(self) -> Float[Tensor, " sequence"]:
        """The metric of the bare model, without a hook."""
        with self.frozen_weights(curved=False):
            found = [self.metric(self.model(self.inputs(rows), self.last), *self.answers(rows)) for rows in self.slices()]
        return torch.cat(found).double().cpu()

    @torch.no_grad()
    def level(self, xi: Float[Tensor, "*sequence component"]) -> Float[Tensor, " sequence"]:
        """M(xi), with the same gates for all sequences or gates of its own for each."""
        self.passes.forward += 1
        return self._by_rows(lambda gates, rows: self._metric(gates, rows).unsqueeze(-1), xi)[0, 0]

    def value(self, xi: Float[Tensor, "*sequence component"]) -> Float[Tensor, " sequence"]:
        """D(xi), as `level`."""
        return self.sign * (self.level(self.zero_gates()) - self.level(xi))

    @torch.enable_grad()
    def gradient(self, xi: Float[Tensor, "*sequence component"]) -> Float[Tensor, "component sequence"]:
        """dD/dxi_i at xi: one backward pass for all components."""

        def one(gates: Tensor, rows: slice) -> Tensor:
            gates.requires_grad_(True)
            return -self.sign * _derivative(self._metric(gates, rows), gates)

        self.passes.forward += 1
        self.passes.backward += 1
        return self._by_rows(one, xi)[0]

    @torch.enable_grad()
    def hessian_product(
        self, xi: Float[Tensor, "*sequence component"], *directions: Float[Tensor, "*sequence component"], held: bool = False
    ) -> tuple[Float[Tensor, "component sequence"], ...]:
        """Gradient g of D at xi, and H v for each direction v, by double backward: one pass more each, for all components.

        A direction is the same for all sequences, or each has its own. With `held` changes, see `gated`, H has the same diagonal,
        and off it only the network's own curvature.
        """
        each = [v.expand(self.sequences, -1) for v in directions]

        def one(gates: Tensor, rows: slice) -> Tensor:
            gates.requires_grad_(True)
            g = _derivative(self._metric(gates, rows, held), gates, again=True)
            products = [_second(g * v[rows].to(g), gates, again=v is not each[-1]) for v in each]
            return -self.sign * torch.stack([g, *products])

        self.passes.forward += 1
        self.passes.backward += 1
        self.passes.double_backward += len(directions)
        return tuple(self._by_rows(one, xi, curved=True))

    @torch.enable_grad()
    def path_derivatives(
        self, t: float, curvature: bool = False
    ) -> tuple[Float[Tensor, "component sequence"], Float[Tensor, "*_"]]:
        """F_i'(t) and F_i''(t) of every component's own path F_i(t) = D(t e_i); the second is empty unless asked for.

        One backward pass per component (and one through it for the curvature), each only down to the component's layer.
        """
        self.passes.forward += self.components
        self.passes.backward += self.components
        self.passes.double_backward += self.components * curvature
        found = []
        with self.frozen_weights(curvature):
            kind: Kind = "double" if curvature else "backward"
            for rows in self.slices(OWN_ROWS, kind):
                states = self._states(rows, self._since(rows))
                size, members = len(states[0][0]), self.wiring.n_heads + 1
                few = max(1, self.model.fits(members * size, self.batch.inputs.shape[1], kind) // size)
                own = [
                    self._own_of(list(some), t, states[self.wiring.components[some[0]].layer], rows, curvature)
                    for layer in range(len(states))
                    for some in _pieces(range(layer * members, (layer + 1) * members), few)
                ]
                found.append(-self.sign * torch.cat(own, dim=1))
        slopes, *curvatures = self.finite(torch.cat(found, dim=-1))
        return slopes, curvatures[0] if curvatures else slopes.new_empty(0)

    def _own_of(
        self, members: list[int], t: float, state: State, rows: slice, curvature: bool
    ) -> Float[Tensor, "order member sequence"]:
        """Derivatives of M along the own path of each of some components of one layer, all in one batch."""
        layer, size = self.wiring.components[members[0]].layer, len(state[0])
        path = self.zero_gates().new_full((len(members) * size, 1), t, device=self.model.device).requires_grad_()
        columns = torch.tensor(members, device=path.device).repeat_interleave(size).unsqueeze(1)
        gates = path.new_zeros(len(path), self.components).scatter(1, columns, path)
        with gated(self.model, self.wiring, gates, self.given(rows), self.site, self.where, [layer]):
            logits = self.model.forward_from(layer, repeated(state, len(members)), self.last)
        value = self.metric(logits, *self.answers(rows, len(members)))
        orders = [_derivative(value, path, again=curvature)]
        if curvature:
            orders.append(_second(orders[0], path))
        return torch.stack(orders).detach().unflatten(1, (len(members), -1)).squeeze(-1).double().cpu()

    def given(self, rows: slice) -> Activations:
        """The replacement for some rows; the last few are kept, since for resampling and patching each costs a pass."""
        return self._keep(self._given, rows, lambda: self.replacement(rows))

    def _keep(self, kept: dict[tuple[int, int], Kept], rows: slice, make: Callable[[], Kept]) -> Kept:
        key = rows.start, rows.stop
        if key not in kept:
            while len(kept) >= (1 if self.model.memory else KEPT):
                del kept[next(iter(kept))]
            kept[key] = make()
        return kept[key]

    @torch.no_grad()
    def _states(self, rows: slice, since: int) -> list[State]:
        """What the model continues from at every layer, at the tokens that can change; the last few are kept."""
        return self._keep(self._below, rows, lambda: self.model.states(self.inputs(rows), self.last, since))

    def _since(self, rows: slice) -> int:
        """The first token that open gates can change, where a model need not run those before."""
        return first_changed(self.model, self.given(rows), self.where)

    def _metric(self, gates: Float[Tensor, "row component"], rows: slice, held: bool = False) -> Float[Tensor, " row"]:
        since, first, state = self._since(rows), 0, None
        if since or not gates.requires_grad:  # else all of the model has to run
            if not gates.requires_grad:
                first = min(gates.any(0).nonzero().flatten().tolist(), default=self.components - 1)
            state = self._states(rows, since)[self.wiring.components[first].layer]  # of the clean run: no gate is open yet
        with gated(self.model, self.wiring, gates, self.given(rows), self.site, self.where, held=held):
            if state is None:
                logits = self.model(self.inputs(rows), self.last)
            else:
                logits = self.model.forward_from(self.wiring.components[first].layer, state, self.last)
        return self.metric(logits, *self.answers(rows))

    def _by_rows(
        self, one: Callable[[Tensor, slice], Tensor], xi: Tensor, curved: bool = False
    ) -> Float[Tensor, "order component sequence"]:
        """What `one` gives for the gates of each piece of the batch."""
        gates = xi.expand(self.sequences, -1) if xi.dim() == 1 else xi
        device, pieces = self.model.device, []
        with self.frozen_weights(curved):
            for rows in self.slices(kind="double" if curved else "backward"):
                found = one(gates[rows].to(device).clone(), rows).detach().double().cpu()
                pieces.append(found.reshape(-1, *found.shape[-2:]))
        return self.finite(torch.cat(pieces, dim=1).transpose(1, 2))

    def finite(self, found: Float[Tensor, "order component sequence"]) -> Tensor:
        """The numbers themselves, or a FloatingPointError that names the first component whose score is not finite."""
        bad = found.isfinite().all(-1).all(0).logical_not().nonzero()
        if len(bad):
            name = self.wiring.components[int(bad[0])].name if found.shape[1] == self.components else "the gated model"
            raise FloatingPointError(f"The score of {name} is not finite: weights, activations or a derivative hold NaN or Inf.")
        return found

    @contextmanager
    def frozen_weights(self, curved: bool) -> Iterator[None]:
        """Evaluation mode, weights that ask for no gradient, and attention that has second derivatives where they are needed."""
        with frozen_weights(self.model), sdpa_kernel(SDPBackend.MATH) if curved else nullcontext():
            yield

    def slices(self, usual: int | None = None, kind: Kind = "double") -> list[slice]:
        """Pieces of the batch that go through the model together, of `ROWS` rows by default, or fewer where memory is limited."""
        size = self.model.fits(usual or ROWS, self.batch.inputs.shape[1], kind)
        return [slice(start, min(start + size, self.sequences)) for start in range(0, self.sequences, size)]

    @property
    def last(self) -> int:
        """Scored positions at the end of every sequence."""
        return self.batch.last

    def inputs(self, rows: slice) -> Int[Tensor, "row pos"]:
        """Tokens of some rows, where the model is."""
        return self.batch.inputs[rows].to(self.model.device)

    def answers(self, rows: slice, times: int = 1) -> tuple[Tensor, ...]:
        """What the metric compares the logits of some rows with, repeated so many times, where the model is."""
        return self.batch.answers(rows, self.model.device, times)


def _pieces(members: Sequence[int], size: int) -> list[Sequence[int]]:
    return [members[start : start + size] for start in range(0, len(members), size)]


def _derivative(value: Float[Tensor, " row"], gates: Tensor, again: bool = False) -> Tensor:
    """Derivative of every row of `value` by the row's own gates; `again` keeps the graph for a second one."""
    if not value.requires_grad:
        raise RuntimeError("The metric does not depend on the gates: its graph is cut, and a gradient of zero would be made up.")
    return torch.autograd.grad(value.sum(), gates, create_graph=again)[0]


def _second(first: Tensor, gates: Tensor, again: bool = False) -> Tensor:
    """Derivative of a first derivative; exactly zero where that is constant, as autograd knows of a linear function."""
    if not first.requires_grad:
        return torch.zeros_like(gates)
    return torch.autograd.grad(first.sum(), gates, retain_graph=again, materialize_grads=True)[0]
