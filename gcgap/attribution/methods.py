"""The attribution methods by name, each with its equation. A new method is one decorated function here.

Table, command-line choice, TensorBoard tag and shared tests follow from its name, and the first sentence of its docstring is its
text. A method maps a `Problem` to scores of shape (component, sample), whose mean over samples is the score; samples are
sequences or gradient batches, and their spread makes intervals.

D(xi) is the drop, g its gradient and H its Hessian at xi = 0, and F_i(t) = D(t e_i) the own path of component i. L is the mean
cross entropy per scored token, of one sequence x or of a batch b; W_i is the same slice of weights as in G.

Second order is after arXiv:2606.09899; the formulas are this project's reading. Curvature comes by double backward, which fused
attention kernels lack (the plain attention path is taken), or by central differences of gradients, which any kernel can do: error
h^2 |F''''| / 6 plus the gradient's rounding over h. The slope, the mean of the same two gradients, then errs by half of h^2 times
the third derivative.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from gcgap.attribution import paths, probes, workflow
from gcgap.attribution.drop import Drop
from gcgap.attribution.input_path import input_gradients, token_embedding
from gcgap.attribution.sets import single_drops
from gcgap.data.batches import Batch, Purpose, generator
from gcgap.importance.activity import activation_norms
from gcgap.importance.gauges import gauged_norms
from gcgap.importance.gradient import gradient_norms, over_batches
from gcgap.importance.protocol import Attribution, Baseline, Stage
from gcgap.importance.scores import exact_match
from gcgap.models.transformer import Decoder
from gcgap.models.wiring import Wiring

PAIR_LIMIT = 40  # components from which on not every pair is measured, nor what takes passes for each component
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
        other: Of activation patching the corrupted inputs (or for denoising the clean ones); None for ablation.
        errors: What methods that draw find out: by name the standard error of each component's score from their draws alone.
        workflow: What Screen-Flag-Fix did, once it has.
    """

    clean: Batch
    drop: Drop
    zero: Drop
    gradients: Sequence[Batch]
    settings: Attribution
    seed: int
    other: Int[Tensor, "sequence pos"] | None = None
    errors: dict[str, Float[Tensor, " component"]] = field(default_factory=dict)
    workflow: list[workflow.Workflow] = field(default_factory=list)

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
        small: Whether it is run by default of models with few components only: it takes passes for each of them, or layer.
        corrupts: Whether it needs a corrupted input, which activation patching has and ablation has not.
    """

    name: str
    family: str
    estimates: str | None
    run: Callable[[Problem], Scores]
    text: str
    small: bool = False
    corrupts: bool = False


METHODS: dict[str, Method] = {}


def method(
    family: str, estimates: str | None = None, small: bool = False, corrupts: bool = False
) -> Callable[[Callable[[Problem], Scores]], Callable[[Problem], Scores]]:
    """Register a function under its name; the first paragraph of its docstring is its text."""

    def register(run: Callable[[Problem], Scores]) -> Callable[[Problem], Scores]:
        text = (inspect.getdoc(run) or "").partition("\n\n")[0]
        METHODS[run.__name__] = Method(run.__name__, family, estimates, run, text, small, corrupts)
        return run

    return register


def find_methods(names: Sequence[str], baseline: Baseline) -> list[Method]:
    """The methods of these names.

    Raises:
        ValueError: A name is not registered, or the method needs a corrupted input and the baseline has none.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(f"`methods` must be among {', '.join(METHODS)}; got {name!r}.")
        if METHODS[name].corrupts and baseline.corruption is None:
            raise ValueError(
                f"`methods`: {name} needs a corrupted input, which a baseline patch_* has; got {baseline}. Leave it out."
            )
    return [METHODS[name] for name in names]


def default_methods(model: Decoder | None = None, baseline: Baseline = Baseline.MEAN) -> tuple[str, ...]:
    """All that the baseline has the inputs for; of a model with many components none of those for models with few."""
    few = model is None or len(Wiring.of(model).components) <= PAIR_LIMIT
    corrupted = baseline.corruption is not None and (model is None or token_embedding(model) is not None)
    return tuple(name for name, one in METHODS.items() if (few or not one.small) and (corrupted or not one.corrupts))


def default_stages(model: Decoder | None = None) -> tuple[str, ...]:
    """All, or of a model with many components the methods alone."""
    few = model is None or len(Wiring.of(model).components) <= PAIR_LIMIT
    return tuple(map(str, Stage if few else (Stage.METHODS,)))


