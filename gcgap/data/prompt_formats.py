"""Files of prompts: our own JSON lines, and those of other projects.

Each format is one entry of `FORMATS`, which declares its columns. Files are JSON lines, one JSON document that holds lists, or
CSV with a line of names.
"""

from __future__ import annotations

import ast
import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gcgap.data.prompts import KEYS, OPTIONAL, WANTED, Prompt, check_keys, prompt_of, shown
from gcgap.data.strict_text import parsed, user_text


class Format(NamedTuple):
    """Where a row has what. A path such as `a.b` is the entry `b` of the column `a`, and `a[b]` the entry of `a` at place `b`.

    Args:
        name: Whose format it is.
        clean: Path of the clean prompt.
        corrupted: Path of its corrupted twin.
        answer: Path of the right answer, or of several. A space before a path is put before the answer.
        wrong: Path of what it is held against; empty where the answers say both.
        read: Makes `answer` and `wrong` of a prompt of what the columns hold.
        neighbour: The corrupted twin is in the next row, of that in the row before: rows are pairs.
    """

    name: str
    clean: str
    corrupted: str
    answer: str
    wrong: str
    read: Callable[[Any, Any], tuple[Any, Any]]
    neighbour: bool = False

    @property
    def paths(self) -> tuple[str, ...]:
        """Those of all columns."""
        return tuple(path for path in self[1:5] if path)

    @property
    def columns(self) -> set[str]:
        """Names of the columns that are used."""
        return {part.split(".")[0].strip() for path in self.paths for part in path.rstrip("]").split("[")}

    @property
    def reads_ids(self) -> bool:
        """Whether answers are token ids, of one tokenizer."""
        return self.read is _ids


def _texts(*given: Any) -> tuple[Any, ...]:
    """Answers as texts, also numbers, or lists of them."""
    return tuple([str(one) for one in of] if isinstance(of, list) else str(of) for of in given)


def _ids(*given: Any) -> tuple[Any, ...]:
    """Answers as token ids of the tokenizer that the file was made for."""
    return tuple(int(of) for of in given)


def _years(year: Any, _: Any) -> tuple[list[str], list[str]]:
    """The last two digits of all later years of the century, and those of all others (Hanna et al. 2023)."""
    last = int(str(year)[-2:])
    if not 0 <= last < 99:
        raise ValueError(f"a year must end in 00 to 98, so that there is a later one; got {shown(year)}")
    return [f"{one:02}" for one in range(last + 1, 100)], [f"{one:02}" for one in range(last + 1)]


def _listed(given: Any) -> Any:
    """A list that a CSV file holds as Python writes it."""
    return ast.literal_eval(given) if isinstance(given, str) and given.startswith("[") and given.endswith("]") else given


OWN = Format("gcgap", "clean", "corrupted", "answer", "wrong", lambda *given: given)
FORMATS = (
    Format("EAP-IG", "clean", "corrupted", "correct_idx", "incorrect_idx", _ids),
    Format("EAP-IG", "clean", "corrupted", "clean_answer_idx", "corrupted_answer_idx", _ids),
    Format("EAP-IG", "clean", "corrupted", " country", " corrupted_country", _texts),
    Format("EAP-IG", "clean", "corrupted", " answers", " corrupted_answers", _texts),
    Format("EAP-IG", "clean", "corrupted", "correct_idx", "", _years),
    Format("EAP-IG", "clean", "corrupted", "label", "", _years),
    Format("MIB", "clean", "corrupted", "year", "", _years),
    Format("MIB", "prompt", "s2_io_flip_counterfactual.prompt", " metadata.indirect_object", " metadata.subject", _texts),
    Format(
        "MIB",
        "prompt",
        "symbol_counterfactual.prompt",
        "choices.label[answerKey]",
        "symbol_counterfactual.choices.label[symbol_counterfactual.answerKey]",
        _texts,
    ),
    Format("MIB", "prompt", "random_counterfactual.prompt", "label", "random_counterfactual.label", _texts),
    Format("ACDC (auto-circuit)", "clean", "corrupt", "answers", "wrong_answers", _texts),
    Format("TransformerLens", "prompts", "prompts", "answers.0", "answers.1", _texts, neighbour=True),
)
"""Of the formats whose columns are there, the first is taken."""


class Row(NamedTuple):
    """A prompt of a file, where it stands, and what the other columns say; or why it cannot be used."""

    place: str
    prompt: Prompt | str
    more: dict[str, Any]


class PromptFile(NamedTuple):
    """The rows of a file in their order, and what format it has."""

    format: Format
    rows: list[Row]

    @property
    def prompts(self) -> list[Prompt]:
        """Those that can be used."""
        return [row.prompt for row in self.rows if isinstance(row.prompt, Prompt)]


