"""Measuring a pretrained model at one or several of its revisions, which are to it what checkpoints are to a run."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcgap.commands.pretrained_options import Given
from gcgap.importance.protocol import Protocol
from gcgap.measurement.measure import measure
from gcgap.models.loading import local, step_of
from gcgap.models.transformer import Decoder
from gcgap.records.read_records import in_order
from gcgap.records.record import Record
from gcgap.records.record_file import check_replaceable, check_same
from gcgap.training.usage import UsageError

FINAL = "final.json"
STAGE = r"(?:stage|phase|ingredient|seed)[-_=]?(\d+)"
"""Parts of the name of a revision that say of which training it is; each counts its steps from 0."""


@dataclass(frozen=True)
class Revisions:
    """The revisions of a model and where their records go: gap/step=001000.json for step1000, and gap/final.json.

    Args:
        given: The model and its prompts.
        names: Revisions; None is the one that a model has by default.
        protocol: What is measured.
        folder: Where the records go.
        force: Measure again what is there.

    Raises:
        UsageError: Several revisions of which one names no step, two name the same, or two are of different stages.
        ValueError: The model is a directory that has not all of them.
    """

    given: Given
    names: Sequence[str | None]
    protocol: Protocol
    folder: Path
    force: bool = False

    def __post_init__(self) -> None:
        _check_steps(self.names)
        for name in self.names:
            local(self.given.model, name)  # before the first of them is measured
            check_replaceable(self.path(name))
        final = self.folder / FINAL
        if final.exists() and not self.force and "revision" not in Record.read(final).data:
            raise ValueError(f"`{final}` is the record of a run that is no revision of a model. Give another `--out`.")

    def path(self, name: str | None) -> Path:
        """Where the record of a revision goes."""
        step = step_of(name)
        return self.folder / (FINAL if step is None else f"step={step:06d}.json")

    def measure(self, done: Callable[[Record, bool], object]) -> Record:
        """Measure one after the other, and give the last step's record; `done` is told each record and whether it was there.

        A model is in memory only while it is measured.
        """
        others = {record.path: _identity(record) for record in self._steps()}
        for name in sorted(self.names, key=lambda name: step_of(name) or 0):
            model = self.given.load(name)
            self._tell_twins(name, model, others)
            record = None if self.force else self._known(name, model)
            found = record or self._measured(name, model)
            if step_of(name) is not None:
                others[found.path] = _identity(found)
            done(found, record is not None)
        return self._final()

    def _known(self, name: str | None, model: Decoder) -> Record | None:
        """The record of these weights under this protocol, if it is there.

        Raises:
            ValueError: The file holds a record of something else.
        """
        path = self.path(name)
        if not path.exists():
            return None
        found = Record.read(path)
        protocol = self.protocol.to_dict() | model.origin.source.as_record()
        check_same(path, found.data, {"checkpoint_sha256": model.origin.checkpoint_sha256, "protocol": protocol})
        return found

    def _measured(self, name: str | None, model: Decoder) -> Record:
        record = measure(model, protocol=self.protocol).to_dict()
        more = {"run": self.given.run, "revision": name, "final": self.path(name).name == FINAL}
        return Record(record | more).write(self.path(name))

    def _tell_twins(self, name: str | None, model: Decoder, others: Mapping[Path | None, tuple[str, str | None]]) -> None:
        """Report a revision whose weights are those of another one: its curve would stand still for no reason."""
        for path, (digest, revision) in others.items():
            if path != self.path(name) and digest == model.origin.checkpoint_sha256:
                print(
                    f"gcgap: warning: revision {name} of `{self.given.model}` has the very weights of {revision}; "
                    "see if the right ones were uploaded.",
                    file=sys.stderr,
                )

    def _final(self) -> Record:
        """The record of the last step, which is the final one unless a revision without a step is."""
        steps = list(self._steps())
        path = self.folder / FINAL
        if steps and (not path.exists() or Record.read(path)["step"] is not None):
            last = max(steps, key=lambda record: record["step"])
            return Record(last.to_dict() | {"final": True}).write(path)
        return Record.read(path)

    def _steps(self) -> Iterator[Record]:
        """The records of the revisions that are there."""
        return (Record.read(path) for path in sorted(self.folder.glob("step=*.json"), key=in_order))


def _identity(record: Record) -> tuple[str, str | None]:
    """The hash of the weights, and the revision."""
    return record["checkpoint_sha256"], record.data.get("revision")


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
