"""Which runs of a sweep share a worker, that trains them as one program."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gcgap.cli import UsageError
from gcgap.lightning_cli import ConfigOnly
from gcgap.sweep.live import Row
from gcgap.sweep.plan import Run

MOST = 64  # runs of one stack, whose jobs must fit into one argument of a process
KEPT = (  # what a stack does with settings of `trainer` as a single run does
    "accelerator",
    "precision",
    "max_steps",
    "val_check_interval",
    "log_every_n_steps",
    "default_root_dir",  # the sweep's own
    "deterministic",
    "benchmark",
    "enable_progress_bar",
    "enable_model_summary",
)


def check_stackable(runs: Sequence[Run]) -> None:
    """Raise a UsageError that names the first setting under which replicas would not be independent runs."""
    usual = ConfigOnly().resolve(["--seed_everything=0"])["trainer"]
    for run in runs:
        trainer, architecture = run.resolved["trainer"], run.resolved["model"]["architecture"]
        if architecture != "gcgap":
            raise UsageError(
                f"`--stack`: {run.job.name} has `model.architecture` {architecture}; only gcgap's own can be stacked.\n"
                "Train its runs one by one, without `--stack`."
            )
        unusual = [key for key in usual if key not in KEPT and trainer[key] != usual[key]]
        if str(trainer["precision"]).startswith("16"):
            unusual.append("precision")  # one loss scale would be common to all replicas
        if unusual:
            key = unusual[0]
            raise UsageError(
                f"`--stack`: {run.job.name} has `trainer.{key}` {trainer[key]}, under which runs cannot be stacked.\n"
                "Leave that out, or train its runs one by one, without `--stack`."
            )


def shares(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """What waits, as workers take it: up to `size` untrained runs that differ only in their seeds, or one run."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.state == "waiting":
            alone = size == 1 or row.run.job.is_trained()
            shared = json.dumps(row.run.resolved | {"seed_everything": None}, sort_keys=True)
            groups.setdefault(row.run.job.name if alone else shared, []).append(row)
    return [group[first : first + size] for group in groups.values() for first in range(0, len(group), size)]