def read_prompts(path: str | Path) -> PromptFile:
    """The prompts of a file.

    Raises:
        ValueError: It is no file or holds no prompt, has no known format, or is of our own format and a line is no prompt, or
            some lines have `corrupted` or `wrong` and others do not. The message names the file and the line.
    """
    rows = _numbered(Path(path))
    place, first = rows[0]
    names = set(first) if isinstance(first, dict) else set()
    found = next((one for one in FORMATS if one.columns <= names), None) if "answer" not in names else None
    if found is None:
        if "answer" not in names and Path(path).suffix == ".csv":
            raise ValueError(f"`{path}`, {place}: {_known(names)}")
        return PromptFile(OWN, list(_own(path, rows)))
    return PromptFile(found, [_foreign(found, rows, number) for number in range(len(rows))])


def _own(path: str | Path, rows: list[tuple[str, Any]]) -> Iterator[Row]:
    there: dict[str, bool] = {}
    for place, value in rows:
        try:
            if isinstance(value, ValueError):
                raise value
            check_keys(value)
            prompt = prompt_of(value)
            for key in OPTIONAL:
                here = getattr(prompt, key) is not None
                if there.setdefault(key, here) != here:
                    got = "none, this one has" if here else "it, this one has not"
                    raise ValueError(f"all lines or none must have `{key}`; got both: line 1 has {got}. Add or remove the key.")
        except ValueError as error:
            raise ValueError(f"`{path}`, {place}: {error}") from error
        yield Row(place, prompt, {key: of for key, of in value.items() if key not in KEYS})


def _foreign(wanted: Format, rows: list[tuple[str, Any]], number: int) -> Row:
    place, row = rows[number]
    try:
        if isinstance(row, ValueError):
            raise row
        _, other = rows[number ^ 1 if wanted.neighbour else number]
        answer, wrong = wanted.read(_spaced(row, wanted.answer), _spaced(row, wanted.wrong) if wanted.wrong else None)
        given = {"clean": _column(row, wanted.clean), "corrupted": _column(other, wanted.corrupted)}
        prompt = prompt_of(given | {"answer": answer, "wrong": wrong})
    except (ValueError, SyntaxError) as error:
        return Row(place, str(error), {})
    except (KeyError, TypeError, IndexError):
        return Row(place, f"it must have the columns {', '.join(path.strip() for path in wanted.paths)}", {})
    return Row(place, prompt, {key: of for key, of in row.items() if key not in wanted.columns})


def _column(row: Any, path: str) -> Any:
    outer, _, inner = path.removesuffix("]").partition("[")
    value = row
    for name in outer.split("."):
        value = value[int(name) if isinstance(value, list) else name]
    return value[_column(row, inner)] if inner else value


def _spaced(row: Any, path: str) -> Any:
    value, space = _listed(_column(row, path.strip())), path[: path.startswith(" ")]
    if isinstance(value, list):
        return [f"{space}{one}" for one in value]
    return f"{space}{value}" if space else value


def _known(names: set[str]) -> str:
    known = ", ".join(dict.fromkeys(one.name for one in FORMATS))
    own = ", ".join(f"`{key}`" for key in KEYS)
    return f"its columns must be {own}, or those of {known} in docs/pretrained.md; got {shown(sorted(names))}. Rename them."


def _numbered(path: Path) -> list[tuple[str, Any]]:
    """Where each row stands, and the row: a dictionary, or the error that there is none."""
    text = _text(path)
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            rows = [(f"line {reader.line_num}", row) for row in reader]
        except csv.Error as error:
            raise ValueError(f"`{path}`, line {reader.line_num + 1}: it must be CSV ({error}). Correct the line.") from error
        if not rows:
            raise ValueError(f"`{path}` must hold a line of names and one prompt per line; got only {shown(text)}. Write some.")
        return [(place, {key: of for key, of in row.items() if key}) for place, row in rows]
    lines = text.removesuffix("\n").split("\n")  # not at the other line breaks of Unicode, which JSON texts may hold
    if (document := _document(text, lines)) is not None:
        return [(f"prompt {number}", row) for number, row in enumerate(document, start=1)]
    return [(f"line {number}", _value(line)) for number, line in enumerate(lines, start=1)]


def _document(text: str, lines: list[str]) -> list[Any] | None:
    """The rows of one JSON document: a list of them, or a dictionary with a list `prompts`, of rows or of one column."""
    try:
        found = parsed(text if len(lines) > 1 else lines[0])
    except ValueError:
        return None
    if isinstance(found, list):
        return found if found and all(isinstance(row, dict) for row in found) else None
    if not isinstance(found, dict) or not isinstance(prompts := found.get("prompts"), list):
        return None
    if all(isinstance(row, dict) for row in prompts):
        return prompts or None
    columns = {key: of for key, of in found.items() if isinstance(of, list) and len(of) == len(prompts)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _value(line: str) -> Any:
    try:
        return parsed(line)
    except ValueError as error:
        return ValueError(f"it must be {WANTED}; got {shown(line)} ({error}). Correct or remove the line.")


def _text(path: Path) -> str:
    if not path.is_file():
        got = "a directory" if path.is_dir() else "nothing of that name"
        raise ValueError(f"`{path}` must be a file of JSON lines; got {got}. Give the path of a file of prompts.")
    try:
        text = user_text(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"`{path}`, {error}") from error
    if not text:
        raise ValueError(f"`{path}` must hold one prompt per line; got an empty file. Write one JSON object per line.")
    return text
