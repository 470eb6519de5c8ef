"""`gcgap fit`, `validate`, `test` and `predict`: LightningCLI over gcgap's model, data and protocol.

Owns the config: its keys, its defaults, and the run directory that belongs to it.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import yaml
from filelock import FileLock, Timeout
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ProgressBar, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from gcgap.data.batches import check_seed
from gcgap.data.tasks import find_task
from gcgap.importance.protocol import Protocol
from gcgap.models.checkpoints import MODEL_SETTINGS, SINCE, read_checkpoint, run_directory
from gcgap.records.atomic import check_folder, write_whole
from gcgap.training.callbacks import GapTracker, StepProgress
from gcgap.training.cluster import JOB, Interrupted, as_one_process, check_launched_once, job
from gcgap.training.config_file import check_blocks, check_given, read_run_config
from gcgap.training.datamodule import SequenceData
from gcgap.training.module import AccuracyTarget, SequenceModel
from gcgap.training.parser import Parser, short_help
from gcgap.training.processes import FailFastDDP, Launcher
from gcgap.training.resuming import (
    AVERAGED,
    check_saved_weights,
    check_state,
    of_another_run,
    overridden_format,
    overridden_settings,
    overridden_training,
)
from gcgap.training.usage import TEXT, UsageError, import_modules, modules

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_steps": 15_000,
    "val_check_interval": 250,  # steps between two looks at the accuracy target
    "check_val_every_n_epoch": None,  # the training stream has no epochs
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 50,
    "enable_model_summary": False,
    "devices": 1,
}
RUN_FILES = ("config.yaml", "checkpoints", "gap")
StrategyRegistry.register("ddp", FailFastDDP, "DDP whose processes end together", override=True)  # also what `auto` means
SHAPING = ("seed_everything", "data", "model", "protocol", "target")  # what makes a run another run


class FitParser(Parser, LightningArgumentParser):
    """Lightning's parser, with YAML 1.2 and short errors."""


class RunConfig(SaveConfigCallback):
    """Writes the resolved config into the run directory when training starts, after everything has been checked."""

    begun = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write nothing yet."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `config.yaml` unless a resumed run has it already."""
        self.begun = True
        path = Path(trainer.default_root_dir) / "config.yaml"
        if trainer.is_global_zero and not path.exists():
            write_whole(path, self.parser.dump(self.config, skip_none=False).encode())


