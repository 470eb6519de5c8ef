"""`gcgap.attribute` and the attribution of `gcgap.measure` on a trained model: every number again by the reference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import tiny
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

import gcgap
from gcgap.attribution.attribute import STAGES
from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import Setup
from gcgap.cli import main
from gcgap.commands.measure_command import build_parser
from gcgap.data.batches import Batch, Purpose, Source
from gcgap.data.corruption import Corruption, corrupted
from gcgap.importance import ablation
from gcgap.importance.experiment import Experiment
from gcgap.importance.protocol import Attribution, Baseline, Metric, NumberFormat, Protocol
from gcgap.models.transformer import Origin, Transformer
from gcgap.records.attribution_record import AttributionRecord, find_attributions
from gcgap.records.record import Record
from gcgap.records.record_file import CHECKSUM
from gcgap.report.tables_methods import method_tables
from gcgap.report.terminal_methods import found
from gcgap.report.write import write_files
from gcgap.study.methods_over_seeds import MethodGroup

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
CHOSEN = ("exact", "gradient", "attribution_patching", "joint_hvp", "layer_index")
SMALL = Protocol(
    gradient_batches=3,
    mean_batches=2,
    sequences=12,
    batch_size=8,
    resamples=100,
    random_pairs=1,
    inside=False,
    baselines=(Baseline.MEAN,),
    precision=NumberFormat.FLOAT64,
    attribution=Attribution(methods=CHOSEN, budget=3),
)
APART = 4  # times as many other sequences that methods are held against
FEW = 6  # sequences where many setups are run
PARTS: list[reference.Part] = [(layer, head) for layer in range(2) for head in (0, 1, None)]
NAMES = ["L0_H0", "L0_H1", "L0_MLP", "L1_H0", "L1_H1", "L1_MLP"]
LENGTH, SCORED, POSITIONS = 4, 5, 10
TOP = {"kind", "schema", "task", "seed", "step", "run", "model", "training", "protocol", "checkpoint_sha256", "versions"}
TOP |= {"created", "accuracy", "window", "length", "length_given", "setup", "components", "methods", "patching", "trust"}
TOP |= {"advice", "sets", "workflow", "seconds"}


def attribute(model: Transformer, source: Source, protocol: Protocol = SMALL, **changes: Any) -> AttributionRecord:
    arguments: dict[str, Any] = {"length": LENGTH} | changes
    return gcgap.attribute(model, protocol=protocol, origin=Origin(source), **arguments)


@pytest.fixture(scope="module")
def model(_trained: Transformer) -> Transformer:
    return _trained


@pytest.fixture(scope="module")
def record(model: Transformer, source: Source) -> AttributionRecord:
    return attribute(model, source)


def column(record: AttributionRecord, *keys: str) -> list[Any]:
    """One number of every component."""
    found = []
    for value in record["components"]:
        for key in keys:
            value = value[key]
        found.append(value)
    return found


def test_a_record_is_whole_and_json(record: AttributionRecord) -> None:
    data = record.to_dict()
    assert data.keys() == TOP
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert (data["kind"], data["schema"], data["task"], data["seed"], data["length"]) == ("attribution", 1, "sort", 1, LENGTH)
    assert data["setup"] == {"baseline": "mean", "direction": "noising", "positions": "all"}
    assert data["protocol"]["attribution"]["methods"] == list(CHOSEN)
    assert list(data["methods"]) == list(CHOSEN)
    assert column(record, "name") == NAMES
    assert {tuple(component["scores"]) for component in data["components"]} == {CHOSEN}
    assert {tuple(component["exact"]) for component in data["components"]} == {("exact_match", "log_prob")}
    assert set(data["seconds"]) == {"accuracy", "mean", "methods", "exact", "patching", "sets", "trust", "statistics"}
    assert repr(record) == "AttributionRecord(task='sort', seed=1, step=None, length=4, 5 methods)"


def test_a_record_written_is_the_record_read(record: AttributionRecord, tmp_path: Path) -> None:
    for compact in (False, True):
        path = tmp_path / "run" / "attribution" / f"{compact}.json"
        written, found = record.write(path, compact), AttributionRecord.read(path)
        assert (found.to_dict(), found.path) == (written.to_dict(), written.path)
        assert {key: value for key, value in found.to_dict().items() if key != CHECKSUM} == record.to_dict()
    assert [one.path for one in find_attributions(tmp_path)] == [path.with_name("False.json"), path]
    assert [one.path for one in find_attributions(path)] == [path]
    assert sorted(one.name for one in path.parent.iterdir()) == ["False.json", "True.json"]  # no temporary file stays
    assert find_attributions(tmp_path / "run" / "other") == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "known"}, "is not an attribution record: its `kind` is 'known'. Run `gcgap attribute`."),
        ({"kind": None}, "its `kind` is None"),
        ({"schema": 2}, "it has schema 2"),
    ],
)
def test_a_record_of_another_kind_or_schema_is_refused_by_name(
    change: dict[str, Any], text: str, record: AttributionRecord, tmp_path: Path
) -> None:
    path = tmp_path / "mean.json"
    path.write_text(json.dumps(record.to_dict() | change))
    with pytest.raises(ValueError, match=re.escape(text)) as refused:
        AttributionRecord.read(path)
    assert str(refused.value).startswith(f"`{path}` ")


@pytest.mark.parametrize("key", ["task", "seed", "step", "protocol", "setup", "length", "components", "methods", "advice"])
def test_a_record_that_misses_a_key_is_refused(key: str, record: AttributionRecord) -> None:
    data = {name: value for name, value in record.to_dict().items() if name != key}
    with pytest.raises(
        ValueError, match=f"^`this record` is not a whole attribution record: `{key}` is missing. Measure it again"
    ):
        AttributionRecord(data)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "3", '"text"'])
def test_a_file_that_holds_no_record_is_refused_by_name(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mean.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"^`{re.escape(str(path))}` is not an attribution record: "):
        AttributionRecord.read(path)


def test_an_ordinary_record_is_no_attribution_record(tmp_path: Path) -> None:
    path = tmp_path / "final.json"
    tiny.ten().write(path)
    with pytest.raises(ValueError, match="its `kind` is None"):
        AttributionRecord.read(path)


def test_tables_hold_the_numbers_of_the_record(record: AttributionRecord) -> None:
    methods, components = record.table(), record.scores()
    assert list(methods["method"]) == list(CHOSEN)
    assert list(components["name"]) == NAMES
    for row in methods.astype(object).where(methods.notna(), None).to_dict("records"):
        entry = record["methods"][row["method"]]
        for effect in ("exact_match", "log_prob"):
            groups = entry["agreement"][effect]
            for group in ("all", "heads", "mlps"):
                for key in ("rho", "tau_b", "top_k", "missed", "l1"):
                    assert row[f"{effect}_{group}_{key}"] == groups[group][key]
            assert [row[f"{effect}_rho_low"], row[f"{effect}_rho_high"]] == (groups["all"]["ci"] or [None, None])
            assert row[f"{effect}_ceiling"] == groups["all"]["ceiling"]
        assert {key: row[key] for key in entry["cost"]} == entry["cost"]
    for name in CHOSEN:
        assert list(components[name]) == column(record, "scores", name, "value")
        ends = components[[f"{name}_low", f"{name}_high"]].values.tolist()
        assert ends == [ci or [None, None] for ci in column(record, "scores", name, "ci")]
    for effect in ("exact_match", "log_prob"):
        ends = components[[f"{effect}_drop_low", f"{effect}_drop_high"]].values.tolist()
        assert ends == column(record, "exact", effect, "ci")
    assert list(components["log_prob_drop"]) == column(record, "exact", "log_prob", "value")


def test_attribution_records_are_read_into_the_long_table_a_row_for_each_method(
    record: AttributionRecord, tmp_path: Path
) -> None:
    path = record.write(tmp_path / "folder" / "any.json").path
    found = gcgap.read(tmp_path)
    assert list(found["method"]) == list(CHOSEN)
    assert set(found["record"]) == {"attribution"}
    assert set(found["path"]) == {str(path)}
    assert found[["task", "seed", "length", "baseline", "direction"]].values.tolist()[0] == ["sort", 1, LENGTH, "mean", "noising"]
    for name, column in record.table().items():
        assert found[name].dropna().to_dict() == column.dropna().to_dict(), name
    tiny.ten().write(tmp_path / "gap" / "final.json")
    both = gcgap.read(tmp_path)
    assert both["record"].value_counts().to_dict() == {"measurement": 2 * 10, "attribution": len(CHOSEN)}
    assert both.loc[both["record"] == "attribution", ["component", "rho"]].isna().all(axis=None)


def others(model: Transformer, source: Source, baseline: str, batch: Any) -> dict[reference.Part, Tensor]:
    """What is let in, by the reference."""
    state = reference.float64(model.state_dict())
    if baseline == "mean":
        runs = [reference.run(state, one.inputs, 2, "none") for one in source.batches(Purpose.MEAN, LENGTH, 2, 8)]
        return reference.means(runs, by_position=False)
    return reference.run(state, corrupted(batch, Corruption(baseline[6:]), source.seed).inputs, 2, "none").parts


def effects_by_hand(model: Transformer, source: Source, setup: Setup, index: int, size: int) -> dict[str, list[float]]:
    """Mean drop of every component by every metric, one reference run each, on some batch of evaluation sequences."""
    state = reference.float64(model.state_dict())
    batch = source.batch(Purpose.EVALUATION, LENGTH, size, index)
    base, other = batch.inputs, others(model, source, str(setup.baseline), batch)
    if setup.direction == "denoising":
        base = corrupted(batch, Corruption(str(setup.baseline)[6:]), source.seed).inputs
        other = reference.run(state, batch.inputs, 2, "none").parts
    inside = {"all": range(POSITIONS), "input": range(5), "scored": range(5, POSITIONS)}
    acts = inside[setup.positions] if isinstance(setup.positions, str) else setup.positions
    here = torch.tensor([float(p in acts) for p in range(POSITIONS)], dtype=torch.float64)[:, None]

    def means(gates: dict[reference.Part, Any]) -> list[float]:
        logits = reference.run(state, base, 2, "none", gates, other).logits[:, -SCORED:]
        return [sum(of) / len(of) for of in reference.scores(logits, batch.targets[:, -SCORED:])]

    before, sign = means({}), -1 if setup.direction == "denoising" else 1
    drops = [[sign * (b - a) for b, a in zip(before, means({part: here}), strict=True)] for part in PARTS]
    order = ("exact_match", "log_prob", "token_accuracy", "logit_difference", "probability_difference")
    return {name: [drop[i] for drop in drops] for i, name in enumerate(order)}


SETUPS = [
    Setup(),
    Setup(positions="input"),
    Setup(positions="scored"),
    Setup(Baseline.PATCH_TOKEN),
    Setup(Baseline.PATCH_TOKEN, "denoising"),
    Setup(Baseline.PATCH_TOKEN, "denoising", (0, 2, 7)),
    Setup(Baseline.PATCH_SEQUENCE, "noising", (1, 5, 9)),
]


@pytest.fixture(scope="module")
def by_setup(model: Transformer, source: Source) -> list[AttributionRecord]:
    """A record of every setup, of the exact effects and the tangent."""
    chosen = Attribution(methods=("exact", "attribution_patching"), metric=Metric.LOGIT_DIFFERENCE)
    few = replace(SMALL, sequences=FEW, attribution=chosen)
    return [attribute(model, source, few, setup=setup) for setup in SETUPS]


@pytest.mark.parametrize("number", range(len(SETUPS)), ids=[str(setup.to_dict()) for setup in SETUPS])
def test_exact_effects_are_those_of_the_reference(
    number: int, model: Transformer, source: Source, by_setup: list[AttributionRecord]
) -> None:
    found, setup = by_setup[number], SETUPS[number]
    apart, own = effects_by_hand(model, source, setup, 0, APART * FEW), effects_by_hand(model, source, setup, 1, FEW)
    assert found["setup"] == setup.to_dict()
    for metric in ("exact_match", "log_prob", "logit_difference"):
        assert column(found, "exact", metric, "value") == pytest.approx(apart[metric], abs=1e-9)
        assert column(found, "exact_again", metric) == pytest.approx(own[metric], abs=1e-9)
    assert column(found, "scores", "exact", "value") == pytest.approx(own["logit_difference"], abs=1e-9)
    agreement = found["methods"]["attribution_patching"]["agreement"]
    scores = column(found, "scores", "attribution_patching", "value")
    for metric in ("exact_match", "log_prob"):
        assert agreement[metric]["all"]["l1"] is None  # of another metric than the scores'
        if len(set(apart[metric])) > 1:
            assert agreement[metric]["all"]["rho"] == pytest.approx(reference.spearman(scores, apart[metric]))
    wrong = [abs(a - b) for a, b in zip(scores, own["logit_difference"], strict=True)]
    assert agreement["logit_difference"]["all"]["l1"] == pytest.approx(sum(wrong) / 6)
    assert found["methods"]["exact"]["agreement"]["logit_difference"]["all"]["l1"] == pytest.approx(0, abs=1e-12)


def test_the_setups_are_different_experiments(by_setup: list[AttributionRecord]) -> None:
    effects = [tuple(column(one, "exact", "log_prob", "value")) for one in by_setup]
    assert len(set(effects)) == len(SETUPS)
    assert len({tuple(column(one, "scores", "attribution_patching", "value")) for one in by_setup}) == len(SETUPS)


def test_scores_and_agreement_follow_from_the_reference(model: Transformer, source: Source, record: AttributionRecord) -> None:
    state = reference.float64(model.state_dict())
    batch = source.batch(Purpose.EVALUATION, LENGTH, SMALL.sequences, 1)
    other = others(model, source, "mean", batch)
    level = reference.level(state, batch.inputs, batch.targets, SCORED, 2, "none", PARTS, other)
    own = effects_by_hand(model, source, Setup(), 1, SMALL.sequences)
    by_hand = {
        "attribution_patching": reference.gradient(level, torch.zeros(6, dtype=torch.float64)).mean(-1).tolist(),
        "joint_hvp": reference.joint_hvp(level, 6).mean(-1).tolist(),
        "layer_index": [0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        "gradient": gradients(model, source),
        "exact": own["log_prob"],
    }
    effects = effects_by_hand(model, source, Setup(), 0, APART * SMALL.sequences)
    for name, values in by_hand.items():
        assert column(record, "scores", name, "value") == pytest.approx(values, rel=1e-7, abs=1e-9)
        for metric in ("exact_match", "log_prob"):
            found = record["methods"][name]["agreement"][metric]
            assert found["all"]["rho"] == pytest.approx(reference.spearman(values, effects[metric]))
            heads = [i for i, (_, head) in enumerate(PARTS) if head is not None]
            ours, theirs = ([of[i] for i in heads] for of in (values, effects[metric]))
            assert found["heads"]["rho"] == pytest.approx(reference.spearman(ours, theirs))
    assert record["methods"]["exact"]["agreement"]["log_prob"]["all"]["l1"] == pytest.approx(0, abs=1e-12)
    assert column(record, "exact", "log_prob", "value") != pytest.approx(column(record, "exact_again", "log_prob"))


def test_no_method_sees_the_sequences_that_it_is_held_against(source: Source) -> None:
    ours, theirs = (
        source.batch(Purpose.EVALUATION, LENGTH, size, index).inputs.tolist() for size, index in ((12, 1), (APART * 12, 0))
    )
    assert not [row for row in ours if row in theirs]


def gradients(model: Transformer, source: Source) -> list[float]:
    """The paper's G by the reference."""
    state = reference.float64(model.state_dict())
    norms = [
        reference.gradient_magnitudes(state, batch.inputs, batch.targets, SCORED, 2, "none", normalise=True)
        for batch in source.batches(Purpose.GRADIENT, LENGTH, 3, 8)
    ]
    return [sum(one[part] for one in norms) / 3 for part in PARTS]


