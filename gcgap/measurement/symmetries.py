"""The symmetries of a model, tested on it: ways to write the same function down otherwise, and what each moves.

A copy of the model is changed in its weights, by each symmetry in turn. Its logits must stay as they are; what is said of its
components is measured again and held against that of the model itself. `INVARIANT` says what must not move.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import Setup
from gcgap.data.batches import Batch, Purpose, Source, generator
from gcgap.importance.baselines import mean_activations
from gcgap.importance.experiment import Experiment, known_origin, prepare
from gcgap.importance.gap import Array
from gcgap.importance.gauges import (
    SCALE_FACTOR,
    NotApplicableError,
    change_heads,
    fold_biases,
    fold_gains,
    head_groups,
    permute_heads,
)
from gcgap.importance.protocol import Attribution, Baseline, NumberFormat, Protocol
from gcgap.models.transformer import Decoder, eval_mode
from gcgap.models.wiring import Wiring

SIZES = Protocol(
    gradient_batches=2,
    mean_batches=2,
    sequences=8,
    resamples=100,
    random_pairs=0,
    batch_size=8,
    precision=NumberFormat.FLOAT64,
    attribution=Attribution(gradient_batches=1),
)
"""Few sequences: a symmetry holds on each."""
TOLERANCE = 1e-5
"""Of the largest logit, or of a quantity's largest value: more has moved. Parts of some families compute in float32 always."""

OUTPUT_NORMS = "not the gains of norms behind heads and MLPs, because what they put out is added to the residual stream"

Change = Callable[[Decoder, Wiring], None]
"""Changes the weights of a model in place."""


@dataclass(frozen=True)
class Moved:
    """What one symmetry did to a model.

    Args:
        name: Of the symmetry.
        reason: Why it was not applied; empty if it was.
        note: What it leaves out; empty if nothing.
        logits: The largest change of a logit, as a share of the largest logit.
        quantities: The largest change of each quantity over components, as a share of its largest value.
    """

    name: str
    reason: str = ""
    logits: float = 0.0
    quantities: Mapping[str, float] | None = None
    note: str = ""

    @property
    def is_wrong(self) -> bool:
        """Whether logits moved, or a quantity that must not."""
        return self.logits > TOLERANCE or bool(self.wrong)

    @property
    def wrong(self) -> list[str]:
        """Quantities that moved and must not."""
        return [name for name, moved in (self.quantities or {}).items() if moved > TOLERANCE and self.name in INVARIANT[name]]


EVERY = ("head scale", "head matrix", "gains folded", "biases folded", "heads permuted")
BUT_BIASES = tuple(name for name in EVERY if name != "biases folded")
INVARIANT: dict[str, tuple[str, ...]] = {
    "C, mean ablation": EVERY,
    "C, resample ablation": EVERY,
    "C, zero ablation": BUT_BIASES,
    "attribution patching": EVERY,
    "gate gradient": BUT_BIASES,
    "weight x gradient": ("head scale", "gains folded", "biases folded", "heads permuted"),
    "root of dW_V x dW_O": ("head scale", "heads permuted"),
    "G": ("biases folded", "heads permuted"),
    "Fisher trace": ("biases folded", "heads permuted"),
    "G, balanced": ("head scale", "head matrix", "biases folded", "heads permuted"),
}
"""The symmetries that leave each quantity as it is; heads that were permuted are compared with what they were."""


