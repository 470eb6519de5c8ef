"""Launchers of several processes (srun, torchrun, mpirun, ..) and the environment variables in which they number them.

A process that trains a whole run by itself must not take them for its own: it would wait for others, or write nothing because it
is not the first one. A job that SLURM is about to end is requeued.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
