"""Tokenizers of Hugging Face: what they add to a text, and which of their tokens random ones are."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, processors, trainers
from tokenizers import pre_tokenizers as pre

from gcgap.data.batches import Batch, Purpose
from gcgap.data.ioi import NAMES, ioi
from gcgap.data.prompt_source import PromptSource
from gcgap.data.prompt_tasks import find_prompts
from gcgap.data.prompt_tokens import UnknownWordsError, Vocabulary, next_token, token_ids
from gcgap.models.tokenizer import Tokenizer, read_tokenizer

TEXTS = [f"{prompt.clean}{prompt.answer}" for prompt in ioi(np.random.default_rng(0), 60, 2, NAMES)]
RESERVED = ["<unused0>", "[reserved_1]", "<|extra_2|>", *(f"<0x{byte:02X}>" for byte in range(256))]
PADDED = 64  # rows of the embedding beyond the tokenizer
KINDS: dict[str, tuple[Any, Any, Any, Any, Any, tuple[str, str, str]]] = {
    "one special token on both sides": (
        models.BPE(),
        trainers.BpeTrainer(show_progress=False, initial_alphabet=pre.ByteLevel.alphabet(), special_tokens=["<|end|>"]),
        normalizers.NFC(),
        pre.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
        ("<|end|>", "<|end|>", "<|end|>"),
    ),
    "bytes and reserved rows": (
        models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        trainers.BpeTrainer(show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *RESERVED]),
        normalizers.NFC(),
        pre.Sequence([pre.Punctuation(), pre.Metaspace()]),
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
        ("<s>", "</s>", "<unk>"),
    ),
    "lower case": (
        models.WordPiece(unk_token="[UNK]"),
        trainers.WordPieceTrainer(show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]"]),
        normalizers.BertNormalizer(lowercase=True),
        pre.BertPreTokenizer(),
        decoders.WordPiece(),
        ("[CLS]", "[SEP]", "[UNK]"),
    ),
}
EACH = pytest.mark.parametrize("kind", KINDS)


@cache
def made(kind: str) -> Any:
    """A small tokenizer that puts tokens on both sides of a text, has two added ones, and says that texts are cut and padded."""
    model, trainer, normalizer, words, decoder, (bos, eos, unk) = KINDS[kind]
    core = tokenizers.Tokenizer(model)
    core.normalizer, core.pre_tokenizer, core.decoder = normalizer, words, decoder
    core.train_from_iterator(TEXTS, trainer)
    plain = json.loads(core.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if token["content"] not in RESERVED]
    core = tokenizers.Tokenizer.from_str(json.dumps(plain))
    ids = [(token, core.token_to_id(token)) for token in {bos, eos}]
    core.post_processor = processors.TemplateProcessing(single=f"{bos} $A {eos}", special_tokens=ids)
    core.enable_truncation(5)
    core.enable_padding(length=9, pad_id=core.token_to_id(eos), pad_token=eos)
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=core, bos_token=bos, eos_token=eos, unk_token=unk)
    found.add_tokens(["<think>", "   "])
    return found


def read(kind: str, directory: Path) -> tuple[Any, Any, Vocabulary]:
    """A tokenizer of transformers, and what gcgap makes of its files."""
    found = made(kind)
    found.save_pretrained(directory)
    encode, vocabulary = read_tokenizer(str(directory), {}, families.config("gpt2", vocab_size=len(found) + PADDED))
    return found, encode, vocabulary


def written(directory: Path, lines: list[dict[str, Any]]) -> Path:
    path = directory / "mine.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def batch_of(source: PromptSource, size: int = 50) -> Batch:
    return source.batch(Purpose.EVALUATION, 0, size)


@EACH
def test_a_text_has_what_stands_before_it_once_and_nothing_behind_it(kind: str, tmp_path: Path) -> None:
    found, encode, vocabulary = read(kind, tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text())["truncation"]["max_length"] == 5
    begin, end = found.bos_token_id, found.eos_token_id
    assert (encode(""), vocabulary.ending) == ([begin], (end,))
    for text in TEXTS[:5]:
        inner = found(text, add_special_tokens=False)["input_ids"]
        assert len(inner) > 15, "neither cut nor padded"
        assert encode(text) == [begin, *inner]
        assert token_ids(found.bos_token + text, encode)[:1] == (begin,)
        assert token_ids(found.bos_token + text, encode)[1] != begin
    assert next_token("Then, Mary and", " John", encode) == found(" John", add_special_tokens=False)["input_ids"][-1]


@EACH
@pytest.mark.parametrize("answers", ["texts", "ids"])
@pytest.mark.parametrize("name", ["ioi", "a file", "a file with BOS"])
def test_the_answer_is_read_at_the_last_token_of_the_prompt(kind: str, answers: str, name: str, tmp_path: Path) -> None:
    found, encode, vocabulary = read(kind, tmp_path / "tokenizer")
    lines = []
    for prompt in ioi(np.random.default_rng(1), 30, 0, [name for name in NAMES if next_token("Then,", f" {name}", encode)]):
        line = prompt._asdict()
        if "BOS" in name:
            line |= {key: found.bos_token + line[key] for key in ("clean", "corrupted")}
        if answers == "ids":
            line |= {key: next_token("Then,", line[key], encode) for key in ("answer", "wrong")}
        lines.append(line)
    batch = batch_of(find_prompts(name if name == "ioi" else str(written(tmp_path, lines)), encode, vocabulary, 3))
    assert batch.corrupted is not None
    (to,) = found("gave a drink to", add_special_tokens=False)["input_ids"][-1:]
    for rows in (batch.inputs, batch.corrupted):
        assert (rows[batch.scored] == to).all()
        assert (rows[:, 0] == found.bos_token_id).all()
        assert not np.isin(rows[:, 1:], found.all_special_ids).any()


@EACH
def test_random_tokens_are_those_that_a_text_of_its_own_gives(kind: str, tmp_path: Path) -> None:
    found, encode, vocabulary = read(kind, tmp_path)
    names = [found.convert_ids_to_tokens(int(token)) for token in vocabulary.drawn]
    assert not {"<think>", "   ", *RESERVED, *found.all_special_tokens} & set(names)
    assert vocabulary.drawn.max() < len(found), "no row of the embedding that the tokenizer has no token for"
    assert len(names) == len(set(names)) > 100
    for token in vocabulary.drawn[::7]:
        assert encode(found.decode([token])) == [*encode(""), token]
    clean = [encode(text)[:-1] for text in TEXTS[:30]]
    twins = batch_of(find_prompts(str(written(tmp_path, [{"clean": one, "answer": 5} for one in clean])), encode, vocabulary, 0))
    assert twins.corrupted is not None
    repeated = batch_of(find_prompts("induction", encode, vocabulary, 0), 200)
    assert repeated.corrupted is not None
    assert repeated.wrong is not None
    new = [twins.corrupted[twins.corrupted != twins.inputs], repeated.inputs[:, 1:], repeated.corrupted[:, 1:]]
    for drawn in (*new, repeated.targets[repeated.scored], repeated.wrong):
        assert np.isin(drawn, vocabulary.drawn).all()
    assert (repeated.inputs[:, 0] == found.bos_token_id).all()


def test_reserved_rows_are_not_drawn_although_text_could_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    core = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(["Mary", *RESERVED, "<", "a>b", "[1]"])}))
    core.pre_tokenizer = pre.WhitespaceSplit()
    found = transformers.PreTrainedTokenizerFast(tokenizer_object=core)
    assert found("Mary <unused0> <0x41>")["input_ids"] == [0, 1, 4 + 0x41]
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: found)
    _, vocabulary = read_tokenizer("mine", {}, families.config("gpt2", vocab_size=400))
    assert [found.convert_ids_to_tokens(int(token)) for token in vocabulary.drawn] == ["Mary", "<", "a>b", "[1]"]


def test_a_token_of_a_template_is_not_corrupted(tmp_path: Path) -> None:
    found, encode, vocabulary = read("bytes and reserved rows", tmp_path / "tokenizer")
    end = found.eos_token_id
    path = written(tmp_path, [{"clean": f"Mary</s>{'<s>' * 9}{name} to", "answer": 5} for name in NAMES])
    batch = batch_of(find_prompts(str(path), encode, vocabulary, 0))
    assert batch.corrupted is not None
    assert np.array_equal(np.isin(batch.inputs, [end, found.bos_token_id]), np.isin(batch.corrupted, [end, found.bos_token_id]))


@EACH
def test_token_ids_that_a_tokenizer_ended_are_refused(kind: str, tmp_path: Path) -> None:
    found, encode, vocabulary = read(kind, tmp_path / "tokenizer")
    lines = [{"clean": found(text)["input_ids"], "answer": 5} for text in TEXTS[:9]]
    with pytest.raises(ValueError, match=rf"line 1: `clean` must not end in \[{found.eos_token_id}\], with which the tokenizer"):
        find_prompts(str(written(tmp_path, lines)), encode, vocabulary, 0)
    with pytest.raises(ValueError, match="line 1: `clean` must not end in"):
        find_prompts(str(written(tmp_path, [{"clean": f"Then{found.eos_token}", "answer": 5}])), encode, vocabulary, 0)


def test_an_unknown_word_is_no_token_that_the_tokenizer_itself_puts_there(tmp_path: Path) -> None:
    _, encode, _ = read("one special token on both sides", tmp_path / "a")
    assert len(encode("Zoe")) > 1
    _, encode, _ = read("lower case", tmp_path / "b")
    with pytest.raises(UnknownWordsError, match="does not know all words of 'Ω'"):
        encode("Ω")


class Slow(transformers.PreTrainedTokenizer):
    """Letters, in Python, between two special tokens."""

    def __init__(self) -> None:
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    @property
    def vocab_size(self) -> int:
        return 26

    def get_vocab(self) -> dict[str, int]:
        return {chr(97 + i): i for i in range(26)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return list(text)

    def _convert_token_to_id(self, token: str) -> int:
        return self.get_vocab()[token]

    def _convert_id_to_token(self, index: int) -> str:
        return chr(97 + index)

    def build_inputs_with_special_tokens(self, token_ids_0: list[int], token_ids_1: list[int] | None = None) -> list[int]:
        vocabulary = self.get_vocab()
        return [vocabulary["<s>"], *token_ids_0, vocabulary["</s>"]]


def test_a_tokenizer_in_python_is_read_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    assert slow("ab")["input_ids"] == [slow.bos_token_id, 0, 1, slow.eos_token_id]
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: slow)
    encode, vocabulary = read_tokenizer("mine", {}, families.config("gpt2"))
    assert isinstance(encode, Tokenizer)
    assert (encode("ab"), vocabulary.ending) == ([slow.bos_token_id, 0, 1], (slow.eos_token_id,))
    assert vocabulary.drawn.tolist() == list(range(26))


@pytest.mark.parametrize("file", [None, "{", '{"model": {}}'])
def test_without_a_tokenizer_random_tokens_are_drawn_with_a_warning(
    file: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = families.config("gpt2", eos_token_id=[2, 3])
    config.save_pretrained(tmp_path)
    if file:
        (tmp_path / "tokenizer.json").write_text(file)
    encode, vocabulary = read_tokenizer(str(tmp_path), {}, config)
    with pytest.raises(
        ValueError, match=re.escape(f"`{tmp_path}` has no tokenizer that can be loaded, so prompts must be token")
    ):
        encode("a text")
    assert capsys.readouterr().err == ""
    lines = [{"clean": [1, 2, 3, 0, 5 + i, 7], "answer": 5} for i in range(30)]
    batch = batch_of(find_prompts(str(written(tmp_path, lines)), encode, vocabulary, 0))
    assert batch.corrupted is not None
    changed = batch.corrupted != batch.inputs
    assert changed.nonzero()[:, 1].tolist() == [4] * 10, "no special token"
    assert batch.corrupted[changed].min() > 3
    said = capsys.readouterr().err
    assert said.count("random tokens are drawn from all 36 rows of its embedding that are not special") == 1