def test_patching_is_the_gap_between_the_gradient_and_patched_drops(
    model: Transformer, source: Source, record: AttributionRecord, by_setup: list[AttributionRecord]
) -> None:
    G = gradients(model, source)
    assert list(record["patching"]) == ["patch_sequence", "patch_token", "patch_swap"]
    for name, by_metric in record["patching"].items():
        patched = effects_by_hand(model, source, Setup(Baseline(name)), 0, SMALL.sequences)
        for metric in ("exact_match", "log_prob"):
            found = by_metric[metric]
            if len(set(patched[metric])) == 1:
                assert found["rho"] is None
                assert "ranks do not exist" in found["reason"]
                continue
            assert found["rho"] == pytest.approx(reference.spearman(G, patched[metric]))
            assert found["ci"] is None or found["ci"][0] <= found["ci"][1]
            if found["ceiling"] is not None:
                assert found["corrected"] == pytest.approx(found["rho"] / found["ceiling"])
    for other in by_setup:  # noising at all positions, whatever else is intervened on
        assert other["patching"] == by_setup[0]["patching"]


def test_sets_and_trust_and_workflow_are_of_these_components(record: AttributionRecord) -> None:
    exact = column(record, "exact_again", "exact_match")
    critical = record["sets"]["critical"]
    assert critical["dispensable"] == [name for name, effect in zip(NAMES, exact, strict=True) if abs(effect) <= 0.05]
    for metric in ("exact_match", "log_prob"):
        matrix = record["sets"]["interactions"][metric]
        assert matrix["single"] == pytest.approx(column(record, "exact_again", metric))
        assert np.array(matrix["mean"]).shape == np.array(matrix["error"]).shape == (6, 6)
    slopes = column(record, "trust", "slope")  # of the first 64 sequences, which are all
    assert slopes == pytest.approx(column(record, "scores", "attribution_patching", "value"))
    assert column(record, "trust", "effects", "exact") == pytest.approx(column(record, "exact_again", "log_prob"))
    for one in column(record, "trust"):
        assert one["reliability"] == pytest.approx(abs(one["curvature"]) / (2 * abs(one["slope"])))
    assert record["trust"]["sequences"] == SMALL.sequences
    assert record["trust"]["completeness"]["steps"] == 4
    found = record["workflow"]
    assert len(found["fixed"]) + len(found["verified"]) == 3  # the budget
    assert set(found["fixed"]) | set(found["unresolved"]) == set(found["flags"])
    assert {*found["flags"], *found["verified"]} <= set(NAMES)


