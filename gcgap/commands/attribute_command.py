"""`gcgap attribute`: every attribution method beside the exact effects of saved models, with its cost."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from gcgap.attribution.attribute import STAGES, attribute
from gcgap.attribution.known_circuits import KNOWN
from gcgap.attribution.methods import METHODS, PAIR_LIMIT, find_methods
from gcgap.attribution.scoring import discard
from gcgap.attribution.setup import Setup, default_protocol, default_setup
from gcgap.attribution.truth import BASELINES, truth
from gcgap.commands.pretrained_options import FLAGS, TEXTS, Given, check_alone, plain
from gcgap.importance.protocol import Attribution, Baseline, Protocol
from gcgap.models.checkpoints import last_checkpoint, misnamed, run_directory, sha256
from gcgap.models.transformer import Decoder
from gcgap.records.atomic import check_folder
from gcgap.records.attribution_record import FOLDER, AttributionRecord
from gcgap.records.record_file import check_replaceable, check_same
from gcgap.report.circuit_tables import known_table
from gcgap.report.method_names import method_table
from gcgap.report.methods_files import OF_RECORD, OF_TRUTH, check_files, write_files, write_truth
from gcgap.training.config_file import check_numbers, load_of_run
from gcgap.training.display import showing
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option, import_modules

REVISION = "one branch, tag or commit of `--model`, such as step1000 of Pythia; `gcgap measure` takes several"
COLUMNS = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
TEXT = """Every attribution method beside the exact effect of every component, on the same sequences, and what each costs.

