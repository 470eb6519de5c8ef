"""What is around a process: signals that end it, launchers that started several of it, and the batch system that requeues it.

Owns which signals those are, and who answers one in the end: gcgap where it is the program, else the handler of its caller.
Launchers (srun, torchrun, mpirun, ..) number their processes in environment variables. A process that trains a whole run by
itself must not take them for its own: it would wait for others, or write nothing because it is not the first one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

NUMBERS = (  # what terminals, users and batch systems send before they kill; the default of each is to end the process
    *(signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
    *(signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU),  # SLURM, Grid Engine, and a limit of CPU time
)


class Interrupted(SystemExit):
    """A signal ends the command; its exit code is 128 and the signal's number, as shells have it.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number
        self.message = f"Interrupted by {signal.Signals(number).name}."


def interrupt(number: int, frame: Any = None) -> None:
    """Raise `Interrupted`, wherever the program is."""
    raise Interrupted(number)


@contextmanager
def handled_by(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have a handler for all these signals; not for one that is ignored, as SIGINT is in the background of a script.

    Only the main thread may do so; in another one nothing changes.
    """
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in NUMBERS if main}
    before = {number: known for number, known in before.items() if known not in (None, signal.SIG_IGN)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def hand_over(number: int) -> None:
    """Give a signal, for which everything is saved, to the handler that is installed now: that of whoever called gcgap.

    It may end the process, raise KeyboardInterrupt, or return. `interrupt` is not called: its command is ending already.
    """
    if signal.getsignal(number) is not interrupt:
        sys.stdout.flush()
        sys.stderr.flush()
        signal.raise_signal(number)


class DeferredSignals:
    """Holds the first signal back, from `hold` to `release` or within a `with`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._holding = ExitStack()

    def hold(self) -> None:
        """Note a signal from now on."""
        self.number = None
        self._holding.enter_context(handled_by(self._note))

    def release(self) -> None:
        """Let signals do again what they did before."""
        self._holding.close()

    def __enter__(self) -> DeferredSignals:
        self.hold()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _note(self, number: int, frame: Any = None) -> None:
        if self.number is not None:
            interrupt(number)
        self.number = number


JOB = "slurm_job"  # the key of a checkpoint that holds the job in which it was saved
NAMES = {"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"}
NAMES |= {"WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"}
PREFIXES = ("SLURM_", "TORCHELASTIC_", "PET_", "OMPI_", "PMI_", "PMIX_", "MV2_COMM_", "JSM_", "PALS_", "XRT_", "PJRT_LOCAL_")
SIZES = {  # variables that only the processes of a launcher get, with their number; a batch script of SLURM has no step
    "srun": ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_TASKS"),
    "torchrun": ("TORCHELASTIC_RUN_ID", "WORLD_SIZE"),
    "mpirun": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"),
    "mpiexec": ("PMI_SIZE", "PMI_SIZE"),
    "jsrun": ("JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_SIZE"),
}


def without_launcher(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables in which launchers number their processes."""
    return {name: value for name, value in environment.items() if name not in NAMES and not name.startswith(PREFIXES)}


def check_launched_once(environment: Mapping[str, str]) -> None:
    """Raise a ValueError where a launcher has started several processes, which would all write the same run."""
    for launcher, (sign, variable) in SIZES.items():
        size = environment.get(variable, "1")
        if sign in environment and size != "1":
            raise ValueError(
                f"`trainer.devices` and `trainer.num_nodes` are 1, but {launcher} has started {size} processes (`{variable}`).\n"
                f"Set both to what {launcher} starts, or start one process; for many runs use `gcgap sweep`."
            )


@contextmanager
def as_one_process() -> Iterator[None]:
    """Leave the variables of launchers out of this process's environment.

    Those of a SLURM job of one task stay: they describe this process, and Lightning puts the job back into the queue by them.
    """
    kept = without_launcher(os.environ)
    if os.environ.get("SLURM_NTASKS") == "1":
        kept |= {name: value for name, value in os.environ.items() if name.startswith("SLURM_")}
    removed = {name: value for name, value in os.environ.items() if name not in kept}
    for name in removed:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(removed)


def job() -> int | None:
    """The batch job of SLURM that this process belongs to: a requeued job has the number that it had before."""
    from lightning.fabric.plugins.environments import SLURMEnvironment  # the workers of a sweep need no Lightning

    return SLURMEnvironment.job_id()


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