def test_stages_that_are_not_asked_for_are_not_run_and_what_is_shown_does_without(
    tmp_path: Path, model: Transformer, source: Source
) -> None:
    settings = Attribution(("attribution_patching",), stages=("methods",))
    record = attribute(model, source, replace(SMALL, attribution=settings))
    for stage in ("patching", "sets", "trust"):
        assert stage not in record.data
        assert stage not in record["seconds"]
    assert set(record.scores()["reliability"]) == {None}
    assert [line.partition(":")[0] for line in found(record)][:1] == ["Screen-Flag-Fix"]
    write_files(record, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"agreement", "grid", "scores"}
    tables = method_tables(MethodGroup(record.to_dict(), (record,)))
    assert not {"methods-patching", "methods-sets", "methods-reliability", "methods-error"} & {table.key for table in tables}
    with pytest.raises(ValueError, match="must be one of methods, accuracy, patching, sets, trust; got"):
        replace(settings, stages=("net",))


def test_exact_effects_are_computed_once_for_each_drop(
    monkeypatch: pytest.MonkeyPatch, model: Transformer, source: Source
) -> None:
    runs: list[int] = []
    whole = ablation.ablated_scores

    def counted(*args: Any, **given: Any) -> Any:
        runs.append(len(args[3]))
        return whole(*args, **given)

    monkeypatch.setattr("gcgap.attribution.sets.ablated_scores", counted)
    few = Attribution(("exact",), budget=0, stages=("methods", "sets"))
    attribute(model, source, replace(SMALL, attribution=few))
    assert runs.count(6) == 2  # those of the scored sequences, and of the others


