"""Measuring shared by several processes gives the record of one, bit for bit; here threads play the processes."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import gcgap
from gcgap.data.batches import Source
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.importance.sharing import ALONE, Sharing
from gcgap.models.transformer import Origin, Transformer
from gcgap.records.record import Record

pytestmark = pytest.mark.robust
EVERY = (Baseline.MEAN, Baseline.MEAN_BY_POSITION, Baseline.ZERO, Baseline.RESAMPLE, Baseline.OPTIMAL)
SMALL = Protocol(gradient_batches=5, mean_batches=3, sequences=40, batch_size=8, resamples=100, random_pairs=2, baselines=EVERY)


def together(size: int, work: Callable[[Sharing], Any]) -> list[Any]:
    """What `work` gives in each of several threads that share it."""
    given: list[Tensor] = [torch.empty(0)] * size
    meeting = threading.Barrier(size, timeout=60)

    def one(rank: int) -> Any:
        torch.set_num_threads(1)  # each thread has a number of its own, and more would round differently

        def add(own: Tensor) -> Tensor:
            given[rank] = own
            meeting.wait()
            total = torch.stack(given).sum(0)
            meeting.wait()
            return total

        try:
            return work(Sharing(rank, size, add))
        except Exception:
            meeting.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return [future.result() for future in [pool.submit(one, rank) for rank in range(size)]]


def measured(model: Transformer, source: Source, protocol: Protocol, size: int, length: int | None = 4) -> list[dict[str, Any]]:
    """The record of each of several processes, without what differs between two measurements of the same."""

    def work(sharing: Sharing) -> Record:
        own = copy.deepcopy(model)
        return gcgap.measure(own, length=length, protocol=protocol, origin=Origin(source), sharing=sharing)

    records = together(size, work)
    return [{key: value for key, value in one.to_dict().items() if key not in ("created", "seconds")} for one in records]


@pytest.mark.parametrize(("count", "unit", "size"), [(50, 1, 2), (500, 16, 3), (13, 16, 2), (3, 1, 8), (0, 4, 2), (40, 16, 1)])
def test_parts_are_whole_units_that_cover_everything_once(count: int, unit: int, size: int) -> None:
    parts = [Sharing(rank, size).part(count, unit) for rank in range(size)]
    assert [i for part in parts for i in range(part.start, part.stop)] == list(range(count))
    assert all(part.start % unit == 0 or part.start == count for part in parts)
    whole = [-(-(part.stop - part.start) // unit) for part in parts]
    assert max(whole) - min(whole) <= 1


def test_a_process_alone_has_everything_and_leads() -> None:
    own = torch.rand(3)
    assert (ALONE.part(7, 4), ALONE.leads, ALONE.add(own) is own) == (slice(0, 7), True, True)
    assert [Sharing(rank, 2).leads for rank in range(2)] == [True, False]


@pytest.mark.parametrize(
    ("change", "size"),
    [
        ({"sets": (("L0_H0", "L1_MLP"),)}, 2),
        ({"paired": False, "baselines": ("mean_by_position", "resample")}, 2),
        ({"site": "released", "sequences": 100, "baselines": ("mean", "patch_token"), "precision": "bf16"}, 3),
        ({"baselines": ("mean", "resample"), "precision": "float64"}, 7),  # more processes than chunks, so that some have none
    ],
    ids=["paired", "unpaired", "three", "seven"],
)
def test_every_process_gets_the_record_of_one(
    change: dict[str, Any], size: int, trained: Transformer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "gcgap.models.transformer._slow_backward", lambda q: False
    )  # threads share torch's choice of kernels, processes do not
    protocol = replace(SMALL, **change)
    [alone] = measured(trained, source, protocol, 1)
    assert alone["gap"]["mean" if "mean" in protocol.baselines else "resample"]["rho"] is not None
    assert measured(trained, source, protocol, size) == [alone] * size


def test_the_work_is_divided(trained: Transformer, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that go through each process's model, against those of one process."""
    seen: dict[int, int] = {}
    forward = Transformer.embed

    def counted(self: Transformer, tokens: Tensor) -> Tensor:
        seen[threading.get_ident()] = seen.get(threading.get_ident(), 0) + len(tokens)
        return forward(self, tokens)

    monkeypatch.setattr(Transformer, "embed", counted)
    protocol = replace(SMALL, sequences=320, gradient_batches=40, mean_batches=40)
    measured(trained, source, protocol, 1)
    [whole] = seen.values()
    seen.clear()
    measured(trained, source, protocol, 2)
    assert len(seen) == 2
    for own in seen.values():
        assert own < 0.56 * whole, "half, and what every process does for itself"


def test_a_window_that_no_length_is_in_ends_every_process_alike(trained: Transformer, source: Source) -> None:
    protocol = replace(SMALL, window=(0.999, 1.0))
    [alone] = measured(trained, source, protocol, 1, length=None)
    assert alone["skipped"]
    assert measured(trained, source, protocol, 2, length=None) == [alone] * 2


def test_measuring_inside_a_foreign_group_of_processes_waits_for_nobody(trained: Transformer, source: Source) -> None:
    """Work is shared only where the caller says so."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        monkey = pytest.MonkeyPatch()
        for name in ("barrier", "all_reduce", "all_gather", "broadcast"):
            monkey.setattr(torch.distributed, name, None)
        gcgap.measure(trained, length=4, protocol=SMALL, origin=Origin(source))
        monkey.undo()
    finally:
        torch.distributed.destroy_process_group()
