"""Small games for the tests of attribution: D of tiny models, random or made straight, and the same in the reference's words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import reference
import torch
from torch import Tensor, nn

from gcgap.attribution.drop import Drop
from gcgap.attribution.methods import METHODS, Problem
from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.baselines import activations_on
from gcgap.importance.protocol import Attribution, Metric, Site
from gcgap.importance.scores import DIFFERENTIABLE, MetricFunction
from gcgap.models.transformer import Decoder, Transformer
from gcgap.models.wiring import Wiring

SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 32, "n_ctx": 10, "seed": 5}
WIRING = Wiring(2, 2)
PARTS: list[reference.Part] = [(part.layer, part.head) for part in WIRING.components]
N = len(PARTS)
LENGTH, ROWS = 3, 4
SOURCE = Source("sort", seed=3, lengths=(1, 2), ood_lengths=(LENGTH,))
POSITIONS = 2 * LENGTH + 2
CLOSE: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-9}
THEIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "log_prob": reference.log_prob,
    "logit_difference": reference.logit_difference,
    "probability_difference": reference.probability_difference,
    "logits": lambda logits, targets: logits,
}


def bent_model(**changes: Any) -> Transformer:
    """Random weights in float64, twice as large as at initialisation: D is then far from linear."""
    sizes: dict[str, Any] = SIZES | changes
    model = Transformer(**sizes).double()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(1 if "norm" in name else 2)
    return model


def some_batch(rows: int = ROWS, index: int = 0) -> Batch:
    return SOURCE.batch(Purpose.EVALUATION, LENGTH, rows, index)


def other_inputs(rows: int = ROWS) -> Tensor:
    """Other tokens, those after SEP too."""
    return some_batch(rows, index=1).inputs


def a_drop(model: Decoder | None = None, rows: int = ROWS, **fields: Any) -> Drop:
    """D of the model on a few sequences, whose components are replaced by what they put out on others."""
    model = model or bent_model()
    wiring = fields.pop("wiring", None) or Wiring.of(model)
    replacement = fields.pop("replacement", None) or activations_on(model, wiring, other_inputs(rows), LENGTH + 1)
    return Drop(model, wiring, fields.pop("batch", None) or some_batch(rows), replacement, **fields)


def level_of(drop: Drop, metric: str = "log_prob", positions: str = "none") -> reference.Level:
    """M of `a_drop` by the reference."""
    state = reference.float64(drop.model.state_dict())
    other = reference.run(state, other_inputs(drop.sequences), drop.wiring.n_heads, positions).parts
    where = None if drop.where is None else drop.where.tolist()
    parts = [(part.layer, part.head) for part in drop.wiring.components]
    inputs, targets = drop.batch.inputs, drop.batch.targets
    return reference.level(
        state, inputs, targets, LENGTH + 1, drop.wiring.n_heads, positions, parts, other, THEIRS[metric], drop.site, where
    )


CASES: list[Any] = [  # metric, site, positions at which gates act, what tells positions apart
    ("log_prob", Site.COMPONENT, None, "none"),
    ("logit_difference", Site.COMPONENT, [1, 4, 6], "none"),
    ("log_prob", Site.RELEASED, [0, 2, 5, 7], "learned"),
    ("log_prob", Site.RELEASED, None, "rotary"),
]


def case(metric: str, site: Site, where: Sequence[int] | None, positions: str, rows: int = ROWS) -> tuple[Drop, reference.Level]:
    """One of CASES in the package's words and in the reference's."""
    chosen = None if where is None else torch.isin(torch.arange(POSITIONS), torch.tensor(where))
    drop = a_drop(bent_model(positions=positions), rows, metric=DIFFERENTIABLE[Metric(metric)], site=site, where=chosen)
    return drop, level_of(drop, metric, positions)


def straight(n_layers: int = 2, n_heads: int = 2, parallel: bool = False) -> Transformer:
    """A transformer that is a linear function of its embedding: even patterns, huge LayerNorm epsilons, GELUs far to the right.

    Where gates of two layers are open at once, what passes both is a product of the two: M is linear in every gate by itself,
    not in all together. In a `parallel` one no component reads another, and it is: one layer, whose MLP writes a constant.
    """
    sizes: dict[str, Any] = SIZES | {"n_layers": 1 if parallel else n_layers, "n_heads": n_heads}
    model = Transformer(**sizes).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e16
                module.weight.fill_(1e8)
        for block in model.blocks:
            block.attention.W_Q.weight.zero_()
            block.attention.W_Q.bias.zero_()
            block.mlp.W_in.bias.fill_(60.0)
            block.mlp.W_out.weight.mul_(2)
            block.mlp.W_out.bias.copy_(torch.linspace(-1, 1, model.d_model) - 60 * block.mlp.W_out.weight.sum(-1))
            block.attention.W_O.weight.mul_(2)
            if parallel:
                block.mlp.W_in.weight.zero_()
        model.unembedding.weight.mul_(3)
    return model


def projected(logits: Tensor, targets: Tensor) -> Tensor:
    """A linear function of the logits: the target's, mean over tokens."""
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1).double().mean(-1)


def polynomial(*coefficients: float) -> MetricFunction:
    """sum_k c_k y^k with y = `projected`."""

    def metric(logits: Tensor, targets: Tensor, wrong: Tensor | None = None) -> Tensor:
        y, total = projected(logits, targets), logits.new_zeros(len(logits))
        for power, coefficient in enumerate(coefficients):
            total = total + coefficient * y**power
        return total

    return metric


QUADRATIC, CUBIC = polynomial(0, 1.0, 0.5), polynomial(0, 1.0, -0.5, 0.3)


def exact(drop: Drop) -> Tensor:
    """D(e_i) by one run each, (component, sequence)."""
    return torch.stack([drop.value(one) for one in torch.eye(drop.components, dtype=torch.float64)])


def scores(name: str, drop: Drop, gradients: Sequence[Batch] = (), **settings: Any) -> Tensor:
    """What a method gives for a drop; one of zero replacements takes that drop's own."""
    return METHODS[name].run(Problem(drop.batch, drop, drop, gradients, Attribution(**settings), 0))


attribution_patching, gate_gradient, hvp, joint_hvp = (
    partial(scores, name) for name in ("attribution_patching", "gate_gradient", "hvp", "joint_hvp")
)


def multi_step_hvp(drop: Drop, steps: int) -> Tensor:
    return scores("multi_step_hvp", drop, steps=steps)


def hvp_differences(drop: Drop, h: float = 0.02) -> Tensor:
    return scores("hvp_differences", drop, difference=h)


def joint_hvp_differences(drop: Drop, h: float = 0.02) -> Tensor:
    return scores("joint_hvp_differences", drop, difference=h)


def fisher_trace(model: Decoder, batches: Sequence[Batch]) -> Tensor:
    return scores("fisher_trace", a_drop(model), batches)


def weight_times_gradient(model: Decoder, batches: Sequence[Batch]) -> Tensor:
    return scores("weight_times_gradient", a_drop(model), batches)