def test_every_stage_and_method_is_told_when_it_is_done(model: Transformer, source: Source) -> None:
    told: list[str] = []
    few = replace(SMALL, sequences=4, attribution=Attribution(methods=("layer_index", "exact")))
    attribute(model, source, few, done=told.append)
    assert told == ["layer_index", "exact", *STAGES]


def test_the_model_is_left_as_it_was_and_equal_calls_give_equal_records(
    trained: Transformer, source: Source, record: AttributionRecord, unchanged: Unchanged
) -> None:
    with unchanged(trained):
        again = attribute(trained, source)
    for key in TOP - {"created", "seconds", "methods", "advice"}:
        assert again[key] == record[key]
    for name in CHOSEN:  # seconds differ
        assert again["methods"][name]["agreement"] == record["methods"][name]["agreement"]


def test_a_setup_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^`direction` must be noising or denoising; got 'sideways'\.$"):
        Setup(direction="sideways")  # pyright: ignore[reportArgumentType]
    text = r"^`direction` denoising needs a baseline patch_\*, a corrupted input; got `mean`\.$"
    with pytest.raises(ValueError, match=text):
        Setup(Baseline.MEAN, "denoising")


@pytest.mark.parametrize("positions", [(), (10,), (-1,), (0, 99), ("all",), "nowhere", (1.5,)])
def test_positions_that_the_sequences_do_not_have_are_refused(positions: Any, model: Transformer, source: Source) -> None:
    text = "`positions` must be all, input, scored, or numbers from 0 to 9; got "
    with pytest.raises(ValueError, match=re.escape(text)):
        attribute(model, source, setup=Setup(positions=positions))


