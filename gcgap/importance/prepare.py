"""What every measurement begins with: checks, the accuracy, the length to measure, and the head of a record."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance.experiment import id_batches, shared_base_scores
from gcgap.importance.gap import Judgement
from gcgap.importance.gates import Site
from gcgap.importance.protocol import Protocol, window_length
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.number_format import check_tensors, in_precision, not_finite
from gcgap.models.transformer import Decoder, Origin
from gcgap.models.wiring import Wiring
from gcgap.records.record_file import SCHEMA


def judgement(protocol: Protocol) -> Judgement:
    """The part of a protocol that turns numbers into ranks, roles and intervals."""
    return Judgement(protocol.threshold, protocol.strict, protocol.ranks, protocol.confidence, protocol.resamples)


def head(
    origin: Origin,
    model: dict[str, Any],
    protocol: Protocol,
    accuracy: dict[str, Any],
    window: dict[str, Any],
    length: int | None,
) -> dict[str, Any]:
    """What every record begins with: what was measured, how, and how good the model is."""
    source = origin.source
    foreign = ("transformers", "tokenizers") if "heads_per_value" in model else ()
    libraries = {name: version(name) for name in ("gcgap", "torch", "numpy", "scipy", *foreign)}
    return {
        "schema": SCHEMA,
        "task": source.task,
        "seed": source.seed,
        "step": origin.step,
        "run": origin.run,
        "model": model,
        "training": origin.training,
        "protocol": protocol.to_dict() | source.as_record(),
        "checkpoint_sha256": origin.checkpoint_sha256,
        "versions": libraries | {"python": platform.python_version(), "threads": str(torch.get_num_threads())},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "accuracy": accuracy,
        "window": window,
        "length": length,
    }


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
    check_tensors(model.named_parameters())
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise ValueError("The weights were made under `torch.inference_mode` and have no gradient; make the model outside of it.")
    if name := not_finite(model.named_parameters()):
        raise FloatingPointError(f"The weight `{name}` is not finite.")
    model, wiring, seconds = in_precision(model, protocol.precision), Wiring.of(model), Stopwatch()
    _check_site(model, protocol)
    wiring.check_sets(protocol.sets)
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
