"""What adding a method, a baseline or a metric takes; tests/test_cli.py adds a task, tests/test_load_pretrained.py a family.

A baseline and a metric are added to a copy of the package, which then stands in for it.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import reference
import tiny
import torch

import gcgap
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
Lines = dict[str, dict[str, str]]
"""By file of gcgap and by lines that it holds once, what stands there instead."""
NEW_BASELINE: Lines = {
    "importance/protocol.py": {
        '    ZERO = "zero"\n': '    MEDIAN = "median"\n    ZERO = "zero"\n',
    },
    "importance/baselines.py": {
        "FUNCTIONS: ": """@torch.no_grad()
def _median(evaluation: Evaluation) -> Replacement:
    with eval_mode(evaluation.model), recorded(evaluation.model, evaluation.wiring) as seen:
        evaluation.model(evaluation.batch.inputs)
    heads, mlps = ([value.flatten(0, 1).median(0).values[None, None] for value in part] for part in (seen.heads, seen.mlps))
    return lambda rows: Activations(heads, mlps)


FUNCTIONS: """,
        "    Baseline.ZERO: _zero,\n": "    Baseline.ZERO: _zero,\n    Baseline.MEDIAN: _median,\n",
    },
}
NEW_METRIC: Lines = {
    "importance/protocol.py": {
        "    LOGIT_DIFFERENCE = ": '    FIRST_TOKEN = "first_token", "probability"\n    LOGIT_DIFFERENCE = '
    },
    "importance/scores.py": {
        "METRICS = ": """def first_token(logits: Logits, targets: Targets, wrong: Wrong = None) -> Float[Tensor, " batch"]:
    return logits[:, 0].double().softmax(-1).gather(-1, targets[:, :1]).squeeze(-1)


METRICS = """,
        "logit_difference, probability_difference), strict": "first_token, logit_difference, probability_difference), strict",
        "    logit_difference: Float": '    first_token: Float[Tensor, "*_"]\n    logit_difference: Float',
    },
}
SIZES = {"gradient_batches": 2, "mean_batches": 1, "sequences": 12, "resamples": 100, "random_pairs": 1}


@pytest.fixture
def insert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Lines], None]]:
    """Lets a copy of gcgap with other lines in some files be what every later import finds."""
    own = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "gcgap"}

    def inserted(files: Lines) -> None:
        copy = tmp_path / "changed" / "gcgap"
        shutil.copytree(Path(gcgap.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        for name, lines in files.items():
            text = (copy / name).read_text(encoding="utf-8")
            for before, after in lines.items():
                assert text.count(before) == 1, f"{name} holds {before!r} {text.count(before)} times"
                text = text.replace(before, after)
            (copy / name).write_text(text, encoding="utf-8")
        for name in own:
            del sys.modules[name]
        monkeypatch.syspath_prepend(copy.parent)

    yield inserted
    for name in [name for name in sys.modules if name.split(".")[0] == "gcgap"]:
        del sys.modules[name]
    sys.modules.update(own)


def measured_and_reference(
    baselines: tuple[str, ...], other: Callable[[torch.Tensor], torch.Tensor]
) -> tuple[Any, list[torch.Tensor], torch.Tensor]:
    """A record of the gcgap that is imported now; of the reference the logits without and with each ablation, and targets.

    `other` makes a component's replacement of its output, shape (sequence, position, width).
    """
    import gcgap
    from gcgap.data.batches import Purpose, Source
    from gcgap.models.transformer import Origin, Transformer

    model = Transformer(n_layers=1, n_heads=2, d_model=8, d_ff=16, n_ctx=12, seed=3)
    source = Source("sort", seed=1, lengths=(2, 3), ood_lengths=(4,))
    protocol = gcgap.Protocol(baselines=baselines, batch_size=8, precision="float64", **SIZES)  # pyright: ignore[reportArgumentType]
    record = gcgap.measure(model, length=4, protocol=protocol, origin=Origin(source))
    batch, state = source.batch(Purpose.EVALUATION, 4, SIZES["sequences"]), reference.float64(model.state_dict())
    scored, base = int(batch.scored[0].sum()), reference.run(state, batch.inputs, 2, "none")
    others = {part: other(value) for part, value in base.parts.items()}
    ablated = (reference.run(state, batch.inputs, 2, "none", {part: 1.0}, others) for part in base.parts)
    return record, [run.logits[:, -scored:] for run in (base, *ablated)], batch.targets[:, -scored:]


def test_a_baseline_is_one_member_and_one_function(
    insert: Callable[[Lines], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(NEW_BASELINE)
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
    from gcgap.cli import main
    from gcgap.records.read_records import read

    record, logits, targets = measured_and_reference(("zero", "median"), lambda value: value.flatten(0, 1).median(0).values)
    intact, *ablated = (np.array(reference.scores(one, targets)[1]) for one in logits)
    found = [component["causal"]["median"]["log_prob"]["value"] for component in record["components"]]
    assert found == pytest.approx([float((intact - one).mean()) for one in ablated], abs=1e-12)
    assert 0 not in found
    record.write(tmp_path / "run" / "gap" / "final.json")
    assert set(read(tmp_path / "run")["baseline"]) == {"zero", "median"}
    assert main(["report", str(tmp_path / "run"), f"--out={tmp_path / 'report'}"]) == 0
    assert "median ablation" in (tmp_path / "report" / "report.md").read_text(encoding="utf-8")


def test_a_metric_is_one_member_and_one_function(insert: Callable[[Lines], None], tmp_path: Path) -> None:
    insert(NEW_METRIC)
    from gcgap.records.read_records import read
    from gcgap.records.record import Record

    record, logits, targets = measured_and_reference(("zero",), torch.zeros_like)
    intact, *ablated = (one[:, 0].softmax(-1)[range(len(targets)), targets[:, 0]] for one in logits)
    found = [component["causal"]["zero"]["first_token"]["value"] for component in record["components"]]
    assert found == pytest.approx([float((intact - one).mean()) for one in ablated], abs=1e-12)
    assert record["gap"]["zero"]["by_metric"]["first_token"]["rho"] is not None
    assert list(record.table()["zero_first_token_drop"]) == found
    earlier = tiny.synthetic([3.0, 2.0, 1.0], {"zero": [0.1, 0.2, 0.3]}, n_heads=2)
    Record(earlier.to_dict()).write(tmp_path / "records" / "a.json")
    record.write(tmp_path / "records" / "b.json")
    np.testing.assert_array_equal(read(tmp_path / "records")["first_token_drop"], [np.nan] * 3 + found)


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