def test_where_components_are_replaced(source: Source) -> None:
    batch = source.batch(Purpose.EVALUATION, LENGTH, 3)
    acting = {name: Setup(positions=name).where(batch) for name in ("all", "input", "scored")}  # pyright: ignore[reportArgumentType]
    assert acting["all"] is None
    assert acting["input"] is not None
    assert acting["scored"] is not None
    assert acting["input"].tolist() == [True] * 5 + [False] * 5  # START and the four integers
    assert torch.equal(acting["scored"], ~acting["input"])
    assert acting["scored"].tolist() == batch.scored[0].tolist()
    some = Setup(positions=(7, 2)).where(batch)
    assert some is not None
    assert some.nonzero().flatten().tolist() == [2, 7]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"length": 3}, "`length` must lie above the training lengths 2..3; got 3"),
        ({"length": 20}, "`length` must be between 1 and 7, the model's context; got 20"),
    ],
)
def test_a_length_that_cannot_be_is_refused(changes: dict[str, Any], text: str, model: Transformer, source: Source) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        attribute(model, source, **changes)


def test_baselines_of_a_protocol_do_not_stand_for_what_is_intervened_on(model: Transformer, source: Source) -> None:
    few = replace(SMALL, baselines=("zero", "resample"))
    with pytest.raises(ValueError, match=r"by default mean, .* lacks: zero, resample. Give .* `setup=Setup\('zero'\)`"):
        attribute(model, source, few)
    assert attribute(model, source, few, setup=Setup(Baseline.ZERO))["setup"]["baseline"] == "zero"


