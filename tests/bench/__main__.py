"""Time alternatives side by side and print their ratios: `make bench`, or here `python -m bench --only training`.

A ratio is of figures taken in turns within this run; a figure is the median of its repeats, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Callable

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.attribution import SEQUENCES, attribution
from bench.growing import growing
from bench.measuring import measuring
from bench.memory import memory
from bench.replay import replay
from bench.timing import Rows
from bench.training import training

TABLES: dict[str, tuple[str, Callable[[int], Rows]]] = {
    "measuring": ("figure", measuring),
    "training": ("figure", training),
    "growing": ("figure", growing),
    "memory": ("most at once, share of a training step", memory),
    "replay": ("CPU time", replay),
    "attribution": (f"forward passes of {SEQUENCES} sequences", attribution),
}


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=7, help="runs of every alternative")
    options.add_argument("--only", choices=list(TABLES), nargs="+", help="some of the tables")
    asked, console = options.parse_args(), Console(width=120)
    machine = f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread(s), torch {torch.__version__}"
    console.print(
        f"{machine}; median, and smallest and largest in brackets, of {asked.repeats} turns", markup=False, highlight=False
    )
    for name in asked.only or TABLES:
        heading, made = TABLES[name]
        table = Table("what", title=name)
        table.add_column(heading, justify="right")
        for what, figure in made(asked.repeats):
            table.add_row(escape(what), escape(figure))
        console.print(table)


if __name__ == "__main__":
    main()
