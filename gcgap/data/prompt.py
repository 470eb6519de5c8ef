"""Prompts as people write them, and the files that they come in.

A file holds one JSON object per line, `{"clean", "corrupted", "answer", "wrong"}`, each a text or token ids: a list for clean and
corrupted, a number for the answers. Owns no tokenizer: see `gcgap.data.prompt_tokens`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from gcgap.data.strict_text import parsed, user_text

NEEDED, OPTIONAL = ("clean", "answer"), ("corrupted", "wrong")
KEYS = ("clean", "corrupted", "answer", "wrong")
SHOWN = 60
"""Characters of what was got that an error shows."""


class Prompt(NamedTuple):
    """A text, or the token ids of one, and how it must go on.

    `corrupted` is its twin: as many tokens, of which some differ. `wrong` is the answer that the corrupted twin, or a mistake,
    would suggest.
    """

    clean: str | tuple[int, ...]
    corrupted: str | tuple[int, ...] | None
    answer: str | int
    wrong: str | int | None


def read_prompts(path: str | Path) -> list[Prompt]:
    """The prompts of a file of JSON lines, in its order: line n holds prompt n - 1.

    Raises:
        ValueError: It is no file or holds no prompt, a line is none, or some lines have `corrupted` or `wrong` and others do
            not. The message names the file and the line.
    """
    found: list[Prompt] = []
    for number, line in enumerate(_lines(Path(path)), start=1):
        try:
            prompt = _prompt(line)
            if found:
                _check_alike(found[0], prompt)
        except ValueError as error:
            raise ValueError(f"`{path}`, line {number}: {error}") from error
        found.append(prompt)
    return found


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        got = "a directory" if path.is_dir() else "nothing of that name"
        raise ValueError(f"`{path}` must be a file of JSON lines; got {got}. Give the path of a file of prompts.")
    try:
        lines = user_text(path.read_bytes()).split("\n")  # not at the other line breaks of Unicode, which JSON texts may hold
    except ValueError as error:
        raise ValueError(f"`{path}`, {error}") from error
    lines = lines if lines[-1] else lines[:-1]
    if not lines:
        raise ValueError(f"`{path}` must hold one prompt per line; got an empty file. Write one JSON object per line.")
    return lines


def _prompt(line: str) -> Prompt:
    wanted = f"a JSON object with {', '.join(f'`{key}`' for key in KEYS)}"
    try:
        value = parsed(line)
    except ValueError as error:
        raise ValueError(f"it must be {wanted}; got {_short(line)} ({error}). Correct or remove the line.") from error
    if not isinstance(value, dict):
        raise ValueError(f"it must be {wanted}; got {_short(value)}. Correct or remove the line.")
    if unknown := [key for key in value if key not in KEYS]:
        raise ValueError(f"it must be {wanted}; got the key {_short(unknown[0])}. Correct its name, or remove it.")
    if missing := [key for key in NEEDED if key not in value]:
        raise ValueError(f"it must have `{missing[0]}`; got only {_short(list(value))}. Add the key.")
    return Prompt(
        clean=_tokens("clean", value["clean"]),
        corrupted=_tokens("corrupted", value["corrupted"]) if "corrupted" in value else None,
        answer=_answer("answer", value["answer"]),
        wrong=_answer("wrong", value["wrong"]) if "wrong" in value else None,
    )


def _tokens(key: str, got: Any) -> str | tuple[int, ...]:
    if isinstance(got, str) and got:
        return got
    if isinstance(got, list) and got and all(_is_token(one) for one in got):
        return tuple(got)
    raise _wrong_type(key, "a text or a list of token ids (0 or larger), and not empty", got)


def _answer(key: str, got: Any) -> str | int:
    if (isinstance(got, str) and got) or _is_token(got):
        return got
    raise _wrong_type(key, "a text or a token id (0 or larger), and not empty", got)


def _wrong_type(key: str, wanted: str, got: Any) -> ValueError:
    out = ", or leave the key out of every line" if key in OPTIONAL else ""
    return ValueError(f"`{key}` must be {wanted}; got {_short(got)}. Give one of them{out}.")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_alike(first: Prompt, prompt: Prompt) -> None:
    for key in OPTIONAL:
        here, there = getattr(prompt, key) is not None, getattr(first, key) is not None
        if here != there:
            got = "line 1 has none, this one has" if here else "line 1 has it, this one has not"
            raise ValueError(f"all lines or none must have `{key}`; got both: {got}. Add or remove the key.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