def test_no_length_inside_the_window_is_an_error_that_says_what_to_give(model: Transformer, source: Source) -> None:
    text = r"^no OOD length has an accuracy inside the window \(4: \d+\.\d%, 5: \d+\.\d%\); give `--length`\.$"
    with pytest.raises(ValueError, match=text):
        attribute(model, source, replace(SMALL, window=(0.999, 1.0)), length=None)


def test_what_was_kept_at_another_length_is_not_taken(model: Transformer, source: Source, tmp_path: Path) -> None:
    few = replace(SMALL, sequences=FEW, attribution=Attribution(methods=("exact",)))
    arguments: dict[str, Any] = {"origin": Origin(source, checkpoint_sha256="weights"), "partial": tmp_path, "protocol": few}
    found = [gcgap.attribute(model, length=length, **arguments)["components"] for length in (LENGTH, LENGTH + 1)]
    assert found[0] != found[1]
    assert len(list(tmp_path.glob("*/exact.npz"))) == 2


def test_an_unknown_method_is_refused_before_anything_is_run(model: Transformer, source: Source) -> None:
    told: list[str] = []
    with pytest.raises(ValueError, match=r"`methods` must be among exact, .*; got 'magic'"):
        attribute(model, source, replace(SMALL, attribution=Attribution(methods=("magic",))), done=told.append)
    assert told == []