Writes RUN/attribution/NAME.json and, in RUN/attribution/NAME/, tables (CSV) and figures (PNG, PDF), where NAME says the baseline
and whatever else is not the default. Skips what is there already."""


@dataclass(frozen=True)
class Job:
    """One model under one setup.

    Args:
        load: Gives the model.
        sha256: Hash of its checkpoint or weights.
        record: Where its record goes.
        setup: What is intervened on.
        protocol: Sizes and methods.
        length: Length of the OOD sequences; None applies the window rule.
        prompts_sha256: Hash of the file of prompts, if they come from one.
        named: What the record says besides of where the model comes from.
    """

    load: Callable[[], Decoder]
    sha256: str
    record: Path
    setup: Setup
    protocol: Protocol
    length: int | None
    prompts_sha256: str | None = None
    named: dict[str, Any] = field(default_factory=dict)

    @property
    def unfinished(self) -> Path:
        """Where what is done of it is kept until the record is written."""
        return self.record.with_name(f".{self.record.stem}.partial")

    @property
    def files(self) -> Path:
        """Where its tables and figures go."""
        return self.record.with_suffix("")

    def is_done(self) -> bool:
        """Whether the record is there, of this checkpoint and these settings.

        Raises:
            ValueError: The file holds a record of something else.
        """
        if not self.record.exists():
            return False
        protocol = self.protocol.to_dict() | {"prompts_sha256": self.prompts_sha256}
        asked = {"checkpoint_sha256": self.sha256, "setup": self.setup.to_dict(), "protocol": protocol}
        asked |= {} if self.length is None else {"length": self.length}
        check_same(self.record, AttributionRecord.read(self.record).data, asked)
        return True


def build_parser() -> ArgumentParser:
    """The options of `gcgap attribute`."""
    listed = "\n".join(f"  {name:36}{one.text}" for name, one in METHODS.items())
    parser = ArgumentParser(
        "gcgap attribute",
        description=TEXT,
        epilog=f"methods:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    default, settings = default_protocol(), Attribution()
    baselines = ", ".join(Baseline)
    parser.add_argument(
        "paths", nargs="*", type=Path, metavar="CKPT", help="run directories (their last checkpoint), or .ckpt files"
    )
    texts: dict[str, tuple[Any, Any, str]] = {
        "methods": (
            _names,
            None,
            f"names, separated by commas; all by default, but of a model with more than {PAIR_LIMIT} components none that takes "
            "backward passes, or sampled orders, for each component. Exact effects of components and pairs, and the reliability "
            "of the tangent, are measured whatever the methods",
        ),
        "metric": (str, settings.metric, "what is differentiated: log_prob (nats per scored token) or logit_difference"),
        "baseline": (
            _names,
            None,
            f"what replaces an output, any of {baselines} (default mean, for prompts patch_prompt); several, separated by "
            "commas, make several records",
        ),
        "direction": (str, "noising", "noising, or denoising: clean outputs in the corrupted run (patch_* baselines only)"),
        "positions": (
            _positions,
            "all",
            "where components are replaced: all, input, scored, or token numbers separated by commas",
        ),
        "length": (
            int,
            None,
            "length of the OOD sequences in integers; the paper's window rule by default. For ioi its filler sentences",
        ),
        "sequences": (int, default.sequences, "evaluation sequences"),
        "budget": (int, settings.budget, "forward passes that Screen-Flag-Fix may spend on exact effects"),
        "steps": (int, settings.steps, "nodes of every path"),
        "pairs": (int, settings.pairs, "antithetic pairs of orders per sequence behind Shapley values"),
    }
    for name, (kind, value, text) in texts.items():
        shown = ",".join(value) if isinstance(value, tuple) else value
        default_text = "" if value is None else f" (default {shown})"
        parser.add_argument(f"--{name}", type=kind, default=value, metavar=name.upper(), help=text + default_text)
    known = f"instead of checkpoints, models whose circuit is known ({', '.join(KNOWN)}): writes DIR/known.json and DIR/known/"
    parser.add_argument("--known", action="store_true", help=known)
    choice = {"precision": ("float32", "float64", "bf16"), "attention": ("eager", "sdpa")}
    for name, text in (TEXTS | {"revision": REVISION, "precision": "number format of the weights of `--model`"}).items():
        kind = {"seed": int, "memory": float}.get(name, str)
        form: dict[str, Any] = {"action": "store_true"} if name in FLAGS else {"type": kind, "choices": choice.get(name)}
        parser.add_argument(f"--{name.replace('_', '-')}", help=text, **form)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write to DIR/RUN/attribution/ instead; needed with --known")
    parser.add_argument("--force", action="store_true", help="replace records that are there already")
    add_import_option(parser)
    return parser


def run(arguments: list[str]) -> int:
    """Attribute what the arguments name."""
    options = build_parser().parse_args(arguments[1:])
    check_numbers(vars(options).items())
    import_modules(options.imports)
    if options.known:
        return run_known(options)
    if options.model and options.paths:
        raise UsageError("give run directories or .ckpt files, or `--model`, not both.")
    if not options.paths and not options.model:
        raise UsageError("give run directories or .ckpt files, or `--model`, or `--known`.")
    if not options.model:
        check_alone(vars(options))
    jobs = _of_model(options) if options.model else [job for path in options.paths for job in _of_checkpoint(path, options)]
    if twice := next((job.record for i, job in enumerate(jobs) if job.record in {other.record for other in jobs[:i]}), None):
        raise UsageError(
            f"`{twice}` would be written twice; name runs and baselines once, and give runs of one name each an `--out`."
        )
    waiting = jobs if options.force else [job for job in jobs if not job.is_done()]
    for job in waiting:
        check_folder(job.files, "--out")
        check_replaceable(job.record)
        check_files(job.files, OF_RECORD, options.force)
    console = Console()
    if len(waiting) < len(jobs):
        console.print(f"{len(jobs) - len(waiting)} of {len(jobs)} records are there already; `--force` measures them again.")
    with Progress(*COLUMNS, console=console) as progress:
        for job in waiting:
            stages = len(job.protocol.attribution.methods) + len(STAGES)
            task = progress.add_task(escape(f"{job.record.parent.parent.name}, {job.record.stem}"), total=stages)
            record = attribute(
                job.load(),
                setup=job.setup,
                length=job.length,
                protocol=job.protocol,
                done=lambda stage, task=task: progress.advance(task),
                partial=job.unfinished,
            )
            record = AttributionRecord(record.to_dict() | job.named).write(job.record)
            discard(job.unfinished)
            write_files(record, job.files, options.force)
            progress.remove_task(task)
            with showing("the table of methods"):
                progress.console.print(method_table(record), highlight=False)
            progress.console.print(f"{job.record}\n", highlight=False, markup=False, soft_wrap=True)
    return 0


def run_known(options: argparse.Namespace) -> int:
    """Hold the methods against the models whose circuit is known."""
    if options.paths or options.model or options.out is None:
        raise UsageError("`--known` takes no checkpoints, no `--model`, and needs `--out DIR`; it has models of its own.")
    check_alone(vars(options))
    for name in ("baseline", "direction", "positions", "length"):
        if getattr(options, name) != build_parser().get_default(name):
            raise UsageError(f"`--{name}` is not for `--known`, whose models say what is ablated, and where.")
    if (options.out / "known.json").exists() and not options.force:
        raise UsageError(f"`{options.out / 'known.json'}` is there already; replace it with `--force`.")
    check_folder(options.out, "--out")
    check_replaceable(options.out / "known.json")
    check_files(options.out / "known", OF_TRUTH, options.force)
    find_methods(methods := options.methods or tuple(METHODS))
    settings = Attribution(**{name: getattr(options, name) for name in ("metric", "budget", "steps", "pairs")})
    console = Console()
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Known circuits", total=len(KNOWN) * len(BASELINES) * len(methods))
        found = truth(methods=methods, settings=settings, sequences=options.sequences, done=lambda stage: progress.advance(task))
    write_truth(found, options.out, options.force)
    with showing("the table of known circuits"):
        console.print(known_table(found), highlight=False)
    console.print(f"{options.out / 'known.json'}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _of_checkpoint(path: Path, options: argparse.Namespace) -> list[Job]:
    """A job for each baseline."""
    if not path.exists():
        raise UsageError(f"`{path}` does not exist; give a run directory or a .ckpt file.")
    checkpoint = last_checkpoint(path)
    setups = _setups(options, Setup())
    if told := misnamed(checkpoint):
        raise UsageError(f"{told}.\nRename it, or copy the right one to its place.")
    home = run_directory(checkpoint) if options.out is None else options.out / run_directory(checkpoint).name
    part = [path.stem] if path.is_file() and path.stem != "last" else []
    load = partial(load_of_run, checkpoint)
    protocol = _protocol(options, default_protocol() if options.methods else default_protocol(load()))
    return [
        Job(load, sha256(checkpoint), home / FOLDER / f"{_record_name(one, options, part)}.json", one, protocol, options.length)
        for one in setups
    ]


def _of_model(options: argparse.Namespace) -> list[Job]:
    """A job for each baseline of a pretrained model, which is loaded here: its weights say what is done already."""
    given = Given.of(vars(options))
    model = given.load(options.revision)
    setups = _setups(options, default_setup(model.origin.source))
    protocol = replace(_protocol(options, default_protocol(model, model.origin.source)), precision=given.precision)
    home = (options.out or Path("runs")) / given.run / FOLDER
    part = [f"revision={plain(options.revision)}"] if options.revision else []
    part += [f"precision={given.precision}"] if options.precision else []
    return [
        Job(
            lambda: model,
            model.origin.checkpoint_sha256,
            home / f"{_record_name(one, options, part)}.json",
            one,
            protocol,
            given.length,
            model.origin.source.as_record()["prompts_sha256"],
            {"run": given.run, "revision": options.revision},
        )
        for one in setups
    ]


def _setups(options: argparse.Namespace, usual: Setup) -> list[Setup]:
    for name in (names := options.baseline or (usual.baseline,)):
        if name not in list(Baseline):
            raise UsageError(f"`--baseline` must be any of {', '.join(Baseline)}; got {name!r}.")
    return [Setup(Baseline(name), options.direction, options.positions) for name in names]


def _protocol(options: argparse.Namespace, usual: Protocol) -> Protocol:
    """The usual protocol with what the options say laid over it."""
    find_methods(methods := options.methods or usual.attribution.methods)
    shared: dict[str, Any] = {name: getattr(options, name) for name in ("metric", "budget", "steps", "pairs")}
    return replace(usual, sequences=options.sequences, attribution=Attribution(methods=methods, **shared))


def _record_name(setup: Setup, options: argparse.Namespace, rest: list[str]) -> str:
    """The baseline, and every setting that decides what the numbers are of and is not the default; then the rest."""
    positions = "+".join(map(str, setup.positions)) if isinstance(setup.positions, tuple) else setup.positions
    said = {"metric": options.metric, "direction": setup.direction, "positions": positions}
    usual = {"metric": "log_prob", "direction": "noising", "positions": "all"}
    parts = [str(setup.baseline), *(f"{name}={value}" for name, value in said.items() if value != usual[name])]
    parts += [f"length={options.length}"] if options.length is not None else []
    return ",".join(parts + rest)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _positions(text: str) -> Any:
    """A name, or numbers."""
    if text in ("all", "input", "scored"):
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(f"`--positions` must be all, input, scored, or numbers separated by commas; got {text!r}.") from None
