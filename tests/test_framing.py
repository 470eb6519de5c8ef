"""What is put around prompts, what is said of them, and random twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_tokens import BOS, VOCABULARY, pieces

from gcgap.data.batches import Purpose
from gcgap.data.corruption import with_random_tokens
from gcgap.data.framing import Framing, missing_space
from gcgap.data.prompt_tasks import PROMPTS, find_prompts
from gcgap.data.prompts import Encoded, Prompt

EVALUATION = Purpose.EVALUATION


class Chatting:
    """A tokenizer with a chat template."""

    def __call__(self, text: str) -> list[int]:
        return pieces(text)

    def chat(self, text: str) -> str:
        return f"User: {text}\nReply:\n"


def test_a_prefix_and_a_chat_are_put_around_texts_and_the_answer_begins_the_reply() -> None:
    prompt = Prompt("To", "Of", (" Ann", "Bob", 3, (1, 2)), " Eve")
    assert Framing()(prompt) is prompt
    assert Framing("Say: ")(prompt) == prompt._replace(clean="Say: To", corrupted="Say: Of")
    whole = Framing("Say: ", Chatting().chat)(prompt)
    assert whole == Prompt("User: Say: To\nReply:\n", "User: Say: Of\nReply:\n", ("Ann", "Bob", 3, (1, 2)), "Eve")
    with pytest.raises(ValueError, match=r"are for texts; got the token ids \[1, 2\]"):
        Framing("a")(Prompt((1, 2), None, 1, None))


@pytest.mark.parametrize("name", ["ioi", "greater_than", "facts"])
def test_every_task_of_texts_can_be_chatted(name: str) -> None:
    source = find_prompts(name, Chatting(), VOCABULARY, 3, prefix="Go on: ", chat=True)
    assert source.as_record().items() >= {"prefix": "Go on: ", "chat": True}.items()
    batch, plain = source.batch(EVALUATION, 0, 6), find_prompts(name, pieces, VOCABULARY, 3).batch(EVALUATION, 0, 6)
    begin, end = pieces("User: Go on:"), pieces("User\nReply:\n")[2:]
    assert batch.inputs[:, : len(begin)].tolist() == [begin] * 6
    for row in batch.inputs.tolist():
        tokens = [token for token in row if token >= 0]
        assert tokens[-len(end) :] == end
    assert batch.inputs.shape[1] == plain.inputs.shape[1] - 1 + len(begin) + len(end)


def test_what_cannot_be_chatted_is_refused() -> None:
    with pytest.raises(ValueError, match="`--chat` needs a tokenizer with a chat template; this one has none"):
        find_prompts("ioi", pieces, VOCABULARY, 3, chat=True)
    with pytest.raises(ValueError, match="induction is made of random tokens"):
        find_prompts("induction", pieces, VOCABULARY, 3, prefix="a")


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_random_twins_differ_where_own_ones_do_and_clean_prompts_stay(name: str) -> None:
    own, random = (find_prompts(name, pieces, VOCABULARY, 3, twins=twins) for twins in ("own", "random"))
    assert "twins" not in own.as_record()
    assert random.as_record()["twins"] == "random"
    one, two = own.batch(EVALUATION, 0, 20), random.batch(EVALUATION, 0, 20)
    assert one.inputs.equal(two.inputs)
    assert one.targets.equal(two.targets)
    assert one.corrupted is not None
    assert two.corrupted is not None
    assert (one.corrupted != one.inputs).equal(two.corrupted != two.inputs)
    changed = one.corrupted != one.inputs
    assert (one.corrupted[changed] != two.corrupted[changed]).all()
    assert two.corrupted[changed].unique().numel() > 10, "random ones"


def test_a_random_twin_needs_a_third_token() -> None:
    prompt = Encoded((1, 2, 3), (1, 4, 3), 5, 6)
    assert with_random_tokens(prompt, np.random.default_rng(0), np.array([2, 4, 9])).corrupted == (1, 9, 3)
    with pytest.raises(ValueError, match=r"got only \[2, 4\]"):
        with_random_tokens(prompt, np.random.default_rng(0), np.array([2, 4]))


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        (Prompt("gave it to", None, "Ann", None), "Ann"),
        (Prompt("gave it to", None, " Ann", "Bob"), "Bob"),
        (Prompt("gave it to", None, (" Ann", "Bob"), None), "Bob"),
        (Prompt("The reply:", None, "Ann", None), "Ann"),
        (Prompt("gave it to", None, " Ann", 7), None),
        (Prompt("the year 17", None, "52", "01"), None),
        (Prompt("the word (", None, "up", None), None),
        (Prompt((1, 2), None, 3, None), None),
    ],
)
def test_an_answer_without_the_space_that_belongs_before_it_is_found(prompt: Prompt, answer: str | None) -> None:
    assert missing_space(prompt, pieces) == answer


def test_missing_spaces_and_a_second_beginning_are_said_once_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def encode(text: str) -> list[int]:
        """A token per part of a text, that of BOS for S."""
        return [BOS, *(BOS if part == "S" else 2 + pieces(part)[-1] for part in text.split("|") if part)]

    lines: list[dict[str, Any]] = [
        {"clean": f"w{'x' * i}|{'S' if i < 2 else 't'}|to|", "corrupted": f"v{'x' * i}|{'S' if i < 2 else 't'}|to|", "answer": 5}
        for i in range(6)
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    find_prompts(str(path), encode, VOCABULARY, 3)
    assert capsys.readouterr().err == (
        f"gcgap: warning: `{path}`, line 1: [1], which the tokenizer puts before every text, is there a second time "
        "(and 1 more)\n"
    )
    path.write_text("".join(json.dumps({"clean": f"It {'very ' * i}went to:", "answer": "Ann"}) + "\n" for i in range(6)))
    find_prompts(str(path), pieces, VOCABULARY, 3)
    said = "no space stands before the answer 'Ann'; is ' Ann' meant?"
    assert capsys.readouterr().err == f"gcgap: warning: `{path}`, line 1: {said} (and 5 more)\n"
