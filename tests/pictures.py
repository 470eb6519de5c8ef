"""Quick pictures in place of a run's figures, which take most of the time of a short run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

USUAL: list[tuple[Any, str, Any]] = []
"""The functions that draw the figures, with their modules and names there, while quick ones are in their place."""


def draw_quickly() -> None:
    """Let every later run of this process draw a row of pixels that shows the steps of the records that would be drawn."""
    from gcgap.report import tensorboard
    from gcgap.training import run

    quick = ((run, "emergence", emergence), (run, "png", png), (tensorboard, "scatter", scatter), (tensorboard, "png", png))
    if not USUAL:
        USUAL.extend((module, name, getattr(module, name)) for module, name, _ in quick)
    for module, name, function in quick:
        setattr(module, name, function)


@contextmanager
def figures() -> Iterator[None]:
    """Inside, runs draw their figures."""
    for module, name, function in USUAL:
        setattr(module, name, function)
    yield
    if USUAL:
        draw_quickly()


def write_quickly(patch: pytest.MonkeyPatch) -> None:
    """Let a report make its figures, but write the same pixel for each."""
    patch.setattr("gcgap.report.write.png", lambda figure: png([1]))
    patch.setattr("gcgap.report.write.pdf", lambda figure: b"%PDF")


def emergence(columns: list[Any]) -> list[int]:
    return [column.step for column in columns]


def scatter(record: Any) -> list[int]:
    return [record["step"]]


def png(steps: list[int]) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.array([[[step % 256, 0, 0] for step in steps]], np.uint8)).save(buffer, format="png")
    return buffer.getvalue()
