"""One measurement: a model in, a record out.

Owns the order of the stages and what of their results a record holds. The quantities themselves are in `gcgap.importance` and
`gcgap.importance.gap`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gcgap.attribution.methods import find_methods
from gcgap.attribution.track import track
from gcgap.data.batches import Batch, Purpose, Source, generator
from gcgap.importance.ablation import Intervention
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import Baseline
from gcgap.importance.experiment import Subject, id_batches, shared_base_scores, shared_means
from gcgap.importance.gap import Array, Gap, bootstrap_means, measure_gap
from gcgap.importance.gates import Site
from gcgap.importance.gradient import weight_sizes
from gcgap.importance.protocol import PROMPTED, Protocol, window_length
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.measurement.entries import Origin, body, head, judgement, skipped
from gcgap.measurement.joint import inside_entries, joint, named_sets, pruning, random_pairs, random_pruning, role_sets, set_drops
from gcgap.models.check_finite import check_formats, not_finite
from gcgap.models.number_format import in_precision
from gcgap.models.transformer import Decoder
from gcgap.models.wiring import Wiring
from gcgap.records.record import Record


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
        protocol: What is measured, and how; by default `Protocol()`, or of a model on prompts `gcgap.importance.protocol.PROMPTED`.
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


class Begun(NamedTuple):
    """What every measurement begins with: a model in the protocol's number format, and the head of a record.

    The length is None if the window rule finds none.
    """

    model: Decoder
    wiring: Wiring
    source: Source
    length: int | None
    record: dict[str, Any]
    seconds: Stopwatch


def begin(
    model: Decoder,
    origin: Origin,
    length: int | None,
    protocol: Protocol,
    sequences: int | None = None,
    sharing: Sharing = ALONE,
) -> Begun:
    """Check what was asked for, and find the accuracy and the length to measure; arguments as in `measure`.

    `sequences` are those behind the accuracy, if not the protocol's.
    """
    source = origin.source
    length = source.only_length if length is None else length
    lengths = (*source.ood_lengths, *([] if length is None else [length]))
    source.check_context(source.ood_lengths, model.n_ctx, "data.ood_lengths")
    if length is not None:
        source.check_context([length], model.n_ctx, "length")
        source.check_ood([length], "length")
    check_formats(model.named_parameters())
    if name := not_finite(model.named_parameters()):
        raise FloatingPointError(f"The weight `{name}` is not finite.")
    model, wiring, seconds = in_precision(model, protocol.precision), Wiring.of(model), Stopwatch()
    _check_site(model, protocol)
    wiring.check_sets(protocol.sets)
    find_methods(protocol.attribution.methods)
    with seconds("accuracy"):
        sized = protocol if sequences is None else replace(protocol, sequences=sequences)
        accuracy, window = _accuracy(model, source, sized, lengths, sharing)
    given, length = length is not None, window["length"] if length is None else length
    record = head(origin, model.settings, protocol, accuracy, window, length) | {"length_given": given} | _rows(source, protocol)
    return Begun(model, wiring, source, length, record, seconds)


def _check_site(model: Decoder, protocol: Protocol) -> None:
    """Raise a ValueError if the heads have no columns of their own in what they write together."""
    if protocol.site == Site.RELEASED and model.n_heads * model.d_head != model.d_model:
        raise ValueError(
            f"`protocol.site` must be component for this model; got released, which overwrites {model.d_head} columns for each "
            f"of {model.n_heads} heads, and it has {model.d_model}."
        )


def _rows(source: Source, protocol: Protocol) -> dict[str, Any]:
    """How many prompts there are of each kind: a file may have fewer than the protocol asks for."""
    if (length := source.only_length) is None:
        return {}
    evaluation = {
        name: len(source.batch(Purpose.EVALUATION, length, protocol.sequences, index).inputs)
        for index, name in enumerate(("evaluation", "again"))
    }
    batches = {
        f"{purpose}_batches": [len(batch.inputs) for batch in source.batches(purpose, length, count, protocol.batch_size)]
        for purpose, count in ((Purpose.GRADIENT, protocol.gradient_batches), (Purpose.MEAN, protocol.mean_batches))
    }
    tokens = source.batch(Purpose.EVALUATION, length, protocol.sequences).inputs
    return {"prompts": evaluation | batches | {"evaluation_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest()}}


class Stopwatch:
    """Seconds of wall time per stage."""

    def __init__(self) -> None:
        self.by_stage: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time a stage."""
        begun = time.perf_counter()
        yield
        self.by_stage[stage] = time.perf_counter() - begun


def known_origin(model: Decoder, task: str | None, origin: Origin | None) -> Origin:
    """Where the model comes from, with the task that was asked for.

    Raises:
        ValueError: It is not known, or its prompts are not those of the task.
    """
    known: Origin | None = origin or model.origin
    if known is None and task is None:
        raise ValueError('`task` is needed for a model that was not loaded from a checkpoint; give `task="sort"`, say.')
    if known is None:
        return Origin(Source(str(task)))
    if known.source.only_length is not None and task not in (None, known.source.task):
        raise ValueError(
            f"`task` must be that of the model's prompts, {known.source.task}; got {task!r}. Load it with other ones."
        )
    return replace(known, source=replace(known.source, task=task or known.source.task))


def _accuracy(
    model: Decoder, source: Source, protocol: Protocol, lengths: tuple[int, ...], sharing: Sharing
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Exact match in distribution and at every OOD length, and the length that the window rule picks."""

    def right(batch: Batch) -> Tensor:
        return shared_base_scores(model, batch, sharing).exact_match

    inside = [right(batch) for batch in id_batches(source, protocol.sequences)]
    if source.only_length is not None:
        inside = [right(source.batch(Purpose.EVALUATION, source.only_length, protocol.sequences))]
    by_length = {
        length: float(right(source.batch(Purpose.EVALUATION, length, protocol.sequences)).mean())
        for length in dict.fromkeys(lengths)
    }
    found = window_length(((length, by_length[length]) for length in source.ood_lengths), protocol.window)
    accuracy = {
        "in_distribution": float(torch.cat(inside).mean()),
        "by_length": {str(length): value for length, value in by_length.items()},
    }
    at = None if found is None else by_length[found]
    return accuracy, {"length": found, "accuracy": at, "in_window": found is not None}


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
