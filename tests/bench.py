"""Speed, as ratios of alternatives that run in turn in one process: `make bench`.

Every figure is a median over repeats with its smallest and largest value. Absolute times are this machine's; the ratios travel.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F  # noqa: N812

import gcgap
from gcgap.batches import Batch, Purpose, Source
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
from gcgap.tasks import END, SEP

REFERENCE = Path(__file__).parent.parent / "checkpoints" / "sort-seed42"
LENGTH = 9


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


def spread(values: list[float], form: str = ".3g") -> str:
    """Median, smallest and largest."""
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


def decode_one_by_one(model: Transformer, batch: Batch, ablation: Callable[[int], object], sequences: int) -> int:
    """Exact matches by greedy generation, one sequence and one token at a time, as the first public pipeline does."""
    right = 0
    for row in range(sequences):
        known = batch.inputs[row, : LENGTH + 2].tolist()
        assert known[-1] == SEP
        while len(known) < 2 * LENGTH + 3 and known[-1] != END:
            with ablation(1):  # type: ignore[attr-defined]
                known.append(int(model(torch.tensor([known]))[0, -1].argmax()))
        right += known[LENGTH + 2 :] == batch.targets[row, LENGTH + 1 :].tolist()
    return right


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--repeats", type=int, default=7, help="runs of every alternative")
    repeats = options.parse_args().repeats
    model, source, p = gcgap.load(REFERENCE), Source("sort"), Protocol()
    wiring, n = Wiring.of(model), len(Wiring.of(model).components)
    batch = source.batch(Purpose.EVALUATION, LENGTH, p.sequences)
    mean = mean_activations(model, wiring, source.batches(Purpose.MEAN, LENGTH, 5, p.batch_size), by_position=False)
    other = replacements(model, wiring, source, batch, [Baseline.MEAN], mean, p.mean_batches, p.batch_size)
    sets = [Intervention(frozenset([i]), Baseline.MEAN) for i in range(n)]
    gates = torch.eye(n)

    def shared() -> object:
        return ablated_scores(model, wiring, batch, sets, other)

    def one_full_pass_each() -> object:
        found = []
        with torch.no_grad(), undisturbed(model):
            for i in range(n):
                with gated(model, wiring, gates[i : i + 1].expand(p.sequences, n), mean):
                    logits = model(batch.inputs)[:, -LENGTH - 1 :]
                found.append(score(logits, batch.targets[:, -LENGTH - 1 :]))
        return found

    few = 10  # sequences; the loop's cost is proportional to their number

    def generated() -> object:
        def ablation(rows: int) -> object:
            return gated(model, wiring, gates[2:3].expand(rows, n), mean)

        with torch.no_grad():
            return decode_one_by_one(model, batch, ablation, few)

    def trained(steps: int = 20) -> object:
        learner = Transformer(seed=1)
        adam = torch.optim.Adam(learner.parameters(), 1e-3)
        for step in range(steps):
            drawn = source.training_batch(step, 64)
            loss = F.cross_entropy(learner(drawn.inputs)[drawn.scored], drawn.targets[drawn.scored])
            adam.zero_grad()
            loss.backward()
            adam.step()
        return learner

    history = [record for record in find_records(REFERENCE) if not record["final"]]

    def tracked() -> object:
        """All that a checkpoint costs with TensorBoard: the measurement, and both pictures at their largest."""
        record = gcgap.measure(model, "sort", length=LENGTH, protocol=p.tracked())
        return pixels(png(scatter(record))), pixels(png(emergence(history)))

    fast, full, slow, training, tracking = turns(repeats, shared, one_full_pass_each, generated, trained, tracked)
    rate = [n * p.sequences / seconds for seconds in fast]
    table = Table(title=f"{torch.get_num_threads()} thread(s), torch {torch.__version__}, median [min, max] of {repeats}")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_row("C of 20 components on 500 sequences (s)", spread(fast))
    table.add_row("the same by one full batched pass per component (s)", spread(full))
    table.add_row("  ratio", spread([b / a for a, b in zip(fast, full, strict=True)]))
    table.add_row("sequence-ablations per second", spread(rate, ".0f"))
    table.add_row("the same, generating one sequence at a time", spread([few / seconds for seconds in slow], ".0f"))
    table.add_row("  ratio", spread([a * b / few for a, b in zip(rate, slow, strict=True)]))
    table.add_row("one training step (ms)", spread([seconds / 20 * 1000 for seconds in training]))
    table.add_row("one tracked checkpoint, pictures included (s)", spread(tracking))
    share = [15 * b / (1000 * a / 20) for a, b in zip(training, tracking, strict=True)]
    table.add_row("  fifteen of them / training of 1,000 steps", spread(share))
    paper = turns(max(1, repeats // 3), lambda: gcgap.measure(model, "sort", length=LENGTH))[0]
    table.add_row("one whole measurement at the paper's size, three baselines (s)", spread(paper))
    fifty = source.batches(Purpose.GRADIENT, LENGTH, p.gradient_batches, p.batch_size)
    gradients = turns(max(1, repeats // 3), lambda: gradient_norms(model, wiring, fifty))[0]
    table.add_row("  of which G, 50 batches of 64 (s)", spread(gradients))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
