"""Prompts that are made up: indirect-object identification, greater-than, induction."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_tokens import VOCABULARY, pieces

from gcgap.data.facts import RELATIONS
from gcgap.data.framing import Framing
from gcgap.data.ioi import CLOSINGS, FILLERS, NAMES, OBJECTS, OPENINGS, PLACES, WORDS, ioi, split, word_ids
from gcgap.data.prompt_tasks import CENTURIES, HALF, PROMPTS, greater_than, induction, single_token_names, years_of
from gcgap.data.prompt_tokens import Vocabulary, encoded

seeds = st.integers(0, 2**32)
YEARS = {"11": {"00": (1,), "01": (2,), "02": (3,), "50": (4,), "99": (5,)}, "17": {"01": (2,), "31": (6, 7), "32": (6, 8)}}


@given(seeds, st.integers(0, 20), st.integers(0, 14), st.integers(3, len(NAMES)))
def test_the_indirect_object_is_the_name_of_the_pair_that_is_said_once(seed: int, size: int, length: int, names: int) -> None:
    prompts = ioi(np.random.default_rng(seed), size, length, NAMES[:names])
    assert len(prompts) == size
    for prompt in prompts:
        assert isinstance(prompt.clean, str)
        first, *_, last = sentences = prompt.clean.split(". ")
        pair = [word for word in split(first) if word in NAMES]
        assert len(sentences) == length + 2
        assert len(set(pair)) == 2
        counts = Counter(word for word in split(f"{first} {last}") if word in NAMES)
        assert counts == {str(prompt.answer).strip(): 1, str(prompt.wrong).strip(): 2}
        for filler in sentences[1:-1]:
            third = [word for word in split(filler) if word in NAMES]
            assert len(third) <= 1
            assert not set(third) & set(pair)
        assert {word for word in split(prompt.clean) if word in NAMES} <= set(NAMES[:names])
        assert str(prompt.answer)[0] == str(prompt.wrong)[0] == " "


@given(seeds, st.integers(0, 14))
def test_the_swap_changes_the_second_mention_of_the_subject_alone(seed: int, length: int) -> None:
    for prompt in ioi(np.random.default_rng(seed), 6, length, NAMES):
        clean, corrupted = split(str(prompt.clean)), split(str(prompt.corrupted))
        places = [i for i, (a, b) in enumerate(zip(clean, corrupted, strict=True)) if a != b]
        assert places == [len(clean) - 5]
        assert (clean[places[0]], corrupted[places[0]]) == (str(prompt.wrong).strip(), str(prompt.answer).strip())


@given(seeds, st.integers(0, 14))
def test_all_texts_of_one_length_have_equally_many_words_which_the_vocabulary_has(seed: int, length: int) -> None:
    for prompt in ioi(np.random.default_rng(seed), 8, length, NAMES):
        found = encoded(prompt, word_ids)
        assert len(found.clean) == 15 + 7 * length
        assert [WORDS[token] for token in found.clean] == split(str(prompt.clean))
        assert f" {WORDS[found.answer]}" == prompt.answer


@pytest.mark.parametrize("size", [1, 2, 9, 50])
@pytest.mark.parametrize("seed", range(5))
def test_both_orders_of_names_come_equally_often(size: int, seed: int) -> None:
    prompts = ioi(np.random.default_rng(seed), size, 0, NAMES)
    texts = [str(prompt.clean) for prompt in prompts]
    orders = [text.index(str(prompt.wrong)) < text.index(str(prompt.answer)) for text, prompt in zip(texts, prompts, strict=True)]
    assert sum(orders) in (size // 2, size - size // 2)
    assert orders[: size // 2] != [orders[0]] * (size // 2) or size < 9, "not one order first, then the other"


@pytest.mark.parametrize("size", [1, 3])
def test_of_an_odd_number_of_prompts_either_order_can_come_once_more(size: int) -> None:
    more = 0
    for seed in range(200):
        prompts = [
            (str(prompt.clean), str(prompt.wrong), str(prompt.answer))
            for prompt in ioi(np.random.default_rng(seed), size, 0, NAMES)
        ]
        more += 2 * sum(text.index(wrong) < text.index(answer) for text, wrong, answer in prompts) > size
    assert abs(more - 100) < 4 * 50**0.5


def test_every_sentence_name_place_and_object_comes() -> None:
    prompts = ioi(np.random.default_rng(0), 400, 3, NAMES)
    said = {word for prompt in prompts for word in split(str(prompt.clean))}
    assert said == set(WORDS)
    texts = [str(prompt.clean) for prompt in prompts]
    for frame in (*OPENINGS, *FILLERS, *CLOSINGS):
        pattern = re.compile(re.sub(r"\\\{\w+\\\}", r"\\w+", re.escape(frame)))
        assert any(pattern.search(text) for text in texts), frame


def test_no_filler_comes_twice_while_there_are_others() -> None:
    for prompt in ioi(np.random.default_rng(1), 20, len(FILLERS), NAMES):
        assert len({re.sub("|".join(NAMES), "", text) for text in str(prompt.clean).split(". ")[1:-1]}) == len(FILLERS)


def test_the_words_are_english_and_no_two_kinds_of_them_are_mixed_up() -> None:
    assert len(NAMES) == len(set(NAMES)) == 40
    assert all(re.fullmatch("[A-Z][a-z]+", name) for name in NAMES)
    assert not any(word[0] in "aeiou" for word in OBJECTS), 'they follow "a"'
    frames = split(" ".join((*OPENINGS, *FILLERS, *CLOSINGS)))
    groups = [set(NAMES), set(PLACES), set(OBJECTS), set(frames)]
    assert sum(map(len, groups)) == len(set().union(*groups))
    assert len({len(split(re.sub("[{}]", "", text))) for text in OPENINGS}) == 1
    assert len({len(split(re.sub("[{}]", "", text))) for text in FILLERS}) == 1
    assert len({len(split(re.sub("[{}]", "", text))) for text in CLOSINGS}) == 1
    assert sum("{third}" in text for text in FILLERS) * 2 == len(FILLERS)
    assert all(not text.startswith("{") for text in OPENINGS), "a name at the beginning of a text has no space before it"


def test_the_vocabulary_keeps_its_order() -> None:
    assert len(WORDS) == len(set(WORDS)) == 127
    assert word_ids("Then, Mary gave a map to.") == [47, 0, 34, 69, 52, 84, 114, 1]
    assert word_ids("") == []


@pytest.mark.parametrize(("text", "word"), [("Then, Zoe", "Zoe"), ("then", "then"), ("Mary!", "!"), ("Ma ry", "Ma")])
def test_a_word_that_is_not_in_the_vocabulary_is_named(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=f"one of the {len(WORDS)} of `WORDS`; got '{word}'"):
        word_ids(text)


def test_names_that_are_not_one_token_are_left_out() -> None:
    def halved(text: str) -> list[int]:
        return pieces(text.replace("Mary", "M-ary").replace("John", "John-"))

    assert single_token_names(NAMES, word_ids) == list(NAMES)
    assert single_token_names(("Mary", "Paul", "John"), halved) == ["Paul"]


def test_too_few_names_or_a_negative_length_are_refused() -> None:
    for names in (["Mary"], ["Mary", "John"], ["Mary", "John", "Mary"]):
        with pytest.raises(ValueError, match="`names` must be at least 3 different names"):
            ioi(np.random.default_rng(0), 1, 0, names)
    with pytest.raises(ValueError, match="`length` must be 0 or larger"):
        ioi(np.random.default_rng(0), 1, -1, NAMES)


@given(seeds)
def test_all_later_years_are_right_and_all_others_wrong(seed: int) -> None:
    for prompt in greater_than(np.random.default_rng(seed), 20, YEARS):
        clean, corrupted = str(prompt.clean), str(prompt.corrupted)
        found = re.fullmatch(r"The \w+ lasted from the year (\d\d)(\d\d) to the year (\d\d)", clean)
        assert found
        century, year, again = found.groups()
        assert century == again
        assert year in set(YEARS[century]) - {"00", "01"}
        assert prompt.answer == tuple(tokens for one, tokens in YEARS[century].items() if one > year)
        assert prompt.wrong == tuple(tokens for one, tokens in YEARS[century].items() if one <= year)
        assert prompt.answer
        assert corrupted == clean.replace(f"{century}{year}", f"{century}01")


def test_every_year_but_the_last_comes() -> None:
    prompts = greater_than(np.random.default_rng(0), 300, YEARS)
    found = {(str(prompt.clean)[-2:], str(prompt.clean).split(" to ")[0][-2:]) for prompt in prompts}
    assert found == {("17", "31"), ("11", "02"), ("11", "50")}


def test_years_are_those_that_go_on_after_the_century_as_the_corrupted_one_does() -> None:
    every = [f"{year:02}" for year in range(100)]
    assert {century: list(of) for century, of in years_of(pieces).items()} == dict.fromkeys(CENTURIES, every)

    def uneven(text: str) -> list[int]:  # 1145 is one token, 1201 is, and of the 1300s all but 1301 and 1377
        text = re.sub(r"\b(1145|1201|13(?!(01|77)\b)(?=\d))", lambda found: "y" * len(found[0]), text)
        return pieces(text, r" ?y+\d*| ?\d\d?| ?[a-zA-Z]+|.")

    found = years_of(uneven)
    assert set(found) == set(CENTURIES) - {"12", "13"}
    assert list(found["11"]) == [year for year in every if year != "45"]
    for prompt in greater_than(np.random.default_rng(0), 50, found):
        assert len(encoded(prompt, uneven).steps) == 1


def test_a_tokenizer_of_single_digits_scores_years_digit_by_digit() -> None:
    def digits(text: str) -> list[int]:
        return pieces(text, r"\d| ?[a-zA-Z]+|.")

    years = years_of(digits)
    assert set(map(len, years["17"].values())) == {2}
    for prompt in greater_than(np.random.default_rng(0), 50, years):
        tens, ones = str(prompt.clean).split(" to ")[0][-2:]
        first, *second = (
            [{d for d in range(10) if digits(f"{d}")[-1] in tokens} for tokens in step] for step in encoded(prompt, digits).steps
        )
        both = ones != "9"
        assert first == [set(range(int(tens) + 1, 10)), set(range(int(tens) + (not both)))]
        assert second == [[set(range(int(ones) + 1, 10)), set(range(int(ones) + 1))]] * both


def test_ten_years_that_a_tokenizer_splits_are_enough_and_nine_are_not() -> None:
    def split_up_to(last: int) -> Callable[[str], list[int]]:
        def encode(text: str) -> list[int]:
            return pieces(re.sub(r"\b1[1-7]\d\d\b", lambda year: year[0] if int(year[0]) <= last else "later", text))

        return encode

    assert [list(of) for of in years_of(split_up_to(1111)).values()] == [[f"{year:02}" for year in range(12)]]
    with pytest.raises(ValueError, match="for at least 10 years; got 9"):
        years_of(split_up_to(1110))


def test_facts_swap_the_subject_for_one_with_another_answer() -> None:
    assert sum(map(len, RELATIONS.values())) == 100
    prompts = PROMPTS["facts"].maker(pieces, Vocabulary(VOCABULARY), Framing())
    assert isinstance(prompts, list)
    assert len(prompts) == len(set(prompts)) == 100
    for prompt in prompts:
        sentence, facts = next((s, of) for s, of in RELATIONS.items() if re.fullmatch(s.format(".*"), str(prompt.clean)))
        true = {sentence.format(subject): f" {answer}" for subject, answer in facts.items()}
        assert (true[str(prompt.clean)], true[str(prompt.corrupted)]) == (prompt.answer, prompt.wrong)
        encoded(prompt, pieces)  # equally many tokens, and answers that differ
    with pytest.raises(ValueError, match="facts needs at least 30 whose answer is one token, of 100; this tokenizer has 0"):
        PROMPTS["facts"].maker(lambda text: list(map(ord, text)), Vocabulary(VOCABULARY), Framing())


@given(seeds, st.integers(0, 8), st.integers(HALF + 3, 500), st.sampled_from([(), (1,), (3, 0)]))
def test_the_answer_is_what_came_after_the_last_token_the_first_time(
    seed: int, size: int, vocabulary: int, beginning: tuple[int, ...]
) -> None:
    prompts = induction(np.random.default_rng(seed), size, np.arange(vocabulary), beginning)
    assert len(prompts) == size
    for prompt in prompts:
        start = len(beginning)
        assert prompt.clean[:start] == beginning
        tokens = prompt.clean[start:]
        assert len(tokens) == 2 * HALF - 1
        assert tokens[: HALF - 1] == tokens[HALF:]
        assert tokens.index(tokens[-1]) == HALF - 2, "the last token came once before"
        assert tokens[HALF - 1] == prompt.answer
        assert prompt.corrupted is not None
        assert prompt.wrong is not None
        assert prompt.corrupted == (*prompt.clean[: start + HALF - 1], prompt.wrong, *prompt.clean[start + HALF :])
        assert prompt.wrong not in prompt.clean
        assert all(0 <= token < vocabulary for token in (*tokens, prompt.wrong))
        assert not {*tokens, prompt.wrong} & set(beginning)


def test_a_vocabulary_too_small_for_induction_is_refused() -> None:
    words = np.arange(100, 100 + HALF + 1)
    (prompt,) = induction(np.random.default_rng(0), 1, words)
    assert {*prompt.clean, prompt.wrong} == set(words.tolist())
    with pytest.raises(ValueError, match=f"at least {HALF + 1} tokens that text can give and that are not special; got {HALF}"):
        induction(np.random.default_rng(0), 1, words, (100,))
