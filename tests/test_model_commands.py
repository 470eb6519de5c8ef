"""`gcgap attribute --model` and `gcgap measure --model`: from a directory, without a network."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from rich.console import Console
from scipy.stats import spearmanr
from torch import nn
from transformers import PreTrainedModel

from gcgap.attribution import attribute as attribution
from gcgap.attribution.methods import METHODS
from gcgap.attribution.scoring import Partial
from gcgap.attribution.sets import single_drops
from gcgap.attribution.setup import Setup, default_protocol
from gcgap.cli import main
from gcgap.data.batches import Purpose
from gcgap.data.ioi import NAMES, WORDS, word_ids
from gcgap.data.prompt_tasks import find_prompts
from gcgap.importance.baselines import mean_activations, zero_activations
from gcgap.importance.experiment import Experiment
from gcgap.importance.protocol import PROMPTED, Attribution, Baseline, Metric
from gcgap.importance.scores import FUNCTIONS
from gcgap.measurement.measure import measure
from gcgap.models.families import find_wiring
from gcgap.models.loading import load_pretrained
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Origin
from gcgap.models.wiring import Slices, Wiring
from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.record import Record
from gcgap.report.figures_methods import FIGURES
from gcgap.report.terminal import sentence, table
from gcgap.study.groups import gather

FEW = ["--sequences", "8", "--methods", "exact,attribution_patching,gradient"]
SMALL = ["--protocol.sequences=8", "--protocol.gradient_batches=2", "--protocol.mean_batches=1", "--protocol.resamples=100"]
SMALL += ["--protocol.random_pairs=1", "--protocol.batch_size=4"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network; no figures, which take most of the time; and the sizes that no option changes are small."""
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})
    monkeypatch.setattr("gcgap.attribution.setup.default_protocol", lambda *of: replace(default_protocol(*of), resamples=100))
    monkeypatch.setattr(attribution, "WINDOW_SEQUENCES", 16)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.save(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("models") / "family"
    for step, seed in ((0, 0), (1000, 1), (2000, 1)):
        families.save(home / f"step{step}", seed=seed)
    return home


def attributed(saved: Path, out: Path, *more: str) -> int:
    return main(["attribute", "--model", str(saved), "--out", str(out), *FEW, *more])


def measured(saved: Path, out: Path, *more: str) -> int:
    return main(["measure", "--model", str(saved), "--out", str(out), *SMALL, *more])


def only(out: Path, kind: Any = Record) -> Any:
    (path,) = (path for path in out.rglob("*.json"))
    return kind.read(path)


def test_a_saved_model_is_attributed_on_name_swaps_by_default(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.report.write.FIGURES", FIGURES)
    assert attributed(saved, tmp_path) == 0
    record = AttributionRecord.read(tmp_path / "tiny-ioi-seed42" / "attribution" / "patch_prompt.json")
    assert (record["task"], record["seed"], record["length"], record["step"]) == ("ioi", 42, 0, None)
    assert record["setup"] == {"baseline": "patch_prompt", "direction": "noising", "positions": "all"}
    assert record["model"]["name"] == str(saved)
    assert record["model"]["architecture"] == "gpt2"
    assert record["model"]["attention_for_curvature"] == "math"
    assert len(record["components"]) == 10
    assert list(record["methods"]) == ["exact", "attribution_patching", "gradient"]
    assert list(record["patching"]) == ["patch_prompt"]
    assert len(list((tmp_path / "tiny-ioi-seed42" / "attribution" / "patch_prompt").glob("*.png"))) == len(FIGURES)
    said = capsys.readouterr().out
    assert "on ioi prompts, seed 42" in said
    assert "length 0" not in said
    assert not list(tmp_path.rglob("*.partial")), "what was kept on the way is gone"
    for same in ([], ["--metric=logit_difference"]):
        assert attributed(saved, tmp_path, *same) == 0
        assert "1 of 1 records are there already" in capsys.readouterr().out


def test_of_prompts_the_metric_is_the_logit_difference_and_another_one_is_named(saved: Path, tmp_path: Path) -> None:
    assert attributed(saved, tmp_path) == 0
    assert attributed(saved, tmp_path, "--metric=log_prob") == 0
    folder = tmp_path / "tiny-ioi-seed42" / "attribution"
    names = {"patch_prompt": "logit_difference", "patch_prompt,metric=log_prob": "log_prob"}
    assert {path.stem for path in folder.glob("*.json")} == set(names)
    for name, metric in names.items():
        record = AttributionRecord.read(folder / f"{name}.json")
        assert record["protocol"]["attribution"]["metric"] == metric
        for one in record["components"]:
            assert one["scores"]["exact"]["value"] == pytest.approx(one["exact_again"][metric], abs=1e-6)


def test_the_record_holds_the_effects_of_the_model_and_prompts_from_python(saved: Path, tmp_path: Path) -> None:
    assert attributed(saved, tmp_path, "--prompts", "ioi", "--length", "1", "--seed", "3", "--baseline", "zero") == 0
    record = only(tmp_path, AttributionRecord)
    assert record.path.parent.parent.name == "tiny-ioi-seed3"
    assert record.path.name == "zero,length=1.json"
    assert (record["seed"], record["length"]) == (3, 1)
    model = load_pretrained(saved, prompts="ioi", seed=3, length=1)
    assert record["checkpoint_sha256"] == model.origin.checkpoint_sha256
    again = attribution.attribute(
        model,
        protocol=attribution.Protocol(**{key: _tuples(value) for key, value in _protocol(record).items()}),
        setup=Setup(Baseline.ZERO),
    )
    for one, other in zip(record["components"], again["components"], strict=True):
        assert one["exact"] == other["exact"]
        assert one["exact_again"] == other["exact_again"]
        assert one["scores"] == other["scores"]


def _protocol(record: AttributionRecord) -> dict[str, Any]:
    own = {
        key: value
        for key, value in record["protocol"].items()
        if key not in ("layout", "lengths", "ood_lengths", "prompts_sha256")
    }
    settings = Attribution(**{key: _tuples(value) for key, value in own["attribution"].items()})
    return own | {"attribution": settings}


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def test_prompts_of_a_file_are_measured_whatever_their_lengths(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    prompts = [{"clean": [10 + i, 6, *[7] * (i % 3), 8], "corrupted": [9, 6, *[7] * (i % 3), 8]} for i in range(20)]
    path.write_text("".join(json.dumps(one | {"answer": 3, "wrong": 4}) + "\n" for one in prompts))
    assert attributed(saved, tmp_path, "--prompts", str(path), "--metric", "logit_difference") == 0
    record = only(tmp_path, AttributionRecord)
    assert record["task"] == "mine"
    assert record["protocol"]["prompts_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert attributed(saved, tmp_path, "--prompts", str(path), "--positions", "scored") == 2
    assert measured(saved, tmp_path, "--prompts", str(path), "--protocol.baselines=[mean,patch_prompt]") == 0
    (gap,) = (Record.read(found) for found in tmp_path.rglob("final.json"))
    evaluated = load_pretrained(saved, prompts=str(path)).origin.source.batch(attribution.Purpose.EVALUATION, 0, 8).inputs
    digest = hashlib.sha256(evaluated.numpy().tobytes()).hexdigest()
    rows = {"evaluation": 7, "again": 7, "gradient_batches": [3, 3], "mean_batches": [4]}
    assert gap["prompts"] == rows | {"evaluation_sha256": digest}
    assert gap["components"][0]["in_distribution"] is None
    assert measured(saved, tmp_path, "--prompts", str(path), "--protocol.paired=false") == 2
    kept = tmp_path / "all" / path.name
    kept.parent.mkdir()
    kept.write_bytes(path.read_bytes())
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:18]))
    assert attributed(saved, tmp_path, "--prompts", str(path), "--metric", "logit_difference") == 0
    assert len(list(tmp_path.glob("tiny-mine-*"))) == 2, "other prompts under the same name are another run"
    first, second = tmp_path.glob("tiny-mine-*/attribution/*.json")
    first.write_bytes(second.read_bytes())
    codes = [attributed(saved, tmp_path, "--prompts", str(one), "--metric", "logit_difference") for one in (path, kept)]
    assert sorted(codes) == [0, 2], "a record of other prompts is not taken for one of these"


def test_a_file_of_another_project_with_sets_of_answers_is_attributed_and_measured(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, names = tmp_path / "theirs.json", NAMES[:20]
    rows = [
        {
            "clean": f"Then, {name} left the store. Today, {name} showed a ring to",
            "corrupt": f"Then, {name} left the hotel. Today, {name} showed a ring to",
            "answers": [" Mary", " John"],
            "wrong_answers": [" Paul"] if i % 2 else [" Paul", " Susan", " Ruth"],
        }
        for i, name in enumerate(names)
    ]
    path.write_text(json.dumps({"prompts": [*rows, rows[0]]}))
    metric = "probability_difference"
    own = ("--prompts", str(path), "--metric", metric, "--prefix", "Today, ", "--twins", "random", "--methods", "exact,hvp")
    assert attributed(saved, tmp_path / "out", *own) == 0
    assert f"1 of 21 prompts of `{path}` are left out; prompt 21: no prompt may be there twice" in capsys.readouterr().err
    record = only(tmp_path / "out", AttributionRecord)
    assert record["protocol"].items() >= {"prefix": "Today, ", "twins": "random"}.items()
    assert record["prompts"]["file"]["format"] == "ACDC (auto-circuit)"
    model = load_pretrained(saved, prompts=str(path), prefix="Today, ", twins="random")
    batch = model.origin.source.batch(attribution.Purpose.EVALUATION, 0, 8)
    mary, john, *wrong = (word_ids(name)[0] for name in ("Mary", "John", "Paul", "Susan", "Ruth"))
    numbers = [int(place.removeprefix("prompt ")) - 1 for place in record["prompts"]["file"]["evaluation"]]
    assert batch.inputs[:, 0].eq(word_ids("Today")[0]).all()
    found = 0.0
    with torch.no_grad():
        for number, row in zip(numbers, model(batch.inputs, 1)[:, 0].softmax(-1), strict=True):
            found += float(row[mary] + row[john] - row[wrong[: len(rows[number]["wrong_answers"])]].sum()) / len(numbers)
        value = FUNCTIONS[Metric(metric)](model(batch.inputs, batch.last), *batch.answers(slice(None), torch.device("cpu")))
    assert float(value.mean()) == pytest.approx(found, abs=1e-6)
    assert all(metric in one["exact"] for one in record["components"])
    assert measured(saved, tmp_path / "gap", *own[:2], "--protocol.baselines=[patch_prompt]") == 0
    gap = only(tmp_path / "gap")
    assert gap["components"][0]["causal"]["patch_prompt"][metric]["value"] is not None


def test_an_interrupted_attribution_goes_on_where_it_was(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    real = METHODS["exact"].run

    def counted(problem: Any) -> Any:
        runs.append("exact")
        return real(problem)

    def interrupted(problem: Any) -> Any:
        raise OSError("the cluster wants its machine back")

    monkeypatch.setitem(METHODS, "exact", _with_run("exact", counted))
    with monkeypatch.context() as patch:
        patch.setitem(METHODS, "gradient", _with_run("gradient", interrupted))
        assert attributed(saved, tmp_path) == 1
    kept = {path.stem: path for path in tmp_path.rglob("*.npz")}
    assert sorted(kept) == ["attribution_patching", "exact"]
    kept["attribution_patching"].write_bytes(b"cut")  # computed anew
    assert attributed(saved, tmp_path) == 0
    assert runs == ["exact"]
    record = only(tmp_path, AttributionRecord)
    assert attributed(saved, tmp_path / "other") == 0
    for one, other in zip(record["components"], only(tmp_path / "other", AttributionRecord)["components"], strict=True):
        assert one["scores"] == other["scores"]


def _with_run(name: str, run: Any) -> Any:
    one = METHODS[name]
    return type(one)(one.name, one.family, one.estimates, run, one.text)


def test_what_was_kept_of_other_settings_or_weights_is_not_taken(saved: Path, tmp_path: Path) -> None:
    model = load_pretrained(saved, prompts="ioi")
    few = {"sequences": 8, "gradient_batches": 2, "mean_batches": 1, "batch_size": 4}
    protocol = replace(default_protocol(), attribution=Attribution(("exact",)), **few)

    def effects(seed: int) -> Any:
        for weight in model.parameters():
            weight.data.mul_(1 + seed)
        model.origin = replace(model.origin, checkpoint_sha256=str(seed))
        return attribution.attribute(model, protocol=protocol, partial=tmp_path)["components"]

    assert effects(0) != effects(1)
    assert len(list(tmp_path.glob("*/exact.npz"))) == 2


def test_what_is_kept_is_of_all_that_decides_the_numbers(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list[str]()

    def noted(folder: Path, of: Any) -> Any:
        kept.append(json.dumps({"in": str(folder)} | of, sort_keys=True, default=str))
        raise OSError("that is all")

    monkeypatch.setattr(attribution, "WINDOW_SEQUENCES", 4)  # prompts behind the accuracy
    monkeypatch.setattr(attribution, "Partial", noted)
    few = {"sequences": 8, "gradient_batches": 2, "mean_batches": 1, "batch_size": 4}
    model, usual = load_pretrained(saved, prompts="ioi"), replace(default_protocol(), **few)
    patch, zero = Setup(Baseline.PATCH_PROMPT), Setup(Baseline.ZERO)

    def sourced(seed: int = 42, length: int = 0, task: str = "ioi", **changes: Any) -> Origin:
        source = find_prompts(task, word_ids, len(WORDS), seed, length)
        return replace(model.origin, source=source, **changes)

    cases = [
        (patch, usual, sourced()),
        (zero, usual, sourced()),
        (replace(patch, direction="denoising"), usual, sourced()),
        (patch, replace(usual, sequences=9), sourced()),
        (patch, replace(usual, attribution=Attribution(steps=9)), sourced()),
        (patch, usual, sourced(checkpoint_sha256="others")),
        (patch, usual, sourced(seed=7)),
        (patch, usual, sourced(length=1)),
        (patch, usual, sourced(task="induction")),
    ]
    for setup, protocol, origin in (*cases, cases[0]):
        with pytest.raises(OSError, match="that is all"):
            attribution.attribute(model, setup=setup, protocol=protocol, origin=origin, partial=tmp_path)
    monkeypatch.setattr("gcgap.importance.experiment.version", lambda name: "another one")
    with pytest.raises(OSError, match="that is all"):
        attribution.attribute(model, setup=patch, protocol=usual, origin=sourced(), partial=tmp_path)
    assert kept[0] == kept[-2], "equal calls go on where the other one was"
    assert len(set(kept)) == len(cases) + 1


def test_nothing_that_lies_where_arrays_are_kept_is_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "ran"),)

    kept = Partial(tmp_path / "kept", {"seed": 1})
    honest = kept("exact", lambda: {"samples": np.arange(3.0)})
    (path,) = (tmp_path / "kept").rglob("*.npz")
    np.savez(path, samples=np.array([Payload()]))
    again = kept("exact", lambda: {"samples": np.arange(3.0)})
    assert np.array_equal(again["samples"], honest["samples"])
    assert not (tmp_path / "ran").exists()


def test_a_kept_part_that_is_cut_or_changed_anywhere_is_computed_again(tmp_path: Path) -> None:
    kept, arrays = Partial(tmp_path, {}), {"samples": np.arange(60.0).reshape(3, 20), "count": np.array(7)}
    kept("exact", lambda: arrays)
    (path,) = tmp_path.rglob("*.npz")
    whole, outcomes = path.read_bytes(), Counter[bool]()
    cases = [whole[:size] for size in range(0, len(whole), 9)]
    cases += [whole[:i] + bytes([whole[i] ^ bit]) + whole[i + 1 :] for i in range(0, len(whole), 5) for bit in (1, 32, 128)]
    for content in cases:
        path.write_bytes(content)
        made = list[str]()
        found = kept("exact", lambda made=made: made.append("again") or arrays)
        outcomes[bool(made)] += 1
        assert made or all(np.array_equal(found[name], arrays[name]) for name in found)
    assert outcomes[True] > 300


def test_an_attribution_is_of_the_revision_and_precision_that_are_asked_for(
    family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = list[dict[str, Any]]()

    def noted(model: Any, **more: Any) -> Any:
        calls.append({"model": model} | more)
        raise OSError("that is all")

    monkeypatch.setattr("gcgap.attribution.attribute.attribute", noted)
    said = {
        ("--revision", "step0"): "patch_prompt,revision=step0",
        ("--revision", "step1000"): "patch_prompt,revision=step1000",
        ("--revision", "step1000", "--precision", "bf16"): "patch_prompt,revision=step1000,precision=bf16",
        ("--revision", "step0", "--length", "2"): "patch_prompt,length=2,revision=step0",
    }
    for more, name in said.items():
        assert attributed(family, tmp_path, *more) == 1
        assert calls[-1]["partial"] == tmp_path / "family-ioi-seed42" / "attribution" / f".{name}.partial"
    hashes = [call["model"].origin.checkpoint_sha256 for call in calls]
    revisions = [load_pretrained(family, revision, prompts="ioi").origin for revision in ("step0", "step1000")]
    assert hashes[:2] == [one.checkpoint_sha256 for one in revisions]
    assert [call["model"].origin.step for call in calls] == [0, 1000, 1000, 0]
    assert [call["protocol"].precision for call in calls] == ["float32", "float32", "bf16", "float32"]
    assert [call["model"].settings["dtype"] for call in calls] == ["float32", "float32", "bfloat16", "float32"]
    assert [call["length"] for call in calls] == [0, 0, 0, 2]
    assert [call["model"].origin.source.given_length for call in calls] == [0, 0, 0, 2]
    protocols = [call["protocol"] for call in calls]
    assert {(one.gradient_batches, one.mean_batches, one.batch_size) for one in protocols} == {(10, 10, 16)}


def printed(record: Record, baseline: str) -> list[str]:
    console = Console(width=100, record=True, file=StringIO())
    console.print(table(record, baseline))
    return console.export_text().splitlines()


def test_prompts_are_also_measured_by_the_logit_difference_which_is_shown_first(saved: Path) -> None:
    model = load_pretrained(saved, prompts="ioi")
    few = {"sequences": 8, "gradient_batches": 2, "mean_batches": 1, "batch_size": 4, "resamples": 100, "random_pairs": 0}
    protocol = replace(PROMPTED, baselines=("mean", "patch_prompt"), **few)
    record = measure(model, protocol=protocol)
    batch = model.origin.source.batch(Purpose.EVALUATION, 0, 8)
    mean = mean_activations(model, model.wiring, model.origin.source.batches(Purpose.MEAN, 0, 1, 4), by_position=False)
    subject = Experiment(model, model.wiring, model.origin.source, protocol, 0, mean)
    for baseline in (Baseline.MEAN, Baseline.PATCH_PROMPT):
        effects = single_drops(Setup(baseline).drop(subject, batch)).logit_difference.mean(-1).tolist()
        drops = [one["causal"][str(baseline)]["logit_difference"]["value"] for one in record["components"]]
        assert drops == pytest.approx(effects, abs=1e-6)
        assert np.ptp(drops) > 1e-3
        found = record["gap"][str(baseline)]["by_metric"]["logit_difference"]
        gradients = [one["gradient"]["value"] for one in record["components"]]
        assert found["rho"] == pytest.approx(np.asarray(spearmanr(gradients, drops))[0])
        said, shown = sentence(record, str(baseline)), printed(record, str(baseline))
        assert f"{baseline} ablation) by logit difference the gradient" in said
        first, rest = said.split(" By ")
        assert f"ρ = {found['rho']:.2f}" in first
        assert rest.startswith("log prob ρ = ")
        assert f"random pairing would give {found['expected_by_chance']['heroes']:.1f}" in said
        for one in record["components"]:
            delta, role = (one[key][str(baseline)]["by_metric"]["logit_difference"] for key in ("delta", "role"))
            drop = one["causal"][str(baseline)]["logit_difference"]["value"]
            (cells,) = (line.split()[1:] for line in shown if line.strip().startswith(f"{one['name']} "))
            assert [cells[2], cells[4]] == [f"{drop:+z.2f}", f"{delta['value']:+.1f}"]
            assert role["name"] in cells
    assert "patch_prompt_logit_difference_drop" in record.table()


def test_many_components_are_not_all_paired_and_methods_that_go_through_each_are_left_out(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.attribution.attribute.PAIR_LIMIT", 5)
    monkeypatch.setattr("gcgap.attribution.attribute.PAIRED_COMPONENTS", 4)
    monkeypatch.setattr("gcgap.attribution.methods.PAIR_LIMIT", 5)
    command = ["attribute", "--model", str(saved), "--sequences", "8", "--out"]
    assert main([*command, str(tmp_path / "few")]) == 0
    assert not {"patching", "sets", "trust"} & only(tmp_path / "few", AttributionRecord).data.keys()
    assert main([*command, str(tmp_path / "all"), "--stages", "patching,sets,trust"]) == 0
    record = only(tmp_path / "all", AttributionRecord)
    assert record["patching"]
    assert not {"hvp", "ig_midpoint", "multi_step_hvp", "shapley_value"} & set(record["methods"])
    assert {"exact", "joint_hvp", "joint_ig", "gradient", "gradient_output"} <= set(record["methods"])
    among = record["sets"]["among"]
    assert len(among) == 4
    effects = {one["name"]: abs(one["exact_again"]["log_prob"]) for one in record["components"]}
    assert min(effects[name] for name in among) >= sorted(effects.values())[-4]
    matrix = torch.tensor(record["sets"]["interactions"]["log_prob"]["mean"])
    assert matrix.shape == (4, 4)
    assert record["trust"]["sequences"] == 2


def test_a_saved_model_is_measured_with_its_gap_and_roles(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(saved, tmp_path) == 0
    record = only(tmp_path)
    assert record.path.parent.parent == tmp_path / "tiny-ioi-seed42" / "gap"
    assert record.path.parent.name == "gradient_batches=2,mean_batches=1,sequences=8,resamples=100,random_pairs=1,batch_size=4"
    assert record.baselines == ["mean", "zero", "resample", "patch_prompt"]
    assert "learning_rate" not in gather([tmp_path])[0].settings, "nobody knows how it was trained"
    assert (record["final"], record["revision"], record["run"]) == (True, None, "tiny-ioi-seed42")
    assert record["window"] == {"length": None, "accuracy": None, "in_window": False}
    assert not record["protocol"]["inside"], "nothing is measured on training lengths, which prompts have none of"
    assert "on ioi prompts" in " ".join(capsys.readouterr().out.split())
    assert measured(saved, tmp_path) == 0
    assert "was there already" in " ".join(capsys.readouterr().out.split())
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    assert "ioi" in (tmp_path / "report" / "index.html").read_text()


def test_the_record_of_a_run_that_was_trained_is_no_revision(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(saved, tmp_path) == 0
    data = {key: value for key, value in only(tmp_path).data.items() if key != "revision"}
    final = Record(data | {"step": 1000}).write(only(tmp_path).path).path
    assert final is not None
    before = final.read_bytes()
    assert measured(saved, tmp_path) == 2
    assert f"`{final}` is the record of a run that is no revision of a model" in capsys.readouterr().err
    assert final.read_bytes() == before


def test_a_file_is_no_directory_for_records(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for act in (measured, attributed):
        assert act(saved, tmp_path / "file") == 2
        assert "`--out`: `" in capsys.readouterr().err


def test_revisions_are_checkpoints_of_one_run_and_equal_weights_are_told(
    family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measured(family, tmp_path, "--revision", "step1000", "step0") == 0
    assert "very weights" not in capsys.readouterr().err
    home = next(path.parent for path in tmp_path.rglob("final.json"))
    assert sorted(path.name for path in home.glob("*.json")) == ["final.json", "step=000000.json", "step=001000.json"]
    first, last = (Record.read(home / name) for name in ("step=000000.json", "step=001000.json"))
    assert (first["step"], last["step"], first["final"]) == (0, 1000, False)
    assert first["checkpoint_sha256"] != last["checkpoint_sha256"]
    assert Record.read(home / "final.json")["step"] == 1000
    assert measured(family, tmp_path, "--revision", "step0", "step1000", "step2000") == 0
    assert "revision step2000 of" in (said := capsys.readouterr().err)
    assert "has the very weights of step1000" in said
    assert Record.read(home / "final.json")["step"] == 2000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["measure", "--model", "{family}", "--revision", "step0", "other"], "`--revision` must be one, or several of different"),
        (["measure", "--model", "{family}", "--revision", "step7"], "has no directory step7 in it, but step0, step1000"),
        (["measure", "--model", "{family}", "--revision", "step0", "step7", "--out", "{out}"], "has no directory step7 in it"),
        (["attribute", "--model", "./nothing"], "`--model` ./nothing is no directory"),
        (["attribute", "--model", "{family}"], "has no config.json in it, but step0, step1000"),
        (["measure", "--model", "{saved}", "--protocol.attribution.metric", "logit_difference"], "none is run; name some with"),
        (["measure", "checkpoints/sort-seed42", "--protocol.attribution.steps", "3"], "`protocol.attribution.steps` is of"),
        (["attribute", "--model", "{saved}/nothing"], "is no directory"),
        (["attribute", "--model", "{saved}", "--known", "--out", "{out}"], "`--known` takes no checkpoints, no `--model`"),
        (["attribute", "--prompts", "ioi", "--known", "--out", "{out}"], "`--prompts` belongs to `--model`"),
        (["attribute", "--model", "{saved}", "--memory=-1"], "`memory` must be more than 0 GiB; got -1.0"),
        (["measure", "--model", "{saved}", "--sequences", "3"], "`--sequences` is `--protocol.sequences` here"),
        (["measure", "--model", "{saved}", "--full"], "leave out paths and `--full`"),
        (["measure", "--prompts", "ioi"], "`--prompts` belongs to `--model`"),
        (["measure", "--seed", "0", "checkpoints/sort-seed42"], "`--seed` belongs to `--model`"),
        (["attribute", "--memory", "0", "checkpoints/sort-seed42"], "`--memory` belongs to `--model`"),
        (["attribute", "--revision", "step0", "checkpoints/sort-seed42"], "`--revision` belongs to `--model`"),
        (["attribute", "--model", "{saved}", "checkpoints/sort-seed42"], "and only one of them"),
        (
            ["attribute", "--model", "{saved}", "--prompts", "nothing"],
            "`--prompts` must be one of facts, greater_than, induction, ioi",
        ),
        (["attribute", "--model", "{saved}", "--prompts", "greater_than"], "needs a tokenizer that splits a year"),
        (["attribute", "--model", "{saved}", "--prompts", "induction", "--length", "2"], "`length` must be 0 for induction"),
        (["attribute", "--model", "{saved}", "--twins", "other"], "`--twins` must be own or random; got 'other'"),
        (["measure", "--model", "{saved}", "--chat"], "`--chat` needs a tokenizer with a chat template; this one has none"),
        (["attribute", "--model", "{saved}", "--baseline", "patch_swap"], "`patch_swap` needs sequences of integers"),
        (
            ["attribute", "checkpoints/sort-seed42", "--baseline", "patch_prompt", "--out", "{out}"],
            "needs prompts with a corrupted",
        ),
        (["attribute", "--model", "{saved}", "--memory", "0.0000001"], "`--memory` must be at least"),
        (["attribute", "--model", "{saved}", "--attention", "flash"], "--attention"),
        (["attribute", "--model", "nobody/nothing"], "`nobody/nothing` cannot be loaded as a model"),
        (["measure", "--model", "{saved}", "--length", "60"], "`tokens` must be at most 64 per row, the model's context"),
    ],
)
def test_what_cannot_be_is_told_by_name(
    arguments: list[str], told: str, saved: Path, family: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [one.format(saved=saved, family=family, out=tmp_path) for one in arguments]
    asked += ["--out", str(tmp_path)] if "--model" in asked else []
    assert main(asked) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert told in said
    assert "Traceback" not in said


def test_a_model_without_a_tokenizer_takes_token_ids_alone(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(saved, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert attributed(bare, tmp_path) == 2
    assert "has no tokenizer that can be loaded, so prompts must be token ids" in " ".join(capsys.readouterr().err.split())


def test_another_precision_is_measured_in_it(saved: Path, tmp_path: Path) -> None:
    assert measured(saved, tmp_path, "--precision", "bf16") == 0
    record = only(tmp_path)
    assert record["model"]["dtype"] == "bfloat16"
    assert record["protocol"]["precision"] == "bf16"
    model = load_pretrained(saved, prompts="ioi", dtype="bfloat16")
    batch = model.origin.source.batch(attribution.Purpose.EVALUATION, 0, 8)
    assert model(batch.inputs, 1).dtype == torch.float32
    assert record["accuracy"]["by_length"]["0"] == float(
        (model(batch.inputs, 1).argmax(-1) == batch.answers(slice(8), model.device)[0]).double().mean()
    )


def test_a_model_spread_by_accelerate_gives_the_same_effects(saved: Path) -> None:
    plain, spread = (load_pretrained(saved, prompts="ioi", device_map=device_map) for device_map in (None, "auto"))
    for module in spread.network.modules():  # as accelerate does where there are several devices
        add_hook_to_module(module, AlignDevicesHook("cpu", io_same_device=True))
    origin, network = spread.origin, spread.network
    assert isinstance(network, PreTrainedModel)
    spread = Pretrained(network, find_wiring(network.config)).eval()
    spread.origin = origin
    drops = []
    for model in (plain, spread):
        batch = model.origin.source.batch(attribution.Purpose.EVALUATION, 0, 6)
        setup, zero = Setup(Baseline.PATCH_PROMPT), zero_activations(model, model.wiring)
        subject = attribution.Experiment(model, model.wiring, model.origin.source, attribution.Protocol(), 0, zero)
        drops.append(single_drops(setup.drop(subject, batch)).log_prob)
    assert torch.equal(*drops)


class Toy(nn.Module):
    """A model of the user's own: one layer of attention and an MLP, tokens in and logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.unembed = nn.Embedding(40, 8), nn.Linear(8, 40)
        self.qkv, self.out, self.up, self.down = nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.mlp = nn.Sequential(self.up, nn.GELU(), self.down)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(input_ids)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        z = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(z.transpose(1, 2).flatten(2))
        return self.unembed(x + self.mlp(x))


def test_a_module_of_the_users_own_is_measured_on_prompts(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    prompts = [{"clean": [10 + i, 6, *[7] * (i % 3), 8], "answer": 3, "wrong": 4} for i in range(12)]
    path.write_text("".join(json.dumps(one) + "\n" for one in prompts))
    wiring = Wiring(1, 2, "out", "mlp", Slices("qkv", blocks=6, first=4), Slices("out", axis=1), "down")
    torch.manual_seed(0)
    model = Pretrained(Toy(), wiring)
    model.origin = Origin(find_prompts(str(path), lambda text: [], 40, 0))
    few_batches = {"gradient_batches": 2, "mean_batches": 2, "batch_size": 4, "sequences": 4}
    protocol = replace(default_protocol(), baselines=("mean", "zero", "patch_prompt"), **few_batches)
    record = measure(model, protocol=replace(protocol, resamples=100, random_pairs=1, attribution=Attribution()))
    assert [one["name"] for one in record["components"]] == ["L0_H0", "L0_H1", "L0_MLP"]
    assert {one["attention_entropy"] for one in record["components"]} == {None}
    few = replace(protocol, attribution=Attribution(("exact", "hvp", "gradient")))
    found = attribution.attribute(model, protocol=few, setup=Setup(Baseline.PATCH_PROMPT))
    assert len(found["methods"]) == 3
    with pytest.raises(ValueError, match="`task` must be that of the model's prompts, mine; got 'sort'"):
        measure(model, task="sort")
    with pytest.raises(ValueError, match="`partial` needs a model whose weights are known by a hash"):
        attribution.attribute(model, protocol=few, partial=tmp_path)
