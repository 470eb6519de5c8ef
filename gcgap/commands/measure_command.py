"""`gcgap measure`: measure saved checkpoints again, with any setting changed.

Without changes a record has the numbers that training wrote, in the same place. With changes it goes to a folder of its own
that names them, `gap/site=released/` say, so that two protocols never mix. Imports torch only once options are read.
"""

from __future__ import annotations

import textwrap
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import Progress

from gcgap.commands.options import COLUMNS, FLAGS, WIDTH, CompactHelp, check_alone, option_kinds
from gcgap.importance.protocol import PROMPTED, NumberFormat, Option, Protocol
from gcgap.records.record_file import check_replaceable
from gcgap.training.display import showing
from gcgap.training.parser import Parser
from gcgap.training.usage import UsageError, add_import_option, import_modules

EXIT = "exit code 1 if anything does, 2 if a checkpoint was replaced"
TOLERANCE = "(default 0; 1e-4 for another machine)"


class MeasureParser(CompactHelp, Parser):
    """The options of `gcgap measure`, with those of the protocol."""


def build_parser() -> MeasureParser:
    """The options of `gcgap measure`."""
    usual = [f"{one.name} {_shown(getattr(PROMPTED, one.name))}" for one in fields(Protocol) if _differs(one.name)]
    lines = textwrap.wrap(f"Defaults for `--model`: protocol.{', '.join(usual)}.", WIDTH)
    about = "\n".join(["Measure saved checkpoints again, with any setting changed.", *lines])
    parser = MeasureParser(prog="gcgap measure", description=about)
    parser.add_argument("paths", nargs="*", type=str, help="run directories (all their checkpoints), or .ckpt files")

    def add(name: str, kind: Any, default: Any, text: str, to: Any = parser) -> None:
        to.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), type=kind, default=default, help=text)

    add("length", int | None, None, "integers of the OOD sequences, instead of the run's own length")
    add("full", bool, False, "measure every checkpoint with the final sizes under the window rule")
    add("force", bool, False, "replace records that are there already")
    add("gauges", bool, False, "show the gap of the last record in other gauges")
    add("precision", Option[NumberFormat] | None, None, "short for --protocol.precision: float32, float64 or bf16")
    add("verify", bool, False, f"repeat what the records say, write nothing, list what differs; {EXIT}")
    add("tolerance", float, 0.0, f"difference that --verify allows {TOLERANCE}")
    add_import_option(parser)
    pretrained = parser.add_argument_group("a pretrained model, instead of checkpoints")
    for name, kind, text in option_kinds():
        add(name, kind if kind is bool else kind | None, False if kind is bool else None, text, pretrained)
    revisions = "branches, tags or commits, such as step1000 step2000 of Pythia"
    pretrained.add_argument("--revision", nargs="*", type=str, default=[], help=revisions)
    add("out", str, "runs", "where the run directory goes (default runs)", pretrained)
    parser.add_class_arguments(Protocol, "protocol")
    return parser


def run(arguments: list[str]) -> int:
    """Measure what the arguments name; skips what is done."""
    options, given = _parsed(arguments[1:])
    import_modules(options.imports)
    if options.verify or "tolerance" in given:
        return _verify(options, given)
    changes = _changes(options, given)
    if options.model:
        return _measure_revisions(changes, options)
    check_alone(vars(options))
    if not options.paths:
        raise UsageError("give run directories or .ckpt files, or `--model`.")
    return _measure_checkpoints(changes, options)


def of_model(arguments: list[str]) -> tuple[Namespace, dict[str, Any]]:
    """What options with a `--model` ask for, and what they change of the protocol."""
    options, given = _parsed(arguments)
    return options, _changes(options, given)


