"""`gcgap fit`, `validate`, `test` and `predict`: LightningCLI over gcgap's model, data and protocol.

Owns the config: its keys, its defaults, and the run directory that belongs to it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import lightning as L  # noqa: N812
import yaml
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import StrategyRegistry

from gcgap.callbacks import GapTracker, StepProgress
from gcgap.checkpoints import MODEL_SETTINGS, read_checkpoint
from gcgap.cli import UsageError
from gcgap.data import SequenceData
from gcgap.processes import Launcher, Together
from gcgap.protocol import Protocol
from gcgap.training import AccuracyTarget, SequenceModel

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
StrategyRegistry.register("ddp", Together, "DDP whose processes end together", override=True)  # also what `auto` means
SHAPING = ("seed_everything", "data", "model", "protocol", "target")  # what makes a run another run


class Parser(LightningArgumentParser):
    """Lightning's parser, whose errors become a `UsageError`, and to which a key is that key alone, not its beginning."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:  # noqa: D102
        raise UsageError(message) from ex


class RunConfig(SaveConfigCallback):
    """Writes the resolved config into the run directory when training starts, after everything has been checked."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write nothing yet."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `config.yaml` unless a resumed run has it already."""
        path = Path(trainer.default_root_dir) / "config.yaml"
        if trainer.is_global_zero and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, path, skip_none=False)


class GapCLI(LightningCLI):
    """LightningCLI with gcgap's keys: `data`, `model`, `protocol`, `target`, `trainer` and `seed_everything`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The protocol, the accuracy target, and one seed for everything."""
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
        """Resolve `--ckpt_path last`, and refuse a directory that holds another run."""
        if self.subcommand != "fit" and not self.chosen.ckpt_path:
            raise UsageError(
                f"`ckpt_path`: {self.subcommand} needs a trained model; give a .ckpt file, or `last` for the run's own."
            )
        if self.chosen.ckpt_path == "last":
            self.chosen.ckpt_path = str(self.run_directory / "checkpoints" / "last.ckpt")
        if self.chosen.ckpt_path and not Path(self.chosen.ckpt_path).is_file():
            raise UsageError(f"`ckpt_path`: no file {self.chosen.ckpt_path}; give a .ckpt file, or leave it out to start anew.")
        if self.chosen.ckpt_path:
            self._check_checkpoint(Path(self.chosen.ckpt_path))
        if self.subcommand == "fit" and not self.chosen.trainer.fast_dev_run:
            self._check_run_directory()

    def _check_checkpoint(self, path: Path) -> None:
        """Refuse a file that is no checkpoint, one of another model, and for training one that holds weights alone."""
        content = read_checkpoint(path)
        model, saved = self.chosen.model, content.get("hyper_parameters")
        if not isinstance(saved, dict) or not isinstance(content.get("state_dict"), dict):
            raise UsageError(f"`ckpt_path`: {path} is not a checkpoint of a gcgap model.")
        for key in MODEL_SETTINGS:
            if saved.get(key) != model[key]:
                raise UsageError(
                    f"`ckpt_path`: {path} has `model.{key}` {saved.get(key)}, the config {model[key]}; make them equal."
                )
        if self.subcommand == "fit" and "optimizer_states" not in content:
            raise UsageError(f"`ckpt_path`: {path} holds weights alone, not what training needs to go on; give last.ckpt.")

    def _check_run_directory(self) -> None:
        run = self.run_directory
        if not any((run / name).exists() for name in RUN_FILES):
            return
        if not self.chosen.ckpt_path:
            raise UsageError(
                f"`trainer.default_root_dir`: {run} already holds a run, and nothing of it is overwritten.\n"
                "Resume it with `--ckpt_path last`, or name another directory."
            )
        asked = yaml.safe_load(self._parser("fit").dump(self.chosen, skip_none=False))
        if told := other_run(run, asked):
            advice = "Resume with that run's own config.yaml, or name another `trainer.default_root_dir`."
            raise UsageError(f"{told}.\n{advice}")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """A trainer that works in the run directory and logs to TensorBoard there, unless the config says otherwise."""
        config, run = self._get(self.config_init, "trainer"), self.run_directory
        logger = config["logger"]
        if self.subcommand != "fit":
            logger = logger or False
        elif logger in (None, True):
            logger = TensorBoardLogger(run.parent, name=run.name, version="", default_hp_metric=False)
        callbacks = list(config["callbacks"] or [])
        if config["enable_progress_bar"] is not False and not any(isinstance(one, ProgressBar) for one in callbacks):
            callbacks.append(StepProgress())
        if self.subcommand == "fit":
            callbacks.append(GapTracker(self._get(self.config_init, "protocol")))
        trainer = super().instantiate_trainer(default_root_dir=run, logger=logger, callbacks=callbacks, **kwargs)
        if not trainer.precision.startswith(str(config["precision"] or "")):
            self.chosen.trainer.precision = trainer.precision  # Lightning takes bf16-mixed for 16-mixed on a CPU
        return trainer

    def before_fit(self) -> None:
        """Check what only model, data and protocol together can tell, before a logger writes its first file."""
        self.model.check(self.datamodule)
        for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
            if isinstance(callback, GapTracker):
                callback.check(self.model, self.datamodule)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints are never unpickled."""
        return super()._prepare_subcommand_kwargs(subcommand) | {"weights_only": True}


SETTINGS: dict[str, Any] = {
    "model_class": SequenceModel,
    "datamodule_class": SequenceData,
    "save_config_callback": RunConfig,
    "trainer_defaults": TRAINER_DEFAULTS,
    "seed_everything_default": 42,
    "parser_class": Parser,
    "auto_configure_optimizers": False,
}


class ConfigOnly(GapCLI):
    """Resolves configs of `gcgap fit` and runs nothing."""

    def __init__(self) -> None:
        quieten()
        super().__init__(**SETTINGS, args=["fit"])

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
            UsageError: A key or a value is wrong.
        """
        _check_config_files(arguments)
        chosen = self.parser.parse_args(["fit", *arguments])["fit"]
        return yaml.safe_load(self._parser("fit").dump(chosen, skip_none=False))