def symmetries(model: Decoder, length: int | None = None) -> list[Moved]:
    """Apply every symmetry to a copy of the model, which stays as it is, in float64.

    Args:
        model: Such as `gcgap.load` or `gcgap.load_pretrained` gives.
        length: Of the sequences; the first OOD length by default.
    """
    origin = known_origin(model, None, None)
    source = origin.source
    chosen = length or source.only_length or source.ood_lengths[0]
    model, wiring, source, at, *_ = prepare(model, origin, None if source.only_length else chosen, SIZES)
    length = chosen if at is None else at
    rng = generator(source.seed, Purpose.GAUGES, length)
    orders = [_order(wiring, rng) for _ in range(wiring.n_layers)]
    changes: dict[str, Change] = {
        "head scale": partial(_scale, rng=rng),
        "head matrix": partial(_mix, rng=rng),
        "gains folded": fold_gains,
        "biases folded": fold_biases,
        "heads permuted": partial(permute_heads, orders=orders),
    }
    batch = source.batch(Purpose.EVALUATION, length, SIZES.sequences)
    logits, before = _logits(model, batch), quantities(model, wiring, source, length)
    was = [wiring.columns(layer)[0].start + head for layer, order in enumerate(orders) for head in [*order, wiring.n_heads]]
    found = []
    for name, change in changes.items():
        changed = copy.deepcopy(model)
        try:
            change(changed, wiring)
        except NotApplicableError as reason:
            found.append(Moved(name, str(reason)))
            continue
        after = quantities(changed, wiring, source, length)
        there = was if name == "heads permuted" else slice(None)
        moved = {key: _apart(before[key][there], values) for key, values in after.items()}
        note = OUTPUT_NORMS if name == "gains folded" and wiring.attention_norm else ""
        found.append(Moved(name, "", _apart(logits, _logits(changed, batch)), moved, note))
    return found


def quantities(model: Decoder, wiring: Wiring, source: Source, length: int) -> dict[str, Array]:
    """Every quantity of `INVARIANT`, of every component; C by log-probability, which moves where exact match may not."""
    means = source.batches(Purpose.MEAN, length, SIZES.mean_batches, SIZES.batch_size)
    mean = mean_activations(model, wiring, means, by_position=False)
    experiment = Experiment(model, wiring, source, SIZES, length, mean)
    batch = experiment.batch(length, SIZES.sequences)
    by_mean, by_resample = (Setup(one).problem(experiment, batch) for one in (Baseline.MEAN, Baseline.RESAMPLE))
    by_zero = replace(by_mean, drop=by_mean.zero)
    methods = {
        "C, mean ablation": ("exact", by_mean),
        "C, resample ablation": ("exact", by_resample),
        "C, zero ablation": ("exact", by_zero),
        "attribution patching": ("attribution_patching", by_mean),
        "gate gradient": ("gate_gradient", by_mean),
        "weight x gradient": ("weight_times_gradient", by_mean),
        "root of dW_V x dW_O": ("gradient_value_output", by_mean),
        "G": ("gradient", by_mean),
        "Fisher trace": ("fisher_trace", by_mean),
        "G, balanced": ("gradient_balanced", by_mean),
    }
    return {name: METHODS[method].run(problem).mean(-1).numpy() for name, (method, problem) in methods.items()}


def _scale(model: Decoder, wiring: Wiring, rng: np.random.Generator) -> None:
    """The values of every head times a random number from 1 / SCALE_FACTOR to SCALE_FACTOR."""
    bound = np.log(SCALE_FACTOR)
    groups = list(head_groups(model, wiring))
    matrices = [np.exp(rng.uniform(-bound, bound)) * torch.eye(len(one.value), dtype=torch.float64) for one in groups]
    change_heads(model, wiring, matrices)


def _mix(model: Decoder, wiring: Wiring, rng: np.random.Generator) -> None:
    """The values of every head times a random matrix whose singular values lie between 1/2 and 2."""
    matrices = []
    for group in head_groups(model, wiring):
        size = len(group.value)
        left, right = (np.linalg.qr(rng.standard_normal((size, size)))[0] for _ in range(2))
        matrices.append(torch.from_numpy(left * 2 ** rng.uniform(-1, 1, size) @ right))
    change_heads(model, wiring, matrices)


def _order(wiring: Wiring, rng: np.random.Generator) -> list[int]:
    """A random order of a layer's heads that keeps groups together and is not the one that they have."""
    size = wiring.value.group
    groups = [rng.permutation(size) + size * group for group in rng.permutation(wiring.n_heads // size)]
    order = np.concatenate(groups).tolist()
    shift = size if size < len(order) else 1
    return order if order != sorted(order) else [*order[shift:], *order[:shift]]


@torch.no_grad()
def _logits(model: Decoder, batch: Batch) -> Array:
    with eval_mode(model):
        return model(batch.inputs.to(model.device), batch.last).double().cpu().numpy()


def _apart(before: Array, after: Array) -> float:
    """The largest change, as a share of the largest value."""
    return float(np.abs(after - before).max() / max(np.abs(before).max(), np.finfo(float).tiny))
