"""What a measurement costs: against one full pass per component, one sequence at a time, and the arithmetic itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import gcgap
from bench.subject import BASELINES, LENGTH, REFERENCE, Reference
from bench.timing import Rows, ratios, spread, turns
from gcgap.data.tasks import END, SEP
from gcgap.importance.ablation import base_scores
from gcgap.importance.gates import gated
from gcgap.importance.protocol import Baseline
from gcgap.records.read_records import find_records
from gcgap.report.figures_run import emergence, scatter
from gcgap.report.tensorboard import pixels, png

FEW = 10  # sequences generated one by one; the loop's cost is proportional to their number
MEAN = [Baseline.MEAN]


def measuring(repeats: int) -> Rows:
    """The whole table."""
    reference, few = Reference(), max(1, repeats // 2)
    return [*_ablations(reference, repeats), *_paper(reference, few), *_arithmetic(reference, repeats), *_bf16(reference, few)]


def _ablations(reference: Reference, repeats: int) -> Rows:
    """C under one baseline."""
    fast, full, slow, tracked = turns(
        repeats,
        lambda: reference.shared(MEAN),
        lambda: reference.one_full_pass_each(MEAN),
        lambda: _generated(reference),
        lambda: _tracked(reference),
    )
    ablations = reference.n * reference.protocol.sequences
    return [
        ("C of 20 components on 500 sequences, mean ablation (s)", spread(fast)),
        ("  one hooked full pass per component / that", spread(ratios(full, fast))),
        ("  generating one sequence at a time / that", spread([one * ablations / FEW for one in ratios(slow, fast)])),
        ("one tracked checkpoint, pictures included (s)", spread(tracked)),
    ]


def _paper(reference: Reference, repeats: int) -> Rows:
    """The paper's size: 50 gradient batches, 50 mean batches, 20 components x 500 sequences, three baselines."""
    ours, theirs = reference.shared(BASELINES), reference.one_full_pass_each(BASELINES)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-4, rtol=1e-4)
    gradient, mean, fast, full, whole = turns(
        repeats,
        reference.gradients,
        lambda: reference.means(reference.protocol.mean_batches),
        lambda: reference.shared(BASELINES),
        lambda: reference.one_full_pass_each(BASELINES),
        lambda: gcgap.measure(reference.model, "sort", length=LENGTH),
    )
    common = [a + b for a, b in zip(gradient, mean, strict=True)]
    both = [[one + rest for one, rest in zip(of, common, strict=True)] for of in (full, fast)]
    return [
        ("20 components x 500 sequences, three baselines (s)", spread(fast)),
        ("  one hooked full pass per component and baseline / that", spread(ratios(full, fast))),
        ("G on 50 batches of 64 (s)", spread(gradient)),
        ("means on 50 batches of 64 (s)", spread(mean)),
        ("  with G and means: hooked full passes / that", spread(ratios(*both))),
        ("gcgap.measure at the same size, pruning and intervals too (s)", spread(whole)),
    ]


def _arithmetic(reference: Reference, repeats: int) -> Rows:
    """Products of matrices that the ablations do, and how fast this machine does such products."""
    left, right = torch.randn(1600, 128), torch.randn(128, 512)
    seconds, products = turns(repeats, lambda: reference.shared(BASELINES), lambda: [left @ right for _ in range(100)])
    rate = [100 * 2 * left.numel() * right.shape[1] / one for one in products]
    done, naive = _flops(lambda: reference.shared(BASELINES)), _flops(lambda: reference.one_full_pass_each(BASELINES))
    return [
        ("arithmetic of the three baselines' ablations (GFLOP)", f"{done / 1e9:.0f}"),
        ("  of hooked full passes / that", f"{naive / done:.2f}"),
        ("this machine's products of (1600, 128) and (128, 512) (GFLOP/s)", spread([one / 1e9 for one in rate], ".0f")),
        (
            "  share of that rate which the ablations reach",
            spread([done / s / r for s, r in zip(seconds, rate, strict=True)], ".0%"),
        ),
    ]


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # those of the fused kernel are not counted
        call()
    return counter.get_total_flops()


def _bf16(reference: Reference, repeats: int) -> Rows:
    """The ablations in bf16, and how far it moves C."""
    rounded, found = Reference("bf16"), [torch.empty(0)] * 2

    def measured(number: int, of: Reference) -> None:
        found[number] = of.shared(BASELINES)[:2].mean(-1)

    base = [torch.stack(base_scores(of.model, of.batch)[:2]).mean(-1, keepdim=True) for of in (reference, rounded)]
    single, seconds = turns(repeats, lambda: measured(0, reference), lambda: measured(1, rounded))
    moved = ((base[0] - found[0]) - (base[1] - found[1])).abs().amax(1).tolist()
    return [
        ("C under three baselines in float32 / in bf16 (above 1: bf16 is faster)", spread(ratios(single, seconds))),
        ("  largest change of any C by exact match, by log-probability", f"{moved[0]:.3f}, {moved[1]:.2g} nats"),
    ]


@torch.no_grad()
def _generated(reference: Reference) -> int:
    """Exact match of one ablated component by generating, one sequence and one token at a time: the first public pipeline."""
    right, batch = 0, reference.batch
    for row in range(FEW):
        known = batch.inputs[row, : LENGTH + 2].tolist()
        assert known[-1] == SEP
        while len(known) < 2 * LENGTH + 3 and known[-1] != END:
            with gated(reference.model, reference.wiring, reference.gates[2:3], reference.other[Baseline.MEAN](slice(0, 1))):
                known.append(int(reference.model(torch.tensor([known]))[0, -1].argmax()))
        right += known[LENGTH + 2 :] == batch.targets[row, LENGTH + 1 :].tolist()
    return right


def _tracked(reference: Reference) -> object:
    """All that a checkpoint costs with TensorBoard: the measurement, and both pictures at their largest."""
    record = gcgap.measure(reference.model, "sort", length=LENGTH, protocol=reference.protocol.tracked())
    history = [record for record in find_records(REFERENCE) if not record["final"]]
    return pixels(png(scatter(record))), pixels(png(emergence(history)))
