"""The short help of `gcgap fit`, `validate`, `test` and `predict`: gcgap's own options and the everyday ones of Lightning."""

from __future__ import annotations

import textwrap
from shutil import get_terminal_size
from typing import Any

from gcgap.training.parser import Parser

TRAINER = (
    *("default_root_dir", "max_steps", "val_check_interval", "accelerator", "devices", "precision"),
    *("logger", "callbacks", "fast_dev_run"),
)
TEXTS = {
    "config": "A YAML file with any of these keys; options hold in the order in which they are typed.",
    "seed_everything": "Seed of the data, the initial weights and everything else.",
    "ckpt_path": "A .ckpt file to resume or to judge; `last` is that of the run directory.",
    "trainer.default_root_dir": "The run directory; by default runs/TASK-seedSEED.",
    "trainer.max_steps": "Optimiser steps at most.",
    "trainer.val_check_interval": "Optimiser steps between two looks at the accuracy target.",
    "trainer.accelerator": "cpu, gpu, .. or auto.",
    "trainer.devices": "Processes, one for each device.",
    "trainer.precision": "Number format of training: 32-true, bf16-mixed, 16-mixed, 64-true, ..",
    "trainer.logger": "By default TensorBoard in the run directory.",
    "trainer.callbacks": "Further Lightning callbacks.",
    "trainer.fast_dev_run": "Try this many steps, and write nothing.",
}
BLOCKS = ("data", "model", "target", "protocol", "protocol.tracking", "protocol.attribution")


def short_help(parser: Parser, command: str) -> str:
    """A line for each option: its default, and the beginning of what `--help-all` says of it."""
    defaults = {key: value for key, value in parser.get_defaults().items() if not key.endswith(".seed")}
    groups = {"--": ["config", "seed_everything", "ckpt_path", "import"], "--trainer.": [f"trainer.{name}" for name in TRAINER]}
    groups |= {f"--{block}.": [key for key in defaults if key.rpartition(".")[0] == block] for block in BLOCKS}
    texts = {action.dest: " ".join(str(action.help).split()) for action in parser._actions} | TEXTS
    width = min(max(get_terminal_size().columns, 100), 130)
    lines = [
        f"usage: gcgap {command} [--config FILE] [--KEY=VALUE ..]",
        "",
        "gcgap's own options and the everyday ones of Lightning's Trainer, with their defaults; `--help-all` says more of each,",
        "and lists all others of the Trainer.",
    ]
    for prefix, keys in groups.items():
        lines += ["", f"{prefix}KEY:" if prefix != "--" else "options:"]
        for key in keys:
            name = f"  --{key}" if prefix == "--" else f"    {key.rpartition('.')[2]}"
            start = f"{name:<26} {_shown(defaults.get(key)):<14} "
            lines.append(start + textwrap.shorten(texts[key], width - len(start), placeholder=" .."))
    return "\n".join(lines)


def _shown(value: Any) -> str:
    """A default as one types it; nothing if there is none."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
