"""One run's place in a stack: its model, data, callbacks and loggers, and the trainer of the stack as its callbacks see it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L  # noqa: N812

from gcgap.callbacks import GapTracker
from gcgap.cli import UsageError, report_error
from gcgap.lightning_cli import SETTINGS, GapCLI
from gcgap.protocol import Tracking

if TYPE_CHECKING:
    from gcgap.stack.module import Stack


class PreparedRun(GapCLI):
    """A run of `gcgap fit`, checked and made ready, that is not trained.

    Args:
        arguments: Of `gcgap fit`.
        log: File that takes what is printed about the run.
    """

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.log = log
        super().__init__(**SETTINGS, args=["fit", *arguments])

    @property
    def resumed_from(self) -> Path | None:
        """The checkpoint that the run goes on from."""
        return self.chosen.ckpt_path and Path(self.chosen.ckpt_path)

    def _run_subcommand(self, subcommand: str) -> None:
        self.before_fit()

    def shared_trainer(self, callback: L.Callback) -> L.Trainer:
        """A trainer of this run's settings that writes nothing itself."""
        settings = vars(self._get(self.config_init, "trainer").clone())
        own = {"callbacks": [callback], "logger": False, "enable_checkpointing": False, "default_root_dir": self.run_directory}
        return L.Trainer(**settings | own)


class Seat:
    """The trainer of a stack as the callbacks of one run see it.

    What belongs to a run is its own (`callbacks`, `loggers`, `default_root_dir`, `datamodule`, `lightning_module`, `should_stop`,
    `callback_metrics` and what `save_checkpoint` writes). Everything else, such as `global_step`, is the stack's.

    Args:
        stack: The stack.
        run: The run.
    """

    def __init__(self, stack: Stack, run: PreparedRun) -> None:
        self.stack, self.run = stack, run
        self.module = self.lightning_module = run.model
        self.datamodule = run.datamodule
        self.callbacks: list[L.Callback] = run.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        self.loggers, self.default_root_dir = run.trainer.loggers, run.trainer.default_root_dir
        self.callback_metrics: dict[str, float] = {}
        self.should_stop, self.failed = False, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stack.trainer, name)

    @property
    def tracking(self) -> Tracking:
        """When the run is measured."""
        (tracker,) = (callback for callback in self.callbacks if isinstance(callback, GapTracker))
        return tracker.protocol.tracking

    def save_checkpoint(self, path: Path, weights_only: bool = False) -> None:
        """Save what a trainer of this run alone would save."""
        with self.stack.showing(self):
            self.stack.trainer.save_checkpoint(path, weights_only=weights_only)

    def tell(self, hook: str, *arguments: Any) -> None:
        """Call a hook of the run's callbacks."""
        with self.alone():
            for callback in self.callbacks:
                getattr(callback, hook)(self, self.module, *arguments)

    def write_log(self, metrics: dict[str, float]) -> None:
        """Log numbers of the step just done, as Lightning does."""
        with self.alone():
            for logger in self.loggers:
                logger.log_metrics(metrics | {"epoch": self.current_epoch}, step=self.global_step - 1)
                logger.save()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """What is printed meanwhile goes to the run's own log, and an error is the end of this run alone."""
        try:
            with speaking(self.run.log):
                yield
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """The run has failed and wants to leave the stack; its log tells why."""
        self.failed = self.should_stop = True
        complain(self.run.log, error)


@contextmanager
def speaking(log: Path) -> Iterator[None]:
    """What is printed meanwhile goes to a log."""
    with log.open("a") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def complain(log: Path, error: Exception) -> None:
    """Say in a log why a run has failed, as the command `gcgap fit` would."""
    with speaking(log):
        report_error(error, 2 if isinstance(error, (UsageError, ValueError)) else 1, debug=False)
