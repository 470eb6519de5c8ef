"""Tables of any width in a terminal."""

from __future__ import annotations

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

BROKEN = 3
"""Characters of a name that stay together, even where a number beside it must break for that."""


class WholeTable(Table):
    """A table that is too wide for the terminal is shown in parts below each other, each with the first column.

    Its first column, and those that are not `no_wrap`, break where they must; the others stay on one line.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        self.columns[0].no_wrap = False
        for column in self.columns:
            column.overflow = "fold"
        if self._least(console, options, width * 2 // 5) <= width:
            yield from super().__rich_console__(console, options)
            return
        parts = self._parts(console, options)
        for number, columns in enumerate(parts):
            part = self._of(columns)
            part.title = self.title if number == 0 else None
            part.caption = self.caption if number == len(parts) - 1 else None
            if part._least(console, options, BROKEN) > width:
                for column in part.columns:
                    column.no_wrap = False
            yield from Table.__rich_console__(part, console, options)

    def _parts(self, console: Console, options: ConsoleOptions) -> list[list[Column]]:
        """The columns behind the first in as few parts as fit, each with the first in front."""
        first, *others = self.columns
        parts = [[first, others[0]]] if others else [[first]]
        for column in others[1:]:
            if self._of([*parts[-1], column])._least(console, options, options.max_width * 2 // 5) <= options.max_width:
                parts[-1].append(column)
            else:
                parts.append([first, column])
        return parts

    def _of(self, columns: list[Column]) -> WholeTable:
        """A table of some of the columns."""
        part = WholeTable(box=self.box, padding=self.padding, pad_edge=self.pad_edge, show_header=self.show_header)
        for one in columns:
            part.add_column(one.header, justify=one.justify, no_wrap=one.no_wrap, overflow="fold")
        for row, cells in zip(self.rows, zip(*(one.cells for one in columns), strict=True), strict=True):
            part.add_row(*cells, end_section=row.end_section)
        return part

    def _least(self, console: Console, options: ConsoleOptions, broken: int) -> int:
        """Columns of the terminal that it needs: all of what stays on one line, and `broken` of what breaks."""
        wide = options.update(max_width=10_000)
        every = [self._widest(console, wide, column) for column in self.columns]
        needed = [most if column.no_wrap else min(most, broken) for most, column in zip(every, self.columns, strict=True)]
        return self.__rich_measure__(console, wide).maximum - sum(every) + sum(needed)

    @staticmethod
    def _widest(console: Console, options: ConsoleOptions, column: Column) -> int:
        return max(Measurement.get(console, options, cell).maximum for cell in (column.header, *column.cells))
