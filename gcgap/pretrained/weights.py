"""What identifies the weights of a model that comes in files of any form: a hash of the weights themselves."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def weights_sha256(network: nn.Module) -> str:
    """Hash of the names, number formats, sizes and bytes of all weights, in the order of their names; tied ones count once.

    Raises:
        ValueError: A weight is not in memory.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(network.named_parameters()):
        if weight.is_meta:
            raise ValueError(
                f"the weight `{name}` is not in memory but on a disk; choose a `--device-map` that keeps all weights."
            )
        digest.update(f"{name} {weight.dtype} {list(weight.shape)}".encode())
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _bytes(weight: Tensor) -> bytes:
    return weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
