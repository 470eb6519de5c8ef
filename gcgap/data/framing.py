"""What is put around every prompt: a common prefix, a chat template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gcgap.data.prompt_tokens import Encode, next_token
from gcgap.data.prompts import Prompt


@dataclass(frozen=True)
class Framing:
    """Puts a prefix before the texts of a prompt, and a chat template around them.

    In a chat the prompt is what the user says, and the answer begins the reply, where no space comes before it.

    Args:
        prefix: What every text begins with.
        chat: Writes a text as the message of a user, up to where the reply begins; none without a chat.
    """

    prefix: str = ""
    chat: Callable[[str], str] | None = None

    def __call__(self, prompt: Prompt) -> Prompt:
        """The prompt with what is put around it.

        Raises:
            ValueError: It is token ids, which nothing can be put around.
        """
        if not self.prefix and self.chat is None:
            return prompt
        clean, corrupted = self._text(prompt.clean), None if prompt.corrupted is None else self._text(prompt.corrupted)
        if self.chat is None:
            return prompt._replace(clean=clean, corrupted=corrupted)
        return Prompt(clean, corrupted, _without_space(prompt.answer), _without_space(prompt.wrong))

    def _text(self, given: Any) -> str:
        if not isinstance(given, str):
            raise ValueError(f"`--prefix` and `--chat` are for texts; got the token ids {list(given)}. Give texts as prompts.")
        whole = f"{self.prefix}{given}"
        return whole if self.chat is None else self.chat(whole)


def framing_of(prefix: str, chat: bool, encode: Encode) -> Framing:
    """What these options put around prompts.

    Raises:
        ValueError: A chat is asked for, and the tokenizer has no template for one.
    """
    written = getattr(encode, "chat", None) if chat else None
    if chat and (written is None or written("a") is None):
        raise ValueError("`--chat` needs a tokenizer with a chat template; this one has none. Leave it out.")
    return Framing(prefix, written)


def _without_space(answer: Any) -> Any:
    if isinstance(answer, tuple):
        return tuple(map(_without_space, answer))
    return answer.removeprefix(" ") if isinstance(answer, str) else answer


def missing_space(prompt: Prompt, encode: Encode) -> str | None:
    """An answer that is one token with a space before it too, where a word ends right before it; None if there is none.

    What follows a word without a space is a piece of that word: seldom what was meant.
    """
    if not isinstance(prompt.clean, str) or prompt.clean[-1].isspace() or prompt.clean[-1] in "([{\"'‘“/-_":
        return None
    for given in (prompt.answer, prompt.wrong):
        for answer in given if isinstance(given, tuple) else (given,):
            if isinstance(answer, str) and answer[0].isalpha() and next_token(prompt.clean, f" {answer}", encode) is not None:
                return answer
    return None
