"""The attribution methods by name. A new method is one function here: table, CLI choice, tag and shared tests follow from it.

A method maps a `Problem` to scores of shape (component, sample), whose mean over samples is the score; samples are sequences or
gradient batches, and their spread makes intervals. Owns names and families; the mathematics is in `gcgap.importance`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.attribution import first_order, paths, second_order, shapley, workflow
from gcgap.attribution.drop import Drop
from gcgap.attribution.sets import single_drops
from gcgap.data.batches import Batch, Purpose, generator
from gcgap.importance.activity import activation_norms
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Attribution
from gcgap.importance.scores import exact_match

Scores = Float[Tensor, "component sample"]


@dataclass(frozen=True)
class Problem:
    """What methods score.

    Args:
        clean: The evaluation sequences.
        drop: D on them.
        zero: The same with zero replacements.
        gradients: The batches of the paper's gradient magnitude.
        settings: How finely.
        seed: Seed of everything random.
    """

    clean: Batch
    drop: Drop
    zero: Drop
    gradients: Sequence[Batch]
    settings: Attribution
    seed: int

    def random(self, index: int) -> np.random.Generator:
        """A random generator of its own for each index."""
        return generator(self.seed, Purpose.ORDER, index)


@dataclass(frozen=True)
class Method:
    """A named method.

    Args:
        name: Its name.
        family: What it looks at: exact, gates, curvature, path, sets, weights or control.
        estimates: What its scores estimate: `drop` (D(e_i), in the metric's units), `shapley`, or None if they only rank.
        run: Scores of a problem.
        text: One sentence.
    """

    name: str
    family: str
    estimates: str | None
    run: Callable[[Problem], Scores]
    text: str


METHODS: dict[str, Method] = {}


def method(family: str, estimates: str | None = None) -> Callable[[Callable[[Problem], Scores]], Callable[[Problem], Scores]]:
    """Register a function under its name; its docstring is the sentence."""

    def register(run: Callable[[Problem], Scores]) -> Callable[[Problem], Scores]:
        METHODS[run.__name__] = Method(run.__name__, family, estimates, run, run.__doc__ or "")
        return run

    return register


def find_methods(names: Sequence[str]) -> list[Method]:
    """The methods of these names.

    Raises:
        ValueError: A name is not registered.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"`methods` must be among {', '.join(METHODS)}; got {name!r}.")
    return [METHODS[name] for name in names]


def affordable() -> tuple[str, ...]:
    """The methods that do not take backward passes, or sampled orders, for each component by itself."""
    own = [name for name, one in METHODS.items() if one.family in ("curvature", "path") and one.estimates == "drop"]
    return tuple(name for name, one in METHODS.items() if name not in own and one.family != "sets")


@method("exact", "drop")
def exact(p: Problem) -> Scores:
    """The exact effect D(e_i): one forward pass per component."""
    return getattr(single_drops(p.drop), p.settings.metric)


@method("weights")
def gradient(p: Problem) -> Scores:
    """The paper's gradient magnitude G: norm of the weights' gradient over sqrt(N_i)."""
    return _counted(p, gradient_norms(p.drop.model, p.drop.wiring, p.gradients), p.gradients)


@method("weights")
def gradient_output(p: Problem) -> Scores:
    """As gradient, but of a head's slice of W_O, which heads that share their values do not share."""
    return _counted(p, gradient_norms(p.drop.model, p.drop.wiring, p.gradients, heads="output"), p.gradients)


@method("weights")
def gradient_raw(p: Problem) -> Scores:
    """G without the division by sqrt(N_i)."""
    return _counted(p, gradient_norms(p.drop.model, p.drop.wiring, p.gradients, normalise=False), p.gradients)


@method("weights")
def fisher_trace(p: Problem) -> Scores:
    """Mean squared norm of the weights' gradient per sequence."""
    few = p.gradients[: p.settings.gradient_batches]
    return _counted(p, first_order.fisher_trace(p.drop.model, p.drop.wiring, few), few)


