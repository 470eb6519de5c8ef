"""`gcgap attribute`: every attribution method beside the exact effects of saved models, with its cost.

Imports torch only once options are read.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from gcgap.commands.options import COLUMNS, CompactHelp, PretrainedOptions, check_alone, option_kinds, plain
from gcgap.importance.protocol import Attribution, Baseline, Metric, Protocol, Stage
from gcgap.records.atomic import check_folder
from gcgap.records.attribution_record import FOLDER, AttributionRecord
from gcgap.records.record_file import check_replaceable
from gcgap.training.display import showing
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option, import_modules

if TYPE_CHECKING:
    from gcgap.attribution.setup import Setup
    from gcgap.commands.targets import Target

TEXT = """Every attribution method beside the exact effect of every component, and what each costs.
Writes RUN/attribution/NAME.json and, in RUN/attribution/NAME/, tables (CSV) and figures (PNG, PDF);
NAME says the baseline and whatever else is not the default. Skips what is there already."""
SEQUENCES = 128  # fewer than C takes, since curvature costs more than ablation
SETTINGS = ("metric", "budget", "probes", "steps", "pairs")
CHOICES = {"precision": ("float32", "float64", "bf16"), "attention": ("eager", "sdpa")}


class AttributeParser(CompactHelp, ArgumentParser):
    """The options of `gcgap attribute`."""


def build_parser() -> AttributeParser:
    """The options of `gcgap attribute`."""
    parser, usual = AttributeParser("gcgap attribute", description=TEXT, allow_abbrev=False), Attribution()
    add = parser.add_argument
    add("paths", nargs="*", type=Path, metavar="CKPT", help="run directories (their last checkpoint), or .ckpt files")
    methods = "names, separated by commas (default all, but of a large model none that takes passes for each component)"
    add("--methods", type=_names, help=methods)
    add("--list-methods", action="store_true", help="print the methods, each with one sentence")
    baselines = f"what replaces an output, any of {', '.join(Baseline)} (default mean, for prompts patch_prompt); "
    stages = f"parts to run, of {', '.join(Stage)} (default all; of a large model methods, which are always run)"
    add("--stages", type=_names, metavar="NAMES", help=stages)
    add("--baseline", type=_names, help=f"{baselines}several, separated by commas, make several records")
    metric = "what is differentiated: log_prob (nats per scored token), logit_difference or probability_difference"
    add("--metric", help=f"{metric} (default {usual.metric}, for prompts {Metric.LOGIT_DIFFERENCE})")
    direction = "noising, or denoising: clean outputs in the corrupted run (patch_* baselines only)"
    add("--direction", default="noising", help=f"{direction} (default noising)")
    positions = "where components are replaced: all, input, scored, or token numbers separated by commas (default all)"
    add("--positions", type=_positions, default="all", help=positions)
    add(
        "--length",
        type=int,
        help="integers of the OOD sequences (default the window rule), for ioi filler sentences",
    )
    add("--sequences", type=int, default=SEQUENCES, help=f"evaluation sequences (default {SEQUENCES})")
    budget = "exact effects that Screen-Flag-Fix may compute: below 1 a share of the components, else a number"
    add("--budget", type=float, default=usual.budget, help=f"{budget} (default {usual.budget})")
    probes = "draws of random signs behind curvatures by probes"
    add("--probes", type=int, default=usual.probes, help=f"{probes} (default {usual.probes})")
    add("--steps", type=int, default=usual.steps, help=f"nodes of every path (default {usual.steps})")
    pairs = "antithetic pairs of orders per sequence behind Shapley values"
    add("--pairs", type=int, default=usual.pairs, help=f"{pairs} (default {usual.pairs})")
    known = "instead of checkpoints, hand-made models whose circuit is known: writes DIR/known.json and DIR/known/"
    add("--known", action="store_true", help=known)
    add("--out", type=Path, metavar="DIR", help="write to DIR/RUN/attribution/ instead; needed with --known")
    add("--force", action="store_true", help="replace records that are there already")
    add_import_option(parser)
    pretrained = parser.add_argument_group("a pretrained model, instead of checkpoints")
    for name, kind, text in option_kinds():
        form: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind, "choices": CHOICES.get(name)}
        pretrained.add_argument(f"--{name.replace('_', '-')}", help=text, **form)
    pretrained.add_argument("--revision", help="one branch, tag or commit, such as step1000; `gcgap measure` takes several")
    formats = CHOICES["precision"]
    pretrained.add_argument("--precision", choices=formats, help=f"number format of the weights: {', '.join(formats)}")
    return parser


def run(arguments: list[str]) -> int:
    """Attribute what the arguments name."""
    options = parsed(arguments[1:])
    import_modules(options.imports)
    if options.list_methods:
        from gcgap.attribution.methods import METHODS

        print("\n".join(f"  {name:36}{one.text}" for name, one in METHODS.items()))
        return 0
    if not options.model:
        check_alone(vars(options))
    if options.known:
        return _attribute_known(options)
    if bool(options.model) == bool(options.paths):
        raise UsageError("give run directories or .ckpt files, or `--model`, or `--known`, and only one of them.")
    if options.model:
        return _attribute(_of_model(options), options)
    return _attribute([target for path in options.paths for target in _of_run(path, options)], options)


def parsed(arguments: list[str]) -> argparse.Namespace:
    """The options."""
    options = build_parser().parse_args(arguments)
    from gcgap.training.config_file import check_numbers

    check_numbers(vars(options).items())
    return options


def _attribute(targets: list[Target], options: argparse.Namespace) -> int:
    """Attribute each target that has no record yet."""
    from gcgap.report.write import OF_RECORD, check_files

    if twice := next(
        (one.record for i, one in enumerate(targets) if one.record in [other.record for other in targets[:i]]), None
    ):
        raise UsageError(
            f"`{twice}` would be written twice; name runs and baselines once, and give runs of one name each an `--out`."
        )
    waiting = targets if options.force else [target for target in targets if not target.is_done()]
    for target in waiting:
        check_folder(target.record.with_suffix(""), "--out")
        check_replaceable(target.record)
        check_files(target.record.with_suffix(""), OF_RECORD, options.force)
    console = Console()
    if done := len(targets) - len(waiting):
        console.print(f"{done} of {len(targets)} records are there already; `--force` measures them again.")
    with Progress(*COLUMNS, console=console) as progress:
        for target in waiting:
            _attribute_one(target, options.force, progress)
    return 0


def _attribute_one(target: Target, force: bool, progress: Progress) -> None:
    from gcgap.attribution.attribute import STAGES, attribute
    from gcgap.attribution.scoring import discard
    from gcgap.report.terminal_methods import method_table
    from gcgap.report.write import write_files

    name = escape(f"{target.record.parent.parent.name}, {target.record.stem}")
    task = progress.add_task(name, total=len(target.protocol.attribution.methods) + len(STAGES))
    unfinished = target.record.with_name(f".{target.record.stem}.partial")
    record = attribute(
        target.load(),
        setup=target.setup,
        length=target.length,
        protocol=target.protocol,
        done=lambda stage: progress.advance(task),
        partial=unfinished,
    )
    record = AttributionRecord(record.to_dict() | target.named).write(target.record)
    discard(unfinished)
    write_files(record, target.record.with_suffix(""), force)
    progress.remove_task(task)
    with showing("the table of methods"):
        progress.console.print(method_table(record), highlight=False)
    progress.console.print(f"{target.record}\n", highlight=False, markup=False, soft_wrap=True)


def _attribute_known(options: argparse.Namespace) -> int:
    """Hold the methods against the models whose circuit is known."""
    if options.paths or options.model or options.out is None:
        raise UsageError("`--known` takes no checkpoints, no `--model`, and needs `--out DIR`; it has models of its own.")
    for name in ("baseline", "direction", "positions", "length"):
        if getattr(options, name) != build_parser().get_default(name):
            raise UsageError(f"`--{name}` is not for `--known`, whose models say what is ablated, and where.")
    record = options.out / "known.json"
    if record.exists() and not options.force:
        raise UsageError(f"`{record}` is there already; replace it with `--force`.")
    from gcgap.attribution.known_circuits import KNOWN
    from gcgap.attribution.methods import default_methods, find_methods
    from gcgap.attribution.truth import BASELINES, truth
    from gcgap.report.circuit_tables import known_table
    from gcgap.report.write import OF_TRUTH, check_files, write_truth

    check_folder(options.out, "--out")
    check_replaceable(record)
    check_files(options.out / "known", OF_TRUTH, options.force)
    find_methods(methods := options.methods or default_methods(), BASELINES[0])
    settings, console = replace(Attribution(), **_given(options)), Console()
    with Progress(*COLUMNS, console=console) as progress:
        task = progress.add_task("Known circuits", total=len(KNOWN) * len(BASELINES) * len(methods))
        found = truth(methods=methods, settings=settings, sequences=options.sequences, done=lambda stage: progress.advance(task))
    write_truth(found, options.out, options.force)
    with showing("the table of known circuits"):
        console.print(known_table(found), highlight=False)
    console.print(f"{record}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _of_run(path: Path, options: argparse.Namespace) -> list[Target]:
    """The last checkpoint of a run, or that of a file: a target for each baseline."""
    from gcgap.attribution.setup import Setup, default_metric, default_protocol
    from gcgap.commands.targets import Target, run_of
    from gcgap.models.checkpoints import last_checkpoint, misnamed, run_directory
    from gcgap.training.config_file import load_of_run

    run_of(path)
    checkpoint = last_checkpoint(path)
    setups = _setups(options, Setup())
    if wrong := misnamed(checkpoint):
        raise UsageError(f"{wrong}.\nRename it, or copy the right one to its place.")
    home = run_directory(checkpoint) if options.out is None else options.out / run_directory(checkpoint).name
    part = [path.stem] if path.is_file() and path.stem != "last" else []
    model = None if options.methods and options.stages else load_of_run(checkpoint)
    protocols = [_protocol(options, default_protocol(model, None, one.baseline), one) for one in setups]
    records = [home / FOLDER / f"{_record_name(one, options, default_metric(None), part)}.json" for one in setups]
    each = zip(records, protocols, setups, strict=True)
    return [Target(checkpoint, record, protocol, options.length, one) for record, protocol, one in each]


def _of_model(options: argparse.Namespace) -> list[Target]:
    """A target for each baseline of a pretrained model, which is loaded here: its weights say what is done already."""
    from gcgap.attribution.setup import default_protocol
    from gcgap.commands.targets import Target

    pretrained, records = PretrainedOptions.of(vars(options)), model_records(options)
    model = pretrained.load(options.revision)
    protocols = [
        _protocol(options, default_protocol(model, model.origin.source, one.baseline), one, pretrained.precision)
        for _, one in records
    ]
    named = {"run": pretrained.run, "revision": options.revision}
    each = zip(records, protocols, strict=True)
    return [Target(model, record, protocol, pretrained.length, one, named) for (record, one), protocol in each]


def model_records(options: argparse.Namespace) -> list[tuple[Path, Setup]]:
    """Where the record of a pretrained model goes for each baseline; the model is not loaded."""
    from gcgap.attribution.setup import PROMPTED_METRIC, PROMPTED_SETUP

    pretrained = PretrainedOptions.of(vars(options))
    home = (options.out or Path("runs")) / pretrained.run / FOLDER
    part = [f"revision={plain(options.revision)}"] if options.revision else []
    part += [f"precision={pretrained.precision}"] if options.precision else []
    setups = _setups(options, PROMPTED_SETUP)
    return [(home / f"{_record_name(one, options, PROMPTED_METRIC, part)}.json", one) for one in setups]


def what_is_asked(options: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """What options say of the record of a pretrained model before it is loaded: its size may choose methods and stages."""
    from gcgap.attribution.setup import PROMPTED_METRIC

    usual = Protocol(attribution=Attribution(metric=PROMPTED_METRIC))
    protocol = _protocol(options, usual, setup, PretrainedOptions.of(vars(options)).precision).to_dict()
    chosen = {name for name in ("methods", "stages") if not getattr(options, name)}
    attribution = {key: value for key, value in protocol["attribution"].items() if key not in chosen}
    said = {key: protocol[key] for key in ("sequences", "precision")} | {"attribution": attribution}
    return {"setup": setup.to_dict(), "protocol": said}


def _setups(options: argparse.Namespace, usual: Setup) -> list[Setup]:
    from gcgap.attribution.setup import Setup
    from gcgap.importance.protocol import Baseline

    for name in (names := options.baseline or (usual.baseline,)):
        if name not in list(Baseline):
            raise UsageError(f"`--baseline` must be any of {', '.join(Baseline)}; got {name!r}.")
    return [Setup(Baseline(name), options.direction, options.positions) for name in names]


def _protocol(options: argparse.Namespace, usual: Protocol, setup: Setup, precision: str = "float32") -> Protocol:
    """The usual protocol with what the options say laid over it."""
    from gcgap.attribution.methods import find_methods

    find_methods(methods := options.methods or usual.attribution.methods, setup.baseline)
    settings = replace(usual.attribution, methods=methods, **_given(options))
    return replace(usual, sequences=options.sequences, precision=precision, attribution=settings)


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """The settings of attribution that the options say."""
    return {name: value for name in (*SETTINGS, "stages") if (value := getattr(options, name)) is not None}


def _record_name(setup: Setup, options: argparse.Namespace, metric: Metric, rest: list[str]) -> str:
    """The baseline, and every setting that decides what the numbers are of and is not the default; then the rest.

    `metric` is the one by default.
    """
    positions = "+".join(map(str, setup.positions)) if isinstance(setup.positions, tuple) else setup.positions
    said = {"metric": options.metric or metric, "direction": setup.direction, "positions": positions}
    usual = {"metric": metric, "direction": "noising", "positions": "all"}
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
