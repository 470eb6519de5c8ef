"""Prompts: as people write them in files, and in tokens.

A file holds one JSON object per line, `{"clean", "corrupted", "answer", "wrong"}`, each a text or token ids: a list for clean and
corrupted, a number for the answers. Tokenizers: see `gcgap.data.prompt_tokens`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gcgap.data.strict_text import parsed, user_text


class Prompt(NamedTuple):
    """A text, or the token ids of one, and how it must go on.

    `corrupted` is its twin: as many tokens, of which some differ. `wrong` is the answer that the corrupted twin, or a mistake,
    would suggest.
    """

    clean: str | tuple[int, ...]
    corrupted: str | tuple[int, ...] | None
    answer: str | int
    wrong: str | int | None


class Encoded(NamedTuple):
    """A prompt in tokens: `clean` and `corrupted` are equally long and differ, and `answer` follows the last token of `clean`."""

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answer: int
    wrong: int | None


KEYS, OPTIONAL = Prompt._fields, ("corrupted", "wrong")
WANTED = f"a JSON object with {', '.join(f'`{key}`' for key in KEYS)}"
SHOWN_CHARACTERS = 60


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file of JSON lines, in its order: line n holds prompt n - 1.

    Raises:
        ValueError: It is no file or holds no prompt, a line is none, or some lines have `corrupted` or `wrong` and others do
            not. The message names the file and the line.
    """
    found: list[Prompt] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        try:
            found.append(_prompt(line))
            for key, there, here in zip(KEYS, found[0], found[-1], strict=True):
                if (there is None) != (here is None):
                    got = "none, this one has" if there is None else "it, this one has not"
                    raise ValueError(f"all lines or none must have `{key}`; got both: line 1 has {got}. Add or remove the key.")
        except ValueError as error:
            raise ValueError(f"`{path}`, line {number}: {error}") from error
    return found


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        got = "a directory" if path.is_dir() else "nothing of that name"
        raise ValueError(f"`{path}` must be a file of JSON lines; got {got}. Give the path of a file of prompts.")
    try:
        text = user_text(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"`{path}`, {error}") from error
    if not text:
        raise ValueError(f"`{path}` must hold one prompt per line; got an empty file. Write one JSON object per line.")
    return text.removesuffix("\n").split("\n")  # not at the other line breaks of Unicode, which JSON texts may hold


def _prompt(line: str) -> Prompt:
    try:
        value = parsed(line)
    except ValueError as error:
        raise ValueError(f"it must be {WANTED}; got {_short(line)} ({error}). Correct or remove the line.") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must be {WANTED}; got {_short(value)}. Correct or remove the line.")
    if unknown := [key for key in value if key not in KEYS]:
        raise ValueError(f"it must be {WANTED}; got the key {_short(unknown[0])}. Correct its name, or remove it.")
    if missing := [key for key in KEYS if key not in value and key not in OPTIONAL]:
        raise ValueError(f"it must have `{missing[0]}`; got only {_short(list(value))}. Add the key.")
    found: dict[str, Any] = {key: _text_or_ids(key, value[key]) if key in value else None for key in KEYS}
    return Prompt(**found)


def _text_or_ids(key: str, got: Any) -> Any:
    """A text, or token ids: several for clean and corrupted, one for the answers."""
    many = key in ("clean", "corrupted")
    ids = got if isinstance(got, list) else [got]
    if (isinstance(got, str) and got) or (ids and isinstance(got, list) == many and all(type(i) is int and i >= 0 for i in ids)):
        return tuple(ids) if isinstance(got, list) else got
    wanted = "a list of token ids (0 or larger)" if many else "a token id (0 or larger)"
    out = ", or leave the key out of every line" if key in OPTIONAL else ""
    raise ValueError(f"`{key}` must be a text or {wanted}, and not empty; got {_short(got)}. Give one of them{out}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
