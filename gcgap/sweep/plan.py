"""The runs of a sweep file: their names, directories and arguments.

Owns the form of the file. Every config is resolved before anything starts, so that a wrong key stops a sweep at once.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from gcgap.data.tasks import find_task
from gcgap.sweep.worker import SweepJob
from gcgap.training.config_file import changed_folder
from gcgap.training.lightning_cli import SHAPING, ConfigOnly
from gcgap.training.parser import read_config
from gcgap.training.usage import UsageError

KEYS = {"directory": str, "command": str, "configs": (dict, list), "grid": dict, "again": (dict, list)}
NEEDS = {"fit": "configs", "measure": "grid", "attribute": "grid"}  # a key of the file, for each `command`
OF_FIT = ("configs", "again")
OWN = ("trainer.default_root_dir", "trainer.devices", "trainer.num_nodes", "trainer.fast_dev_run", "trainer.enable_progress_bar")
IN_NAME = ("data.task", "seed_everything")


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Args:
        config: The file that it starts from, or the name of a pretrained model; runs of one take about as long.
        resolved: Its whole config; of a pretrained model what its records must say.
        job: What its worker does.
        finish: What is left to do for runs that share it, once their workers have ended.
    """

    config: Path
    resolved: dict[str, Any]
    job: SweepJob
    finish: Callable[[], object] | None = None


def read(path: Path, directory: Path | None = None, imports: list[str] | None = None) -> list[PlannedRun]:
    """The trainings of a sweep file, in `directory` or in the one that the file names; every run imports these modules too.

    Raises:
        UsageError: The file, a config in it or a value is wrong; names the key.
    """
    content = read_sweep(path)
    directory = home_of(content, path, directory)
    grid = {key: _values(key, values) for key, values in content.get("grid", {}).items()}
    groups, again = _groups(content), _groups(content, "again")
    if unknown := set(again) - set(groups):
        raise UsageError(f"`again.{min(unknown)}` names no group of `configs`: {', '.join(groups)}.")
    resolver = ConfigOnly()
    runs = [
        _run(
            resolver, path.parent / config, dict(zip(grid, values, strict=True)), directory, group, again.get(group, []), imports
        )
        for group, configs in groups.items()
        for config in configs
        for values in product(*grid.values())
    ]
    names = Counter(run.job.name for run in runs)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise UsageError(f"`configs`: two runs would lie in {directory / twice}; put their configs into groups of their own.")
    return runs


def home_of(content: dict[str, Any], path: Path, directory: Path | None) -> Path:
    """The directory of a sweep: `directory`, or the one that its file names."""
    if directory is None and "directory" not in content:
        raise UsageError(f"`directory` is missing in {path}; name it there, or with `--directory`.")
    return Path(directory or content["directory"]).absolute()


