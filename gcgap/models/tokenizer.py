"""The tokenizer of a Hugging Face model: what it makes of a text that goes on, and which of its tokens text can give."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gcgap.data.prompt_tokens import Encode, UnknownWordsError, Vocabulary

CONTROL = re.compile(r"<[^<>\s]+>|\[[^\W\d][^\[\]\s]*\]")
"""Names of control tokens, of bytes and of reserved rows: <s>, <|im_end|>, [SEP], <0x0A>, <unused7>."""


@dataclass(frozen=True)
class Tokenizer:
    """Gives the token ids of a text that goes on: with what the tokenizer puts before it, and without what it puts behind it.

    Args:
        name: The model that it belongs to.
        found: The tokenizer of transformers.
        before: What it puts before a text, such as BOS or CLS.
        behind: What it puts behind a text, such as EOS or SEP.
    """

    name: str
    found: Any
    before: tuple[int, ...]
    behind: tuple[int, ...]

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text, nothing padded and nothing cut.

        Raises:
            UnknownWordsError: A word becomes the token for unknown ones.
        """
        tokens, unknown = _ids(self.found, text), self.found.unk_token_id
        if unknown in tokens and str(self.found.unk_token) not in text:
            raise UnknownWordsError(f"the tokenizer of `{self.name}` does not know all words of {text!r}; write others.")
        return [*self.before, *tokens]

    def chat(self, text: str) -> str | None:
        """A text as the message of a user, up to where the reply begins; None without a chat template."""
        if not getattr(self.found, "chat_template", None):
            return None
        said = [{"role": "user", "content": text}]
        return str(self.found.apply_chat_template(said, tokenize=False, add_generation_prompt=True))

    def text(self, token: int) -> str:
        """What a token stands for."""
        return str(self.found.decode([token], clean_up_tokenization_spaces=False))

    def vocabulary(self, size: int) -> Vocabulary:
        """The vocabulary of a model whose embedding has so many rows."""
        return Vocabulary(size, lambda: self._words(size), frozenset(_special(self.found)), self.behind)

    def _words(self, size: int) -> np.ndarray:
        """The tokens that the tokenizer makes of their own text, and that are neither special nor added."""
        tokens = [token for token in _plain(self.found) if token < size]
        texts = [self.text(token) for token in tokens]
        again = _ids(self.found, texts) if texts else []
        return np.array([token for token, ids in zip(tokens, again, strict=True) if ids == [token]], dtype=np.int64)


def read_tokenizer(
    name: str, options: dict[str, Any], config: Any, read: Callable[[], Any] | None = None
) -> tuple[Encode, Vocabulary]:
    """The tokenizer of a model and its vocabulary; where none can be loaded, every text raises a ValueError with the reason.

    Args:
        name: Of the model.
        options: What `from_pretrained` takes beside it.
        config: The text model's config, which has the size of the vocabulary and the special tokens.
        read: Gives the tokenizer of transformers; by default transformers finds it by the name.
    """
    try:
        tokenizer = _load(name, read or partial(_find, name, options))
    except ValueError as error:
        reason = str(error)
    else:
        return tokenizer, tokenizer.vocabulary(config.vocab_size)

    def encode(text: str) -> list[int]:
        raise ValueError(reason)

    return encode, _without_texts(name, config)


def first_lines(error: Exception) -> str:
    """What an error of another library says, cut to three lines."""
    return "\n".join(line.strip() for line in str(error).strip().splitlines()[:3] if line.strip())


def _find(name: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name, **options)


def _load(name: str, read: Callable[[], Any]) -> Tokenizer:
    none = f"`{name}` has no tokenizer that can be loaded, so prompts must be token ids"
    try:
        found = read()
    except Exception as error:  # of a broken file transformers raises nearly anything
        raise ValueError(f"{none}: {first_lines(error)}") from error
    texts = (found.decode([token]) for token in _plain(found))
    text = next((text for text in texts if _ids(found, text)), None)
    if text is None:
        raise ValueError(f"{none}.")  # transformers makes one without words up
    core, whole = _ids(found, text), found(text)["input_ids"]
    for start in range(len(whole) - len(core) + 1):
        if whole[start : (end := start + len(core))] == core:
            return Tokenizer(name, found, tuple(whole[:start]), tuple(whole[end:]))
    raise ValueError(
        f"the tokenizer of `{name}` must put special tokens before and behind those of a text; it makes {core} {whole}. Give "
        "token ids as prompts."
    )


def _ids(found: Any, text: str | list[str]) -> Any:
    """The tokens of one text or of several, without special ones, neither padded nor cut, whatever the tokenizer's file says."""
    plain = dict.fromkeys(("add_special_tokens", "padding", "truncation", "return_attention_mask", "verbose"), False)
    return found(text, **plain)["input_ids"]


def _special(found: Any) -> set[int]:
    return {*found.all_special_ids, *(token for token, added in found.added_tokens_decoder.items() if added.special)}


def _plain(found: Any) -> list[int]:
    """The tokens that are neither special nor added, nor have the name of a control token, in their order."""
    out = _special(found) | set(found.added_tokens_decoder)
    return sorted(token for name, token in found.get_vocab().items() if token not in out and not CONTROL.fullmatch(name))


def _without_texts(name: str, config: Any) -> Vocabulary:
    """All tokens but the special ones of the config; a warning says so where random ones are drawn."""
    given = [getattr(config, f"{kind}_token_id", None) for kind in ("bos", "eos", "pad")]
    special = {token for one in given for token in (one if isinstance(one, list) else [one]) if token is not None}
    rest = np.setdiff1d(np.arange(config.vocab_size), list(special))

    def words() -> np.ndarray:
        print(
            f"gcgap: warning: `{name}` has no tokenizer that can be loaded, so random tokens are drawn from all {len(rest)} rows "
            "of its embedding that are not special, also from rows that no text uses; give `corrupted` to choose them.",
            file=sys.stderr,
        )
        return rest

    return Vocabulary(config.vocab_size, words, frozenset(special))