def _parsed(arguments: list[str]) -> tuple[Namespace, Namespace]:
    """All options, and those that are given."""
    parser = build_parser()
    flags = ("--full", "--force", "--gauges", "--verify", *(f"--{name.replace('_', '-')}" for name in FLAGS))
    arguments = [f"{argument}=true" if argument in flags else argument for argument in arguments]
    for name in (argument.removeprefix("--").split("=")[0] for argument in arguments if argument.startswith("--")):
        if name != "precision" and name in {field.name for field in fields(Protocol)}:
            raise UsageError(f"`--{name}` is `--protocol.{name}` here.")
    options = parser.parse_args(arguments)
    given = parser.parse_args(arguments, defaults=False)
    from gcgap.training.config_file import check_numbers

    check_numbers(options.items())
    return options, given


def _changes(options: Namespace, given: Namespace) -> dict[str, Any]:
    """What is given of the protocol."""
    changes = given.get("protocol", Namespace()).as_dict()
    if options.precision is not None:
        if "precision" in changes:
            raise UsageError("`--precision` is short for `--protocol.precision`; give one of the two.")
        changes["precision"] = options.precision
    return changes


def _measure_checkpoints(changes: dict[str, Any], options: Namespace) -> int:
    """Measure the checkpoints of runs; 1 if one of them has another step's name."""
    from gcgap.commands.targets import checkpoints, correctly_named
    from gcgap.records.record import Record
    from gcgap.report.terminal import gauge_table, table

    planned = [target for path in options.paths for target in checkpoints(Path(path), changes, options)]
    targets = correctly_named(planned)
    waiting = targets if options.force else [target for target in targets if not target.is_done()]
    for target in waiting:
        check_replaceable(target.record)
    console, last = Console(), None
    if done := len(targets) - len(waiting):
        console.print(f"{done} of {len(targets)} records are there already; `--force` measures them again.")
    with Progress(*COLUMNS, console=console, disable=not waiting) as progress:
        task = progress.add_task("Measuring", total=len(waiting))
        for target in waiting:
            last = target.measure()
            _show(progress, task, last)
    if last is not None:
        with showing("the table of the last record"):
            console.print(table(last))
    if options.gauges:
        console.print(gauge_table(Record.read(targets[-1].record)))
    return int(len(targets) < len(planned))


def _measure_revisions(changes: dict[str, Any], options: Namespace) -> int:
    """Measure a pretrained model at its revisions."""
    from gcgap.commands.targets import Revisions
    from gcgap.report.terminal import gauge_table, table

    revisions, console = Revisions.of(changes, options), Console()
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Measuring", total=len(revisions.names))
        known = " (was there already; `--force` measures again)"
        last = revisions.measure(lambda record, was_there: _show(progress, task, record, known if was_there else ""))
    with showing("the table of the last record"):
        console.print(table(last))
    if options.gauges:
        console.print(gauge_table(last))
    return 0


def _show(progress: Progress, task: Any, record: Any, more: str = "") -> None:
    """Print a record's sentence, and advance."""
    from gcgap.report.describe import without_ticks
    from gcgap.report.terminal import sentence

    text = f"{record.path}: {without_ticks(sentence(record))}{more}"
    progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
    progress.advance(task)


def _verify(options: Namespace, given: Namespace) -> int:
    """Measure again what the records say, each as it says."""
    from gcgap.commands.targets import numbered_twin
    from gcgap.commands.verify import verify
    from gcgap.training.config_file import protocol_of

    if other := next((key for key in vars(given.as_flat()) if key not in ("paths", "verify", "tolerance", "imports")), None):
        raise UsageError(f"`--verify` measures as each record says it was measured; leave out `--{other}`.")
    if not options.verify or not 0 <= options.tolerance < 1:
        raise UsageError(f"`--tolerance` belongs to `--verify`, and is a share from 0 to 1; got {options.tolerance}.")
    paths = [numbered_twin(path) if path.name == "last.ckpt" and path.exists() else path for path in map(Path, options.paths)]
    return verify(paths, options.tolerance, protocol_of)


def _differs(name: str) -> bool:
    """Whether prompts are measured with another value of a setting."""
    return getattr(PROMPTED, name) != getattr(Protocol(), name)


def _shown(value: Any) -> str:
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value).lower()
