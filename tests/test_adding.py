"""Adding an attribution method is one function; tests/test_cli.py adds a task, and tests/test_load_pretrained.py a family."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import tiny

from gcgap.attribution.methods import METHODS
from gcgap.cli import main
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
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
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
