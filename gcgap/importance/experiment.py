"""A model under measurement: checked, in the protocol's number format, and with the data and baselines that all stages share."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcgap.data.batches import Batch, Purpose, Source
from gcgap.data.prompt_source import PromptSource
from gcgap.importance.ablation import Intervention, ablated_scores, base_scores, bound, causal_importance, chunk_size
from gcgap.importance.baselines import Replacement, replacements
from gcgap.importance.gap import Estimate, interval_of_share
from gcgap.importance.gates import Activations
from gcgap.importance.gauges import CANONICAL, gauged_norms, has_head_scales
from gcgap.importance.optimal import optimal_activations
from gcgap.importance.protocol import Baseline, Metric, Protocol, Site, window_length
from gcgap.importance.scores import METRICS, Scores
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.number_format import check_tensors, in_precision, not_finite
from gcgap.models.transformer import Decoder, Origin
from gcgap.models.wiring import Wiring
from gcgap.records.record_file import SCHEMA


@dataclass
class Experiment:
    """A model under measurement with all that its stages share, and the processes that share the work.

    `optimal` holds the constants of optimal ablation where a baseline asks for them: see `find_optimal`.
    """

    model: Decoder
    wiring: Wiring
    source: Source
    protocol: Protocol
    length: int
    mean: Activations
    sharing: Sharing = ALONE
    optimal: Activations | None = None

    def find_optimal(self) -> None:
        """Find the constants of optimal ablation, on the sequences of the means."""
        p = self.protocol
        batches = self.source.batches(Purpose.MEAN, self.length, p.mean_batches, p.batch_size)
        self.optimal = optimal_activations(self.model, self.wiring, batches, self.mean, p.site, self.sharing)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What drops are measured in; of prompts also the logit difference."""
        return METRICS if self.source.only_length is None else tuple(Metric)

    def batch(self, length: int, size: int, index: int = 0) -> Batch:
        """Evaluation sequences of one length; equal arguments give the same sequences."""
        return self.source.batch(Purpose.EVALUATION, length, size, index)

    def held_out(self) -> Batch:
        """As many sequences of the measured length that chose nothing: neither roles nor the length are judged by them."""
        return self.source.batch(Purpose.HELD_OUT, self.length, self.protocol.sequences)

    def gradient(self) -> Estimate:
        """G of every component as trained, then in every canonical gauge; samples of shape (gauge, component, batch)."""
        p = self.protocol
        batches = self.source.batches(Purpose.GRADIENT, self.length, p.gradient_batches, p.batch_size)
        shape = 1 + len(CANONICAL), len(self.wiring.components), len(batches)

        def own(mine: slice) -> Tensor:
            return gauged_norms(self.model, self.wiring, batches[mine], p.normalise_gradient)

        return Estimate(self.sharing.gather(shape, own).numpy())

    def has_gauges(self) -> bool:
        """Whether heads can be written down otherwise, asked of the model with four sequences."""
        batch = self.source.batch(Purpose.GRADIENT, self.length, min(4, self.protocol.batch_size))
        return has_head_scales(self.model, self.wiring, batch.inputs)

    def ablation(self, sets: Sequence[Intervention], batch: Batch) -> Estimate:
        """C of every set, shape (metric, intervention, sequence), paired with the base on the same sequences."""
        return causal_importance(*self._scores(sets, batch, self.sharing), self.metrics)

    def unpaired_ablation(self, sets: Sequence[Intervention], length: int, size: int) -> Estimate:
        """As `ablation`, but base and every intervention each on sequences of their own, as the first public pipeline draws them.

        Processes share the interventions, not the sequences.
        """
        if self.source.only_length is not None:
            raise ValueError("`protocol.paired` must be true for prompts, of which a file has no others for every component.")

        def own(mine: slice) -> Tensor:
            scores = [self._scores([sets[i]], self.batch(length, size, 1 + i), ALONE)[1] for i in range(mine.start, mine.stop)]
            return torch.stack([torch.cat(one) for one in scores], 1)

        base = base_scores(self.model, self.batch(length, size), self.sharing)
        ablated = self.sharing.gather((len(Metric), len(sets), size), own, axis=1)
        return causal_importance(base, Scores(*ablated), self.metrics)

    def _scores(self, sets: Sequence[Intervention], batch: Batch, sharing: Sharing) -> tuple[Scores, Scores]:
        """`ablated_scores`, each process with whole chunks of the sequences, so that the same ones run together as in one."""
        p, used = self.protocol, {Baseline(one.replacement) for one in sets}
        data = self.source, batch, used, self.mean, p.mean_batches, p.batch_size
        given = replacements(self.model, self.wiring, *data, sharing, self.optimal)

        def own(mine: slice) -> Tensor:
            here = bound(sets, {baseline: _inside(mine, give) for baseline, give in given.items()})
            base, ablated = ablated_scores(self.model, self.wiring, batch.rows(mine), here, p.site)
            return torch.cat([torch.stack(base)[:, None], torch.stack(ablated)], 1)

        shape = len(Metric), 1 + len(sets), len(batch.inputs)
        found = sharing.gather(shape, own, unit=chunk_size(self.model, batch))
        return Scores(*found[:, 0]), Scores(*found[:, 1:])


