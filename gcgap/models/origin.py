"""Where a model comes from, as its record says it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gcgap.data.batches import Source


@dataclass(frozen=True)
class Origin:
    """Where a model comes from, as its record tells it.

    Args:
        source: Task, lengths and seed that it was trained with.
        run: Name of its run.
        step: Optimiser steps it was trained for.
        checkpoint_sha256: Hash of its checkpoint file.
        training: Settings of its training, where they are known.
    """

    source: Source
    run: str | None = None
    step: int | None = None
    checkpoint_sha256: str | None = None
    training: dict[str, Any] | None = None
