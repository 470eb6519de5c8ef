"""The most memory that tensors need at once: every stage of a measurement, per batch and chunk, against one training step.

Counted by allocations, not by the process; weights, their gradients and Adam's state belong to a training step.
"""

from __future__ import annotations

from memory import peak
from torch.nn import functional as F  # noqa: N812
from torch.optim import Adam

from bench.subject import BASELINES, Reference
from bench.timing import Rows
from gcgap.batches import Purpose, Source
from gcgap.importance import causal
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import mean_activations
from gcgap.importance.gradient import gradient_norms
from gcgap.model import Transformer
from gcgap.packing import scored_logits

LONGEST = 11  # integers per example: the longest that the paper measures


def memory(repeats: int) -> Rows:
    """The whole table; it has no spread."""
    return [
        (name, f"{found / 1e6:.1f} MB, {found / stages['a training step of 64 examples']:.2f}")
        for stages in (of_stages(),)
        for name, found in stages.items()
    ]


def of_stages() -> dict[str, int]:
    """Bytes by stage, at the paper's size; the weights that each needs are counted with it."""
    of = Reference()
    weights = sum(parameter.nbytes for parameter in of.model.parameters())
    gradients = of.source.batches(Purpose.GRADIENT, LONGEST, 2, of.protocol.batch_size)
    batch = of.source.batch(Purpose.EVALUATION, LONGEST, causal.CHUNK * causal.LARGER)
    sets = [causal.Intervention(frozenset([i]), baseline) for baseline in BASELINES[:2] for i in range(of.n)]
    other = {baseline: of.other[baseline] for baseline in BASELINES[:2]}

    def ablations() -> object:
        return causal.ablated_scores(of.model, of.wiring, batch, sets, other)

    found = {"a training step of 64 examples": peak(_trained)}
    stages = {
        "G, a batch of 64": lambda: gradient_norms(of.model, of.wiring, gradients),
        "means, a batch of 64": lambda: mean_activations(of.model, of.wiring, gradients, by_position=False),
        "activation norms, a batch of 64": lambda: activation_norms(of.model, of.wiring, gradients[0]),
        "attention entropies, a batch of 64": lambda: attention_entropies(of.model, gradients[0]),
        f"ablations on a CPU, chunks of {causal.CHUNK} sequences": ablations,
    }
    found |= {name: weights + peak(call) for name, call in stages.items()}
    small, causal.CHUNK, causal.ROWS = (causal.CHUNK, causal.ROWS), causal.CHUNK * causal.LARGER, causal.ROWS * causal.LARGER
    found[f"ablations on a GPU, chunks of {causal.CHUNK} sequences"] = weights + peak(ablations)
    causal.CHUNK, causal.ROWS = small
    return found


def _trained() -> None:
    """Two steps; weights, gradients, Adam's state and activations are all made here."""
    learner, source = Transformer(seed=1), Source("sort")
    adam = Adam(learner.parameters(), 1e-3, fused=True)
    for step in range(2):
        batch = source.training_batch(step, 64)
        loss = F.cross_entropy(scored_logits(learner, batch.inputs, batch.scored), batch.targets[batch.scored])
        adam.zero_grad()
        loss.backward()
        adam.step()
