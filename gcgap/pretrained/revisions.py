"""Measuring a pretrained model at one or several of its revisions, which are to it what checkpoints are to a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gcgap.cli import UsageError
from gcgap.measurement import measure
from gcgap.model import Decoder
from gcgap.pretrained.load import local, step_of
from gcgap.pretrained.options import Given
from gcgap.protocol import Protocol
from gcgap.records import Record
from gcgap.reuse import check_replaceable, check_same

FINAL = "final.json"


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
        UsageError: Several revisions of which one tells no step, or two that tell the same.
        ValueError: The model is a directory that has not all of them.
    """

    given: Given
    names: Sequence[str | None]
    protocol: Protocol
    folder: Path
    force: bool = False

    def __post_init__(self) -> None:
        steps = [step_of(name) for name in self.names]
        if len(steps) > 1 and (None in steps or len(set(steps)) < len(steps)):
            told = ", ".join(map(str, self.names))
            raise UsageError(f"`--revision` must be one, or several of different steps such as step1000; got {told}.")
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
        for name in sorted(self.names, key=lambda name: step_of(name) or 0):
            model = self.given.load(name)
            self._tell_twins(name, model)
            record = None if self.force else self._known(name, model)
            done(record or self._measured(name, model), record is not None)
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
        protocol = self.protocol.to_dict() | model.origin.source.told()
        check_same(path, found.data, {"checkpoint_sha256": model.origin.checkpoint_sha256, "protocol": protocol})
        return found

    def _measured(self, name: str | None, model: Decoder) -> Record:
        record = measure(model, protocol=self.protocol).to_dict()
        more = {"run": self.given.run, "revision": name, "final": self.path(name).name == FINAL}
        return Record(record | more).write(self.path(name))

    def _tell_twins(self, name: str | None, model: Decoder) -> None:
        """Report a revision whose weights are those of another one: its curve would stand still for no reason."""
        for path in sorted(self.folder.glob("step=*.json")):
            other = Record.read(path)
            if path != self.path(name) and other["checkpoint_sha256"] == model.origin.checkpoint_sha256:
                print(
                    f"gcgap: warning: revision {name} of `{self.given.model}` has the very weights of {other['revision']}; "
                    "see if the right ones were uploaded.",
                    file=sys.stderr,
                )

    def _final(self) -> Record:
        """The record of the last step, which is the final one unless a revision without a step is."""
        steps = [Record.read(path) for path in sorted(self.folder.glob("step=*.json"))]
        path = self.folder / FINAL
        if steps and (not path.exists() or Record.read(path)["step"] is not None):
            last = max(steps, key=lambda record: record["step"])
            return Record(last.to_dict() | {"final": True}).write(path)
        return Record.read(path)
