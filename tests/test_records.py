"""Records: what is written, what is read back, and what is refused."""

from __future__ import annotations

import copy
import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

import gcgap
from gcgap.data.strict_text import parsed
from gcgap.importance.protocol import Baseline, Protocol
from gcgap.records.attribution_record import AttributionRecord
from gcgap.records.read_records import find_records, read
from gcgap.records.record import METRICS, Record
from gcgap.records.record_file import CHECKSUM, read_json, with_checksum

BASELINES = (Baseline.MEAN, Baseline.ZERO)
CONTRACT = (
    *("schema", "task", "seed", "step", "run", "protocol", "checkpoint_sha256", "versions", "created", "seconds", "accuracy"),
    *("window", "length", "components", "gap", "pruning", "joint"),
    *("accuracy.in_distribution", "accuracy.by_length", "window.length", "window.accuracy", "window.in_window"),
    *(f"components.0.{key}" for key in ("name", "layer", "kind", "gradient", "causal", "delta", "role")),
    *("components.0.gradient.value", "components.0.gradient.ci", "components.0.causal.mean"),
    *(f"components.9.causal.zero.{metric}" for metric in METRICS),
    *(f"components.9.causal.zero.{metric}.value" for metric in METRICS),
    *("components.9.delta.zero", "components.9.delta.zero.value", "components.9.role.zero"),
    *("components.9.role.zero.name", "components.9.role.zero.probability"),
    *(
        f"gap.zero.{key}"
        for key in ("rho", "ci", "p_value", "ceiling", "corrected", "reason", "heroes", "bloats", "expected_by_chance")
    ),
)


def at(data: Any, place: str) -> tuple[Any, Any]:
    """The container and the key of a place such as `components.0.name`."""
    *path, last = (int(part) if part.isdigit() else part for part in place.split("."))
    for key in path:
        data = data[key]
    return data, last


def changed(place: str, value: Any) -> dict[str, Any]:
    data = copy.deepcopy(tiny.ten().to_dict())
    container, key = at(data, place)
    container[key] = value
    return data


def saved(data: Any, path: Path) -> Path:
    path.write_text(json.dumps(data))
    return path


def test_to_dict_is_exactly_the_json(tmp_path: Path) -> None:
    record = tiny.ten().write(tmp_path / "gap" / "final.json")
    assert json.loads((tmp_path / "gap" / "final.json").read_text()) == record.to_dict()
    again = Record.read(tmp_path / "gap" / "final.json")
    assert again.to_dict() == record.to_dict()
    assert again.path == record.path == tmp_path / "gap" / "final.json"


def test_a_measured_record_is_exactly_its_json_and_holds_what_the_contract_names(tmp_path: Path) -> None:
    from gcgap.models.transformer import Transformer

    torch.manual_seed(0)
    protocol = Protocol(**tiny.SIZES, batch_size=4, baselines=BASELINES, sets=(("L0_H0", "L0_MLP"), ("L1_H3",)))
    record = gcgap.measure(Transformer(2, 4, 16, 32), task="sort", length=9, protocol=protocol)
    data = record.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert Record.read(record.write(tmp_path / "final.json").path or "").to_dict() == with_checksum(data)
    for place in CONTRACT:
        container, key = at(data, place)
        container[key]
    for baseline in BASELINES:
        for name in ("heroes", "bloats"):
            joint = data["joint"][baseline][name]
            wanted = {"members", "individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum", "ci"}
            assert wanted <= joint.keys()


