"""`gcgap check`: test the symmetries of a model, or an ablation function of somebody's own against identities.

Imports torch only once options are read.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from gcgap.commands.options import CompactHelp, PretrainedOptions, check_alone, option_kinds
from gcgap.training.usage import ArgumentParser, UsageError, add_import_option, import_modules, modules

if TYPE_CHECKING:
    from gcgap.measurement.hook_audit import Identity
    from gcgap.measurement.symmetries import Moved
    from gcgap.report.whole_table import WholeTable

TEXT = """Write the same function down otherwise (heads scaled, mixed, permuted, gains and biases folded):
do logits stay, and which quantities move? With --hook, hold an ablation function of your own
against identities instead. Exit code 1 if something moves that must not, or an identity fails."""
HOOK = "MODULE:FUNCTION of your own, a module or a .py file; it takes layer, head and any of model, value, inputs"


class CheckParser(CompactHelp, ArgumentParser):
    """The options of `gcgap check`."""


def build_parser() -> CheckParser:
    """The options of `gcgap check`."""
    parser = CheckParser("gcgap check", description=TEXT, allow_abbrev=False)
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="CKPT", help="a run directory (its last checkpoint), or a .ckpt file"
    )
    parser.add_argument("--hook", metavar="MODULE:FUNCTION", help=HOOK)
    add_import_option(parser)
    pretrained = parser.add_argument_group("a pretrained model, instead of a checkpoint")
    for name, kind, text in option_kinds():
        form: dict[str, Any] = {"action": "store_true"} if kind is bool else {"type": kind}
        pretrained.add_argument(f"--{name.replace('_', '-')}", help=text, **form)
    pretrained.add_argument("--revision", help="a branch, tag or commit, such as step1000")
    return parser


def run(arguments: list[str]) -> int:
    """Check what the arguments name."""
    options = build_parser().parse_args(arguments[1:])
    if bool(options.model) == bool(options.path):
        raise UsageError("give a run directory or a .ckpt file, or `--model`, and only one of them.")
    if not options.model:
        check_alone(vars(options))
    import_modules(options.imports)
    ablation = None if options.hook is None else _function(options.hook)
    model, name = _load(options)
    console = Console()
    if ablation is None:
        from gcgap.measurement.symmetries import symmetries

        moved = symmetries(model)
        console.print(symmetry_table(moved, name))
        return int(any(one.is_wrong for one in moved))
    from gcgap.measurement.hook_audit import HookError, audit

    try:
        found = audit(model, ablation)
    except HookError as error:
        raise UsageError(f"`--hook` {options.hook}: {error}") from error
    console.print(identity_table(found, f"{options.hook} on {name}"))
    return int(any(one.holds is False for one in found))


def _load(options: argparse.Namespace) -> tuple[Any, str]:
    """The model, and what it is called."""
    if options.model:
        return PretrainedOptions.of(vars(options)).load(options.revision), options.model
    from gcgap.commands.targets import run_of
    from gcgap.models.checkpoints import last_checkpoint
    from gcgap.training.config_file import load_of_run

    run_of(options.path)
    return load_of_run(checkpoint := last_checkpoint(options.path)), str(checkpoint)


def _function(hook: str) -> Any:
    """The function that `--hook` names."""
    module, _, name = hook.rpartition(":")
    if not module or not name:
        raise UsageError(f"`--hook` must be MODULE:FUNCTION, such as my_module:my_ablation; got {hook!r:.100}.")
    (module,) = modules([module])
    import_modules([module], "--hook")
    found = sys.modules[Path(module).stem if module.endswith(".py") else module]
    if not callable(getattr(found, name, None)):
        raise UsageError(f"`--hook`: {module} has no function {name!r:.100}.")
    return getattr(found, name)


def symmetry_table(found: list[Moved], name: str) -> WholeTable:
    """The largest change of logits and of each quantity under every symmetry; `!` where it must not move."""
    from gcgap.measurement.symmetries import INVARIANT, TOLERANCE
    from gcgap.report.whole_table import WholeTable

    untested = [f"{one.name}, not for this model: {one.reason}" for one in found if one.reason]
    untested += [f"{one.name}: {one.note}" for one in found if one.note]
    legend = f"largest change over the largest value; =: less than {TOLERANCE:g}; !: must not move"
    grid = WholeTable(
        title=escape(name), caption=escape("\n".join([legend, *untested])), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    grid.add_column("", no_wrap=True)
    for one in found:
        grid.add_column(one.name, justify="right", no_wrap=True)
    grid.add_row(
        "logits", *("-" if one.reason else _moved(one.logits, one.logits > TOLERANCE, ".0e") for one in found), end_section=True
    )
    for quantity in INVARIANT:
        grid.add_row(quantity, *("-" if one.quantities is None else _cell(one, quantity, TOLERANCE) for one in found))
    return grid


def _cell(one: Moved, quantity: str, tolerance: float) -> Text:
    moved = (one.quantities or {})[quantity]
    return Text("=") if moved <= tolerance else _moved(moved, quantity in one.wrong, ".1%")


def _moved(value: float, wrong: bool, form: str) -> Text:
    return Text(f"{value:{form}}{' !' * wrong}", style="bold red" if wrong else "")


def identity_table(found: list[Identity], name: str) -> WholeTable:
    """Each identity, whether it holds, and the head with the largest change of a logit that should be 0."""
    from gcgap.report.whole_table import WholeTable

    grid = WholeTable(
        title=escape(name), caption="largest change of a logit over the largest logit", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    grid.add_column("identity")
    for heading in ("holds", "largest", "at"):
        grid.add_column(heading, no_wrap=heading != "holds")
    for one in found:
        says = Text(one.reason) if one.holds is None else Text("yes") if one.holds else Text("NO", style="bold red")
        largest = "-" if one.largest is None else f"{one.largest:.1g}"
        grid.add_row(one.text, says, largest, "" if one.holds else one.component)
    return grid
