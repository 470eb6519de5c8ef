"""What a command measures: the checkpoints of a run, or a pretrained model at its revisions; and where each record goes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from gcgap.attribution.setup import Setup
from gcgap.commands.options import PretrainedOptions
from gcgap.importance.protocol import PROMPTED, Protocol, Sizes
from gcgap.measurement.measure import measure
from gcgap.models.checkpoints import (
    FINAL,
    last_checkpoint,
    misnamed,
    read_checkpoint,
    run_directory,
    same_weights,
    sha256,
    step_checkpoints,
)
from gcgap.models.loading import local, step_of
from gcgap.models.transformer import Decoder
from gcgap.records.atomic import check_folder
from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.read_records import in_order
from gcgap.records.record import Record
from gcgap.records.record_file import check_replaceable, check_same
from gcgap.training.config_file import load_of_run, merged, protocol_of, read_run_config, variant
from gcgap.training.usage import UsageError

STAGE = r"(?:stage|phase|ingredient|seed)[-_=]?(\d+)"
"""Parts of the name of a revision that say of which training it is; each counts its steps from 0."""


@dataclass(frozen=True)
class Target:
    """One model to measure, a checkpoint's or a pretrained one, and where its record goes.

    Args:
        model: The file of a checkpoint, or a loaded model.
        record: Where its record goes.
        protocol: What is measured.
        length: Length of the OOD sequences; None applies the window rule.
        setup: What is intervened on, if methods are attributed.
        named: What the record says besides of where the model comes from.
    """

    model: Path | Decoder
    record: Path
    protocol: Protocol
    length: int | None = None
    setup: Setup | None = None
    named: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Decoder:
        """The model."""
        return load_of_run(self.model) if isinstance(self.model, Path) else self.model

    def is_done(self) -> bool:
        """Whether the record is there, of these weights and these settings.

        Raises:
            ValueError: The file holds a record of something else.
        """
        if not self.record.exists():
            return False
        if isinstance(self.model, Path):
            weights, protocol = sha256(self.model), self.protocol.to_dict()
        else:
            origin = self.model.origin
            weights, protocol = origin.checkpoint_sha256, self.protocol.to_dict() | origin.source.as_record()
        setup = {} if self.setup is None else {"setup": self.setup.to_dict()}
        length = {} if self.length is None else {"length": self.length}
        found = (Record if self.setup is None else AttributionRecord).read(self.record).data
        check_same(self.record, found, {"checkpoint_sha256": weights} | setup | {"protocol": protocol} | length)
        return True

    def measure(self) -> Record:
        """The new record."""
        record = measure(self.load(), length=self.length, protocol=self.protocol).to_dict()
        return Record(record | self.named | {"final": self.record.name == "final.json"}).write(self.record)


def run_of(path: Path) -> Path:
    """The run directory that a path is, or that its checkpoint lies in.

    Raises:
        UsageError: There is nothing.
    """
    if not path.exists():
        raise UsageError(f"`{path}` does not exist; give a run directory or a .ckpt file.")
    return path if path.is_dir() else run_directory(path)


def checkpoints(path: Path, changes: dict[str, Any], options: Namespace) -> list[Target]:
    """Every checkpoint of a run directory and its final measurement, or the one checkpoint of a file."""
    home = run_of(path)
    _check_configured(home / "config.yaml", path)
    saved, own = _saved(home / "config.yaml")
    protocol = protocol_of(merged(saved, changes))
    check_used(changes, protocol)
    folder = home / "gap" / variant(own, protocol, options.length, options.full)
    whole = path.is_dir() or path.name == "last.ckpt"
    files = step_checkpoints(path) if path.is_dir() else [numbered_twin(path)] if whole else [path]
    if not files:
        raise UsageError(f"`{path}` holds no checkpoints/step=*.ckpt; give a run directory or a .ckpt file.")
    numbered = [file for file in files if file.name.startswith("step=") and path.name != "last.ckpt"]
    if numbered and not whole and not options.full:
        _check_sizes(changes)
    sized = protocol if options.full else protocol.tracked()
    length = protocol.tracking.length if options.length is None and not options.full else options.length
    targets = [Target(file, folder / f"{file.stem}.json", sized, length) for file in numbered]
    if whole or not numbered:
        last = last_checkpoint(path) if path.is_dir() else files[-1]
        targets.append(Target(last, folder / "final.json", protocol, options.length))
    return targets


def correctly_named(targets: list[Target]) -> list[Target]:
    """The targets without checkpoints that hold another step than their name says, with a warning for each.

    Raises:
        UsageError: None is left.
    """
    paths = dict.fromkeys(one.model for one in targets)
    wrong: dict[Any, str] = {path: misnamed(path) for path in paths if isinstance(path, Path)}
    said = [text for text in wrong.values() if text]
    if len(said) == len(wrong):
        raise UsageError(f"{said[0]}.\nRename it, or copy the right one to its place.")
    for text in said:
        print(f"gcgap: warning: {text}; it is not measured. Rename it, or copy the right one to its place.", file=sys.stderr)
    return [one for one in targets if not wrong.get(one.model)]


def _check_configured(config: Path, path: Path) -> None:
    """Report a checkpoint without the config that says how it is measured.

    Raises:
        UsageError: It is a run directory.
    """
    if config.exists():
        return
    if path.is_dir():
        raise UsageError(
            f"`{path}` holds no config.yaml, which says how its checkpoints are measured; copy it back.\n"
            "A single .ckpt file is measured with the default protocol."
        )
    print(f"gcgap: warning: there is no `{config}`; `{path}` is measured with the default protocol.", file=sys.stderr)


def check_used(changes: dict[str, Any], protocol: Protocol) -> None:
    """Raise a UsageError for a setting of attribution methods where none is run."""
    if changes.get("attribution") and not protocol.attribution.methods:
        name = next(iter(changes["attribution"]))
        raise UsageError(
            f"`protocol.attribution.{name}` is of attribution methods, and none is run; name some with "
            "`--protocol.attribution.methods`.\nC has exact match and log-probability, and of prompts the logit difference."
        )


def _check_sizes(changes: dict[str, Any]) -> None:
    """Raise a UsageError for a size that a checkpoint of a step would not be measured with."""
    for name in (size.name for size in fields(Sizes) if size.name in changes):
        if name not in changes.get("tracking", {}):
            raise UsageError(
                f"`protocol.{name}` is a size of final measurements; the checkpoint of a step is measured with "
                f"`protocol.tracking.{name}`.\nGive that instead, or `--full` for the sizes of a final measurement."
            )


def numbered_twin(last: Path) -> Path:
    """The checkpoint with the weights of last.ckpt, whose hash is in its record; last.ckpt itself if there is none."""
    content = read_checkpoint(last)
    step, weights = content.get("global_step"), content.get("state_dict")
    if not isinstance(step, int) or not isinstance(weights, dict):
        return last
    twins = (last.with_name(name) for name in (FINAL, f"step={step:06d}.ckpt"))
    same = (one for one in twins if one.exists() and same_weights(weights, read_checkpoint(one).get("state_dict") or {}))
    return next(same, last)


def _saved(config: Path) -> tuple[dict[str, Any], Protocol]:
    """The protocol that a run was configured with, as its config says it and as it is; the defaults where there is no config."""
    found = read_run_config(config).get("protocol", {})
    try:
        return found, protocol_of(found)
    except (UsageError, ValueError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"`{config}` does not hold a run's config: {reason}") from error


@dataclass(frozen=True)
class Revisions:
    """The revisions of a model and where their records go: gap/step=001000.json for step1000, and gap/final.json.

    Args:
        pretrained: The model and its prompts.
        names: Revisions; None is the one that a model has by default.
        protocol: What is measured.
        folder: Where the records go.
        force: Measure again what is there.

    Raises:
        UsageError: Several revisions of which one names no step, two name the same, or two are of different stages.
        ValueError: The model is a directory that has not all of them.
    """

    pretrained: PretrainedOptions
    names: Sequence[str | None]
    protocol: Protocol
    folder: Path
    force: bool = False

    @classmethod
    def of(cls, changes: dict[str, Any], options: Namespace) -> Revisions:
        """Those that the options of `gcgap measure` name."""
        if options.paths or options.full:
            raise UsageError("`--model` is measured instead of checkpoints, in one size; leave out paths and `--full`.")
        protocol = protocol_of(merged(asdict(PROMPTED), changes))
        check_used(changes, protocol)
        pretrained = PretrainedOptions.of(vars(options), precision=protocol.precision)
        check_folder(Path(options.out), "--out")
        folder = Path(options.out) / pretrained.run / "gap" / variant(PROMPTED, protocol, options.length)
        return cls(pretrained, options.revision or [None], protocol, folder, options.force)

    def __post_init__(self) -> None:
        _check_steps(self.names)
        for name in self.names:
            local(self.pretrained.model, name)  # before the first of them is measured
            check_replaceable(self.path(name))
        final = self.path(None)
        if final.exists() and not self.force and "revision" not in Record.read(final).data:
            raise ValueError(f"`{final}` is the record of a run that is no revision of a model. Give another `--out`.")

    def measure(self, done: Callable[[Record, bool], object]) -> Record:
        """Measure one after the other, and give the last step's record; `done` gets each record, and whether it was there.

        A model is in memory only while it is measured.
        """
        weights = {record.path: (record["checkpoint_sha256"], record.data.get("revision")) for record in self._steps()}
        for name in sorted(self.names, key=lambda name: step_of(name) or 0):
            path, model = self.path(name), self.pretrained.load(name)
            for other, (digest, revision) in weights.items():  # a curve would stand still for no reason
                if other != path and digest == model.origin.checkpoint_sha256:
                    print(
                        f"gcgap: warning: revision {name} of `{self.pretrained.model}` has the very weights of {revision}; "
                        "see if the right ones were uploaded.",
                        file=sys.stderr,
                    )
            target = Target(model, path, self.protocol, named={"run": self.pretrained.run, "revision": name})
            known = not self.force and target.is_done()
            found = Record.read(path) if known else target.measure()
            if step_of(name) is not None:
                weights[path] = (found["checkpoint_sha256"], found.data.get("revision"))
            done(found, known)
            del model, target
        return self.final()

    def path(self, name: str | None) -> Path:
        """Where the record of a revision goes."""
        step = step_of(name)
        return self.folder / ("final.json" if step is None else f"step={step:06d}.json")

    def final(self) -> Record:
        """The record of the last step, which is the final one unless a revision without a step is."""
        steps, path = list(self._steps()), self.path(None)
        if steps and (not path.exists() or Record.read(path)["step"] is not None):
            last = max(steps, key=lambda record: record["step"])
            return Record(last.to_dict() | {"final": True}).write(path)
        return Record.read(path)

    def _steps(self) -> Iterator[Record]:
        """The records of the revisions that are there."""
        return (Record.read(path) for path in sorted(self.folder.glob("step=*.json"), key=in_order))


def _check_steps(names: Sequence[str | None]) -> None:
    """Raise a UsageError unless several revisions are steps of one training."""
    seen: dict[int, str | None] = {}
    wanted = "`--revision` must be one, or several of different steps such as step1000, checkpoint-500 or iter_0001000"
    for name in names if len(names) > 1 else ():
        if (step := step_of(name)) is None:
            raise UsageError(
                f"{wanted}; got {name}, in which no one number follows step, iter, checkpoint or ckpt. Measure it alone."
            )
        if step in seen:
            raise UsageError(f"{wanted}; got {seen[step]} and {name}, which both name step {step}. Leave one of them out.")
        seen[step] = name
    stages = {tuple(re.findall(STAGE, (name or "").lower())): name for name in names}
    if len(stages) > 1:
        first, second, *_ = stages.values()
        raise UsageError(f"{wanted}, of one stage; got {first} and {second}. Measure each with an `--out` of its own.")
