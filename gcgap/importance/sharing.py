"""Work shared by processes that measure one model together: which part is whose, and how the parts become one again.

Every process fills its own part of an array of zeros, and the arrays are added up. That is exact, since x + 0 = x, so that each
process then holds the very array that one process alone would have made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sharing:
    """One of several processes that make the same calls on the same model and data; by default the only one.

    Args:
        rank: Which one it is, counted from 0.
        size: How many there are.
        add: Gives every process the sum of the tensors, of one shape on the CPU, with which all of them call it.
    """

    rank: int = 0
    size: int = 1
    add: Callable[[Tensor], Tensor] = lambda own: own

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, count: int, unit: int = 1) -> slice:
        """This process's part of `count` things, which are dealt out in whole `unit`s; it may be empty."""
        units = -(-count // unit)
        start, stop = (min(count, units * rank // self.size * unit) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)

    def gather(self, shape: tuple[int, ...], make: Callable[[slice], Tensor], axis: int = -1, unit: int = 1) -> Tensor:
        """A float64 array of which every process makes its own part along one axis."""
        found, mine = torch.zeros(shape, dtype=torch.float64), self.part(shape[axis], unit)
        if mine.start < mine.stop:
            found.movedim(axis, 0)[mine] = make(mine).movedim(axis, 0)
        return self.add(found)


ALONE = Sharing()
