"""`gcgap measure`: measure saved checkpoints again, with any setting changed.

Without changes a record has the numbers that training wrote, in the same place. With changes it goes to a folder of its own
that names them, `gap/site=released/` say, so that two protocols never mix.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from gcgap.commands.pretrained_options import FLAGS, TEXTS, Given, check_alone
from gcgap.commands.revisions import Revisions
from gcgap.commands.verify import verify
from gcgap.importance.protocol import PROMPTED, NumberFormat, Option, Protocol, Sizes
from gcgap.measurement.measure import measure
from gcgap.models.checkpoints import (
    FINAL,
    last_checkpoint,
    misnamed,
    read_checkpoint,
    run_directory,
    same_weights,
    sha256,
    step_checkpoints,
)
from gcgap.records.atomic import check_folder
from gcgap.records.record import Record
from gcgap.records.record_file import check_replaceable, check_same
from gcgap.report.component_table import sentence, table
from gcgap.report.wording import without_ticks
from gcgap.training.config_file import check_numbers, load_of_run, merged, protocol_of, read_run_config, variant
from gcgap.training.display import showing
from gcgap.training.parser import Parser
from gcgap.training.usage import UsageError, add_import_option, import_modules

COLUMNS = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())


@dataclass(frozen=True)
class Job:
    """One checkpoint to measure.

    Args:
        checkpoint: The file.
        record: Where its record goes.
        protocol: What is measured.
        length: Length of the OOD sequences; None applies the window rule.
    """

    checkpoint: Path
    record: Path
    protocol: Protocol
    length: int | None

    def is_done(self) -> bool:
        """Whether the record is there, of this checkpoint and this protocol.

        Raises:
            ValueError: The file holds a record of something else.
        """
        if not self.record.exists():
            return False
        asked = {"checkpoint_sha256": sha256(self.checkpoint), "protocol": self.protocol.to_dict()}
        asked |= {} if self.length is None else {"length": self.length}
        check_same(self.record, Record.read(self.record).data, asked)
        return True


def build_parser() -> Parser:
    """The options of `gcgap measure`."""
    usual = [f"{one.name} {_told(getattr(PROMPTED, one.name))}" for one in fields(Protocol) if _differs(one.name)]
    about = f"Measure saved checkpoints again, with any setting changed. Defaults for `--model`: protocol.{', '.join(usual)}."
    parser = Parser(prog="gcgap measure", description=about)
    parser.add_argument("paths", nargs="*", type=str, help="Run directories (all their checkpoints), or .ckpt files.")
    texts = {
        "length": "Length of the OOD sequences (integers per example), instead of the run's own.",
        "precision": "Short for `--protocol.precision`.",
        "full": "Measure every checkpoint with the final sizes under the window rule (a flag, or true / false).",
        "force": "Replace records that are there already (a flag, or true / false).",
        "verify": "Measure again what the records say, write nothing, and tell what differs; exit code 1 if anything does, 2 if "
        "a checkpoint was replaced. Records whose checkpoint is not there are counted and left out (a flag, or true / false).",
        "tolerance": "Largest relative difference of two numbers that `--verify` takes for the same (0 is bit for bit, as on the "
        "same machine; 1e-4 serves for another one).",
    }
    texts |= {
        "revision": "Branches, tags or commits of `--model`, such as step1000 step2000 of Pythia: the checkpoints of one run.",
        "out": "Where the run directory of `--model` goes.",
    }
    parser.add_argument("--length", type=int | None, default=None, help=texts["length"])
    parser.add_argument("--precision", type=Option[NumberFormat] | None, default=None, help=texts["precision"])
    parser.add_argument("--full", type=bool, default=False, help=texts["full"])
    parser.add_argument("--force", type=bool, default=False, help=texts["force"])
    parser.add_argument("--verify", type=bool, default=False, help=texts["verify"])
    parser.add_argument("--tolerance", type=float, default=0.0, help=texts["tolerance"])
    for name, text in TEXTS.items():
        kind = bool if name in FLAGS else {"seed": int | None, "memory": float | None}.get(name, str | None)
        default = False if name in FLAGS else None
        parser.add_argument(f"--{name}", f"--{name.replace('_', '-')}", type=kind, default=default, help=text)
    parser.add_argument("--revision", nargs="*", type=str, default=[], help=texts["revision"])
    parser.add_argument("--out", type=str, default="runs", help=texts["out"])
    add_import_option(parser)
    parser.add_class_arguments(Protocol, "protocol")
    return parser


def run(arguments: list[str]) -> int:
    """Measure what the arguments name; skips what is done."""
    parser = build_parser()
    flags = ("--full", "--force", "--verify", *(f"--{name.replace('_', '-')}" for name in FLAGS))
    arguments = [f"{argument}=true" if argument in flags else argument for argument in arguments[1:]]
    for name in (argument.removeprefix("--").split("=")[0] for argument in arguments if argument.startswith("--")):
        if name != "precision" and name in {field.name for field in fields(Protocol)}:
            raise UsageError(f"`--{name}` is `--protocol.{name}` here.")
    options = parser.parse_args(arguments)
    given = parser.parse_args(arguments, defaults=False)
    check_numbers(options.items())
    import_modules(options.imports)
    if options.verify or "tolerance" in given:
        return _verify(options, given)
    changes = given.get("protocol", Namespace()).as_dict()
    if options.precision is not None:
        if "precision" in changes:
            raise UsageError("`--precision` is short for `--protocol.precision`; give one of the two.")
        changes["precision"] = options.precision
    if options.model:
        return _of_model(changes, options)
    check_alone(vars(options))
    if not options.paths:
        raise UsageError("give run directories or .ckpt files, or `--model`.")
    planned = [job for path in options.paths for job in _jobs(Path(path), changes, options)]
    jobs = _honest(planned)
    waiting = jobs if options.force else [job for job in jobs if not job.is_done()]
    for job in waiting:
        check_replaceable(job.record)
    console = Console()
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} records are there already; `--force` measures them again.")
    last = None
    with Progress(*COLUMNS, console=console, disable=not waiting) as progress:
        task = progress.add_task("Measuring", total=len(waiting))
        for job in waiting:
            record = measure(load_of_run(job.checkpoint), length=job.length, protocol=job.protocol)
            last = Record(record.to_dict() | {"final": job.record.name == "final.json"}).write(job.record)
            progress.console.print(
                f"{job.record}: {without_ticks(sentence(last))}", highlight=False, markup=False, soft_wrap=True
            )
            progress.advance(task)
    if last is not None:
        with showing("the table of the last record"):
            console.print(table(last))
    return int(len(jobs) < len(planned))


def _of_model(changes: dict[str, Any], options: Namespace) -> int:
    """Measure a pretrained model at its revisions."""
    if options.paths or options.full:
        raise UsageError("`--model` is measured instead of checkpoints, in one size; leave out paths and `--full`.")
    protocol = protocol_of(merged(asdict(PROMPTED), changes))
    _check_used(changes, protocol)
    given = Given.of(vars(options), precision=protocol.precision)
    check_folder(Path(options.out), "--out")
    folder = Path(options.out) / given.run / "gap" / variant(PROMPTED, protocol, options.length)
    revisions = Revisions(given, options.revision or [None], protocol, folder, options.force)
    console = Console()
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Measuring", total=len(revisions.names))

        def done(record: Record, known: bool) -> None:
            was = " (was there already; `--force` measures again)" if known else ""
            told = f"{record.path}: {without_ticks(sentence(record))}{was}"
            progress.console.print(told, highlight=False, markup=False, soft_wrap=True)
            progress.advance(task)

        last = revisions.measure(done)
    with showing("the table of the last record"):
        console.print(table(last))
    return 0


def _differs(name: str) -> bool:
    """Whether prompts are measured with another value of a setting."""
    return getattr(PROMPTED, name) != getattr(Protocol(), name)


def _told(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value).lower()


def _honest(jobs: list[Job]) -> list[Job]:
    """The jobs without those of a checkpoint that holds another step than its name says, each of which is told.

    Raises:
        UsageError: None is left.
    """
    wrong = {path: misnamed(path) for path in dict.fromkeys(job.checkpoint for job in jobs)}
    told = [text for text in wrong.values() if text]
    if len(told) == len(wrong):
        raise UsageError(f"{told[0]}.\nRename it, or copy the right one to its place.")
    for text in told:
        print(f"gcgap: warning: {text}; it is not measured. Rename it, or copy the right one to its place.", file=sys.stderr)
    return [job for job in jobs if not wrong[job.checkpoint]]


def _verify(options: Namespace, given: Namespace) -> int:
    """Measure again what the records say, each as it says."""
    if other := next((key for key in vars(given.as_flat()) if key not in ("paths", "verify", "tolerance", "imports")), None):
        raise UsageError(f"`--verify` measures as each record says it was measured; leave out `--{other}`.")
    if not options.verify or not 0 <= options.tolerance < 1:
        raise UsageError(f"`--tolerance` belongs to `--verify`, and is a share from 0 to 1; got {options.tolerance}.")
    paths = [_numbered_twin(path) if path.name == "last.ckpt" and path.exists() else path for path in map(Path, options.paths)]
    return verify(paths, options.tolerance, protocol_of)


def _jobs(path: Path, changes: dict[str, Any], options: Namespace) -> list[Job]:
    """Every checkpoint of a run directory and its final measurement, or the one checkpoint of a file."""
    if not path.exists():
        raise UsageError(f"`{path}` does not exist; give a run directory or a .ckpt file.")
    home = path if path.is_dir() else run_directory(path)
    _check_configured(home / "config.yaml", path)
    saved, own = _saved(home / "config.yaml")
    protocol = protocol_of(merged(saved, changes))
    _check_used(changes, protocol)
    folder = home / "gap" / variant(own, protocol, options.length, options.full)
    whole = path.is_dir() or path.name == "last.ckpt"
    files = step_checkpoints(path) if path.is_dir() else [_numbered_twin(path)] if whole else [path]
    if not files:
        raise UsageError(f"`{path}` holds no checkpoints/step=*.ckpt; give a run directory or a .ckpt file.")
    numbered = [file for file in files if file.name.startswith("step=") and path.name != "last.ckpt"]
    if numbered and not whole and not options.full:
        _check_sizes(changes)
    sized = protocol if options.full else protocol.tracked()
    length = protocol.tracking.length if options.length is None and not options.full else options.length
    jobs = [Job(file, folder / f"{file.stem}.json", sized, length) for file in numbered]
    if whole or not numbered:
        last = last_checkpoint(path) if path.is_dir() else files[-1]
        jobs.append(Job(last, folder / "final.json", protocol, options.length))
    return jobs


def _check_configured(config: Path, path: Path) -> None:
    """Report a checkpoint without the config that says how it is measured.

    Raises:
        UsageError: It is a run directory.
    """
    if config.exists():
        return
    if path.is_dir():
        raise UsageError(
            f"`{path}` holds no config.yaml, which says how its checkpoints are measured; copy it back.\n"
            "A single .ckpt file is measured with the default protocol."
        )
    print(f"gcgap: warning: there is no `{config}`; `{path}` is measured with the default protocol.", file=sys.stderr)


def _check_used(changes: dict[str, Any], protocol: Protocol) -> None:
    """Raise a UsageError for a setting of attribution methods where none is run."""
    if changes.get("attribution") and not protocol.attribution.methods:
        name = next(iter(changes["attribution"]))
        raise UsageError(
            f"`protocol.attribution.{name}` is of attribution methods, and none is run; name some with "
            "`--protocol.attribution.methods`.\nC has exact match and log-probability, and of prompts the logit difference."
        )


def _check_sizes(changes: dict[str, Any]) -> None:
    """Raise a UsageError for a size that a checkpoint of a step would not be measured with."""
    for name in (field.name for field in fields(Sizes) if field.name in changes):
        if name not in changes.get("tracking", {}):
            raise UsageError(
                f"`protocol.{name}` is a size of final measurements; the checkpoint of a step is measured with "
                f"`protocol.tracking.{name}`.\nGive that instead, or `--full` for the sizes of a final measurement."
            )


def _numbered_twin(last: Path) -> Path:
    """The checkpoint with the weights of last.ckpt, whose hash is in its record; last.ckpt itself if there is none."""
    content = read_checkpoint(last)
    step, weights = content.get("global_step"), content.get("state_dict")
    if not isinstance(step, int) or not isinstance(weights, dict):
        return last
    twins = (last.with_name(name) for name in (FINAL, f"step={step:06d}.ckpt"))
    same = (one for one in twins if one.exists() and same_weights(weights, read_checkpoint(one).get("state_dict") or {}))
    return next(same, last)


def _saved(config: Path) -> tuple[dict[str, Any], Protocol]:
    """The protocol that a run was configured with, as its config says it and as it is; the defaults where there is no config."""
    found = read_run_config(config).get("protocol", {})
    try:
        return found, protocol_of(found)
    except (UsageError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"`{config}` does not hold a run's config: {reason}") from error