def other_run(run: Path, asked: dict[str, Any], training: Iterable[str] = ()) -> str:
    """How the run that a directory holds differs from what is asked for, in what shapes a run; empty if it does not.

    Args:
        run: The directory.
        asked: A whole config.
        training: Keys of `trainer` that count too; a run that is resumed by hand may change those.
    """
    config = run / "config.yaml"
    saved = yaml.safe_load(config.read_text()) if config.exists() else {}
    pairs = {key: (saved[key], asked[key]) for key in SHAPING if key in saved}
    pairs |= {f"trainer.{key}": (saved["trainer"].get(key), asked["trainer"][key]) for key in training if "trainer" in saved}
    for key, (there, here) in pairs.items():
        if there != here:
            return f"`{key}`: {run} holds a run with another value: {_difference(there, here)}"
    return ""


def _seed(value: bool | int) -> int:
    if isinstance(value, bool) or value < 0:
        raise ValueError(f"`seed_everything` must be an integer of 0 or more, the seed of data and weights; got {value}.")
    return value


def _difference(saved: Any, asked: Any) -> str:
    """The first setting that differs."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        key = next(key for key in {**saved, **asked} if saved.get(key) != asked.get(key))
        return f"{key}: {_difference(saved.get(key), asked.get(key))}"
    return f"{saved} there, {asked} here"


def _check_config_files(arguments: list[str]) -> None:
    """Name a config file that is no YAML mapping; jsonargparse says what is wrong with it, but not where."""
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=True):
        name, _, joined = flag.partition("=")
        path = Path(joined or value)
        if name not in ("-c", "--config") or not path.is_file():
            continue
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"`--config`: {path} is not YAML: {' '.join(str(error).split())[:160]}") from error
        if not isinstance(content, dict):
            raise UsageError(f"`--config`: {path} must hold keys such as `data` and `trainer`; got {content!r:.60}.")


def quieten() -> None:
    """Leave out messages that tell a user of this command nothing."""
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # lightning 2.6 with torch 2.13
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda said: "Tip:" not in said.getMessage())


def run(arguments: list[str]) -> int:
    """Run one of LightningCLI's subcommands."""
    quieten()
    _check_config_files(arguments)
    try:
        launcher = GapCLI(**SETTINGS, args=arguments).trainer.strategy.launcher
        if isinstance(launcher, Launcher):
            launcher.join()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    return 0
