"""How much memory a call needs, counted by the allocations themselves and not by the process."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensor storages made inside that are alive, and the most that ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        for one in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(one, Tensor):
                self.see(one.untyped_storage())
        return found

    def see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.alive:
            return
        self.alive.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.gone, key, size)

    def gone(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.now -= size


def peak(call: Callable[[], Any]) -> int:
    """The most bytes of tensors made by a call that were alive at once."""
    gc.collect()
    with LiveBytes() as live:
        call()
    return live.peak
