"""One measurement: a model in, a record out.

Owns the order of the stages and what of their results a record holds. The quantities themselves are in `gcgap.importance` and
`gcgap.importance.gap`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gcgap.attribution.attribute import track
from gcgap.attribution.methods import find_methods
from gcgap.data.batches import Purpose, generator
from gcgap.importance.ablation import Intervention
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import Baseline
from gcgap.importance.experiment import Subject, shared_means
from gcgap.importance.gap import Array, Gap, bootstrap_means, measure_gap
from gcgap.importance.gradient import weight_sizes
from gcgap.importance.prepare import begin, judgement, known_origin
from gcgap.importance.protocol import PROMPTED, Protocol
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.measurement.entries import body, skipped
from gcgap.measurement.joint import inside_entries, joint, named_sets, pruning, random_pairs, random_pruning, role_sets, set_drops
from gcgap.models.transformer import Decoder, Origin
from gcgap.records.record import Record


@torch.inference_mode(False)  # that of a caller, in which no gradient can be taken
def measure(
    model: Decoder,
    task: str | None = None,
    *,
    length: int | None = None,
    protocol: Protocol | None = None,
    origin: Origin | None = None,
    sharing: Sharing = ALONE,
) -> Record:
    """Measure what each component's gradient says and what it causes.

    Leaves the model as it was: weights, `.grad`, mode, hooks and every random generator.

    Args:
        model: Such as `gcgap.load` or `gcgap.load_pretrained` gives.
        task: Name of the task; that of the model's origin by default.
        length: Length of the OOD sequences. By default the paper's window rule picks it.
        protocol: What is measured, and how; by default `Protocol()`, or of a model on prompts
            `gcgap.importance.protocol.PROMPTED`.
        origin: Where the model comes from; known for a model from `gcgap.load`.
        sharing: The processes that all make this call and share its work; each gets the whole record.

    Returns:
        The record. If the window rule finds no length the record says so and holds no components.

    Raises:
        ValueError: An unknown task, no task, or a length that the model cannot read.
        FloatingPointError: A weight, or what the model gives, is NaN or Inf.
    """
    origin = known_origin(model, task, origin)
    protocol = protocol or (Protocol() if origin.source.only_length is None else PROMPTED)
    find_methods(protocol.attribution.methods)
    begun = begin(model, origin, length, protocol, sharing=sharing)
    model, wiring, source, length, record, seconds = begun
    if length is None:
        return Record(record | skipped(protocol, record["accuracy"]) | {"seconds": seconds.by_stage})
    with seconds("mean"):
        means = source.batches(Purpose.MEAN, length, protocol.mean_batches, protocol.batch_size)
        mean = shared_means(sharing, model, wiring, means, by_position=False)
        entropies = attention_entropies(model, means[0]).numpy() if model.shows_patterns else None
        activity = activation_norms(model, wiring, means[0]).numpy(), entropies
    subject = Subject(model, wiring, source, protocol, length, mean, sharing)
    with seconds("gradient"):
        norms = subject.norms()
    with seconds("causal"):
        causal = _causal(subject, protocol.paired)
    rng = generator(source.seed, Purpose.STATISTICS, length)
    with seconds("statistics"):
        gaps, intervals = _gaps(norms, causal, subject.metrics, protocol, rng)
    record |= body(wiring.components, protocol, norms, weight_sizes(model, wiring), activity, causal, gaps, intervals)
    with seconds("pruning"):
        record |= _classes(subject, norms.mean(-1), causal[:, 0], gaps, rng)
        for component, drop in zip(record["components"], inside_entries(subject, rng, judgement(protocol)), strict=True):
            component["in_distribution"] = drop
    if protocol.attribution.methods:  # last, so that every other number is that of a measurement without
        with seconds("attribution"):
            exact: dict[str, Array] = dict(zip(subject.metrics, causal[0], strict=True))
            record["attribution"], scores = track(subject, Baseline(protocol.baselines[0]), exact, rng)
            for component, of_methods in zip(record["components"], scores, strict=True):
                component["attribution"] = of_methods
    return Record(record | {"seconds": seconds.by_stage})


def _causal(subject: Subject, paired: bool) -> Array:
    """Per-sequence drops of every component, shape (baseline, metric, component, sequence)."""
    baselines = [Baseline(name) for name in subject.protocol.baselines]
    n = len(subject.wiring.components)
    sets = [Intervention(frozenset([member]), baseline) for baseline in baselines for member in range(n)]
    size = subject.protocol.sequences
    if paired:
        found = subject.drops(sets, subject.batch(subject.length, size))
    else:
        found = subject.drops_unpaired(sets, subject.length, size)
    return found.reshape(len(subject.metrics), len(baselines), n, -1).swapaxes(0, 1)


def _gaps(
    norms: Array, causal: Array, metrics: Sequence[str], protocol: Protocol, rng: np.random.Generator
) -> tuple[dict[str, dict[str, Gap]], tuple[Array, Array]]:
    """The gap for every baseline and metric, and the bootstrap distributions of G and C."""
    by = judgement(protocol)
    shape = causal.shape
    G, C = bootstrap_means(norms, causal.reshape(-1, *shape[2:]), by.resamples, rng)
    C = C.reshape(*shape[:3], -1)
    gaps = {
        baseline: {metric: measure_gap(norms, causal[b, m], (G, C[b, m]), by, rng) for m, metric in enumerate(metrics)}
        for b, baseline in enumerate(protocol.baselines)
    }
    return gaps, (G, C)


def _classes(
    subject: Subject, G: Array, causal: Array, gaps: dict[str, dict[str, Gap]], rng: np.random.Generator
) -> dict[str, Any]:
    """What removing whole classes, and the sets that the protocol names, costs.

    `causal` holds exact-match drops, shape (baseline, component, sequence).
    """
    by, names = judgement(subject.protocol), [component.name for component in subject.wiring.components]
    sets = role_sets({baseline: of["exact_match"] for baseline, of in gaps.items()}, G, causal.mean(-1), names)
    named = named_sets(subject)
    pairs = random_pairs(subject, rng)
    found = set_drops(subject, sets | named | pairs)
    alone = causal if subject.protocol.paired else _causal(subject, paired=True)[:, 0]  # joint drops are always paired
    individual = dict(zip(gaps, alone, strict=True))
    return {
        "pruning": pruning(sets, found, names, by, rng),
        "random_pairs": random_pruning(pairs, found, names, by, rng),
        "joint": joint(sets, found, individual, names, by, rng),
        "sets": pruning(named, found, names, by, rng),
    }