@method("exact", "drop")
def exact(p: Problem) -> Scores:
    """The exact effect D(e_i): one forward pass per component."""
    return getattr(single_drops(p.drop), p.settings.metric)


# By the weights: none of these knows how far a component's output would move.


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
    """Mean squared norm of the weights' gradient per sequence.

    Fisher trace: E_x || dL_x / dW_i ||_F^2, empirical: at the true targets. One backward pass for each sequence.
    """
    few = p.gradients[: p.settings.gradient_batches]
    single = [batch.rows(slice(row, row + 1)) for batch in few for row in range(len(batch.inputs))]
    return _counted(p, over_batches(p.drop.model, p.drop.wiring, single, lambda i, gradient, _: gradient.square().sum()), few)


@method("weights")
def weight_times_gradient(p: Problem) -> Scores:
    """Sum over the weights of |weight x gradient|.

    Connection sensitivity: sum over the entries of W_i of |w dL_b/dw| (Lee et al. 2019).
    """
    found = over_batches(p.drop.model, p.drop.wiring, p.gradients, lambda i, gradient, weight: (weight * gradient).abs().sum())
    return _counted(p, found, p.gradients)


@method("weights")
def gradient_balanced(p: Problem) -> Scores:
    """As gradient, with each head's W_V and W_O balanced, so that it does not depend on how the head is written down.

    See `gcgap.importance.gauges`.
    """
    trained_and_balanced = gauged_norms(p.drop.model, p.drop.wiring, p.gradients, gauges=["balanced"])
    return _counted(p, trained_and_balanced[1], p.gradients)


@method("weights")
def gradient_value_output(p: Problem) -> Scores:
    """Root of the product of the norms of a head's gradients in W_V and in W_O, which no scale of the head changes.

    sqrt(|| dL_b/dW_V || || dL_b/dW_O ||), of an MLP || dL_b/dW_down ||, each norm over the root of its number of entries.
    """
    value, output = (gradient_norms(p.drop.model, p.drop.wiring, p.gradients, heads=heads) for heads in ("value", "output"))
    return _counted(p, (value * output).sqrt(), [*p.gradients, *p.gradients])


def _counted(p: Problem, scores: Scores, batches: Sequence[Batch]) -> Scores:
    """Count backward passes over weights, in units of the evaluation sequences."""
    passes = sum(len(batch.inputs) for batch in batches) / p.drop.sequences
    p.drop.passes.forward += passes
    p.drop.passes.backward += passes
    return scores


# By the gates, first order.


@method("gates", "drop")
def attribution_patching(p: Problem) -> Scores:
    """The tangent dD/dxi_i at the untouched model.

    Attribution patching (AP): g_i (Nanda 2023; here of the drop, so positive means needed).
    """
    return p.drop.gradient(p.drop.zero_gates())


@method("gates")
def gate_gradient(p: Problem) -> Scores:
    """Mean |dD/dxi_i| with zero replacements (Michel et al. 2019).

    Gate gradient: E_x |g_i| with a_i = 0, without their normalisation per layer.
    """
    return p.zero.gradient(p.zero.zero_gates()).abs()


# By the gates, second order.


@method("curvature", "drop", small=True)
def hvp(p: Problem) -> Scores:
    """Attribution patching plus half of each component's own curvature, by double backward.

    HVP: F_i'(0) + F_i''(0) / 2
    """
    slope, curvature = p.drop.path_derivatives(0.0, curvature=True)
    return slope + curvature / 2


@method("curvature", "drop", small=True)
def hvp_differences(p: Problem) -> Scores:
    """As hvp, with the curvature from differences of gradients: works with fused kernels.

    HVP by differences: (F_i'(-h) + F_i'(h)) / 2 + (F_i'(h) - F_i'(-h)) / (4 h)
    """
    h = p.settings.difference
    before, after = (p.drop.path_derivatives(t)[0] for t in (-h, h))
    return (before + after) / 2 + (after - before) / (4 * h)


@method("curvature", "drop")
def hvp_probes(p: Problem) -> Scores:
    """As hvp, with the curvatures of all components from double backwards in random signs, one for each probe.

    HVP by probes: g_i + mean over probes of v_i (H v)_i / 2, with v_i = +-1 drawn for each sequence and component
    """
    found = probes.curvatures(p.drop, p.settings.probes, p.random(3))
    if found.error is not None:
        p.errors["hvp_probes"] = found.error / 2
    return found.slope + found.own / 2