@method("weights")
def weight_times_gradient(p: Problem) -> Scores:
    """Sum over the weights of |weight x gradient|."""
    return _counted(p, first_order.weight_times_gradient(p.drop.model, p.drop.wiring, p.gradients), p.gradients)


@method("gates", "drop")
def attribution_patching(p: Problem) -> Scores:
    """The tangent dD/dxi_i at the untouched model."""
    return first_order.attribution_patching(p.drop)


@method("gates")
def gate_gradient(p: Problem) -> Scores:
    """Mean |dD/dxi_i| with zero replacements (Michel et al. 2019)."""
    return first_order.gate_gradient(p.zero)


@method("curvature", "drop")
def hvp(p: Problem) -> Scores:
    """Attribution patching plus half of each component's own curvature, by double backward."""
    return second_order.hvp(p.drop)


@method("curvature", "drop")
def hvp_differences(p: Problem) -> Scores:
    """As hvp, with the curvature from differences of gradients: works with fused kernels."""
    return second_order.hvp_by_differences(p.drop, p.settings.difference)


@method("curvature", "shapley")
def joint_hvp(p: Problem) -> Scores:
    """g + H 1 / 2, the second-order Shapley value: one double backward for all components."""
    return second_order.joint_hvp(p.drop)


@method("curvature", "shapley")
def joint_hvp_differences(p: Problem) -> Scores:
    """As joint_hvp, from two gradients."""
    return second_order.joint_hvp_by_differences(p.drop, p.settings.difference)


@method("curvature", "drop")
def multi_step_hvp(p: Problem) -> Scores:
    """Second-order steps along each component's own path."""
    return second_order.multi_step_hvp(p.drop, p.settings.steps)


def _integrated(rule: str, p: Problem) -> Scores:
    return paths.integrated_gradients(p.drop, paths.RULES[rule], p.settings.steps)


for _rule in paths.RULES:
    _name = f"ig_{_rule}"
    _text = f"Integrated gradients along each component's own path, {_rule} rule."
    METHODS[_name] = Method(_name, "path", "drop", partial(_integrated, _rule), _text)


@method("path", "shapley")
def joint_ig(p: Problem) -> Scores:
    """Integrated gradients along the path on which all gates open together, midpoint rule (Aumann-Shapley)."""
    return paths.joint_integrated_gradients(p.drop, paths.midpoint, p.settings.steps)


@method("sets", "shapley")
def shapley_value(p: Problem) -> Scores:
    """Mean marginal drop over sampled orders in antithetic pairs."""
    return shapley.shapley_values(p.drop, p.settings.pairs, p.random(0))


@method("sets")
def shapley_exact_match(p: Problem) -> Scores:
    """As shapley_value, of exact match."""
    return shapley.shapley_values(replace(p.drop, metric=exact_match), p.settings.pairs, p.random(0))


@method("workflow")
def screen_flag_fix(p: Problem) -> Scores:
    """Screen by tangent and joint curvature, exact effects where flagged and affordable."""
    return workflow.screen_flag_fix(p.drop, p.settings.metric, p.settings.budget, p.random(1)).scores


@method("control")
def activation_norm(p: Problem) -> Scores:
    """Mean norm of what the component writes: no gradient, no intervention."""
    p.drop.passes.forward += 1
    return activation_norms(p.drop.model, p.drop.wiring, p.drop.batch)[:, None]


@method("control")
def layer_index(p: Problem) -> Scores:
    """The component's layer."""
    return torch.tensor([[float(component.layer)] for component in p.drop.wiring.components], dtype=torch.float64)


@method("control")
def random_order(p: Problem) -> Scores:
    """One random order of the components."""
    return torch.from_numpy(p.random(2).permutation(p.drop.components).astype(np.float64))[:, None]


def _counted(p: Problem, scores: Scores, batches: Sequence[Batch]) -> Scores:
    """Count backward passes over weights, in units of the evaluation sequences."""
    passes = sum(len(batch.inputs) for batch in batches) / p.drop.sequences
    p.drop.passes.forward += passes
    p.drop.passes.backward += passes
    return scores
