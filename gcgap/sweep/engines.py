"""Where the workers of a sweep run: the interface of an engine, and processes of this machine."""

from __future__ import annotations

import os
import subprocess
import time
from typing import Protocol

from gcgap.sweep.worker import SweepJob, launch

POLL = 0.2  # seconds between two looks at the workers


class Engine(Protocol):
    """Runs jobs, each in a process of its own."""

    slots: int
    """Processes at a time."""

    def start(self, job: SweepJob) -> None:
        """Start a process for a job; there is a free slot."""
        ...

    def ended(self) -> dict[str, int | str]:
        """Wait a moment; the exit code, or what went wrong, of every process that has ended, by the name of its job."""
        ...

    def close(self) -> None:
        """End the jobs that still run, and wait until they have."""
        ...


class Local:
    """Processes of this machine: one per device, or one of one thread per CPU.

    Args:
        workers: Processes at a time; None takes all devices, or all CPUs that this process may use where there is no device.
    """

    def __init__(self, workers: int | None) -> None:
        import torch

        self.devices = devices(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        self.slots = workers or len(self.devices) or len(os.sched_getaffinity(0))
        self.running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}

    def start(self, job: SweepJob) -> None:
        """Start a process on the first free slot."""
        slot = min(set(range(self.slots)) - set(self.running))
        self.running[slot] = job.name, launch(job, environment(slot, self.devices))

    def ended(self) -> dict[str, int | str]:
        """The exit codes of the processes that have ended."""
        time.sleep(POLL)
        over = {slot: process.returncode for slot, (_, process) in self.running.items() if process.poll() is not None}
        return {self._take(slot): code for slot, code in over.items()}

    def _take(self, slot: int) -> str:
        name, process = self.running.pop(slot)
        process.communicate()
        return name

    def close(self) -> None:
        """Close the workers' standard input, at which they end."""
        for _, process in self.running.values():
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker and wait for it."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def devices(count: int, visible: str | None) -> list[str]:
    """Names of this process's CUDA devices: what it may see of them, or all by their number."""
    return [name.strip() for name in visible.split(",")][:count] if visible else [str(number) for number in range(count)]


def environment(slot: int, devices: list[str]) -> dict[str, str]:
    """What a worker's environment gets: its device, shared if there are more slots than devices, or one thread."""
    return {"CUDA_VISIBLE_DEVICES": devices[slot % len(devices)]} if devices else {"OMP_NUM_THREADS": "1"}