def test_an_empty_missing_number_is_null_with_a_reason() -> None:
    from gcgap.models.transformer import Transformer

    model = Transformer(1, 2, 16, 32)  # untrained: no sequence is right, so C by exact match is constant
    protocol = Protocol(**tiny.SIZES, batch_size=4, baselines=(Baseline.MEAN,))
    measured = gcgap.measure(model, task="sort", length=9, protocol=protocol).to_dict()
    gap = measured["gap"]["mean"]
    numbers = ("rho", "ci", "p_value", "ceiling", "corrected", "heroes", "bloats", "expected_by_chance")
    assert [gap[key] for key in numbers] == [None] * 8
    assert "causal importance" in gap["reason"]
    outside = gcgap.measure(model, task="sort", protocol=protocol)
    assert outside.skipped
    assert outside["components"] == []
    assert outside["gap"]["mean"]["rho"] is None
    assert outside["gap"]["mean"]["reason"] == outside.skipped


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    data = copy.deepcopy(tiny.ten().to_dict())
    for place in ("later", "protocol.later", "components.3.later", "gap.zero.later", "components.0.causal.mean.later"):
        container, key = at(data, place)
        container[key] = {"text": "Größe", "numbers": [1, 2.5, None]}
    Record.read(saved(data, tmp_path / "a.json")).write(tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text(encoding="utf-8")) == with_checksum(data)


@pytest.mark.parametrize("schema", [0, 2, 1.5, "1", None, [1], {"1": 1}])
def test_another_schema_is_refused_with_the_version_that_wrote_it(schema: Any, tmp_path: Path) -> None:
    path = saved(tiny.ten().to_dict() | {"schema": schema, "versions": {"gcgap": "9.8.7"}}, tmp_path / "final.json")
    with pytest.raises(ValueError, match="schema") as refused:
        Record.read(path)
    assert str(path) in str(refused.value)
    assert "9.8.7" in str(refused.value)
    assert repr(schema) in str(refused.value)


@pytest.mark.parametrize("place", CONTRACT)
def test_a_missing_key_is_refused_by_name(place: str, tmp_path: Path) -> None:
    data = copy.deepcopy(tiny.ten().to_dict())
    container, key = at(data, place)
    del container[key]
    path = saved(data, tmp_path / "final.json")
    with pytest.raises(ValueError, match=rf"\b{key}\b") as refused:
        Record.read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *[("task", 1), ("seed", "42"), ("seed", 1.5), ("seed", True), ("step", "250"), ("protocol", []), ("versions", None)],
        *[("components", {}), ("components", None), ("gap", []), ("length", 9.5), ("accuracy", 0.5), ("window", None)],
        *[("components.0", None), ("components.0.layer", "0"), ("components.0.gradient", 0.1), ("components.0.name", None)],
        *[("components.0.causal", []), ("components.0.gradient.ci", None), ("components.0.gradient.ci", [0.5])],
        *[("components.0.causal.mean", "none"), ("components.0.causal.mean.exact_match", 0.5), ("gap.mean", 0.5)],
        *[("components.0.delta.mean", None), ("components.0.role.mean", "hero"), ("components.0.gradient.value", [1])],
        *[("components.0.role.mean.name", ["hero"]), ("components.0.role.mean.name", "villain")],
    ],
)
def test_a_wrong_type_is_refused_by_name(place: str, value: Any, tmp_path: Path) -> None:
    path = saved(changed(place, value), tmp_path / "final.json")
    named = [part for part in place.split(".") if not part.isdigit()]
    with pytest.raises(ValueError, match=re.escape(str(path))) as refused:
        Record.read(path)
    assert any(part in str(refused.value) for part in (*named, "L0_H0"))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["gap.mean.rho", "components.3.causal.zero.log_prob.value", "later"])
def test_nan_and_infinity_are_refused_read_and_made(number: float, place: str, tmp_path: Path) -> None:
    data = changed(place, number)
    with pytest.raises(ValueError, match="null"):
        Record(data)
    path = saved(data, tmp_path / "final.json")
    with pytest.raises(ValueError, match="null") as refused:
        Record.read(path)
    assert str(path) in str(refused.value)


def test_a_number_too_large_for_a_float_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "final.json"
    path.write_text(json.dumps(tiny.ten().to_dict()).replace('"rho": 0.5', '"rho": 1e999'))
    with pytest.raises(ValueError, match="holds 1e999, which a float cannot hold"):
        Record.read(path)


