"""Running a model without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the model in evaluation mode and full precision, and leave every module's mode as it was found."""
    training = {module: module.training for module in model.modules()}
    device = next(model.parameters()).device.type
    try:
        model.eval()
        with torch.autocast(device, enabled=False):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
