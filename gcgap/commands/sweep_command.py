"""`gcgap sweep`: run what a sweep file names, skip what is done, resume what is not, and report what failed."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from rich.console import Console

from gcgap.records.atomic import check_folder
from gcgap.training.cluster import DeferredSignals, Interrupted
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option

if TYPE_CHECKING:
    from gcgap.sweep.engines import Engine
    from gcgap.sweep.live import Row, View
    from gcgap.sweep.plan import PlannedRun

TEXT = """Run every combination of a sweep file as an independent run, each in a process of its own.

The file names a directory, config files, and lists of values of their keys:

  directory: runs/paper
  configs:                        # one folder of runs for each name, or a plain list
    default: [sort.yaml, reverse.yaml]
  grid:                           # every combination; any key of `gcgap fit`
    seed_everything: [42, 123]
  again:                          # measure each final model again, so changed
    default: [{site: released}]

Or pretrained models: models x revisions x prompts x baselines, each job in a process of its own:

  directory: runs/pythia
  command: measure                # or attribute
  grid:                           # every combination; any option of that command with `--model`
    model: [EleutherAI/pythia-70m]
    revision: [step1000, step143000]
    prompts: [ioi, greater_than]

Paths are relative to the file. Started again, a sweep skips what is done and resumes what is not.
`gcgap report` of the directory shows everything.
A run that fails does not stop the others; its output is in logs/ of the directory.

