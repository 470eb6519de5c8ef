"""Prompts: as people write them, and in tokens.

In a file of ours (`gcgap.data.prompt_formats`) each is a JSON object `{"clean", "corrupted", "answer", "wrong"}`: a text or token
ids, a list for clean and corrupted and a number for the answers; several answers are a list. Tokenizers: see
`gcgap.data.prompt_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from gcgap.data.answer_sets import Step, Tokens

Answer = str | int | tuple[str | int | Tokens, ...]


class Prompt(NamedTuple):
    """A text, or the token ids of one, and how it must go on.

    `corrupted` is its twin: as many tokens, of which some differ. `wrong` is the answer that the corrupted twin, or a mistake,
    would suggest. Either can be several, of which each will do; in them a tuple is the tokens of one.
    """

    clean: str | tuple[int, ...]
    corrupted: str | tuple[int, ...] | None
    answer: Answer
    wrong: Answer | None


class Encoded(NamedTuple):
    """A prompt in tokens: `clean` and `corrupted` are equally long and differ, and `answer` follows the last token of `clean`.

    With sets of answers there are `steps`, the last of which is at the last token; `answer` and `wrong` are one of each.
    """

    clean: tuple[int, ...]
    corrupted: tuple[int, ...] | None
    answer: int
    wrong: int | None
    steps: tuple[Step, ...] = ()


KEYS, OPTIONAL, ANSWERS = Prompt._fields, ("corrupted", "wrong"), ("answer", "wrong")
SIMILAR = 0.8  # of a key to one of a prompt, from which on it counts as misspelt
WANTED = f"a JSON object with {', '.join(f'`{key}`' for key in KEYS)}"
SHOWN_CHARACTERS = 60


def check_keys(value: Any) -> None:
    """Raise a ValueError unless a value is a JSON object with the keys of a prompt. Other keys are allowed, misspelt ones not."""
    if not isinstance(value, dict):
        raise ValueError(f"it must be {WANTED}; got {shown(value)}. Correct or remove the line.")
    for key in value:
        if key not in KEYS and get_close_matches(key, KEYS, cutoff=SIMILAR):
            raise ValueError(f"it must be {WANTED}; got the key {shown(key)}. Correct its name, or remove it.")
    if missing := [key for key in KEYS if key not in value and key not in OPTIONAL]:
        raise ValueError(f"it must have `{missing[0]}`; got only {shown(list(value))}. Add the key.")


def prompt_of(value: Mapping[str, Any]) -> Prompt:
    """The prompt that the keys of a line give.

    Raises:
        ValueError: One has a value of another kind.
    """
    found: dict[str, Any] = {}
    for key in KEYS:
        of = _several if key in ANSWERS and isinstance(value.get(key), list) else _text_or_ids
        found[key] = of(key, value[key]) if key in value else None
    return Prompt(**found)


def _several(key: str, got: list[Any]) -> Any:
    """Several answers as a tuple, each once; a single one as itself."""
    answers = tuple(dict.fromkeys(_text_or_ids(key, one) for one in got))
    if not answers:
        raise ValueError(f"`{key}` must be one answer or several; got []. Give one.")
    return answers[0] if len(answers) == 1 else answers


def _text_or_ids(key: str, got: Any) -> Any:
    """A text, or token ids: several for clean and corrupted, one for the answers."""
    many = key in ("clean", "corrupted")
    ids = got if isinstance(got, list) else [got]
    if (isinstance(got, str) and got) or (ids and isinstance(got, list) == many and all(type(i) is int and i >= 0 for i in ids)):
        return tuple(ids) if isinstance(got, list) else got
    wanted = "a list of token ids (0 or larger)" if many else "a token id (0 or larger)"
    out = ", or leave the key out of every line" if key in OPTIONAL else ""
    raise ValueError(f"`{key}` must be a text or {wanted}, and not empty; got {shown(got)}. Give one of them{out}.")


def shown(value: Any) -> str:
    """A value as a message shows it: its first characters."""
    text = repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
