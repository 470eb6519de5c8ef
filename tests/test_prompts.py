"""Prompts as files hold them, and in tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutants import EDITS, Edit, corrupted

from gcgap.data.batches import NOTHING
from gcgap.data.corruption import corrupt
from gcgap.data.prompt_formats import read_prompts
from gcgap.data.prompt_tokens import Vocabulary, as_batch, check_vocabulary, encoded, next_token, token_ids
from gcgap.data.prompts import Encoded, Prompt

LINE = {"clean": "a b", "corrupted": "a c", "answer": " d", "wrong": " e"}
ids = st.integers(0, 10**6)
texts = st.text(min_size=1)
sequences = st.one_of(texts, st.lists(ids, min_size=1))
answers = st.one_of(texts, ids)


def letters(text: str) -> list[int]:
    """A token per letter, and 0 before every text."""
    return [0, *map(ord, text)]


def merging(text: str) -> list[int]:
    """As `letters`, but `ab` is one token."""
    return letters(text.replace("ab", "Z"))


def written(directory: Path, *lines: Any) -> Path:
    path = directory / "mine.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in LINE.items() if name != key}


@given(
    st.lists(
        st.fixed_dictionaries({"clean": sequences, "corrupted": sequences, "answer": answers, "wrong": answers}), min_size=1
    ),
    st.sets(st.sampled_from(["corrupted", "wrong"])),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_file_gives_back_the_prompts_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], missing: set[str], ascii_only: bool, end: str
) -> None:
    path = tmp_path_factory.mktemp("prompts") / "mine.jsonl"
    kept = [{key: value for key, value in line.items() if key not in missing} for line in lines]
    path.write_bytes(end.join(json.dumps(line, ensure_ascii=ascii_only) for line in kept).encode())
    for line, prompt in zip(kept, read_prompts(path).prompts, strict=True):
        back = {key: list(value) if isinstance(value, tuple) else value for key, value in prompt._asdict().items()}
        assert {key: value for key, value in back.items() if value is not None} == line


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "must be a JSON object with `clean`, `corrupted`, `answer`, `wrong`; got ''"),
        ("{", "got '{' (Expecting"),
        ("\ufeff{}", "BOM"),
        ("[" * 5000, "got '" + "[" * 59 + "..."),
        ('{"clean": NaN}', "it holds NaN"),
        ('{"clean": "a", "answer": 1e999}', "it holds 1e999, which a float cannot hold"),
        ('{"clean": "a", "clean": "b", "answer": " c"}', "it holds the key `clean` twice"),
        ('{"clean": "a", "answer": " b", "answer": " b"}', "it holds the key `answer` twice"),
        ('{"clean": "\\ud800", "answer": "a"}', "surrogates not allowed"),
        ([1, 2], "must be a JSON object .*; got [1, 2]"),
        (LINE | {"corupted": "a c"}, "got the key 'corupted'"),
        (without("clean"), "must have `clean`; got only ['corrupted', 'answer', 'wrong']"),
        (without("answer"), "must have `answer`"),
        (without("corrupted"), "all lines or none must have `corrupted`; got both: line 1 has it"),
        (without("wrong"), "all lines or none must have `wrong`"),
        (LINE | {"clean": ""}, "`clean` must be a text or a list of token ids"),
        (LINE | {"clean": []}, "`clean` must be .*not empty; got []"),
        (LINE | {"clean": 7}, "`clean` must be .*; got 7. Give one of them."),
        (LINE | {"clean": [1, -2]}, "`clean` must be .*; got [1, -2]"),
        (LINE | {"clean": [1, True]}, "`clean` must be .*; got [1, True]"),
        (LINE | {"clean": [1, 2.0]}, "`clean` must be .*; got [1, 2.0]"),
        (LINE | {"clean": ["a"]}, "`clean` must be"),
        (LINE | {"corrupted": None}, "`corrupted` must be .*; got None. Give one of them, or leave the key out"),
        (LINE | {"answer": ""}, "`answer` must be a text or a token id"),
        (LINE | {"answer": True}, "`answer` must be .*; got True"),
        (LINE | {"answer": -1}, "`answer` must be .*; got -1"),
        (LINE | {"answer": 1.5}, "`answer` must be .*; got 1.5"),
        (LINE | {"answer": []}, "`answer` must be one answer or several; got []"),
        (LINE | {"answer": [1, [2]]}, "`answer` must be a text or a token id (0 or larger), and not empty; got [2]"),
        (LINE | {"wrong": [" e", ""]}, "`wrong` must be a text or a token id"),
        (LINE | {"wrong": None}, "`wrong` must be .*; got None. Give one of them, or leave the key out"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_with_what_it_must_be(tmp_path: Path, line: Any, said: str) -> None:
    path = written(tmp_path, LINE, line, LINE)
    with pytest.raises(ValueError, match="line 2") as caught:
        read_prompts(path)
    text = str(caught.value)
    assert text.startswith(f"`{path}`, line 2: ")
    assert re.search(".*".join(map(re.escape, said.split(".*"))), text), text
    assert len(text) < 500
    assert text.count("\n") < 3


def test_a_key_that_only_later_lines_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"line 2: .*`wrong`; got both: line 1 has none"):
        read_prompts(written(tmp_path, without("wrong"), LINE))


def test_a_bom_before_a_file_is_no_part_of_it(tmp_path: Path) -> None:
    plain = read_prompts(written(tmp_path, LINE, LINE)).prompts
    path = tmp_path / "windows.jsonl"
    path.write_text(f"{json.dumps(LINE)}\r\n" * 2, encoding="utf-8-sig", newline="")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_prompts(path).prompts == plain


def test_what_is_no_file_of_text_is_refused(tmp_path: Path) -> None:
    empty, latin = tmp_path / "empty", tmp_path / "latin"
    empty.touch()
    wide, wider, only_bom = tmp_path / "wide", tmp_path / "wider", tmp_path / "bom"
    wide.write_text(json.dumps(LINE), encoding="utf-16")
    wider.write_text(json.dumps(LINE), encoding="utf-32")
    only_bom.write_text("", encoding="utf-8-sig")
    latin.write_bytes((json.dumps(LINE) + "\n").encode() + b'{"clean": "caf\xe9"}\n')
    for path, said in [
        (tmp_path, "must be a file of JSON lines; got a directory"),
        (tmp_path / "none", "must be a file of JSON lines; got nothing of that name"),
        (empty, "must hold one prompt per line; got an empty file"),
        (latin, "line 2: it must be UTF-8; got the byte 0xe9"),
        (wide, "line 1: it must be UTF-8; got the BOM (byte order mark) of UTF-16. Save the file as UTF-8"),
        (wider, "got the BOM (byte order mark) of UTF-32"),
        (only_bom, "must hold one prompt per line; got an empty file"),
    ]:
        with pytest.raises(ValueError, match=re.escape(said)) as caught:
            read_prompts(path)
        assert str(path) in str(caught.value)


@given(EDITS)
def test_a_corrupted_file_is_read_or_refused_by_name(tmp_path_factory: pytest.TempPathFactory, edits: list[Edit]) -> None:
    path = tmp_path_factory.getbasetemp() / "corrupted.jsonl"
    path.write_bytes(corrupted("".join(json.dumps(LINE) + "\n" for _ in range(4)).encode(), edits))
    refusal = ""
    try:
        found = read_prompts(path).prompts
    except ValueError as error:
        found, refusal = [], str(error)
    assert found or refusal.startswith(f"`{path}`")


def test_a_prompt_becomes_tokens_with_the_answers_in_their_place() -> None:
    prompt = Prompt("xya", "xza", "b", "c")
    assert encoded(prompt, letters) == Encoded((0, *b"xya"), (0, *b"xza"), ord("b"), ord("c"))
    assert encoded(Prompt((1, 2), None, 3, None), letters) == Encoded((1, 2), None, 3, None)
    assert next_token("xy", "b", merging) == ord("b")
    assert next_token("xa", "b", merging) is None
    assert next_token("xa", "bc", merging) is None, "one token more, but another one before it"
    assert next_token("x", "ab", merging) == ord("Z")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        (Prompt("x", None, "yz", None), "`answer` must be exactly one token after `clean`; with 'yz' the end of the tokens, [], "
         "becomes [121, 122]"),
        (Prompt("xa", None, "b", None), "`answer` must be .*; with 'b' the end of the tokens, [97], becomes [90]"),
        (Prompt("x", None, "y", "zz"), "`wrong` must be exactly one token after `clean`; with 'zz'"),
        (Prompt((1, 2), None, "y", None), "`answer` must be a token id where `clean` is token ids; got 'y'"),
        (Prompt("x", None, "y", "y"), "`wrong` must differ from `answer`; got 'y', the token 121"),
        (Prompt("x", None, "y", 121), "`wrong` must differ from `answer`"),
        (Prompt("xyz", "xy", "y", None), "got 4 and 3. .*\nclean: [0, 120, 121, 122]\ncorrupted: [0, 120, 121]"),
        (Prompt("xy", "xy", "y", None), "`clean` and `corrupted` must differ, .*; got the same tokens, [0, 120, 121]"),
        (Prompt("x", (0, 120), "y", None), "must differ"),
    ],
)  # fmt: skip
def test_a_prompt_that_cannot_be_measured_shows_its_tokens(prompt: Prompt, said: str) -> None:
    with pytest.raises(ValueError, match=".*".join(map(re.escape, said.split(".*")))):
        encoded(prompt, merging)


def test_a_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="`clean` must have a token"):
        encoded(Prompt("x", None, 1, None), lambda text: [])


@pytest.mark.parametrize(
    "far",
    [Encoded((9, 1), None, 1, None), Encoded((1, 1), (1, 9), 1, None), Encoded((1,), None, 9, 1), Encoded((1,), None, 1, 9)],
)
def test_a_token_that_the_model_does_not_know_is_refused(far: Encoded) -> None:
    check_vocabulary(far, Vocabulary(10))
    with pytest.raises(ValueError, match="below 9, the model's vocabulary; got 9"):
        check_vocabulary(far, Vocabulary(9))


def test_a_prompt_that_ends_in_what_ends_every_text_is_refused() -> None:
    ends = Vocabulary(10, ending=(8, 9))
    check_vocabulary(Encoded((8, 9, 1), (8, 9, 9), 9, 8), ends)
    for key, prompt in (("clean", Encoded((1, 8, 9), None, 1, 2)), ("corrupted", Encoded((1, 2), (8, 9), 1, 2))):
        check_vocabulary(prompt, Vocabulary(10))
        with pytest.raises(ValueError, match=rf"`{key}` must not end in \[8, 9\], with which the tokenizer ends a text"):
            check_vocabulary(prompt, ends)


@pytest.mark.parametrize("around", [([], [3]), ([1], [3]), ([1], [1]), ([1], [3, 4])])
def test_a_tokenizer_that_puts_tokens_behind_a_text_is_refused_for_files_and_answers(around: tuple[list[int], list[int]]) -> None:
    def closed(text: str) -> list[int]:
        return [*around[0], *map(ord, text), *around[1]]

    for prompt in (Prompt("xy", "xz", 120, 121), Prompt("xy", None, "z", None)):
        with pytest.raises(ValueError, match="a tokenizer must put nothing behind a text, where the answer is read"):
            encoded(prompt, closed)
    with pytest.raises(ValueError, match="nothing behind a text"):
        next_token("x", "y", closed)


def test_a_text_that_begins_with_what_the_tokenizer_puts_there_has_it_once() -> None:
    def begun(text: str) -> list[int]:
        return [7, 7, *(7 if letter == "S" else ord(letter) for letter in text)]

    assert token_ids("xy", begun) == token_ids("SSxy", begun) == (7, 7, 120, 121)
    assert token_ids("", begun) == token_ids("SS", begun) == (7, 7)
    assert token_ids("Sx", begun) == (7, 7, 7, 120), "another token of the same name is the text's own"
    assert encoded(Prompt("SSx", "SSy", "a", 7), begun) == Encoded((7, 7, 120), (7, 7, 121), 97, 7)
    assert token_ids("SSx", lambda text: begun(text)[2:]) == (7, 7, 120)


def test_a_tokenizer_that_gives_no_ids_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must give a list of token ids; got \['input_ids'\]. Give its method `encode`"):
        token_ids("x", lambda text: {"input_ids": [1]})  # pyright: ignore[reportArgumentType]
    assert token_ids("x", lambda text: np.array([1])) == (1,)  # pyright: ignore[reportArgumentType]


def test_a_batch_pads_on_the_right_and_scores_the_last_token_alone() -> None:
    batch = as_batch([Encoded((1, 2, 3), (1, 5, 3), 7, 8), Encoded((4,), (6,), 9, 0)])
    n = NOTHING
    assert batch.inputs.tolist() == [[1, 2, 3], [4, n, n]]
    assert batch.targets.tolist() == [[n, n, 7], [9, n, n]]
    assert batch.scored.tolist() == [[False, False, True], [True, False, False]]
    assert batch.world_scored == 2
    assert batch.wrong is not None
    assert batch.wrong.tolist() == [8, 0]
    assert batch.corrupted is not None
    assert batch.corrupted.tolist() == [[1, 5, 3], [6, n, n]]
    second = batch.rows(slice(1, 2))
    assert second.wrong is not None
    assert second.corrupted is not None
    assert (second.wrong.tolist(), second.corrupted.tolist(), second.world_scored) == ([0], [[6, n, n]], 2)
    plain = as_batch([Encoded((1, 2), None, 3, None)])
    assert plain.wrong is None
    assert plain.corrupted is None
    with pytest.raises(ValueError, match="must have a prompt"):
        as_batch([])


@given(st.integers(0, 2**32), st.integers(3, 9), st.integers(2, 12))
def test_a_random_corruption_changes_one_token_between_the_first_and_the_last(seed: int, length: int, vocabulary: int) -> None:
    random = np.random.default_rng(seed)
    prompt = Encoded(tuple(random.integers(vocabulary, size=length).tolist()), None, 0, 1)
    found = corrupt(prompt, random, np.arange(vocabulary))
    assert found._replace(corrupted=None) == prompt
    assert found.corrupted is not None
    changed = [i for i, (a, b) in enumerate(zip(prompt.clean, found.corrupted, strict=True)) if a != b]
    assert len(changed) == 1
    assert 0 < changed[0] < length - 1
    assert 0 <= found.corrupted[changed[0]] < vocabulary


def test_a_random_corruption_reaches_every_inner_place_and_every_other_token() -> None:
    random, prompt = np.random.default_rng(0), Encoded((0, 1, 2, 3), None, 0, 1)
    found = {corrupt(prompt, random, np.arange(4)).corrupted for _ in range(200)}
    assert found == {(0, t, 2, 3) for t in (0, 2, 3)} | {(0, 1, t, 3) for t in (0, 1, 3)}


def test_a_random_corruption_leaves_special_tokens_alone_and_draws_from_words() -> None:
    random, prompt = np.random.default_rng(0), Encoded((0, 1, 2, 3, 4), None, 0, 1)
    found = {corrupt(prompt, random, np.array([2, 7]), frozenset({1, 3})).corrupted for _ in range(50)}
    assert found == {(0, 1, 7, 3, 4)}
    with pytest.raises(ValueError, match=r"between the first and the last, and not special, .*; got \[0, 1, 2, 3, 4\]"):
        corrupt(prompt, random, np.array([2, 7]), frozenset({1, 2, 3}))


@pytest.mark.parametrize("clean", [(1,), (1, 2)])
def test_a_prompt_too_short_for_a_random_corruption_is_refused(clean: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="`clean` must have at least 3 tokens"):
        corrupt(Encoded(clean, None, 0, 1), np.random.default_rng(0), np.arange(9))
    with pytest.raises(ValueError, match=r"another token that text can give; got only \[0\]. Give `corrupted`"):
        corrupt(Encoded((0, 0, 0), None, 0, None), np.random.default_rng(0), np.arange(1))