Exit code: 0 done, 1 a run failed, 2 what was typed, 128 and the number of a signal (130 Ctrl-C)."""


TRAINING = ("max_steps", "val_check_interval", "precision", "accumulate_grad_batches", "gradient_clip_val")


def build_parser() -> ArgumentParser:
    """The options of `gcgap sweep`."""
    form = argparse.RawDescriptionHelpFormatter
    parser = ArgumentParser("gcgap sweep", description=TEXT, formatter_class=form, allow_abbrev=False)
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the sweep file, such as configs/paper.yaml")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the runs go, instead of the file's `directory`")
    parser.add_argument(
        "--only", nargs="+", metavar="PATTERN", help="only the runs whose names match, such as 'default/*' or '*-seed42'"
    )
    texts = {
        "workers": "workers at a time (a number; default auto: one per CUDA device, or one of one thread per CPU)",
        "engine": "local processes (default), or tasks of the Ray cluster that RAY_ADDRESS names (`local` starts one here); "
        "needs gcgap[ray] on every node, and the directory on a file system that all nodes share",
    }
    parser.add_argument("--workers", default="auto", type=_workers, metavar="N", help=texts["workers"])
    parser.add_argument("--engine", default="local", choices=["local", "ray"], help=texts["engine"])
    add_import_option(parser)
    return parser


def _workers(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be `auto` or a number of at least 1; got {text!r}.")
    return int(text)


def run(arguments: list[str]) -> int:
    """Run a sweep; 1 if a run failed."""
    options = build_parser().parse_args(arguments[1:])
    from gcgap.commands.sweep_models import planned
    from gcgap.sweep.live import Row, View

    runs = chosen(planned(options.config, options.directory, options.imports), options.only)
    home = Path(runs[0].job.log.removesuffix(f"logs/{runs[0].job.name}.log"))
    check_folder(home, "--directory")
    with locked(home):
        for one in runs:
            check(one)
        rows = [Row(one, "done before" if one.job.is_done() else "waiting") for one in runs]
        if any(row.state == "waiting" for row in rows):
            with (
                engine(options.engine, options.workers) as workers,
                View(rows, workers.slots) as view,
                DeferredSignals() as signals,
            ):
                drive(rows, workers, view, signals)
        for finish in {row.run.finish for row in rows if row.run.finish and "done" in row.state}:
            finish()
    return report(rows)


def chosen(runs: list[PlannedRun], patterns: list[str] | None) -> list[PlannedRun]:
    """The runs whose names match any of the patterns; every run without one."""
    for pattern in patterns or ():
        if not any(fnmatchcase(run.job.name, pattern) for run in runs):
            raise UsageError(f"`--only`: no run matches {pattern!r}; there are {runs[0].job.name} .. {runs[-1].job.name}.")
    return [run for run in runs if patterns is None or any(fnmatchcase(run.job.name, pattern) for pattern in patterns)]


def check(run: PlannedRun) -> None:
    """Refuse what is there of another run, which would be skipped or resumed as if it were this one."""
    if run.job.commands[0][0] != "fit":
        check_records(run)
        return
    if not run.job.last.exists() and not run.job.is_trained():
        return
    if not (run.job.run / "config.yaml").exists():
        raise UsageError(
            f"{run.job.name}: {run.job.run} holds a run without its config.yaml.\nGive another `--directory`, or remove it."
        )
    from gcgap.training.lightning_cli import other_run

    if other := other_run(run.job.run, run.resolved, TRAINING):
        raise UsageError(f"{run.job.name}: {other}.\nGive another `--directory`, or remove that run.")


def check_records(run: PlannedRun) -> None:
    """Refuse records of a pretrained model that do not say what is asked for."""
    from gcgap.records.record_file import check_same
    from gcgap.sweep.worker import readable

    for path in run.job.paths:
        if record := readable(path):
            try:
                check_same(path, record.data, run.resolved)
            except ValueError as error:
                first = str(error).partition(" Replace")[0]
                raise UsageError(f"{run.job.name}: {first}\nGive another `--directory`, or remove that record.") from error


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold a directory for one sweep; the lock goes with the process that holds it."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / ".lock", blocking=False):
            yield
    except Timeout as error:
        raise UsageError(f"Another sweep works on {directory}; wait until it ends, or give another `--directory`.") from error


@contextmanager
def engine(name: str, workers: int | None) -> Iterator[Engine]:
    """The engine of that name; whatever happens, no worker is left."""
    from gcgap.sweep.engines import Local, OnRay

    made: Engine
    if name == "ray":
        try:
            made = OnRay(workers)
        except ImportError as error:
            raise UsageError("`--engine ray` needs Ray: pip install 'gcgap[ray]'.") from error
    else:
        made = Local(workers)
    try:
        yield made
    except Interrupted as interrupted:
        interrupted.message = "Interrupted. The same command resumes where this one stopped."
        raise
    finally:
        made.close()


def drive(rows: list[Row], workers: Engine, view: View, signals: DeferredSignals) -> None:
    """Start what waits whenever there is a free slot, until everything has ended.

    Raises:
        Interrupted: A signal has come; Ray would make another exception of one that a handler raises.
    """
    waiting = [row for row in rows if row.state == "waiting"]
    running: dict[str, Row] = {}
    while waiting or running:
        while waiting and len(running) < workers.slots:
            row = waiting.pop(0)
            row.begin(time.monotonic())
            running[row.run.job.name] = row
            workers.start(row.run.job)
        view.update()
        for name, code in workers.ended().items():
            end(running.pop(name), code, time.monotonic())
        if signals.number is not None:
            raise Interrupted(signals.number)
    view.update()


def end(row: Row, code: int | str, now: float) -> None:
    """Note how a run has ended."""
    if row.run.job.is_done() and code == 0:
        row.state, row.seconds = "done", now - row.started if row.whole else None
    else:
        row.state, row.reason = "failed", reason(Path(row.run.job.log), row.written, code)


def reason(log: Path, start: int, code: int | str) -> str:
    """Why a worker failed: the last error in its log from byte `start` on, or how it ended."""
    if isinstance(code, str):
        return code
    text = log.read_bytes()[start:].decode(errors="replace") if log.exists() else ""
    if code > 0 and "gcgap: error: " in text:
        first, *rest = text.rpartition("gcgap: error: ")[2].splitlines()
        more = [line.strip() for line in rest[:2] if line.startswith("  ")]
        return " ".join([first, *more])
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code} without a final record" if code == 0 else f"exit code {code}"


def report(rows: list[Row]) -> int:
    """Print what failed, and where its output is."""
    console, failed = Console(), [row for row in rows if row.state == "failed"]
    for row in failed:
        message = f"{row.run.job.name} failed: {row.reason}\n  {row.run.job.log}"
        console.print(message, highlight=False, markup=False, soft_wrap=True)
    console.print(f"{len(rows) - len(failed)} of {len(rows)} runs are done.", highlight=False)
    return int(bool(failed))
