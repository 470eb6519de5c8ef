"""Batches of prompts, by the name of a task or from a file."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toy_tokens import BOS, VOCABULARY, pieces

from gcgap.data.batches import Batch, Layout, Purpose
from gcgap.data.ioi import WORDS, word_ids
from gcgap.data.prompt_source import PromptSource
from gcgap.data.prompt_tasks import PROMPTS, find_prompts
from gcgap.importance.experiment import id_batches

EVALUATION, GRADIENT, MEAN = Purpose.EVALUATION, Purpose.GRADIENT, Purpose.MEAN


def source(
    name: str | Path,
    seed: int = 3,
    encode: Callable[[str], list[int]] = pieces,
    vocabulary: int = VOCABULARY,
    length: int = 0,
) -> PromptSource:
    return find_prompts(str(name), encode, vocabulary, seed, length)


def written(directory: Path, lines: list[dict[str, Any]]) -> Path:
    path = directory / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    """Prompts that can be told apart by their second token, of unequal lengths."""
    return [{"clean": [1, 10 + i, *[2] * (1 + i % 3)], "answer": 3} | more for i in range(count)]


def rows(batch: Batch) -> list[int]:
    """The second tokens of prompts made by `numbered`."""
    return [max(row) - 10 for row in batch.inputs.tolist()]


def equal(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", sorted(set(PROMPTS) - {"facts"}))  # of which there are no others
@given(st.integers(0, 2**32), st.sampled_from(list(Purpose)), st.integers(1, 5), st.integers(0, 3))
def test_equal_arguments_give_equal_batches_and_others_give_others(
    name: str, seed: int, purpose: Purpose, size: int, index: int
) -> None:
    first = source(name, seed).batch(purpose, 0, 4 + size, index)
    assert len(first.inputs) == first.world_scored == 4 + size
    assert equal(first, source(name, seed).batch(purpose, 0, 4 + size, index))
    others = [
        source(name, seed + 1).batch(purpose, 0, 4 + size, index),
        source(name, seed).batch(purpose, 0, 4 + size, index + 1),
    ]
    another = Purpose.TRAIN if purpose == Purpose.VALIDATION else Purpose.VALIDATION
    for other in (*others, source(name, seed).batch(another, 0, 4 + size, index)):
        assert not equal(first, other)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_batches_are_those_of_their_index_and_hold_all_that_a_metric_needs(name: str) -> None:
    found = source(name)
    batches = found.batches(GRADIENT, 0, 3, 4)
    assert len(batches) == 3
    for index, batch in enumerate(batches):
        assert equal(batch, found.batch(GRADIENT, 0, 4, index))
        assert batch.wrong is not None
        assert batch.corrupted is not None
        assert batch.corrupted.shape == batch.inputs.shape
        assert ((batch.corrupted != batch.inputs).sum(1) == 1).all()
        assert (batch.inputs[:, 0] == BOS).all(), "what the tokenizer puts at the beginning"
        assert (batch.wrong != batch.targets[:, -1]).all()


def test_a_source_has_what_a_measurement_asks_of_one() -> None:
    found = source("ioi", 7)
    assert (found.task, found.seed, found.lengths, found.ood_lengths) == ("ioi", 7, (0, 0), ())
    assert (list(found.training_lengths), found.layout) == ([0], Layout.CONTIGUOUS)
    assert id_batches(found, 100) == [], "nothing tells prompts that a model was trained on from others"
    with pytest.raises(TypeError, match="prompts are for measuring"):
        found.training_batch(0, 4)
    with pytest.raises(ValueError, match="`seed` must be between 0 and 4294967295; got -1"):
        source("ioi", -1)


def test_only_ioi_has_lengths_which_are_its_filler_sentences() -> None:
    words = {length: source("ioi", encode=word_ids, vocabulary=len(WORDS), length=length) for length in (0, 1, 5)}
    for length, found in words.items():
        assert (found.only_length, found.lengths, list(found.training_lengths)) == (length, (length, length), [length])
        batch = found.batch(EVALUATION, length, 2)
        assert batch.inputs.shape[1] == 15 + 7 * length
        assert found.length_of(batch) == length
        with pytest.raises(ValueError, match=f"`length` must be {length}, that of the prompts; got {length + 1}"):
            found.batch(EVALUATION, length + 1, 2)
    for name in ("greater_than", "induction", "facts"):
        with pytest.raises(ValueError, match=f"`length` must be 0 for {name}, or for ioi its number of filler sentences; got 2"):
            source(name, length=2)
    with pytest.raises(ValueError, match="`length` must be 0 for ioi, or for ioi its number of filler sentences; got -1"):
        source("ioi", length=-1)
    words = words[0]
    with pytest.raises(ValueError, match="`size` must be at least 1; got 0"):
        words.batch(EVALUATION, 0, 0)


@given(st.integers(0, 2**32), st.integers(6, 40))
def test_a_file_is_dealt_into_three_parts_that_share_no_prompt(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    path = written(tmp_path_factory.getbasetemp(), numbered(count))
    found = source(path, seed)
    assert found.task == "mine"
    parts = [rows(found.batch(purpose, 0, count, index)) for purpose, index in ((EVALUATION, 0), (EVALUATION, 1), (MEAN, 0))]
    assert sorted(chain(*parts)) == list(range(count)), "every prompt once"
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert rows(found.batch(EVALUATION, 0, count, 5)) == parts[1]
    assert rows(found.batch(Purpose.HELD_OUT, 0, count)) == parts[1]
    for purpose in set(Purpose) - {EVALUATION, Purpose.HELD_OUT}:
        assert sorted(rows(found.batch(purpose, 0, count))) == sorted(parts[2])


def test_an_evaluation_takes_the_first_of_its_part_and_others_draw_from_theirs(tmp_path: Path) -> None:
    found = source(written(tmp_path, numbered(30)))
    all_of_it = rows(found.batch(EVALUATION, 0, 100))
    assert len(set(all_of_it)) == 10
    assert all_of_it != sorted(all_of_it), "shuffled"
    assert rows(found.batch(EVALUATION, 0, 4)) == all_of_it[:4]
    drawn = {purpose: [rows(batch) for batch in found.batches(purpose, 0, 3, 4)] for purpose in (GRADIENT, MEAN)}
    for batches in drawn.values():
        assert [len(row) for row in batches] == [3, 3, 3], "as many as there are for each"
        assert len(set(chain(*batches))) == 9, "batches share no prompt, else their spread would be too small"
    assert drawn[GRADIENT] != drawn[MEAN]
    assert [len(batch.inputs) for batch in found.batches(MEAN, 0, 2, 4)] == [4, 4]
    with pytest.raises(ValueError, match="a prompt for each of 11 batches among the third that means and gradients get; got 10"):
        found.batches(GRADIENT, 0, 11, 4)
    assert all_of_it != rows(source(tmp_path / "mine.jsonl", 4).batch(EVALUATION, 0, 100)), "the seed deals"


def test_prompts_of_a_file_without_corrupted_get_a_random_token_instead(tmp_path: Path) -> None:
    found = source(written(tmp_path, numbered(9))).batch(EVALUATION, 0, 3)
    assert found.wrong is None
    assert found.corrupted is not None
    assert ((found.corrupted != found.inputs).sum(1) == 1).all()
    assert equal(found, source(tmp_path / "mine.jsonl").batch(EVALUATION, 0, 3)), "the same one whenever the file is read"
    given = source(written(tmp_path, [line | {"corrupted": [0, *line["clean"][1:]]} for line in numbered(9)]))
    batch = given.batch(EVALUATION, 0, 3)
    assert batch.corrupted is not None
    assert ((batch.corrupted == 0).sum(1) == 1).all()
    assert equal(batch, given.batch(EVALUATION, 0, 3))


def test_the_random_tokens_of_a_file_are_drawn_for_every_line_and_by_the_seed(tmp_path: Path) -> None:
    path = written(tmp_path, [{"clean": [1, 10 + i, *[2] * 9], "answer": 3} for i in range(30)])

    def changes(seed: int) -> dict[int, tuple[int, int]]:
        """Where each prompt of all parts was changed, and to what, by its line."""
        batches = [source(path, seed).batch(EVALUATION, 0, 30, index) for index in (0, 1)]
        found = {}
        for batch in batches:
            assert batch.corrupted is not None
            for line, clean, other in zip(rows(batch), batch.inputs.tolist(), batch.corrupted.tolist(), strict=True):
                (found[line],) = ((i, b) for i, (a, b) in enumerate(zip(clean, other, strict=True)) if a != b)
        return found

    first, second = changes(3), changes(4)
    assert len({place for place, _ in first.values()}) > 5
    assert len({token for _, token in first.values()}) == len(first)
    both = first.keys() & second.keys()
    assert len(both) > 5
    assert all(first[line] != second[line] for line in both)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (numbered(5), ": there must be at least 6 prompts, .*; got 5. Write more"),
        ([*numbered(6), *numbered(3)[2:]], ", line 7: no prompt may be there twice; got that of line 3 again"),
        (
            numbered(6, answer=VOCABULARY),
            f", line 1: a token id must be below {VOCABULARY}, the model's vocabulary; got {VOCABULARY}",
        ),
        (numbered(6, answer="a"), ", line 1: `answer` must be a token id where `clean` is token ids"),
        (numbered(6, corrupted=[1]), ", line 1: `clean` and `corrupted` must have equally many tokens"),
        ([*numbered(6), {"clean": [1, 2], "answer": 3}], ", line 7: `clean` must have at least 3 tokens"),
        ([*numbered(6), {"clean": [1, 2], "anser": 3}], ", line 7: it must be a JSON object .*; got the key 'anser'"),
    ],
)
def test_a_file_that_cannot_be_measured_says_which_line(tmp_path: Path, lines: list[dict[str, Any]], said: str) -> None:
    path = written(tmp_path, lines)
    with pytest.raises(ValueError, match=re.escape(f"`{path}`") + ".*".join(map(re.escape, said.split(".*")))):
        source(path)


def test_what_is_neither_a_task_nor_a_file_is_told_the_tasks(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"`--prompts` must be one of facts, greater_than, induction, ioi, or a file of JSON lines; .*'oii'"
    ):
        source("oii")
    with pytest.raises(ValueError, match="got a directory"):
        source(tmp_path)


def test_a_tokenizer_that_a_task_cannot_be_put_in_is_refused() -> None:
    def letters(text: str) -> list[int]:
        return list(map(ord, text))

    with pytest.raises(ValueError, match=r"ioi needs at least 6 names .*; this tokenizer has 0 \(none\)"):
        source("ioi", encode=letters)
    with pytest.raises(ValueError, match="greater_than needs a tokenizer"):
        source("greater_than", encode=lambda text: letters(re.sub(r"1\d{3}", "x", text)))
    with pytest.raises(ValueError, match="a token id must be below 50"):
        source("ioi", vocabulary=50).batch(EVALUATION, 0, 2)
    with pytest.raises(ValueError, match="induction needs a vocabulary of at least 17"):
        source("induction", vocabulary=17).batch(EVALUATION, 0, 2)


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_a_tokenizer_that_ends_every_text_is_refused_with_that_reason(name: str) -> None:
    with pytest.raises(ValueError, match="a tokenizer must put nothing behind a text, where the answer is read"):
        source(name, encode=lambda text: [*pieces(text), 0])


def test_ioi_leaves_out_the_names_that_are_not_one_token() -> None:
    def halves(text: str) -> list[int]:
        return pieces(text.replace("Mary", "Ma-ry"))

    batch = source("ioi", encode=halves).batch(EVALUATION, 0, 200)
    assert batch.inputs.shape == (200, 16)
    assert source("ioi").batch(EVALUATION, 0, 200).inputs.eq(pieces(" Mary")[1]).any()
    assert not batch.inputs.eq(pieces(" Mary")[1]).any()
