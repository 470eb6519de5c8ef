"""Files of prompts of other projects: what each format's columns become."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from toy_tokens import VOCABULARY, pieces

from gcgap.data.batches import Purpose
from gcgap.data.prompt_formats import FORMATS, read_prompts
from gcgap.data.prompt_source import Parts
from gcgap.data.prompt_tasks import find_prompts
from gcgap.data.prompts import Prompt

SWAP = ("When Ann and Bob met, Bob spoke to", "When Ann and Bob met, Ann spoke to")
CHOICE = {"label": ["A", "B"], "text": ["red", "blue"]}
YEAR = ("From the year 1752 to the year 17", "From the year 1701 to the year 17")
LATER, OTHERS = tuple(str(year) for year in range(53, 100)), tuple(f"{year:02}" for year in range(53))
BOTH = {"clean": SWAP[0], "corrupted": SWAP[1]}
ROWS: list[tuple[str, Any, Prompt, set[str]]] = [  # suffix, a row, the prompt, and what is kept beside it
    (
        ".csv",
        {"": 7, **BOTH, "corrupted_hard": "x", "correct_idx": 11, "incorrect_idx": 12},
        Prompt(*SWAP, 11, 12),
        {"corrupted_hard"},
    ),
    (".csv", BOTH | {"clean_answer_idx": 3, "corrupted_answer_idx": 4, "label": 1}, Prompt(*SWAP, 3, 4), {"label"}),
    (
        ".csv",
        BOTH | {"country": "Peru", "country_idx": 3, "corrupted_country": "Chad", "corrupted_country_idx": 4},
        Prompt(*SWAP, " Peru", " Chad"),
        {"country_idx", "corrupted_country_idx"},
    ),
    (
        ".csv",
        BOTH | {"answers": "['a', 'b']", "answers_idx": "[3, 4]", "corrupted_answers": "['c']"},
        Prompt(*SWAP, (" a", " b"), " c"),
        {"answers_idx"},
    ),
    (".csv", {"clean": YEAR[0], "corrupted": YEAR[1], "correct_idx": 52}, Prompt(*YEAR, LATER, OTHERS), set()),
    (".csv", {"clean": YEAR[0], "corrupted": YEAR[1], "label": 52}, Prompt(*YEAR, LATER, OTHERS), set()),
    (".jsonl", {"clean": YEAR[0], "corrupted": YEAR[1], "year": "1752"}, Prompt(*YEAR, LATER, OTHERS), set()),
    (
        ".jsonl",
        {
            "prompt": SWAP[0],
            "template": "t",
            "metadata": {"subject": "Bob", "indirect_object": "Ann"},
            "s2_io_flip_counterfactual": {"prompt": SWAP[1]},
        },
        Prompt(*SWAP, " Ann", " Bob"),
        {"template"},
    ),
    (
        ".jsonl",
        {
            "prompt": SWAP[0],
            "choices": CHOICE,
            "answerKey": 1,
            "symbol_counterfactual": {"prompt": SWAP[1], "choices": {"label": ["C", "D"]}, "answerKey": 0},
        },
        Prompt(*SWAP, "B", "C"),
        set(),
    ),
    (
        ".jsonl",
        {"prompt": SWAP[0], "label": 38, "operator": "+", "random_counterfactual": {"prompt": SWAP[1], "label": 41}},
        Prompt(*SWAP, "38", "41"),
        {"operator"},
    ),
    (
        ".json",
        {"clean": SWAP[0], "corrupt": SWAP[1], "answers": [" Ann"], "wrong_answers": [" Bob", " Eve"]},
        Prompt(*SWAP, " Ann", (" Bob", " Eve")),
        set(),
    ),
    (".jsonl", BOTH | {"answer": [" Ann", 3], "wrong": " Bob", "group": 4}, Prompt(*SWAP, (" Ann", 3), " Bob"), {"group"}),
]


def written(directory: Path, suffix: str, rows: list[Any]) -> Path:
    path = directory / f"theirs{suffix}"
    if suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".json":
        path.write_text(json.dumps({"word_idxs": {"a": 1}, "prompts": rows}, indent=1))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("suffix", "row", "wanted", "kept"), ROWS)
def test_a_row_of_each_format_becomes_a_prompt(suffix: str, row: Any, wanted: Prompt, kept: set[str], tmp_path: Path) -> None:
    found = read_prompts(written(tmp_path, suffix, [row]))
    assert found.prompts == [wanted]
    assert set(found.rows[0].more) - {""} == kept


def test_every_format_is_tried_above(tmp_path: Path) -> None:
    found = {read_prompts(written(tmp_path, suffix, [row])).format for suffix, row, *_ in ROWS}
    assert {one for one in FORMATS if not one.neighbour} <= found


@pytest.mark.parametrize("indent", [None, 1])
def test_lists_of_transformerlens_are_pairs_whose_twins_are_each_other(indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "demo.json"
    path.write_text(json.dumps({"prompts": SWAP, "answers": [[" Ann", " Bob"], [" Bob", " Ann"]], "seed": 1}, indent=indent))
    assert read_prompts(path).prompts == [Prompt(*SWAP, " Ann", " Bob"), Prompt(SWAP[1], SWAP[0], " Bob", " Ann")]


def theirs(count: int) -> list[dict[str, Any]]:
    names = ["Ann", "Bob", "Eve", "Tom", "Ida", "Max", "Zoe", "Kim", "Leo", "Amy"][:count]
    prompts = [{"clean": f"Then {n} met Al. Al saw", "corrupt": f"Then {n} met Al. {n} saw"} for n in names]
    return [one | {"answers": [f" {n}"], "wrong_answers": [" Al"]} for n, one in zip(names, prompts, strict=True)]


def test_rows_that_do_not_fit_are_left_out_and_counted_and_places_are_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = theirs(8)
    rows[2]["corrupt"] += " more"
    rows[5] = rows[4]
    path = written(tmp_path, ".json", rows)
    source = find_prompts(str(path), pieces, VOCABULARY, 3)
    assert isinstance(source.draw, Parts)
    assert len(source.draw.prompts) == 6
    said = capsys.readouterr().err
    assert f"2 of 8 prompts of `{path}` are left out; prompt 3: `clean` and `corrupted` must have equally many tokens" in said
    file = source.describe_file(2)["file"]
    assert (file["format"], file["left_out"], file["other_columns"]) == ("ACDC (auto-circuit)", 2, [])
    batch = source.batch(Purpose.EVALUATION, 0, 2)
    places = [
        f"prompt {1 + next(i for i, row in enumerate(rows) if pieces(row['clean']) == found)}" for found in batch.inputs.tolist()
    ]
    assert file["evaluation"] == places
    few = written(tmp_path, ".json", [rows[0], {}, *rows[2:]])
    with pytest.raises(
        ValueError, match=r"at least 6 prompts(.|\n)*Of 8, 3 are left out; prompt 2: it must have the columns clean"
    ):
        find_prompts(str(few), pieces, VOCABULARY, 3)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.csv",
            "clean,corrupted,plural\na,b,1\n",
            "line 2: its columns must be `clean`, `corrupted`, `answer`, `wrong`, or those of EAP-IG, MIB,",
        ),
        ("a.csv", "clean,corrupted,label\n", "must hold a line of names and one prompt per line"),
        ("a.csv", 'clean,label\n"a,b', "line 2: it must be CSV (unexpected end of data)"),
        ("a.json", '{"prompts": []}', "it must have `clean`; got only ['prompts']"),
        ("a.json", '[{"clean": "a", "anser": 1}]', "prompt 1: it must be a JSON object"),
        ("a.jsonl", '{"clean": "a", "answers": [1]}\n', "got the key 'answers'"),
    ],
)
def test_a_file_of_no_format_says_what_it_must_hold(name: str, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="must") as caught:
        read_prompts(tmp_path / name)
    assert said in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_ids_of_another_tokenizer_are_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Shown:
        """A tokenizer that can also read."""

        def __call__(self, text: str) -> list[int]:
            return pieces(text)

        def text(self, token: int) -> str:
            return f"<{token}>"

    rows = [{"clean": f"Then {n} ran", "corrupted": f"Then {n}x ran", "correct_idx": 5, "incorrect_idx": 6} for n in "abcdefg"]
    find_prompts(str(written(tmp_path, ".csv", rows)), Shown(), VOCABULARY, 3)
    assert "are ids of the tokenizer that it was made for; here the first is '<5>'. Is it?" in capsys.readouterr().err
