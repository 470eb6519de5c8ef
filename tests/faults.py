"""Faults that a test injects into a process of its own: at the k-th of certain events it is killed, signalled or out of space.

An event is a name: `write <file>`, `rename <file>` or `sync <file>` for what happens below a directory, `hook <name>` for each
call of the callbacks' hooks by Lightning. Events are counted from the start of the process. A file goes by its final name while
it is written under a temporary one.
"""

from __future__ import annotations

import builtins
import errno
import io
import math
import os
import re
import signal
import threading
import time
from fnmatch import fnmatchcase
from typing import Any

import lightning as L  # noqa: N812
import lightning.pytorch.trainer.call as hooks


def name(file: Any) -> str:
    """The final name of a file."""
    return re.sub(r"^\.(.+)\.\d+\.gcgap$", r"\1", os.path.basename(os.fsdecode(file)))


class Faults:
    """Watches the events of this process, and acts at some of them.

    Args:
        below: The directory whose files are watched.
        at: Which events are counted: a pattern such as `write step=*.json`.
        numbers: At which of those, counted from 0, something happens.
        act: `kill` (in the middle, if it is a write), `full` (this write and every later one stops half way), or the name of a
            signal, which is sent before.
        seconds: Instead, when to act, from now on.
        delay: Seconds that each write to TensorBoard's file takes.
    """

    def __init__(
        self,
        below: str,
        at: str = "",
        numbers: tuple[int, ...] = (),
        act: str = "kill",
        seconds: float | None = None,
        delay: float = 0,
    ) -> None:
        self.below, self.at, self.numbers, self.act, self.delay = os.path.realpath(below), at, numbers, act, delay
        self.seen: list[str] = []
        self.matched, self.is_full = 0, False
        if seconds is not None:
            timer = threading.Timer(seconds, self.strike)
            timer.daemon = True
            timer.start()

    def due(self, event: str) -> bool:
        """Note an event; whether something happens at it."""
        self.seen.append(event)
        matches = fnmatchcase(event, self.at)
        self.matched += matches
        return matches and self.matched - 1 in self.numbers

    def strike(self) -> None:
        """Send this process its signal."""
        os.kill(os.getpid(), signal.SIGKILL if self.act == "kill" else signal.Signals[self.act])

    def install(self) -> None:
        """Replace what opens, renames and syncs files, and what calls hooks."""
        opening, replacing, syncing, calling = builtins.open, os.replace, os.fsync, hooks._call_callback_hooks

        def open_(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
            opened = opening(file, mode, *rest, **named)
            watched = not isinstance(file, int) and set(mode) & set("wax+") and self._below(file)
            return Watched(opened, name(file), self) if watched else opened

        def replace(source: Any, target: Any) -> None:
            self._before(f"rename {name(target)}", self._below(target))
            replacing(source, target)

        def sync(number: int) -> None:
            path = os.readlink(f"/proc/self/fd/{number}")
            self._before(f"sync {name(path)}", self._below(path))
            syncing(number)

        def call(trainer: Any, hook: str, *rest: Any, **named: Any) -> None:
            self._before(f"hook {hook}", True)
            calling(trainer, hook, *rest, **named)

        builtins.open = io.open = open_  # type: ignore[assignment]
        os.replace, os.fsync, hooks._call_callback_hooks = replace, sync, call

    def _below(self, file: Any) -> bool:
        return os.path.realpath(os.fsdecode(file)).startswith(self.below + os.sep)

    def _before(self, event: str, watched: bool) -> None:
        if watched and self.due(event) and self.act != "full":
            self.strike()


class Watched:
    """An open file whose writes are events."""

    def __init__(self, file: Any, name: str, faults: Faults) -> None:
        self.file, self.name, self.faults = file, name, faults

    def write(self, content: Any) -> int:
        """Write all, or half and then act."""
        if "tfevents" in self.name:
            time.sleep(self.faults.delay)
        if not self.faults.due(f"write {self.name}") and not self.faults.is_full:
            return self.file.write(content)
        if self.faults.act in ("kill", "full"):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
        if self.faults.act == "full":
            self.faults.is_full = True
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.faults.strike()
        return self.file.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()


class Spoil(L.Callback):
    """Puts a number into a tensor: into the gradient of a weight before a step, or into the weight after one.

    Args:
        name: The weight.
        step: How many steps have been done before.
        value: The number.
        gradient: Whether it is the gradient that is spoilt.
    """

    def __init__(self, name: str, step: int, value: float = math.nan, gradient: bool = False) -> None:
        self.name, self.step, self.value, self.gradient = name, step, value, gradient

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        grad = pl_module.get_parameter(self.name).grad
        if self.gradient and trainer.global_step == self.step and grad is not None:
            grad.view(-1)[0] = self.value

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.gradient and trainer.global_step == self.step:
            pl_module.get_parameter(self.name).data.view(-1)[0] = self.value