def read_sweep(path: Path) -> dict[str, Any]:
    """What a sweep file says, with its `command`; the form of everything but the grid's values is checked."""
    try:
        content = read_config(path)
    except ValueError as error:
        raise UsageError(f"`--config`: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"`--config`: {path} must hold the keys {', '.join(KEYS)}; got {content!r:.60}.")
    command = content.setdefault("command", "fit")
    if command not in [*NEEDS]:
        raise UsageError(f"`command` in {path} must be any of {', '.join(NEEDS)}; got {command!r:.60}.")
    known = [key for key in KEYS if command == "fit" or key not in OF_FIT]
    for key, value in content.items():
        if key not in known:
            raise UsageError(f"`{key}` is no key of a sweep of `gcgap {command}` ({path}); use {', '.join(known)}.")
        if not isinstance(value, KEYS[key]) or not value:
            raise UsageError(f"`{key}` in {path} must be {_describe(KEYS[key])} that is not empty; got {value!r:.60}.")
    if NEEDS[command] not in content:
        what = "at least one config file of `gcgap fit`" if command == "fit" else f"values of the options of `gcgap {command}`"
        raise UsageError(f"`{NEEDS[command]}` is missing in {path}; list {what}.")
    return content


def _groups(content: dict[str, Any], key: str = "configs") -> dict[str, list[Any]]:
    """Lists by the folder that their runs lie in; a plain list has none."""
    kind, found = str if key == "configs" else dict, content.get(key, {})
    if isinstance(found, list):
        found = {"": found}
    for name, values in found.items():
        full = f"{key}.{name}".rstrip(".")
        if name != "" and (not isinstance(name, str) or not re.fullmatch(r"\w[\w.+=-]*", name) or name == "logs"):
            raise UsageError(f"`{full}`: a group is the name of a folder, of letters, digits and _-.+=, and not `logs`.")
        if not isinstance(values, list) or not values or not all(isinstance(value, kind) and value for value in values):
            what = "config files" if kind is str else "protocol settings, such as {site: released}"
            raise UsageError(f"`{full}` must be a list of {what}; got {values!r:.60}.")
    return found


def _values(key: Any, values: Any) -> list[Any]:
    """The values of one key of the grid."""
    if not isinstance(key, str) or key.split(".")[0] not in (*SHAPING, "trainer") or key in OWN:
        raise UsageError(f"`grid`: {key!r} cannot be varied; use a key of `gcgap fit` such as seed_everything or data.task.")
    return several(key, values)


def several(key: str, values: Any) -> list[Any]:
    """The values of one key of the grid: some, and all different."""
    if not isinstance(values, list) or not values:
        raise UsageError(f"`grid.{key}` must be a list of values that is not empty; got {values!r:.60}.")
    texts = [json.dumps(value) for value in values]
    if twice := next((text for text in texts if texts.count(text) > 1), None):
        raise UsageError(f"`grid.{key}` must hold different values; got {twice:.60} twice.")
    return values


def _run(
    resolver: ConfigOnly,
    config: Path,
    varied: dict[str, Any],
    home: Path,
    group: str,
    again: list[dict[str, Any]],
    imports: list[str] | None,
) -> PlannedRun:
    if not config.is_file():
        raise UsageError(f"`configs`: no file {config}; paths are relative to the sweep file.")
    arguments = [f"--config={config.absolute()}", *_options({"import": imports} if imports else {}), *_options(varied)]
    try:
        resolved = resolver.resolve(arguments)
        find_task(resolved["data"]["task"])
    except (UsageError, ValueError) as error:
        raise UsageError(f"{config}{f' with {_describe(varied)}' * bool(varied)}: {error}") from error
    for key in ("devices", "num_nodes", "fast_dev_run"):
        if resolved["trainer"][key] not in (1, "1", False):
            raise UsageError(f"`trainer.{key}` in {config}: a run of a sweep is one whole process; leave the key out.")
    others = {key: value for key, value in varied.items() if key not in IN_NAME}
    name = "/".join([group, name_of(f"{resolved['data']['task']}-seed{resolved['seed_everything']}", others)]).lstrip("/")
    records = [_again_record(resolved["protocol"], changes) for changes in again]
    if twice := next((record for record in records if records.count(record) > 1), None):
        raise UsageError(f"`again`: two measurements of {name} would lie in {twice}; leave one out.")
    fit = [*arguments, f"--trainer.default_root_dir={home / name}", "--trainer.enable_progress_bar=false"]
    shared = [f"--import={','.join(resolved['import'])}"] if resolved["import"] else []
    measure = [[*shared, *_options(_prefixed(changes))] for changes in again]
    last = home / name / "checkpoints" / "last.ckpt"
    commands = [["fit", *fit], *(["measure", str(last), "--force", *options] for options in measure)]
    written = [["gap/final.json"], *([record] for record in records)]
    return PlannedRun(config, resolved, SweepJob(name, str(home / name), str(home / "logs" / f"{name}.log"), commands, written))


def name_of(start: str, varied: dict[str, Any]) -> str:
    """Name of a run: such as task and seed, then what else varies; no value can lead out of the sweep's directory."""
    others = {key: re.sub(r"[^\w.-]+", "+", str(value)).strip("+") for key, value in varied.items()}
    name = ",".join([start, *(f"{key}={value}" for key, value in others.items())])
    if len(name) > 200:
        raise UsageError(f"`grid`: the name {name[:60]}.. of a run is too long; put such values into configs of their own.")
    return name


def _again_record(protocol: dict[str, Any], changes: dict[str, Any]) -> str:
    length = changes.get("length")
    if "length" in changes and (not isinstance(length, int) or length < 1):
        raise UsageError(f"`again`: `length` must be a number of integers per example; got {length!r}.")
    folder = changed_folder(protocol, {key: changes[key] for key in changes if key != "length"}, length)
    if not folder:
        raise UsageError(f"`again`: {_describe(changes)} changes nothing of the run's own protocol; leave it out.")
    return f"gap/{folder}/final.json"


def _prefixed(changes: dict[str, Any]) -> dict[str, Any]:
    """The options of `gcgap measure`: `length` is one of its own, everything else a setting of the protocol."""
    return {key if key == "length" else f"protocol.{key}": value for key, value in changes.items()}


def _options(settings: dict[str, Any]) -> Iterator[str]:
    """Settings as options; text goes as it is, everything else as JSON."""
    for key, value in settings.items():
        yield f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def _describe(what: Any) -> str:
    if isinstance(what, dict):
        return ", ".join(f"{key}={value}" for key, value in what.items())
    names = {str: "text", dict: "a mapping", list: "a list"}
    return " or ".join(names[kind] for kind in (what if isinstance(what, tuple) else (what,)))
