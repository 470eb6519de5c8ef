"""The runs of a sweep of pretrained models: what its grid may vary, and the record that each writes."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from gcgap.commands import attribute_command, measure_command
from gcgap.commands.options import FLAGS, PretrainedOptions
from gcgap.commands.targets import Revisions
from gcgap.data.prompt_tasks import PROMPTS
from gcgap.models.loading import local
from gcgap.sweep.plan import PlannedRun, home_of, name_of, read, read_sweep, several
from gcgap.sweep.worker import SweepJob
from gcgap.training.usage import UsageError, import_modules

IN_NAME = ("model", "prompts", "prefix", "chat", "twins", "seed")  # of a run's directory
NOT_VARIED = ("help", "paths", "imports", "out", "force", "full", "gauges", "verify", "tolerance", "known", "list_methods")
"""Options that are no setting of a measurement of a model."""


def planned(path: Path, directory: Path | None = None, imports: Sequence[str] = ()) -> list[PlannedRun]:
    """The runs of any sweep file: trainings, or measurements of pretrained models, of which no weights are loaded here.

    Raises:
        UsageError: The file or a value in it is wrong; names the file and the key.
    """
    content = read_sweep(path)
    if content["command"] == "fit":
        return read(path, directory, list(imports))
    home = home_of(content, path, directory)
    import_modules(imports)
    try:
        runs = list(_runs(content["command"], content["grid"], path.parent, home, imports))
        _check_different(runs)
    except (UsageError, ValueError) as error:
        raise UsageError(f"{path}: {error}") from error
    return runs


def _runs(command: str, found: dict[Any, Any], folder: Path, home: Path, imports: Sequence[str]) -> Iterator[PlannedRun]:
    """Every combination; the name of each says in what it differs."""
    grid = _grid(found, command, folder)
    revisions = [None if name is None else str(name) for name in grid.pop("revision", [None])]
    shown = [key for key in grid if len(grid[key]) > 1 and key not in IN_NAME]
    plan = {"measure": _measurements, "attribute": _attributions}[command]
    for values in product(*grid.values()):
        varied = dict(zip(grid, values, strict=True))
        arguments = [*[f"--import={','.join(imports)}"] * bool(imports), *_typed(varied), f"--out={home}"]
        yield from plan(arguments, {key: varied[key] for key in shown}, revisions, home)


def _grid(found: dict[Any, Any], command: str, folder: Path) -> dict[str, list[Any]]:
    """The values of each option; files and directories by their whole path, beside the sweep file first."""
    parser: ArgumentParser = (measure_command if command == "measure" else attribute_command).build_parser()
    known = {action.dest for action in parser._actions} - {*NOT_VARIED, "protocol"}
    for key in found:
        if key not in known:
            raise UsageError(f"`grid`: {key!r} cannot be varied; use an option of `gcgap {command} --model`, such as prompts.")
    if "model" not in found:
        raise UsageError("`grid.model` is missing; list names on the hub, directories or .gguf files.")
    grid = {key: several(key, values) for key, values in found.items()}
    for key in ("model", "prompts"):
        grid |= {key: [_whole(str(value), folder) for value in grid[key]]} if key in grid else {}
    for name in grid.get("prompts", ()):
        if name not in PROMPTS and not Path(name).is_file():
            raise UsageError(f"`grid.prompts` must be files, or any of {', '.join(PROMPTS)}; got {name}.")
    return grid


def _whole(name: str, folder: Path) -> str:
    places = [folder / name, Path(name)] if name not in PROMPTS else []
    return next((str(place.absolute()) for place in places if place.exists()), name)


def _typed(varied: dict[str, Any]) -> Iterator[str]:
    """Values as options of a command line; null leaves an option out."""
    for key, value in varied.items():
        name = key if "." in key else key.replace("_", "-")
        if key in FLAGS:
            if not isinstance(value, bool):
                raise UsageError(f"`grid.{key}` must be true or false; got {value!r:.60}.")
            yield from [f"--{name}"] * value
        elif value is not None or "." in key:
            yield f"--{name}={value if isinstance(value, str) else json.dumps(value)}"


def _measurements(arguments: list[str], others: dict[str, Any], names: list[str | None], home: Path) -> Iterator[PlannedRun]:
    """A run for each revision; together they are the steps of one, whose last record is found when all have ended."""
    options, changes = measure_command.of_model(arguments)
    options.revision = names
    revisions = Revisions.of(changes, options)
    says = {"protocol": revisions.protocol.to_dict()}
    for name in names:
        job = _job(["measure", *arguments], others, name, home, revisions.pretrained.run, revisions.path(name))
        yield PlannedRun(Path(revisions.pretrained.model), says, job, revisions.final)


def _attributions(arguments: list[str], others: dict[str, Any], names: list[str | None], home: Path) -> Iterator[PlannedRun]:
    """A run for each revision, with a record of its own."""
    for name in names:
        options = attribute_command.parsed([*arguments, *_revision(name)])
        pretrained = PretrainedOptions.of(vars(options))
        local(pretrained.model, name)  # before anything runs
        (record, setup), *more = attribute_command.model_records(options)
        if more:
            raise UsageError("`grid.baseline` must list each baseline as a value of its own, [mean, zero], without commas.")
        job = _job(["attribute", *arguments], others, name, home, pretrained.run, record)
        yield PlannedRun(Path(pretrained.model), attribute_command.what_is_asked(options, setup), job)


def _revision(name: str | None) -> list[str]:
    return [] if name is None else [f"--revision={name}"]


def _job(command: list[str], others: dict[str, Any], revision: str | None, home: Path, run: str, record: Path) -> SweepJob:
    name = name_of(run, others if revision is None else others | {"revision": revision})
    log, inside = home / "logs" / f"{name}.log", record.relative_to(home / run)
    return SweepJob(name, str(home / run), str(log), [[*command, *_revision(revision)]], [[str(inside)]])


def _check_different(runs: list[PlannedRun]) -> None:
    """Raise a UsageError for two jobs of one name, or that would write one record."""
    for made in ([run.job.name for run in runs], [path for run in runs for path in run.job.paths]):
        for one, count in Counter(made).items():
            if count > 1:
                raise UsageError(
                    f"`grid`: {count} jobs would make `{one}`; leave some out, or sweep them into another `directory`."
                )
