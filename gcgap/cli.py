"""The command `gcgap`: which subcommand runs, and how errors reach the user.

Imports nothing heavy: `gcgap --help` and `gcgap --version` start at once. Exit codes: 0 done, 1 failed, 2 what the user typed,
128 and its number interrupted by a signal: 130 SIGINT (Ctrl-C), 143 SIGTERM.
What the user typed raises a `UsageError`, or a `ValueError` from code of
gcgap. A `ValueError` of a library is a failure, and so is any once training has begun.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module

from gcgap.training.cluster import Interrupted, hand_over, handled_by, interrupt
from gcgap.training.display import unfailing_output
from gcgap.training.usage import UsageError

COMMANDS = {
    "fit": ("gcgap.training.lightning_cli", "train a model to its accuracy target and measure every checkpoint"),
    "validate": ("gcgap.training.lightning_cli", "exact match on the fixed validation set"),
    "test": ("gcgap.training.lightning_cli", "exact match at every OOD length"),
    "predict": ("gcgap.training.lightning_cli", "predicted tokens at every OOD length"),
    "measure": ("gcgap.commands.measure_command", "measure saved checkpoints again, with any setting changed"),
    "attribute": ("gcgap.commands.attribute_command", "hold every attribution method against exact effects, with its cost"),
    "match": ("gcgap.commands.match_command", "match the heads of several runs by what they do: what is stable?"),
    "check": ("gcgap.commands.check_command", "test a model's symmetries, or an ablation function of your own"),
    "sweep": ("gcgap.commands.sweep_command", "run every combination of seeds and tasks, or of models and prompts"),
    "report": ("gcgap.commands.report_command", "tables, figures and one page from the records of runs"),
}
HELP = "\n".join(
    [
        "usage: gcgap [-h] [--version] [--debug] COMMAND ...",
        "",
        "The gradient-causal gap of transformers, measured at every checkpoint with intervals.",
        "",
        "commands:",
        *(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()),
        "",
        "options:",
        "  -h, --help  this text; `gcgap COMMAND --help` explains a command and its units",
        "  --version   print the version",
        "  --debug     print the traceback of an error",
        "",
        "example: gcgap fit --config configs/sort.yaml",
    ]
)


@unfailing_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        arguments: Those of the command. Without them gcgap is the program: it takes those of the process, and a signal shows in
            the exit code. With them it has a caller: a signal goes on to the caller's handler after the command has ended.
    """
    called = arguments is not None
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        with handled_by(interrupt):
            return _dispatch(arguments)
    except Interrupted as interrupted:
        if interrupted.message:
            print(f"gcgap: {interrupted.message}", file=sys.stderr)
        if called and interrupted.code:
            hand_over(interrupted.number)
        return int(interrupted.code or 0)
    except Exception as error:
        return report_error(error, exit_code(error), debug)


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        from gcgap import __version__

        print(f"gcgap {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise UsageError(f"no command {arguments[0]!r}; choose one of {', '.join(COMMANDS)}.")
    run: Callable[[list[str]], int] = import_module(COMMANDS[arguments[0]][0]).run
    return run(arguments)


def exit_code(error: Exception) -> int:
    """2 for what the user typed, otherwise 1; an error may bring its own `exit_code`."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    typed = isinstance(error, ValueError) and not isinstance(error, UnicodeError)
    typed = typed and str(frame.f_globals.get("__name__")).partition(".")[0] == __package__
    return getattr(error, "exit_code", 2 if typed or isinstance(error, UsageError) else 1)


def report_error(error: BaseException, code: int, debug: bool) -> int:
    """One to three lines on stderr; the traceback only where it was asked for."""
    if debug:
        traceback.print_exception(error)
    message = "\n".join([str(error), *getattr(error, "__notes__", ())])
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [type(error).__name__]
    lines = lines if len(lines) <= 3 else [*lines[:2], lines[-1]]  # jsonargparse: the key, what is wrong, .., what was got
    if code == 1:
        lines[0] = f"{type(error).__name__}: {lines[0]}"
    print("gcgap: error: " + "\n  ".join(lines), file=sys.stderr)
    return code
