"""Workers on a Ray cluster, from the extra `gcgap[ray]`.

The sweep's directory must be on a file system that every node shares, and gcgap installed on every node.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import ray
from ray.exceptions import RayError

from gcgap.sweep.engines import POLL, stop
from gcgap.sweep.worker import SweepJob, launch


class OnRay:
    """Tasks of a Ray cluster, each of one GPU if the cluster has any, and otherwise of one CPU and one thread.

    Joins the cluster that RAY_ADDRESS names or that runs here already, or starts one on this machine. A task whose node is
    lost is started again by Ray and resumes its run.

    Args:
        workers: Tasks at a time; None takes what the cluster has when the sweep starts.
    """

    def __init__(self, workers: int | None) -> None:
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
        over, _ = ray.wait(list(self.running), num_returns=len(self.running), timeout=POLL)
        return {self.running.pop(task): _outcome(task) for task in over}

    def close(self) -> None:
        """Cancel the tasks that still run, and leave the cluster."""
        for task in self.running:
            ray.cancel(task, force=True)
        ray.wait(list(self.running), num_returns=len(self.running), timeout=10) if self.running else None
        ray.shutdown()


def work(job: dict[str, Any], environment: dict[str, str]) -> int:
    """Run the worker of a job on this node; its exit code."""
    process = launch(SweepJob(**job), environment)
    try:
        return process.wait()
    finally:
        stop(process)


def _outcome(task: Any) -> int | str:
    try:
        return ray.get(task)
    except RayError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
