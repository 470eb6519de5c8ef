"""The processes of one training run: they share the measuring, wait for one another only so long, and end together.

DDP is Lightning's. Its launcher is replaced: Lightning's own kills the first process too when another one fails, whatever it is
writing, and lets the others live when the first one fails.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import lightning as L  # noqa: N812
import torch.distributed as dist
from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher
from torch import Tensor

from gcgap.importance.sharing import ALONE, Sharing

TIMEOUT = timedelta(minutes=10)  # what one process does alone, such as writing a record and its figures, takes seconds
GRACE = 10.0  # seconds in which a process may end by itself, and say more, after another one has failed
PERIOD = 0.5  # seconds between two looks at the others
STARTER = "GCGAP_STARTED_BY"  # environment variable: the process that started this one


def sharing(trainer: L.Trainer) -> Sharing:
    """The processes that train together, as those that share the measuring."""
    strategy = trainer.strategy
    if trainer.world_size == 1:
        return ALONE

    def add(own: Tensor) -> Tensor:
        return strategy.reduce(own.to(strategy.root_device), reduce_op="sum").cpu()

    return Sharing(trainer.global_rank, trainer.world_size, add)


class FailFastDDP(DDPStrategy):
    """DDP whose processes end together, in bounded time and with one message, when one of them fails.

    Args:
        timeout: Longest time for which a process waits for the others (hours:minutes:seconds).
        options: Those of Lightning's `DDPStrategy`.
    """

    def __init__(self, timeout: timedelta = TIMEOUT, **options: Any) -> None:
        super().__init__(timeout=timeout, **options)
        self.timeout = timeout

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = Launcher(self.cluster_environment, self.num_processes, self.num_nodes, self.timeout)


class Launcher(_SubprocessScriptLauncher):
    """Starts a process for each further device, and ends them all when one fails.

    A process that waits for one that is gone learns of it at once from gloo. Where it does not, because of nccl or of work of its
    own, a thread ends it.
    """

    def __init__(self, environment: ClusterEnvironment, num_processes: int, num_nodes: int, timeout: timedelta) -> None:
        super().__init__(environment, num_processes, num_nodes)
        self.timeout = timeout

    def launch(self, function: Callable, *args: Any, trainer: L.Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, then call a function; arguments as in Lightning's.

        Raises:
            RuntimeError: Another process has ended or does not answer.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[STARTER] = str(os.getpid())
            self._call_children_scripts()
            _watch(self.failed, self.end)
        elif (starter := os.environ.get(STARTER)) == str(os.getppid()):
            _watch(lambda: "" if str(os.getppid()) == starter else "the process of rank 0 is gone", self.end)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        try:
            return function(*args, **kwargs)
        except BaseException as error:  # the others must not outlive a signal either
            reason = self._reason(error) if _is_of_others(error) else ""
            self.end()
            if reason:
                raise RuntimeError(reason) from error
            if isinstance(error, Exception) and (rank := self.cluster_environment.global_rank()):
                error.add_note(f"in the process of rank {rank}")
                time.sleep(4 * PERIOD)  # if the first process fails likewise, it ends this one: one message is enough
            raise

    def failed(self) -> str:
        """Which of the processes that this one started have failed, and how; empty if none has."""
        codes = {rank: process.poll() for rank, process in enumerate(self.procs, self.cluster_environment.global_rank() + 1)}
        return "; ".join(f"the process of rank {rank} {_ending(code)}" for rank, code in codes.items() if code)

    def end(self) -> None:
        """End every process that this one started, those too that do not answer."""
        while self.procs:  # what is ended here has not failed
            process = self.procs.pop()
            process.kill()
            process.wait()

    def join(self) -> None:
        """Wait for the processes that this one started.

        Raises:
            RuntimeError: One has failed, or does not end.
        """
        late = []
        for rank, process in enumerate(self.procs, self.cluster_environment.global_rank() + 1):
            try:
                process.wait(self.timeout.total_seconds())
            except subprocess.TimeoutExpired:
                late.append(f"the process of rank {rank} had not ended after {self.timeout}, the `timeout` of `trainer.strategy`")
                process.kill()
                process.wait()
        if reason := "; ".join(late) or self.failed():
            raise RuntimeError(reason)

    def _reason(self, error: BaseException) -> str:
        """What it means that this process could not reach the others."""
        deadline = time.monotonic() + (GRACE if self.procs else 0)
        while not (reason := self.failed()) and time.monotonic() < deadline:
            time.sleep(PERIOD / 10)  # its connections close a moment before its exit code is known
        late = f"another process did not answer within {self.timeout}, the `timeout` of `trainer.strategy`"
        seen = late if _is_timeout(error) else "the connection to another process failed; its own output may say why"
        return reason or f"{seen}\n{str(error).splitlines()[0][:160]}"


def _watch(fails: Callable[[], str], end: Callable[[], None]) -> None:
    """In a thread: when `fails` names another process, give this one time to deal with it, then end it."""

    def watch() -> None:
        while not fails():
            time.sleep(PERIOD)
        time.sleep(GRACE)
        if not (reason := fails()):
            return  # this process has ended the others
        print(f"gcgap: error: RuntimeError: {reason}", file=sys.stderr, flush=True)
        end()
        os._exit(1)  # the main thread may be waiting where no exception reaches it

    threading.Thread(target=watch, daemon=True, name="gcgap-watch").start()


def _is_of_others(error: BaseException) -> bool:
    """Whether an error says that another process is gone or late, and nothing of this one."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "third_party/gloo" in str(error))


def _is_timeout(error: BaseException) -> bool:
    """Whether an error of gloo, nccl or torch's store has waited in vain; "connection timed out" is the system's."""
    return re.search(r"(?<!connection )timed? ?out", str(error), re.IGNORECASE) is not None


def _ending(code: int) -> str:
    """How a process with this return code ended."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
