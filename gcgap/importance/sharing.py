"""Work shared by processes that measure one model together: which part is whose, and how the parts become one again.

Every process fills its own part of an array of zeros, and the arrays are added up. That is exact, since x + 0 = x, so that each
process then holds the very array that one process alone would have made. How processes reach one another is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


def _keep(own: Tensor) -> Tensor:
    return own


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
    add: Callable[[Tensor], Tensor] = _keep

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def part(self, count: int, unit: int = 1) -> slice:
        """This process's part of `count` things, which are dealt out in whole `unit`s; it may be empty."""
        units = -(-count // unit)
        start, stop = (min(count, units * rank // self.size * unit) for rank in (self.rank, self.rank + 1))
        return slice(start, stop)


ALONE = Sharing()
