"""What Lightning does when a signal comes, replaced: the caller's handlers stay, and SLURM requeues the job from `last.ckpt`.

Lightning's own handlers swallow SIGTERM until training ends, and write a second checkpoint that the same command would not find.
"""

from __future__ import annotations

import os
import signal
import subprocess

import lightning as L  # noqa: N812
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.trainer.connectors.signal_connector import _SignalConnector

from gcgap.training.signals import hand_over

JOB = "slurm_job"  # the key of a checkpoint that holds the job in which it was saved


class CallersHandlers(_SignalConnector):
    """Leaves every handler as it is; when training has been torn down, hands the signal that ended it over to its handler."""

    def __init__(self) -> None:
        self.received_sigterm = False
        self.ended_by: int | None = None
        self.of_sigint = signal.getsignal(signal.SIGINT)

    def install(self, trainer: L.Trainer) -> None:
        """Take the place of a trainer's own connector."""
        trainer._signal_connector = self

    def register_signal_handlers(self) -> None:
        """Install none."""

    def teardown(self) -> None:
        """Hand over the signal, if one has ended training."""
        number, self.ended_by = self.ended_by, None
        if number is None:
            return
        if self.of_sigint is not None:
            self._register_signal(signal.SIGINT, self.of_sigint)  # Lightning ignores it from a KeyboardInterrupt on
        hand_over(number)


def job() -> int | None:
    """The batch job of SLURM that this process belongs to: a requeued job has the number that it had before."""
    return SLURMEnvironment.job_id()


def asks_to_requeue(trainer: L.Trainer, number: int) -> bool:
    """Whether a signal is the one by which SLURM asks a job to save, and to requeue itself (by default SIGUSR1)."""
    environment = trainer._accelerator_connector.cluster_environment
    return isinstance(environment, SLURMEnvironment) and environment.auto_requeue and number == environment.requeue_signal


def requeue() -> str:
    """Requeue this job; how that went."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{array}_{task}" if array else str(job())  # the number of one task's job is the number of the whole array too
    command = ["scontrol", "requeue", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"`{' '.join(command)}` could not be started: {error}."
    if done.returncode:
        return f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr.strip()}"
    return f"SLURM job {name} is requeued, and resumes the run with the same command."
