"""Where the workers of a sweep run: the interface of an engine, processes of this machine, and tasks of a Ray cluster.

Ray comes with the extra `gcgap[ray]`. The sweep's directory must then be on a file system that every node shares, and gcgap
installed on every node.
"""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import asdict
from typing import Any, Protocol

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


class OnRay:
    """Tasks of a Ray cluster, each of one GPU if the cluster has any, and otherwise of one CPU and one thread.

    Joins the cluster that RAY_ADDRESS names or that runs here already, or starts one on this machine. A task whose node is
    lost is started again by Ray and resumes its run.

    Args:
        workers: Tasks at a time; None takes what the cluster has when the sweep starts.
    """

    def __init__(self, workers: int | None) -> None:
        import ray

        self.ray = ray
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, configure_logging=False)
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0))
        self.slots = workers or gpus or max(1, int(has.get("CPU", 1)))
        self.task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0)(work)
        self.environment = {} if gpus else {"OMP_NUM_THREADS": "1"}
        self.running: dict[Any, str] = {}

    def start(self, job: SweepJob) -> None:
        """Submit a task for a job."""
        self.running[self.task.remote(asdict(job), self.environment)] = job.name

    def ended(self) -> dict[str, int | str]:
        """The exit codes of the tasks that have ended; of a lost one the reason."""
        over, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=POLL)
        return {self.running.pop(task): self._outcome(task) for task in over}

    def close(self) -> None:
        """Cancel the tasks that still run, and leave the cluster."""
        for task in self.running:
            self.ray.cancel(task, force=True)
        if self.running:
            self.ray.wait(list(self.running), num_returns=len(self.running), timeout=10)
        self.ray.shutdown()

    def _outcome(self, task: Any) -> int | str:
        from ray.exceptions import RayError

        try:
            return self.ray.get(task)
        except RayError as error:
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def work(job: dict[str, Any], environment: dict[str, str]) -> int:
    """Run the worker of a job on this node; its exit code."""
    process = launch(SweepJob(**job), environment)
    try:
        return process.wait()
    finally:
        stop(process)