REAL = Path(__file__).parent.parent / "checkpoints" / "sort-seed42" / "gap" / "final.json"


def places(value: Any, *path: Any) -> list[tuple[Any, ...]]:
    """Where every value of a record stands, of lists the first one alone."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, *path, key))]


def test_a_value_of_another_type_is_refused_by_file_and_key_wherever_it_stands() -> None:
    """Dictionaries and lists in the place of numbers and text, and the reverse: tables cannot hash them."""
    data = Record.read(REAL).data
    del data["sha256"]  # of the whole file
    data["components"], data["layers"] = data["components"][:1], data["layers"][:1]
    for *path, last in places(data)[1:]:
        container: Any = data
        for key in path:
            container = container[key]
        before = container[last]
        for wrong in ({"a": {"a": 0}}, [[{}]], *([0.5] if isinstance(before, dict | list) else [])):
            container[last] = wrong
            with pytest.raises(ValueError, match=r"final\.json") as refused:
                Record(data, REAL)
            assert any(f"{key}" in str(refused.value) for key in (*path, last) if isinstance(key, str)) or path == ["gap"]
        container[last] = before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (('"rho":', '"rho": 0.5, "rho":'), "holds the key `rho` twice"),
        (('"sha256":', '"later": 1e999, "sha256":'), "holds 1e999"),
        (('"sha256":', '"later": -1E400, "sha256":'), "holds -1E400"),
        (('"sha256":', f'"later": 1{"0" * 310}, "sha256":'), "which a float cannot hold"),
        (('"sha256":', f'"later": 1{"0" * 5000}, "sha256":'), "which a float cannot hold"),
        (('"sha256":', '"later": NaN, "sha256":'), "holds NaN"),
    ],
)
@pytest.mark.parametrize("kind", [Record, AttributionRecord])
def test_both_kinds_of_record_refuse_the_same_texts(kind: Any, change: tuple[str, str], told: str, tmp_path: Path) -> None:
    where = REAL if kind is Record else next((REAL.parents[3] / "docs").rglob("attribution/[!k]*.json"))
    kind.read(where)
    path = tmp_path / "final.json"
    path.write_text(where.read_text().replace(*change, 1))
    with pytest.raises(ValueError, match=re.escape(told)) as refused:
        kind.read(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"7", b'"text"', b"{}", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_no_record_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "final.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a record") as refused:
        Record.read(path)
    assert str(path) in str(refused.value)


def refusal(path: Path) -> str | None:
    """What Record.read says against a file, or None if it reads it; any exception but ValueError is an error of the test."""
    try:
        Record.read(path)
    except ValueError as refused:
        return str(refused)
    return None


def test_deep_nesting_is_refused_or_read(tmp_path: Path) -> None:
    path = tmp_path / "final.json"
    text = json.dumps(tiny.ten().to_dict())[:-1]
    said = {}
    for depth in (100, *range(850, 1010), 2000, 20_000):
        path.write_text(text + ', "later": ' + "[" * depth + "]" * depth + "}")
        said[depth] = refusal(path)
    assert said[100] is None
    assert str(path) in (said[20_000] or "")
    assert all(reason is None or str(path) in reason for reason in said.values())


def test_every_mutation_of_a_record_file_is_a_record_or_refused(tmp_path: Path) -> None:
    """Bytes changed, cut, doubled and exchanged, and values exchanged: a ValueError that names the file, or a whole record."""
    rng = random.Random(0)
    path = tmp_path / "final.json"
    original = json.dumps(tiny.ten().to_dict()).encode()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        path.write_bytes(mutated(original, rng))
        said = refusal(path)
        outcomes["read" if said is None else "refused"] += 1
        if said is not None:
            assert str(path) in said
            continue
        record = Record.read(path)
        assert len(record.table()) == len(record["components"])
        assert len(gcgap.read(path)) == len(record.baselines) * max(1, len(record["components"]))
    assert min(outcomes.values()) > 20


def mutated(original: bytes, rng: random.Random) -> bytes:
    data, i, j = bytearray(original), *sorted(rng.sample(range(len(original)), 2))
    match rng.randrange(5):
        case 0:
            data[i] ^= 1 << rng.randrange(8)
        case 1:
            del data[i:]
        case 2:
            del data[i : i + rng.randrange(1, 40)]
        case 3:
            data[i:i] = data[j : j + rng.randrange(1, 200)]
        case 4:
            return json.dumps(exchanged(json.loads(original), rng)).encode()
    return bytes(data)


def exchanged(value: Any, rng: random.Random) -> Any:
    """The value with one inner value, somewhere, replaced by one of another type."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[key] = exchanged(value[key], rng)
        return value
    return rng.choice([None, True, 0, -1, 2.5, "", "text", [], {}, [[]], {"value": None}])


