"""Speed, as ratios of alternatives that run in turn in one process: `make bench`.

Every figure is a median over repeats with its smallest and largest value. Absolute times are this machine's; the ratios travel.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812

import gcgap
from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import Setup
from gcgap.batches import Purpose, Source
from gcgap.components import Wiring
from gcgap.gates import gated, undisturbed
from gcgap.importance.baselines import Baseline, mean_activations, replacements
from gcgap.importance.causal import Intervention, ablated_scores
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.scores import score
from gcgap.model import Transformer
from gcgap.protocol import Protocol
from gcgap.records import find_records
from gcgap.report.emergence import emergence
from gcgap.report.logs import pixels, png
from gcgap.report.scatter import scatter
from gcgap.subject import Subject
from gcgap.tasks import END, SEP

REFERENCE = Path(__file__).parent.parent / "checkpoints" / "sort-seed42"
LENGTH = 9
FEW = 10  # sequences generated one by one; the loop's cost is proportional to their number
STEPS = 20  # of training
ATTRIBUTED = 64  # sequences that attribution methods score
Rows = list[tuple[str, str]]


def turns(repeats: int, *alternatives: Callable[[], object]) -> list[list[float]]:
    """Seconds of each alternative, run one after the other `repeats` times after one warm-up."""
    for one in alternatives:
        one()
    seconds: list[list[float]] = [[] for _ in alternatives]
    for _ in range(repeats):
        for into, one in zip(seconds, alternatives, strict=True):
            begun = time.perf_counter()
            one()
            into.append(time.perf_counter() - begun)
    return seconds


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


class Bench:
    """The reference model with the data that the alternatives share."""

    def __init__(self) -> None:
        self.model, self.source, self.protocol = gcgap.load(REFERENCE), Source("sort"), Protocol()
        self.wiring = Wiring.of(self.model)
        self.n, p = len(self.wiring.components), self.protocol
        self.batch = self.source.batch(Purpose.EVALUATION, LENGTH, p.sequences)
        means = self.source.batches(Purpose.MEAN, LENGTH, 5, p.batch_size)
        self.mean = mean_activations(self.model, self.wiring, means, by_position=False)
        self.gates = torch.eye(self.n)
        one = [Baseline.MEAN]
        self.other = replacements(self.model, self.wiring, self.source, self.batch, one, self.mean, p.mean_batches, p.batch_size)

    def shared(self) -> object:
        """C of all components, as gcgap measures it."""
        sets = [Intervention(frozenset([i]), Baseline.MEAN) for i in range(self.n)]
        return ablated_scores(self.model, self.wiring, self.batch, sets, self.other)

    def one_full_pass_each(self) -> object:
        """The same, by one full pass of all sequences per component."""
        found, rows = [], len(self.batch.inputs)
        with torch.no_grad(), undisturbed(self.model):
            for i in range(self.n):
                with gated(self.model, self.wiring, self.gates[i : i + 1].expand(rows, self.n), self.mean):
                    logits = self.model(self.batch.inputs)[:, -LENGTH - 1 :]
                found.append(score(logits, self.batch.targets[:, -LENGTH - 1 :]))
        return found

    @torch.no_grad()
    def generated(self) -> object:
        """Exact match of one ablated component by generating, one sequence and one token at a time: the first public pipeline."""
        right = 0
        for row in range(FEW):
            known = self.batch.inputs[row, : LENGTH + 2].tolist()
            assert known[-1] == SEP
            while len(known) < 2 * LENGTH + 3 and known[-1] != END:
                with gated(self.model, self.wiring, self.gates[2:3], self.mean):
                    known.append(int(self.model(torch.tensor([known]))[0, -1].argmax()))
            right += known[LENGTH + 2 :] == self.batch.targets[row, LENGTH + 1 :].tolist()
        return right

    def trained(self) -> object:
        """A bare training loop."""
        learner = Transformer(seed=1)
        adam = torch.optim.Adam(learner.parameters(), 1e-3)
        for step in range(STEPS):
            drawn = self.source.training_batch(step, 64)
            loss = F.cross_entropy(learner(drawn.inputs)[drawn.scored], drawn.targets[drawn.scored])
            adam.zero_grad()
            loss.backward()
            adam.step()
        return learner

    def tracked(self) -> object:
        """All that a checkpoint costs with TensorBoard: the measurement, and both pictures at their largest."""
        record = gcgap.measure(self.model, "sort", length=LENGTH, protocol=self.protocol.tracked())
        history = [record for record in find_records(REFERENCE) if not record["final"]]
        return pixels(png(scatter(record))), pixels(png(emergence(history)))


def measurement(bench: Bench, repeats: int) -> Rows:
    """C against its alternatives, and what tracking costs beside training."""
    alternatives = (bench.shared, bench.one_full_pass_each, bench.generated, bench.trained, bench.tracked)
    fast, full, slow, training, tracking = turns(repeats, *alternatives)
    ablations = bench.n * bench.protocol.sequences
    rows = [
        ("C of 20 components on 500 sequences (s)", spread(fast)),
        ("the same by one full batched pass per component (s)", spread(full)),
        ("  ratio", spread(ratios(full, fast))),
        ("sequence-ablations per second", spread([ablations / seconds for seconds in fast], ".0f")),
        ("the same, generating one sequence at a time", spread([FEW / seconds for seconds in slow], ".0f")),
        ("  ratio", spread([one * ablations / FEW for one in ratios(slow, fast)])),
        ("one training step (ms)", spread([seconds / STEPS * 1000 for seconds in training])),
        ("one tracked checkpoint, pictures included (s)", spread(tracking)),
        ("  fifteen of them / training of 1,000 steps", spread([15 * STEPS / 1000 * one for one in ratios(tracking, training)])),
    ]
    few = max(1, repeats // 3)
    paper = turns(few, lambda: gcgap.measure(bench.model, "sort", length=LENGTH))[0]
    p = bench.protocol
    fifty = bench.source.batches(Purpose.GRADIENT, LENGTH, p.gradient_batches, p.batch_size)
    gradients = turns(few, lambda: gradient_norms(bench.model, bench.wiring, fifty))[0]
    rows.append(("one whole measurement at the paper's size, three baselines (s)", spread(paper)))
    return [*rows, ("  of which G, 50 batches of 64 (s)", spread(gradients))]


def attribution(bench: Bench, repeats: int) -> Rows:
    """Every attribution method, in forward passes of the same sequences, beside exact effects for all."""
    protocol = replace(bench.protocol, sequences=ATTRIBUTED)
    subject = Subject(bench.model, bench.wiring, bench.source, protocol, LENGTH, bench.mean)
    problem = Setup().problem(subject, subject.batch(LENGTH, ATTRIBUTED))
    calls = [lambda run=method.run: run(problem) for method in METHODS.values()]
    unit, *found = turns(repeats, lambda: problem.drop.level(problem.drop.closed()), *calls)
    typical = statistics.median(unit)  # a single pass is too short to be the unit of its turn on a shared machine
    return [(name, spread([seconds / typical for seconds in of])) for name, of in zip(METHODS, found, strict=True)]


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=7, help="runs of every alternative")
    options.add_argument("--only", choices=["measurement", "attribution"], help="one of the two tables")
    asked, bench, console = options.parse_args(), Bench(), Console(width=110)
    under = f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, median (min, max in brackets) of {asked.repeats}"
    parts = {"measurement": ("figure", measurement), "attribution": (f"forward passes of {ATTRIBUTED} sequences", attribution)}
    for name, (heading, part) in parts.items():
        if asked.only in (None, name):
            table = Table("what", title=f"{name}: {under}")
            table.add_column(heading, justify="right")
            for row in part(bench, asked.repeats):
                table.add_row(*row)
            console.print(table)


if __name__ == "__main__":
    main()