@method("curvature", "drop", small=True)
def hvp_by_layer(p: Problem) -> Scores:
    """As hvp_probes, with one probe for each layer, so that no layer disturbs the curvatures of another.

    HVP by layer: g_i + v_i (H v)_i / 2, v_j = +-1 in the layer of i and 0 elsewhere
    """
    found = probes.curvatures_by_layer(p.drop, p.random(4))
    return found.slope + found.own / 2


@method("curvature", "shapley")
def joint_hvp(p: Problem) -> Scores:
    """g + H 1 / 2, the second-order Shapley value: one double backward for all components.

    Joint HVP: g_i + (H 1)_i / 2, which sums to the second-order joint effect.
    """
    zero = p.drop.zero_gates()
    g, h = p.drop.hessian_product(zero, zero + 1)
    return g + h / 2


@method("curvature", "shapley")
def joint_hvp_differences(p: Problem) -> Scores:
    """As joint_hvp, from two gradients.

    Joint HVP by differences: (g(-h 1) + g(h 1)) / 2 + (g(h 1) - g(-h 1)) / (4 h)
    """
    h = p.settings.difference
    before, after = (p.drop.gradient(p.drop.zero_gates() + t) for t in (-h, h))
    return (before + after) / 2 + (after - before) / (4 * h)


@method("curvature", "drop", small=True)
def multi_step_hvp(p: Problem) -> Scores:
    """Second-order steps along each component's own path.

    Multi-step HVP: sum_k F_i'(k/K) / K + F_i''(k/K) / (2 K^2), k = 0 .. K-1; error max|F'''| / (6 K^2)
    """
    steps, total = p.settings.steps, torch.zeros(p.drop.components, p.drop.sequences, dtype=torch.float64)
    for k in range(steps):
        slope, curvature = p.drop.path_derivatives(k / steps, curvature=True)
        total += slope / steps + curvature / (2 * steps**2)
    return total


# By paths and sets: the equations are in `gcgap.attribution.paths`.


def _integrated(rule: str, p: Problem) -> Scores:
    return paths.integrated_gradients(p.drop, paths.RULES[rule], p.settings.steps)


for _rule in paths.RULES:
    _name = f"ig_{_rule}"
    _text = f"Integrated gradients along each component's own path, {_rule} rule."
    METHODS[_name] = Method(_name, "path", "drop", partial(_integrated, _rule), _text, small=True)


@method("path", "shapley")
def joint_ig(p: Problem) -> Scores:
    """Integrated gradients along the path on which all gates open together, midpoint rule (Aumann-Shapley)."""
    return paths.joint_integrated_gradients(p.drop, paths.midpoint, p.settings.steps)


@method("path", "drop", corrupts=True)
def eap_ig(p: Problem) -> Scores:
    """Gradients averaged while the embedding moves from the clean to the corrupted input, times the change of the output."""
    assert p.other is not None, "`find_methods` lets it run with a corrupted input only"
    return input_gradients(p.drop, p.other, p.settings.steps)


@method("sets", "shapley", small=True)
def shapley_value(p: Problem) -> Scores:
    """Mean marginal drop over sampled orders in antithetic pairs."""
    return paths.shapley_values(p.drop, p.settings.pairs, p.random(0))


@method("sets", small=True)
def shapley_exact_match(p: Problem) -> Scores:
    """As shapley_value, of exact match."""
    return paths.shapley_values(replace(p.drop, metric=exact_match), p.settings.pairs, p.random(0))


def screened(p: Problem) -> workflow.Workflow:
    """What Screen-Flag-Fix does, once for each problem."""
    if not p.workflow:
        p.workflow.append(workflow.screen_flag_fix(p.drop, p.settings, p.random(1)))
    return p.workflow[0]


@method("workflow", "drop")
def screen_flag_fix(p: Problem) -> Scores:
    """Screen by tangent and own curvature from probes, exact effects where flagged and affordable, the tangent elsewhere."""
    return screened(p).scores


@method("workflow", "drop")
def exact_for_largest(p: Problem) -> Scores:
    """Exact effects of the largest |attribution patching|, as many as screen_flag_fix may compute; the tangent elsewhere."""
    return workflow.exact_for_largest(p.drop, p.settings)


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