def id_batches(source: Source, sequences: int) -> list[Batch]:
    """In-distribution evaluation sequences: about `sequences` in all, the same number of each training length."""
    if source.only_length is not None:
        return []  # prompts that a model was trained on are not known
    each = max(2, sequences // len(source.training_lengths))
    return [source.batch(Purpose.EVALUATION, length, each) for length in source.training_lengths]


def _inside(part: slice, give: Replacement) -> Replacement:
    """The replacement for rows counted from the start of a part: a row's partner may lie outside."""
    return lambda rows: give(slice(part.start + rows.start, min(part.start + rows.stop, part.stop)))


class Prepared(NamedTuple):
    """What every measurement begins with: a model in the protocol's number format, and the head of a record.

    The length is None if the window rule finds none.
    """

    model: Decoder
    wiring: Wiring
    source: Source
    length: int | None
    record: dict[str, Any]
    seconds: Stopwatch


def prepare(
    model: Decoder,
    origin: Origin,
    length: int | None,
    protocol: Protocol,
    sequences: int | None = None,
    sharing: Sharing = ALONE,
) -> Prepared:
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
    check_tensors(model.named_parameters())
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("The weights were made under `torch.inference_mode` and have no gradient; make the model outside of it.")
    if name := not_finite(model.named_parameters()):
        raise FloatingPointError(f"The weight `{name}` is not finite.")
    model, wiring, seconds = in_precision(model, protocol.precision), Wiring.of(model), Stopwatch()
    if protocol.site == Site.RELEASED and model.n_heads * model.d_head != model.d_model:
        raise ValueError(
            f"`protocol.site` must be component for this model; got released, which overwrites {model.d_head} columns for each "
            f"of {model.n_heads} heads, and it has {model.d_model}."
        )
    wiring.check_sets(protocol.sets)
    with seconds("accuracy"):
        sized = protocol if sequences is None else replace(protocol, sequences=sequences)
        accuracy, window = _accuracy(model, source, sized, lengths, sharing)
        given, length = length is not None, window["length"] if length is None else length
        if length is not None:
            accuracy["held_out"] = _held_out_accuracy(model, source, sized, length, sharing)
    foreign = ("transformers", "tokenizers") if "heads_per_value" in model.settings else ()
    libraries = {name: version(name) for name in ("gcgap", "torch", "numpy", "scipy", *foreign)}
    record = {
        "schema": SCHEMA,
        "task": source.task,
        "seed": source.seed,
        "step": origin.step,
        "run": origin.run,
        "model": model.settings,
        "training": origin.training,
        "protocol": protocol.to_dict() | source.as_record(),
        "checkpoint_sha256": origin.checkpoint_sha256,
        "versions": libraries | {"python": platform.python_version(), "threads": str(torch.get_num_threads())},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "accuracy": accuracy,
        "window": window,
        "length": length,
        "length_given": given,
    }
    return Prepared(model, wiring, source, length, record | _prompt_counts(source, protocol), seconds)


def _prompt_counts(source: Source, protocol: Protocol) -> dict[str, Any]:
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
    about = source.describe_file(protocol.sequences) if isinstance(source, PromptSource) else {}
    return {"prompts": evaluation | batches | {"evaluation_sha256": hashlib.sha256(tokens.numpy().tobytes()).hexdigest()} | about}


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
        return base_scores(model, batch, sharing).exact_match

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


def _held_out_accuracy(model: Decoder, source: Source, protocol: Protocol, length: int, sharing: Sharing) -> dict[str, Any]:
    """Exact match at the measured length on sequences by which the window rule did not choose it."""
    right = base_scores(model, source.batch(Purpose.HELD_OUT, length, protocol.sequences), sharing).exact_match.numpy()
    return {"value": float(right.mean()), "ci": interval_of_share(right, protocol.confidence), "sequences": len(right)}
