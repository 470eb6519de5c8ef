"""Adding a method or a family of models is one declaration; tests/test_cli.py adds a task."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import tiny

import gcgap
from gcgap.attribution.methods import METHODS
from gcgap.cli import main
from gcgap.importance.protocol import PROMPTED
from gcgap.models.families import FAMILIES, family, gpt2
from gcgap.records.attribution_record import AttributionRecord

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]
METHOD = """
import torch
from gcgap.attribution.methods import method

@method("weights")
def parameters_of_test_adding(problem):
    "The number of a component among all."
    return torch.arange(float(problem.drop.components)).unsqueeze(-1).expand(-1, problem.drop.sequences)
"""


def test_a_method_is_one_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("gcgap.report.methods_files.FIGURES", {})
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "methods_of_test_adding.py").write_text(METHOD)
    saved, name = families.save(tmp_path / "model"), "parameters_of_test_adding"
    asked = ["--sequences=4", f"--methods=exact,{name}", f"--out={tmp_path}", "--import=methods_of_test_adding"]
    try:
        assert main(["attribute", "--model", str(saved), *asked]) == 0
    finally:
        METHODS.pop(name, None)
    (path,) = tmp_path.rglob("attribution/*.json")
    record = AttributionRecord.read(path)
    assert [one["scores"][name]["value"] for one in record["components"]] == list(range(10))
    assert record["methods"][name]["family"] == "weights"
    assert name in capsys.readouterr().out


def test_a_family_is_one_declaration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = families.save(tmp_path / "model")
    monkeypatch.delitem(FAMILIES, "gpt2")
    with pytest.raises(ValueError, match="no model family is declared for `model_type` 'gpt2'"):
        gcgap.load_pretrained(saved, prompts="ioi")
    family("gpt2")(gpt2)
    record = gcgap.measure(gcgap.load_pretrained(saved, prompts="ioi"), protocol=PROMPTED.smallest())
    assert [one["name"] for one in record["components"]][:5] == ["L0_H0", "L0_H1", "L0_H2", "L0_H3", "L0_MLP"]