def measured(model: Transformer, source: Source, *methods: str, **changes: Any) -> Record:
    protocol = replace(SMALL, attribution=Attribution(methods=methods), **changes)
    return gcgap.measure(model, length=LENGTH, protocol=protocol, origin=Origin(source))


OWN = ("created", "seconds", "protocol", "attribution")


@pytest.mark.parametrize("paired", [True, False])
def test_measuring_with_methods_leaves_every_other_number_as_it_was(paired: bool, model: Transformer, source: Source) -> None:
    sizes: dict[str, Any] = {"paired": paired, "inside": True, "baselines": ("mean", "zero")}
    without, with_methods = (measured(model, source, *methods, **sizes).to_dict() for methods in ((), CHOSEN))
    assert "attribution" not in without
    assert with_methods.keys() - without.keys() == {"attribution"}
    components = [{k: v for k, v in one.items() if k != "attribution"} for one in with_methods["components"]]
    assert components == without["components"]
    for key in without.keys() - {*OWN, "components"}:
        assert with_methods[key] == without[key], key
    assert set(with_methods["seconds"]) - set(without["seconds"]) == {"attribution"}


@pytest.mark.parametrize("paired", [True, False])
def test_a_measurement_holds_scores_and_their_agreement_with_c(paired: bool, model: Transformer, source: Source) -> None:
    found = measured(model, source, *CHOSEN, paired=paired)
    data = found.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert data["attribution"]["baseline"] == "mean"
    assert list(found.attribution) == list(CHOSEN)
    for name in CHOSEN:
        scores = [component["attribution"][name]["value"] for component in data["components"]]
        for metric in ("exact_match", "log_prob"):
            C = [component["causal"]["mean"][metric]["value"] for component in data["components"]]
            entry = found.attribution[name]["agreement"][metric]["all"]
            assert entry["rho"] == pytest.approx(reference.spearman(scores, C))
            assert entry["l1"] is None  # C is of other sequences
    own = effects_by_hand(model, source, Setup(), 7, SMALL.sequences)["log_prob"]
    assert [component["attribution"]["exact"]["value"] for component in data["components"]] == pytest.approx(own)


