"""The most memory that tensors need at once: every stage of a measurement, per batch and chunk, against one training step.

Counted by allocations, not by the process; weights, their gradients and Adam's state belong to a training step.
"""

from __future__ import annotations

from collections.abc import Callable

from memory import peak
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.optim import Adam

from bench.subject import Reference
from bench.timing import Rows
from gcgap.data.batches import Purpose, Source
from gcgap.importance import ablation as causal
from gcgap.importance import optimal
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import mean_activations, replacements
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline
from gcgap.models.transformer import Transformer
from gcgap.training.module import packed_logits

BASELINES = [one for one in Baseline if one != Baseline.PATCH_PROMPT]
LONGEST = 11  # integers per example: the longest that the paper measures


def memory(repeats: int) -> Rows:
    """The whole table; it has no spread."""
    stages = of_stages()
    return [(name, f"{found / 1e6:.1f} MB, {found / stages[step(name)]:.2f}") for name, found in stages.items()]


def step(stage: str) -> str:
    """The training step that a stage is compared with: the one of the same device."""
    return "a training step of 64 examples, as on a " + ("GPU" if "GPU" in stage else "CPU")


def of_stages() -> dict[str, int]:
    """Bytes by stage, at the paper's size; the weights that each needs are counted with it."""
    of = Reference()
    weights = sum(parameter.nbytes for parameter in of.model.parameters())
    gradients = of.source.batches(Purpose.GRADIENT, LONGEST, 2, of.protocol.batch_size)
    batch = of.source.batch(Purpose.EVALUATION, LONGEST, causal.CHUNK * causal.LARGER)
    sets = [causal.Intervention(frozenset([i]), baseline) for baseline in BASELINES for i in range(of.n)]
    made = (of.model, of.wiring, of.source, batch, BASELINES, of.mean, 2, of.protocol.batch_size)
    other = replacements(*made, optimal=of.mean)  # of the same shape

    def ablations() -> object:
        return causal.ablated_scores(of.model, of.wiring, batch, causal.bound(sets, other))

    found = {step("on a CPU"): peak(lambda: _trained(packed_logits)), step("on a GPU"): peak(lambda: _trained(_padded_logits))}
    stages = {
        "G, a batch of 64": lambda: gradient_norms(of.model, of.wiring, gradients),
        "means, a batch of 64": lambda: mean_activations(of.model, of.wiring, gradients, by_position=False),
        "activation norms, a batch of 64": lambda: activation_norms(of.model, of.wiring, gradients[0]),
        "attention entropies, a batch of 64": lambda: attention_entropies(of.model, gradients[0]),
        f"ablations on a CPU, chunks of {causal.CHUNK} sequences": ablations,
    }
    found |= {name: weights + peak(call) for name, call in stages.items()}
    steps, optimal.STEPS = optimal.STEPS, 2  # as much as all of them
    constants = peak(lambda: optimal.optimal_activations(of.model, of.wiring, gradients, of.mean))
    optimal.STEPS = steps
    found[f"constants of optimal ablation, {optimal.ROWS} sequences for each component of a layer"] = weights + constants
    small, causal.CHUNK, causal.ROWS = (causal.CHUNK, causal.ROWS), causal.CHUNK * causal.LARGER, causal.ROWS * causal.LARGER
    found[f"ablations on a GPU, chunks of {causal.CHUNK} sequences"] = weights + peak(ablations)
    causal.CHUNK, causal.ROWS = small
    return found


def _padded_logits(model: Transformer, inputs: Tensor, scored: Tensor) -> Tensor:
    return model(inputs)[scored]


def _trained(logits: Callable[[Transformer, Tensor, Tensor], Tensor]) -> None:
    """Two steps; weights, gradients, Adam's state and activations are all made here."""
    learner, source = Transformer(seed=1), Source("sort")
    adam = Adam(learner.parameters(), 1e-3, fused=True)
    for step in range(2):
        batch = source.training_batch(step, 64)
        loss = F.cross_entropy(logits(learner, batch.inputs, batch.scored), batch.targets[batch.scored])
        adam.zero_grad()
        loss.backward()
        adam.step()