class GapCLI(LightningCLI):
    """LightningCLI with gcgap's keys: `data`, `model`, `protocol`, `target`, `trainer` and `seed_everything`."""

    def __init__(self, args: list[str], **options: Any) -> None:
        of_all = LightningCLI.subcommands()
        self.subcommands = lambda: {args[0]: of_all[args[0]]}  # a parser takes long to build, and no other one is used
        with ExitStack() as self.surroundings:
            super().__init__(args=args, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The protocol, the accuracy target, one seed for everything, and modules of tasks."""
        parser.add_argument("--import", type=str | list[str] | None, default=None, help=f"{TEXT[0].upper()}{TEXT[1:]}.")
        parser.add_class_arguments(Protocol, "protocol")
        parser.add_lightning_class_args(AccuracyTarget, "target")
        for target in ("data.seed", "model.seed"):
            parser.link_arguments("seed_everything", target, compute_fn=_seed)

    @property
    def chosen(self) -> Any:
        """The config of the subcommand."""
        return self.config[str(self.subcommand)]

    @property
    def run_directory(self) -> Path:
        """`trainer.default_root_dir`, by default runs/<task>-seed<seed>."""
        default = f"runs/{self.chosen.data.task}-seed{self.chosen.seed_everything}"
        return Path(self.chosen.trainer.default_root_dir or default)

    def _parse_ckpt_path(self) -> None:
        """Hyperparameters come from the config alone; `before_fit` compares them with those of the run."""

    def before_instantiate_classes(self) -> None:
        """Import tasks, resolve `--ckpt_path last`, and refuse a directory that holds another run."""
        check_given(self.chosen.items())
        _import(self.chosen)
        find_task(self.chosen.data.task)  # before it names a directory
        if self.chosen.trainer.devices in (1, "1") and self.chosen.trainer.num_nodes == 1:
            self._leave_launchers()
        if self.subcommand != "fit" and not self.chosen.ckpt_path:
            raise UsageError(
                f"`ckpt_path`: {self.subcommand} needs a trained model; give a .ckpt file, or `last` for the run's own."
            )
        last = self.run_directory / "checkpoints" / "last.ckpt"
        if self.subcommand == "fit" and not self.chosen.ckpt_path and _saved_by_this_job(last):
            _say([f"SLURM job {job()} has saved this run before; it is resumed from {last}."])
            self.chosen.ckpt_path = "last"
        if self.chosen.ckpt_path == "last":
            self.chosen.ckpt_path = str(last)
        if self.chosen.ckpt_path and not Path(self.chosen.ckpt_path).is_file():
            raise UsageError(f"`ckpt_path`: no file {self.chosen.ckpt_path}; give a .ckpt file, or leave it out to start anew.")
        saved = self._checkpoint(Path(self.chosen.ckpt_path)) if self.chosen.ckpt_path else {}
        self.saved = saved
        check_folder(self.run_directory, "trainer.default_root_dir")
        if self.subcommand == "fit" and not self.chosen.trainer.fast_dev_run:
            self._check_run_directory(saved)
        if saved:
            asked, trains = yaml.safe_load(self.text), self.subcommand == "fit"
            _say(overridden_settings(saved, asked, trains) + (overridden_format(saved, asked["trainer"]) if trains else []))

    def _leave_launchers(self) -> None:
        """Be the first and only process of the run, whatever a launcher of something else says."""
        check_launched_once(os.environ)
        self.surroundings.enter_context(as_one_process())
        self.surroundings.callback(setattr, rank_zero_only, "rank", getattr(rank_zero_only, "rank", 0))
        LightningEnvironment().set_global_rank(0)

    @property
    def text(self) -> str:
        """The config of the subcommand as `config.yaml` holds it."""
        return self._parser(self.subcommand).dump(self.chosen, skip_none=False)

    def _checkpoint(self, path: Path) -> dict[str, Any]:
        """What a checkpoint holds; refuse one of another model, and for training one of weights alone or of a later step."""
        content = read_checkpoint(path)
        model, saved = self.chosen.model, content.get("hyper_parameters")
        if not isinstance(saved, dict) or not isinstance(content.get("state_dict"), dict):
            raise UsageError(f"`ckpt_path`: {path} is not a checkpoint of a gcgap model.")
        with _named(path, self._instead):
            for key in MODEL_SETTINGS:
                if (there := saved.get(key, SINCE.get(key))) != model[key]:
                    raise UsageError(f"`ckpt_path`: {path} has `model.{key}` {there}, the config {model[key]}; make them equal.")
        settings, trains = {key: model[key] for key in MODEL_SETTINGS}, self.subcommand == "fit"
        if trains and "optimizer_states" not in content:
            raise UsageError(f"`ckpt_path`: {path} holds weights alone, not what training needs to resume; {self._instead}.")
        with _named(path, self._instead):
            check_saved_weights(content, settings)
            if trains:
                check_state(content, settings)
        if trains and 0 <= self.chosen.trainer.max_steps < content["global_step"]:
            raise UsageError(
                f"`trainer.max_steps` must be at least {content['global_step']}, the step of {path}; "
                f"got {self.chosen.trainer.max_steps}."
            )
        return content

    @property
    def _instead(self) -> str:
        """What to do where the checkpoint that was given does not serve."""
        if self.subcommand != "fit":
            return "give another one"
        return "start anew in another directory" if Path(self.chosen.ckpt_path).name == "last.ckpt" else "give last.ckpt"

    def _check_run_directory(self, saved: dict[str, Any]) -> None:
        run, asked = self.run_directory, yaml.safe_load(self.text)
        if not any((run / name).exists() for name in RUN_FILES) or self._has_saved_nothing(run):
            return
        if not self.chosen.ckpt_path:
            raise UsageError(
                f"`trainer.default_root_dir`: {run} already holds a run, and nothing of it is overwritten.\n"
                "Resume it with `--ckpt_path last`, or name another directory."
            )
        own = run_directory(Path(self.chosen.ckpt_path)).resolve() == run.resolve()
        if difference := other_run(run, asked) or of_another_run(run, saved, own, asked):
            advice = "Resume with that run's own config.yaml, or name another `trainer.default_root_dir`."
            raise UsageError(f"{difference}.\n{advice}")

    def _has_saved_nothing(self, run: Path) -> bool:
        """Whether a run of this very config ended in this directory before its first checkpoint: it begins anew."""
        config, folders = run / "config.yaml", (run / "checkpoints", run / "gap")
        if any(path for folder in folders for path in folder.glob("[!.]*")):
            return False
        return not config.exists() or (config.is_file() and config.read_text(encoding="utf-8") == self.text)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer that works in the run directory and logs to TensorBoard there, unless the config says otherwise."""
        config, run = self._get(self.config_init, "trainer"), self.run_directory
        logger = config["logger"]
        if self.subcommand != "fit":
            logger = logger or False
        elif logger in (None, True):
            again = self.saved.get("global_step", 0)  # TensorBoard drops what an earlier attempt logged from this step on
            logger = TensorBoardLogger(run.parent, name=run.name, version="", default_hp_metric=False, purge_step=again)
        callbacks = list(config["callbacks"] or [])
        if config["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
            callbacks.append(StepProgress())
        if self.subcommand == "fit":
            callbacks.append(GapTracker(self._get(self.config_init, "protocol")))
        try:
            trainer = super().instantiate_trainer(default_root_dir=run, logger=logger, callbacks=callbacks, **kwargs)
        except (MisconfigurationException, ValueError) as error:
            raise UsageError(f"`trainer`: {error}") from error
        except (TypeError, LookupError, AttributeError, ArithmeticError, ImportError, AssertionError) as error:
            # what Lightning raises of a value that it does not check
            raise UsageError(f"`trainer`: {type(error).__name__}: {error}") from error
        if not trainer.precision.startswith(str(config["precision"] or "")):
            self.chosen.trainer.precision = trainer.precision  # Lightning takes bf16-mixed for 16-mixed on a CPU
        return trainer

    def before_fit(self) -> None:
        """Check what takes model, data and protocol together, before a logger writes its first file."""
        if self.chosen.ckpt_path:
            if AVERAGED in self.saved and not any(isinstance(one, WeightAveraging) for one in self.callbacks):
                raise UsageError(
                    f"`ckpt_path`: {self.chosen.ckpt_path} is of a run that averages its weights, and holds averages to be "
                    "judged beside those that train;\ngive `trainer.callbacks` the same callback as before."
                )
            saved, asked = read_run_config(self.run_directory / "config.yaml"), yaml.safe_load(self.text)
            _say(overridden_training(saved.get("trainer", {}), asked["trainer"]))
        self.model.check(self.datamodule)
        for callback in self.callbacks:
            if isinstance(callback, GapTracker):
                callback.check(self.model, self.datamodule)
        if self.trainer.is_global_zero and not self.chosen.trainer.fast_dev_run:
            self.surroundings.enter_context(_alone_in(self.run_directory))
            self._check_run_directory(self.saved)  # again: another run may have written there meanwhile

    @property
    def callbacks(self) -> list[L.Callback]:
        """Those of the trainer."""
        return self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]

    def _run_subcommand(self, subcommand: str) -> None:
        """Name what cannot be read or written, and say how a run that ends so is resumed."""
        try:
            super()._run_subcommand(subcommand)
        except ValueError as error:
            callbacks: list[L.Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
            begun = any(isinstance(one, RunConfig) and one.begun for one in callbacks)
            error.exit_code = 1 if begun else 2  # pyright: ignore[reportAttributeAccessIssue]
            raise
        except OSError as error:
            for tracker in (one for one in self.callbacks if isinstance(one, GapTracker) and hasattr(one, "run")):
                tracker.run.check_settled()  # a logger may be the first to miss what was removed
            before = error.__context__  # a logger that cannot close may hide what came first
            first = before if isinstance(before, OSError) and before.filename and not error.filename else error
            named = OSError(first.errno, first.strerror, os.fsdecode(first.filename or self.run_directory))
            if subcommand == "fit":
                option = " with `--ckpt_path last`" if (self.run_directory / "checkpoints" / "last.ckpt").exists() else ""
                named.add_note(f"Earlier files are whole: once this is mended, the same command{option} resumes.")
            raise named from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints are never unpickled."""
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}


SETTINGS: dict[str, Any] = {
    "model_class": SequenceModel,
    "datamodule_class": SequenceData,
    "save_config_callback": RunConfig,
    "trainer_defaults": TRAINER_DEFAULTS,
    "seed_everything_default": 42,
    "parser_class": FitParser,
    "auto_configure_optimizers": False,
}


class ConfigOnly(GapCLI):
    """Resolves configs of `gcgap fit` and runs nothing; `command` is another one, for its help."""

    def __init__(self, command: str = "fit") -> None:
        quieten()
        super().__init__(**SETTINGS, args=[command])

    def _set_seed(self) -> None:
        """Draw from no generator."""

    def before_instantiate_classes(self) -> None:
        """Touch no directory."""

    def instantiate_classes(self) -> None:
        """Make nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""

    def resolve(self, arguments: list[str]) -> dict[str, Any]:
        """Every key that these arguments of `gcgap fit` lead to, with its value.

        Raises:
            UsageError, ValueError: A key or a value is wrong.
        """
        parser = self._parser("fit")
        chosen = parser.parse_args(arguments)
        check_given(chosen.items())
        _import(chosen)
        found = yaml.safe_load(parser.dump(chosen, skip_none=False))
        check_blocks(found)
        return found


@contextmanager
def _alone_in(run: Path) -> Iterator[None]:
    """Keep every other run out of a run directory; the lock goes with the process that holds it."""
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".fit.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise UsageError(
            f"`trainer.default_root_dir`: another process trains in {run} now; wait until it ends, or name another directory."
        ) from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _import(chosen: Any) -> None:
    """Import what the key `import` of a config names, and keep it by names that hold elsewhere too."""
    if names := modules(chosen["import"]):
        import_modules(names)
        chosen["import"] = names


def other_run(run: Path, asked: dict[str, Any], training: Iterable[str] = ()) -> str:
    """How the run that a directory holds differs from what is asked for, in what shapes a run; empty if it does not.

    Args:
        run: The directory.
        asked: A whole config.
        training: Keys of `trainer` that count too; a run that is resumed by hand may change those.
    """
    saved = read_run_config(run / "config.yaml")
    pairs = {key: (saved[key], asked[key]) for key in SHAPING if key in saved}
    pairs |= {f"trainer.{key}": (saved["trainer"].get(key), asked["trainer"][key]) for key in training if "trainer" in saved}
    for key, (there, here) in pairs.items():
        if there != here:
            return f"`{key}`: {run} holds a run with another value: {_difference(there, here)}"
    return ""


def _saved_by_this_job(last: Path) -> bool:
    """Whether this batch job of SLURM, which then was requeued or calls the command again, has saved this checkpoint."""
    return job() is not None and last.is_file() and read_checkpoint(last).get(JOB) == job()


def _seed(value: bool | int | None) -> int:
    return check_seed(value, "seed_everything")


@rank_zero_only
def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(f"gcgap: {line}", file=sys.stderr)


@contextmanager
def _named(path: Path, instead: str) -> Iterator[None]:
    """Name the checkpoint that is wrong; of what anybody may have written a check can raise nearly anything."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0][:160] if str(error) else "empty"
        refusal = f"`ckpt_path`: {path} is not a whole checkpoint ({type(error).__name__}: {reason}); {instead}."
        raise UsageError(refusal) from error


def _difference(saved: Any, asked: Any) -> str:
    """The first setting that differs."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        key = next(key for key in {**saved, **asked} if saved.get(key) != asked.get(key))
        return f"{key}: {_difference(saved.get(key), asked.get(key))}"
    return f"{saved} there, {asked} here"


def quieten() -> None:
    """Leave out messages that say nothing to a user of this command."""
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # none of them judges a model
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # lightning 2.6 with torch 2.13
    logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda said: "Tip:" not in said.getMessage())


@contextmanager
def _failing_threads_left_to_the_main_one() -> Iterator[None]:
    """The thread that writes TensorBoard's file prints an error that whoever logs next raises again."""
    before = threading.excepthook
    threading.excepthook = lambda failed: None if issubclass(failed.exc_type, OSError) else before(failed)
    try:
        yield
    finally:
        threading.excepthook = before


def run(arguments: list[str]) -> int:
    """Run one of LightningCLI's subcommands."""
    quieten()
    if {"-h", "--help"} & set(arguments):
        print(short_help(ConfigOnly(arguments[0])._parser(arguments[0]), arguments[0]))
        return 0
    arguments = ["--help" if argument == "--help-all" else argument for argument in arguments]
    try:
        with _failing_threads_left_to_the_main_one():
            launcher = GapCLI(**SETTINGS, args=arguments).trainer.strategy.launcher
            if isinstance(launcher, Launcher):
                launcher.join()
    except Interrupted:
        raise
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0