def test_writing_leaves_no_temporary_file_and_replaces_the_old(tmp_path: Path) -> None:
    tiny.ten(step=1).write(tmp_path / "final.json")
    tiny.ten(step=2).write(tmp_path / "final.json")
    assert [path.name for path in tmp_path.iterdir()] == ["final.json"]
    assert Record.read(tmp_path / "final.json")["step"] == 2


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_while_writing_leaves_the_old_file(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "final.json"
    tiny.ten(step=1).write(path)
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        assert path.read_bytes() == before  # nothing of the old file has been touched yet
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(broken, fail)
        with pytest.raises(OSError, match="disk full"):
            tiny.ten(step=2).write(path)
    assert tiny.files(tmp_path) == {"final.json": before}


def test_what_json_cannot_hold_is_no_record() -> None:
    with pytest.raises(TypeError, match="set"):
        Record(tiny.ten().to_dict() | {"later": {1, 2}})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two measured checkpoints of one run, and one skipped run."""
    tiny.ten(step=0, reason="all alike").write(tmp_path / "a" / "gap" / "step=000000.json")
    tiny.ten(step=250).write(tmp_path / "a" / "gap" / "final.json")
    tiny.skipped().write(tmp_path / "b" / "gap" / "final.json")
    return tmp_path


def test_read_gives_a_row_per_record_component_and_baseline(runs: Path) -> None:
    frame = gcgap.read(runs)
    assert len(frame) == 2 * 10 * 2 + 2
    rows = {(row["path"], row["baseline"], row["component"]): row for row in frame.to_dict("records")}
    assert len(rows) == len(frame)
    for path in (runs / "a" / "gap" / "step=000000.json", runs / "a" / "gap" / "final.json"):
        data = json.loads(path.read_text())
        for component in data["components"]:
            for baseline in BASELINES:
                row = rows[str(path), baseline, component["name"]]
                assert row["gradient"] == component["gradient"]["value"]
                assert row["layer"] == component["layer"]
                assert row["kind"] == component["kind"]
                assert [row[f"{m}_drop"] for m in METRICS] == [component["causal"][baseline][m]["value"] for m in METRICS]
                check_intervals(row, component, baseline)
                same(row["delta"], component["delta"][baseline]["value"])
                same(row["role"], component["role"][baseline]["name"])
                same(row["role_probability"], component["role"][baseline]["probability"])
                same(row["rho"], data["gap"][baseline]["rho"])
                for end, value in zip(("rho_low", "rho_high"), data["gap"][baseline]["ci"] or (None, None), strict=True):
                    same(row[end], value)
                for key in ("p_value", "ceiling", "corrected", "reason"):
                    same(row[key], data["gap"][baseline][key])
                assert [row["accuracy_in_distribution"], row["accuracy_length_9"]] == [0.9375, 0.5]
                for key, value in data["protocol"].items():  # records of two protocols can be told apart by any setting
                    assert row[key] == (str(value) if isinstance(value, list) else value)
                assert [row[key] for key in ("run", "task", "seed", "step")] == ["sort-seed7", "sort", 7, data["step"]]
                assert [row[key] for key in ("length", "layout", "site")] == [9, "contiguous", "component"]


def check_intervals(row: dict[str, Any], component: dict[str, Any], baseline: str, prefix: str = "") -> None:
    """Both ends of the intervals of G, C and Delta are in a row."""
    entries = {"gradient": component["gradient"], f"{prefix}delta": component["delta"][baseline]}
    entries |= {f"{prefix}{metric}_drop": component["causal"][baseline][metric] for metric in METRICS}
    for name, entry in entries.items():
        for end, value in zip(("low", "high"), entry["ci"] or (None, None), strict=True):
            same(row[f"{name}_{end}"], value)


def same(cell: Any, value: Any) -> None:
    """A cell of a table holds what the JSON holds; a missing value is missing there too."""
    assert pd.isna(cell) if value is None else cell == value


def test_a_skipped_run_is_a_row_per_baseline_with_its_reason(runs: Path) -> None:
    path = runs / "b" / "gap" / "final.json"
    rows = [row for row in gcgap.read(runs).to_dict("records") if row["path"] == str(path)]
    assert [row["baseline"] for row in rows] == ["mean", "zero"]
    for row in rows:
        assert pd.isna([row["component"], row["gradient"], row["rho"]]).all()
        assert "no OOD length" in row["reason"]
    assert Record.read(runs / "b" / "gap" / "final.json").skipped == tiny.skipped()["skipped"]


def test_the_mean_of_rho_over_records_leaves_missing_ones_out(runs: Path) -> None:
    rho = {(row["path"], row["baseline"]): row["rho"] for row in gcgap.read(runs).to_dict("records")}
    assert len(rho) == 6
    assert pd.Series(rho).mean() == 0.5
    assert sorted(value for value in rho.values() if not pd.isna(value)) == [0.5, 0.5]


def test_the_last_checkpoint_of_a_run_counts_once(tmp_path: Path) -> None:
    gap = tmp_path / "run" / "gap"
    for step in (0, 50):
        tiny.ten(step=step, rho=-0.5).write(gap / f"step={step:06d}.json")
    tiny.ten(step=50, rho=0.5).write(gap / "final.json")
    tiny.ten(step=50).write(tmp_path / "other" / "gap" / "step=000050.json")
    rows = gcgap.read(tmp_path).query("run == 'sort-seed7' and component == 'L0_H0' and baseline == 'mean'")
    of_run = rows[rows["path"].str.startswith(str(gap))]
    assert list(zip(of_run["step"], of_run["final"], of_run["rho"], strict=True)) == [(50, True, 0.5), (0, False, -0.5)]
    assert len(rows) == 3, "another run's checkpoint of that step is another one"
    assert sorted(gcgap.read(gap, repeats=True).query("component == 'L0_H0' and baseline == 'mean'")["step"]) == [0, 50, 50]


def test_a_checkpoint_of_other_weights_than_the_final_one_is_kept(tmp_path: Path) -> None:
    Record(tiny.ten(step=50).to_dict() | {"checkpoint_sha256": "1" * 64}).write(tmp_path / "step=000050.json")
    tiny.ten(step=50).write(tmp_path / "final.json")
    assert sorted(gcgap.read(tmp_path)["path"].unique()) == [str(tmp_path / "final.json"), str(tmp_path / "step=000050.json")]


@pytest.mark.parametrize("reader", [read, find_records])
def test_packed_records_of_an_earlier_version_are_not_left_out_without_a_word(reader: Any, tmp_path: Path) -> None:
    tiny.ten().write(tmp_path / "gap" / "final.json")
    (tmp_path / "gap" / "steps.jsonl.xz").touch()
    with pytest.raises(ValueError, match="is a file of an earlier version"):
        reader(tmp_path)


def test_a_record_is_found_under_any_name_and_other_json_is_left_out(tmp_path: Path) -> None:
    tiny.ten().write(tmp_path / "mine.json")
    tiny.ten(step=9).write(tmp_path / "deep" / "er" / "an other.json", compact=True)
    others = {"config.json": {"schema": 1}, "list.json": [tiny.ten().to_dict()], "text.json": "schema", "package.json": {"a": 1}}
    others |= {".ipynb_checkpoints/mine-checkpoint.json": tiny.ten().to_dict(), "known.json": {"schema": 1, "kind": "other"}}
    for name, content in others.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        saved(content, tmp_path / name)
    (tmp_path / "half.json").write_text('{"settings": ')  # not JSON, and no record either
    assert set(gcgap.read(tmp_path)["path"]) == {str(tmp_path / "mine.json"), str(tmp_path / "deep" / "er" / "an other.json")}
    assert len(gcgap.read(tmp_path / "mine.json")) == 2 * 10


@pytest.mark.parametrize("change", [lambda text: text[:5000], lambda text: text.replace("0.9375", "0.9376")])
def test_a_record_of_any_name_that_cannot_be_read_is_refused_by_name(change: Any, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    tiny.ten().write(path)
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match=r"mine\.json") as refused:
        gcgap.read(tmp_path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("terminal", [True, False])
def test_reading_shows_its_progress_on_a_terminal_alone(
    terminal: bool, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("gcgap.records.read_records.SLOW", 0)
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    gcgap.read(runs)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert ("Reading records" in shown.err) == terminal
    assert terminal or shown.err == ""
    monkeypatch.setattr("gcgap.records.read_records.SLOW", 60)
    gcgap.read(runs)
    assert capsys.readouterr().err == ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)
USUAL = {
    "a": [1e-5, -1.25e-05, 1.5e-7, 10.00001, 1.00001e-05, 20.000015, 9e-05, 1e-300, 0.0001, 0.1, 1, -3, 2**53, None, True],
    "ρ": ["Größe \u2028 😀", 'a "b": c'],
}


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_a_file_is_read_fast_as_it_is_read_slowly(data: dict[str, Any]) -> None:
    for indent in (1, None):
        for ascii_only in (True, False):
            text = json.dumps(with_checksum(data), ensure_ascii=ascii_only, indent=indent)
            try:
                content = text.encode()
            except UnicodeEncodeError:
                continue
            found, _ = read_json(content)
            assert json.dumps(found) == json.dumps(parsed(text))


def test_a_file_as_it_was_written_is_known_to_be_so_and_any_other_is_not() -> None:
    text = json.dumps(with_checksum(USUAL), ensure_ascii=False, indent=1)
    assert read_json(text.encode()) == (with_checksum(USUAL), True)
    twice = text.replace('"a"', '"a": 0, "a"')
    for other in (text.replace("10.00001", "10.00002"), text.replace("true", "false"), text.replace(CHECKSUM, "sha"), "[1]"):
        assert read_json(other.encode())[1] is False
    for wrong in ('{"a": NaN}', '{"a": 1', "", twice):
        with pytest.raises(ValueError, match=r"null|line 1|the key `a` twice"):
            read_json(wrong.encode())


def test_the_package_lists_its_public_names() -> None:
    assert set(gcgap.__all__) < set(dir(gcgap))
    assert "__version__" in dir(gcgap)


def test_table_has_one_row_per_component_with_the_numbers_of_the_json(tmp_path: Path) -> None:
    record = tiny.ten().write(tmp_path / "final.json")
    data = json.loads((tmp_path / "final.json").read_text())
    table = record.table()
    assert list(table["name"]) == [component["name"] for component in data["components"]]
    for row, component in zip(table.to_dict("records"), data["components"], strict=True):
        assert [row["gradient_low"], row["gradient_high"]] == component["gradient"]["ci"]
        assert row["gradient"] == component["gradient"]["value"]
        for baseline in BASELINES:
            check_intervals(row, component, baseline, f"{baseline}_")
            for metric in METRICS:
                assert row[f"{baseline}_{metric}_drop"] == component["causal"][baseline][metric]["value"]
            assert row[f"{baseline}_delta"] == component["delta"][baseline]["value"]
            assert row[f"{baseline}_role"] == component["role"][baseline]["name"]
            assert row[f"{baseline}_role_probability"] == component["role"][baseline]["probability"]


def test_roles_lists_the_components_of_each_role() -> None:
    by_mean = tiny.ten().roles("mean")
    assert by_mean["hero"] == ["L0_H0"]
    assert by_mean["bloat"] == ["L1_MLP"]
    assert len(by_mean["aligned"]) == 8
    assert tiny.ten().roles("zero")["hero"] == []
    assert tiny.ten(reason="all alike").roles("mean") == {"hero": [], "bloat": [], "aligned": []}


def test_a_directory_without_records_is_refused_by_name(tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ValueError, match="no records") as refused:
            gcgap.read(where)
        assert str(where) in str(refused.value)


def test_one_broken_record_among_many_is_refused_by_name(runs: Path) -> None:
    broken = runs / "c" / "gap" / "step=000250.json"
    broken.parent.mkdir(parents=True)
    broken.write_text("{")
    with pytest.raises(ValueError, match="not a record") as refused:
        find_records(runs)
    assert str(broken) in str(refused.value)


def test_a_synthetic_record_of_these_tests_has_the_shape_of_a_measured_one() -> None:
    """The tests of figures and logs build records by hand; their keys are those of `gcgap.measure`."""
    from gcgap.models.transformer import Transformer

    protocol = Protocol(**tiny.SIZES, batch_size=4, baselines=BASELINES)
    real = gcgap.measure(Transformer(2, 4, 16, 32), task="sort", length=9, protocol=protocol).to_dict()
    by_hand = tiny.ten().to_dict()
    assert by_hand.keys() <= real.keys()
    for place in ("components.0", "components.0.causal.mean", "components.0.delta.mean", "components.0.role.mean", "gap.mean"):
        ours, theirs = (container[key] for container, key in (at(by_hand, place), at(real, place)))
        assert ours.keys() <= theirs.keys()
    skipped = gcgap.measure(Transformer(1, 2, 16, 32), task="sort", protocol=protocol).to_dict()
    assert tiny.skipped().to_dict().keys() <= skipped.keys()


def test_a_compact_record_is_the_same_record_on_one_line(tmp_path: Path) -> None:
    record = tiny.ten()
    wide, narrow = record.write(tmp_path / "wide.json"), record.write(tmp_path / "narrow.json", compact=True)
    assert Record.read(tmp_path / "narrow.json").data == Record.read(tmp_path / "wide.json").data == wide.data == narrow.data
    assert (tmp_path / "narrow.json").read_text().count("\n") == 1
    assert (tmp_path / "narrow.json").stat().st_size < 0.7 * (tmp_path / "wide.json").stat().st_size


def test_records_are_in_the_order_of_their_steps_and_written_by_several_threads(tmp_path: Path) -> None:
    record = tiny.ten()
    for step in (1_000_000, 998_000):
        Record(record.to_dict() | {"step": step}).write(tmp_path / f"step={step:06d}.json")
    assert [one["step"] for one in find_records(tmp_path)] == [998_000, 1_000_000]
    assert gcgap.read(tmp_path)["step"].drop_duplicates().tolist() == [998_000, 1_000_000]
    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(lambda _: record.write(tmp_path / "final.json"), range(40)))
    assert Record.read(tmp_path / "final.json") == written[0]
    assert [path.name for path in tmp_path.glob(".*")] == []
