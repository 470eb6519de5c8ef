"""Launchers of several processes (srun, torchrun, mpirun, ..) and the environment variables in which they number them.

A process that trains a whole run by itself must not take them for its own: it would wait for others, or write nothing because it
is not the first one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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