def test_no_method_sees_the_sequences_of_c(model: Transformer, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    batch = Experiment.batch

    def watched(self: Experiment, length: int, size: int, index: int = 0) -> Batch:
        asked.append(index)
        return batch(self, length, size, index)

    monkeypatch.setattr(Experiment, "batch", watched)
    measured(model, source, "layer_index", paired=False)
    of_methods = asked.pop()
    assert of_methods not in asked
    assert set(asked) >= set(range(7))  # the base, and each of the six components


def test_methods_are_run_under_the_first_baseline(model: Transformer, source: Source) -> None:
    found = measured(model, source, "exact", baselines=("patch_token", "mean"))
    assert found["attribution"]["baseline"] == "patch_token"
    own = effects_by_hand(model, source, Setup(Baseline.PATCH_TOKEN), 7, SMALL.sequences)["log_prob"]
    assert [component["attribution"]["exact"]["value"] for component in found["components"]] == pytest.approx(own)
    C = [component["causal"]["patch_token"]["log_prob"]["value"] for component in found["components"]]
    rho = found.attribution["exact"]["agreement"]["log_prob"]["all"]["rho"]
    assert rho == pytest.approx(reference.spearman(own, C))


def test_a_record_without_methods_has_no_attribution(model: Transformer, source: Source) -> None:
    found = measured(model, source)
    assert found.attribution == {}
    assert "attribution" not in found.to_dict()["protocol"]


SETTINGS: dict[str, Any] = {"methods": ["attribution_patching", "joint_hvp"], "metric": "logit_difference", "steps": 3}


def from_yaml(tmp_path: Path) -> Protocol:
    """The protocol that `gcgap measure` makes of a config's block."""
    path = tmp_path / "protocol.yaml"
    path.write_text(yaml.safe_dump({"attribution": SETTINGS}))
    parser = build_parser()
    return parser.instantiate(parser.parse_args(["run", f"--protocol={path}"])).protocol


def from_flags(tmp_path: Path) -> Protocol:
    parser = build_parser()
    flags = [f"--protocol.attribution.{name}={value}" for name, value in SETTINGS.items()]
    return parser.instantiate(parser.parse_args(["run", *flags])).protocol


@pytest.mark.parametrize("make", [from_yaml, from_flags])
def test_attribution_is_a_block_of_the_protocol(make: Callable[[Path], Protocol], tmp_path: Path) -> None:
    found = make(tmp_path)
    assert found.attribution == Attribution(("attribution_patching", "joint_hvp"), Metric.LOGIT_DIFFERENCE, 3)
    plain = found.to_dict()
    others = ("difference", "pairs", "probes", "budget", "gradient_batches")
    changed = {"methods": SETTINGS["methods"], "metric": "logit_difference", "steps": 3, "stages": []}
    assert plain["attribution"] == changed | {name: getattr(Attribution(), name) for name in others}
    assert found.tracked().attribution == found.attribution
    assert json.loads(json.dumps(plain)) == plain


def test_fit_tracks_methods_in_records_and_tensorboard(tmp_path: Path) -> None:
    methods = ["attribution_patching", "layer_index"]
    asked = {"protocol.attribution.methods": f"[{','.join(methods)}]"}
    assert main(tiny.arguments(tmp_path / "run", **tiny.SHORT, **asked)) == 0
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={"scalars": 0}).Reload()
    tags = {tag for tag in events.Tags()["scalars"] if tag.startswith("attribution/")}
    records = [Record.read(tmp_path / "run" / "gap" / f"step={step:06d}.json") for step in (0, 4)]
    for record in (*records, Record.read(tmp_path / "run" / "gap" / "final.json")):
        assert record["protocol"]["attribution"]["methods"] == methods
        assert record.skipped or list(record.attribution) == methods
    expected = set()
    for name in methods:
        for effect, tag in (("exact_match", "rho"), ("log_prob", "rho_log_prob")):
            rhos = {one["step"]: one.attribution[name]["agreement"][effect]["all"]["rho"] for one in records}
            curve = {step: rho for step, rho in rhos.items() if rho is not None}
            if curve:
                expected.add(f"attribution/{tag}/{name}")
                found = {event.step: event.value for event in events.Scalars(f"attribution/{tag}/{name}")}
                assert found == pytest.approx(curve)
    assert tags == expected
    assert "attribution/rho_log_prob/attribution_patching" in tags


@pytest.mark.parametrize(
    ("method", "texts"),
    [("magic", ("`methods` must be among", "'magic'")), ("eap_ig", ("eap_ig needs a corrupted input", "got mean"))],
)
def test_fit_refuses_a_method_that_cannot_run_before_it_writes(
    method: str, texts: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny.arguments(tmp_path / "run", **{"protocol.attribution.methods": f"[{method}]"})) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert all(text in said for text in texts)
    assert not list((tmp_path / "run").rglob("*.json"))


def test_all_methods_are_the_default_of_a_call() -> None:
    from gcgap.attribution.setup import default_protocol

    of_ablation = tuple(name for name, one in METHODS.items() if not one.corrupts)
    assert default_protocol().attribution.methods == of_ablation
    assert default_protocol(None, None, Baseline.PATCH_TOKEN).attribution.methods == tuple(METHODS)
    assert default_protocol().sequences == 128
