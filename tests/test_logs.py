"""What loggers hold: every tag of the contract, with the numbers of the records, at the optimiser step."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from pictures import figures
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from gcgap.cli import main
from gcgap.data.batches import Source
from gcgap.importance.protocol import Protocol
from gcgap.models.transformer import Transformer
from gcgap.records.record import Record
from gcgap.report.figures_run import Checkpoint, emergence, is_due, scatter
from gcgap.report.tensorboard import layout, pixels, png, role_table, scalars, write_pictures
from gcgap.training.run import Run, checkpoint_name

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]

COMPONENTS = ["L0_H0", "L0_H1", "L0_MLP", "L1_H0", "L1_H1", "L1_MLP"]
BASELINES = ["mean", "zero", "resample"]
COLUMNS = 8  # of the raster of a long run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def events(run: Path) -> EventAccumulator:
    """Everything in TensorBoard's files of the tiny run."""
    return EventAccumulator(str(run), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE).Reload()


@pytest.fixture(scope="module")
def tracked(run: Path) -> list[dict[str, Any]]:
    return [json.loads((run / "gap" / f"step={step:06d}.json").read_text()) for step in tiny.STEPS]


def expected(record: dict[str, Any]) -> dict[str, float | None]:
    """The contract's scalars of one record, taken from the JSON by hand."""
    found: dict[str, float | None] = {
        "accuracy/in_distribution": record["accuracy"]["in_distribution"],
        "accuracy/ood": record["accuracy"].get("held_out", {"value": record["accuracy"]["by_length"][str(record["length"])]})[
            "value"
        ],
        "role/heroes": record["gap"]["mean"]["heroes"],
        "role/bloats": record["gap"]["mean"]["bloats"],
    }
    for baseline, gap in record["gap"].items():
        found[f"gap/rho/{baseline}"] = gap["rho"]
        found[f"gap/ceiling/{baseline}"] = gap["ceiling"]
    for component in record["components"]:
        name = component["name"]
        found[f"gap/delta/{name}"] = component["delta"]["mean"]["value"]
        found[f"importance/gradient/{name}"] = component["gradient"]["value"]
        found[f"importance/causal/{name}"] = component["causal"]["mean"]["exact_match"]["value"]
    for layer in {component["layer"] for component in record["components"]}:
        roles = [component["role"]["mean"]["name"] for component in record["components"] if component["layer"] == layer]
        for role, plural in (("hero", "heroes"), ("bloat", "bloats")):
            found[f"role/{plural}_layer{layer}"] = None if None in roles else roles.count(role)
    return found


def test_the_tiny_run_has_numbers_and_nulls_to_log(tracked: list[dict[str, Any]]) -> None:
    values = [expected(record) for record in tracked]
    assert values[0]["gap/rho/mean"] is None
    assert values[-1]["gap/rho/mean"] is not None
    assert any(value["role/heroes"] or value["role/bloats"] for value in values)  # machines differ in which


def test_tensorboard_holds_every_scalar_of_the_contract_at_its_step(
    events: EventAccumulator, tracked: list[dict[str, Any]]
) -> None:
    by_step = {record["step"]: expected(record) for record in tracked}
    tags = set(events.Tags()["scalars"])
    for tag in by_step[0]:
        wanted = {step: values[tag] for step, values in by_step.items() if values[tag] is not None}
        logged = {event.step: event.value for event in events.Scalars(tag)} if tag in tags else {}
        assert logged.keys() == wanted.keys(), tag
        for step, value in wanted.items():
            assert logged[step] == pytest.approx(value, rel=1e-6), tag
    assert {tag for tag in by_step[0] if tag.startswith("gap/delta/")} == {f"gap/delta/{name}" for name in COMPONENTS}
    assert {f"gap/rho/{baseline}" for baseline in BASELINES} <= by_step[0].keys()


def test_no_scalar_is_logged_twice_for_a_step(events: EventAccumulator) -> None:
    ours = ("accuracy/", "final/", "gap/", "importance/", "role/")
    for tag in (tag for tag in events.Tags()["scalars"] if tag.startswith(ours)):
        steps = [event.step for event in events.Scalars(tag)]
        assert steps == sorted(set(steps)), tag


def test_tensorboard_holds_both_pictures_at_every_measured_step(events: EventAccumulator) -> None:
    assert set(events.Tags()["images"]) == {"gap/scatter", "gap/emergence"}
    for tag in ("gap/scatter", "gap/emergence"):
        images = events.Images(tag)
        assert [image.step for image in images] == list(tiny.STEPS)
        for image in images:
            assert image.encoded_image_string.startswith(b"\x89PNG")
            assert min(image.width, image.height) > 200


def test_the_layout_has_a_chart_per_layer(events: EventAccumulator) -> None:
    (event,) = events.Tensors("custom_scalars__config__")
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])  # pyright: ignore[reportAttributeAccessIssue]
    charts = {category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart} for category in found.category}
    quantities = {"rank difference": "gap/delta", "gradient magnitude": "importance/gradient"}
    for title, tag in (quantities | {"causal importance": "importance/causal"}).items():
        assert charts[title] == {
            "layer 0": [f"^{tag}/{name}$" for name in COMPONENTS[:3]],
            "layer 1": [f"^{tag}/{name}$" for name in COMPONENTS[3:]],
        }
    assert "^gap/rho/zero$" in charts["gap"]["rho and its ceiling"]
    tags = [one for chart in charts.values() for patterns in chart.values() for one in patterns]
    logged = {f"^{tag}$" for tag in events.Tags()["scalars"]}
    assert set(tags) - logged <= {f"^gap/ceiling/{baseline}$" for baseline in BASELINES}  # null at every step of this run


def test_the_text_table_names_every_role(events: EventAccumulator, tracked: list[dict[str, Any]]) -> None:
    texts = {event.step: event.tensor_proto.string_val[0].decode() for event in events.Tensors("role/table/text_summary")}
    assert set(texts) == set(tiny.STEPS)
    for component in tracked[-1]["components"]:
        (line,) = (line for line in texts[tiny.STEPS[-1]].splitlines() if line.startswith(f"| {component['name']} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        for cell, baseline in zip(cells, BASELINES, strict=True):
            assert cell.startswith(component["role"][baseline]["name"] or "-")


def test_hparams_hold_the_config_and_the_final_numbers(events: EventAccumulator, run: Path) -> None:
    found = events.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    data = plugin_data_pb2.HParamsPluginData.FromString(found)  # pyright: ignore[reportAttributeAccessIssue]
    pairs = data.session_start_info.hparams
    settings = {key: pairs[key].string_value or pairs[key].number_value or pairs[key].bool_value for key in pairs}
    assert settings["task"] == "sort"
    assert [settings[key] for key in ("seed", "n_layers", "n_heads", "d_model", "d_ff")] == [42, 2, 2, 32, 64]
    assert settings["learning_rate"] == 0.01
    assert settings["protocol.site"] == "component"
    assert settings["protocol.tracking.length"] == 4
    assert settings["target.accuracy"] == 1.0
    final = json.loads((run / "gap" / "final.json").read_text())
    wanted = {
        "final/rho": final["gap"]["mean"]["rho"],
        "final/heroes": final["gap"]["mean"]["heroes"],
        "final/bloats": final["gap"]["mean"]["bloats"],
        "final/accuracy_in_distribution": final["accuracy"]["in_distribution"],
        "final/steps": tiny.STEPS[-1],
    }
    for tag, value in wanted.items():
        (event,) = events.Scalars(tag)
        assert event.value == pytest.approx(value, rel=1e-6)
    assert "hp_metric" not in events.Tags()["scalars"]


def test_the_final_numbers_stand_at_the_last_optimiser_step(events: EventAccumulator) -> None:
    for tag in ("final/rho", "final/heroes", "final/bloats", "final/accuracy_in_distribution"):
        assert [event.step for event in events.Scalars(tag)] == [tiny.STEPS[-1]], tag


def test_loss_and_validation_are_logged_at_optimiser_steps(events: EventAccumulator) -> None:
    assert {event.step for event in events.Scalars("accuracy/validation")} <= {149, 150, 299, 300}
    assert max(event.step for event in events.Scalars("loss")) <= tiny.STEPS[-1]


def test_another_logger_gets_the_same_scalars_and_the_run_its_records(tmp_path: Path) -> None:
    run, logs = tmp_path / "run", tmp_path / "logs"
    logger = ["--trainer.logger=CSVLogger", f"--trainer.logger.save_dir={logs}"]
    assert main([*tiny.arguments(run, trainer__max_steps=60, protocol__tracking__dense_every=30), *logger]) == 0
    (metrics,) = logs.rglob("metrics.csv")
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    for step in (0, 30, 60):
        record = json.loads((run / "gap" / f"step={step:06d}.json").read_text())
        for tag, value in expected(record).items():
            logged = [row[tag] for row in rows if int(row["step"]) == step and row.get(tag)]
            assert [float(one) for one in logged] == ([] if value is None else [pytest.approx(value, rel=1e-6)]), tag
    names = set(tiny.files(run))
    assert {"gap/final.json", "gap/emergence.png", "config.yaml", "checkpoints/last.ckpt"} <= names
    assert not any("tfevents" in name for name in names)


def test_without_a_logger_a_run_has_its_records_and_its_picture(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main([*tiny.arguments(run, **tiny.SHORT), "--trainer.logger=false"]) == 0
    wanted = {f"{kind}={step:06d}.{end}" for step in (0, 4) for kind, end in (("checkpoints/step", "ckpt"), ("gap/step", "json"))}
    wanted |= {"config.yaml", "checkpoints/last.ckpt", "gap/final.json", "gap/emergence.png"}
    assert set(tiny.files(run)) == wanted


def test_scalars_are_the_numbers_of_the_record() -> None:
    record = tiny.ten()
    found = scalars(record)
    wanted = {tag: value for tag, value in expected(record.to_dict()).items() if value is not None}
    assert found.items() >= wanted.items()
    assert (found["role/heroes"], found["role/bloats"]) == (1, 1)
    assert (found["role/heroes_layer0"], found["role/bloats_layer0"]) == (1, 0)
    assert (found["role/heroes_layer1"], found["role/bloats_layer1"]) == (0, 1)
    assert found["gap/delta/L0_H0"] == -9
    assert found["gap/delta/L1_MLP"] == 9
    assert set(found) - set(wanted) == {f"gap/rho_log_prob/{b}" for b in ("mean", "zero")} | {
        f"importance/causal_log_prob/{component['name']}" for component in record["components"]
    }


def test_scalars_leave_missing_numbers_out() -> None:
    record = tiny.ten(reason="the causal importance of all components is the same")
    found = scalars(record)
    gone = ("gap/rho/mean", "gap/ceiling/zero", "gap/delta/L0_H0", "role/heroes", "role/bloats_layer1")
    assert not found.keys() & set(gone)
    assert {"accuracy/ood", "accuracy/in_distribution", "importance/gradient/L0_H0", "importance/causal/L1_MLP"} <= found.keys()
    assert all(np.isfinite(value) for value in found.values())


def test_a_ceiling_that_does_not_exist_is_left_out_alone() -> None:
    found = scalars(tiny.ten(ceiling=None, corrected=None))
    assert "gap/ceiling/mean" not in found
    assert found["gap/rho/mean"] == 0.5


def test_the_layout_of_a_record_covers_every_component_once() -> None:
    charts = layout(tiny.ten())
    for title in ("rank difference", "gradient magnitude", "causal importance"):
        patterns = [pattern for chart in charts[title].values() for pattern in chart[1]]
        assert len(patterns) == len(set(patterns)) == 10
        assert list(charts[title]) == ["layer 0", "layer 1"]


def test_the_role_table_shows_roles_and_gaps_in_them() -> None:
    lines = role_table(tiny.ten()).splitlines()
    assert "| L0_H0 | hero (Δ -9.0, P 0.88) | aligned (Δ +0.0, P 0.88) |" in lines
    assert "| L1_MLP | bloat (Δ +9.0, P 0.88) | aligned (Δ +0.0, P 0.88) |" in lines
    assert len([line for line in lines if line.startswith("| L")]) == 10
    nothing = role_table(tiny.ten(reason="all alike"))
    assert "| L0_H0 | - | - |" in nothing
    assert "all alike" in nothing
    assert "Skipped" in role_table(tiny.skipped())


def test_pixels_are_an_image_of_the_figure() -> None:
    image = pixels(png(scatter(tiny.ten())))
    assert image.shape == (550, 1210, 3)
    assert 0 <= image.min() < 0.3 < 0.95 < image.max() <= 1


class Writer:
    """A SummaryWriter that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, Any]] = []

    def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
        assert dataformats == "HWC"
        self.seen.append((tag, step, image.shape))

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.seen.append((tag, step, text))


def test_pictures_are_written_at_the_step_of_their_record() -> None:
    writer = Writer()
    history: list[Record] = [tiny.ten(step=0, reason="all alike"), tiny.ten(step=250)]
    with figures():
        write_pictures(writer, history[1], png(emergence(history)))
    assert [(tag, step) for tag, step, _ in writer.seen] == [("gap/scatter", 250), ("gap/emergence", 250), ("role/table", 250)]
    assert writer.seen[2][2] == role_table(history[1])


class Long:
    """A run of many checkpoints whose measurements and pictures cost nothing, and how often it reads and draws."""

    def __init__(self, directory: Path, patched: pytest.MonkeyPatch) -> None:
        self.directory, self.calls, self.drawn = directory, Counter[str](), list[int]()
        read, written = Record.read, Record.write
        patched.setattr("gcgap.report.figures_run.MOST", COLUMNS)
        patched.setattr("gcgap.training.run.measure", lambda *_, origin, **__: tiny.ten(step=origin.step))
        patched.setattr("gcgap.training.run.sha256", lambda _: "0" * 64)
        patched.setattr(Run, "holds", lambda *_: True)
        patched.setattr("gcgap.training.run.emergence", self._emergence)
        patched.setattr("gcgap.training.run.png", lambda _: b"")
        patched.setattr(Record, "read", classmethod(lambda _, path: self.calls.update(["read"]) or read(path)))
        patched.setattr(Record, "write", lambda record, path: self.calls.update(["write"]) or written(record, path, compact=True))
        self.model = Transformer(1, 1, 8, 8)

    def _emergence(self, columns: list[Checkpoint]) -> None:
        self.drawn.append(columns[-1].step)

    def start(self) -> Run:
        """The run as a process that trains it makes it."""
        training = {"target_accuracy": None}
        return Run(self.directory, Source("sort"), Protocol(), training, settings={}, loggers=())


def test_a_run_reads_its_earlier_records_once_and_draws_few_of_many_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long, end = Long(tmp_path, monkeypatch), 3 * COLUMNS + 4
    first = long.start()
    for step in range(COLUMNS + 2):
        first.track(long.model, step)
    assert long.calls.pop("read") == 1, "the first one, which is there already"
    resumed = long.start()
    for step in range(COLUMNS, end):  # the last ones of the first attempt came after its last checkpoint
        resumed.track(long.model, step)
    assert long.calls["read"] == COLUMNS + 2
    assert resumed.history is not None
    assert [column.step for column in resumed.history] == list(range(end))
    due = [step for step in range(end) if is_due(step + 1)]
    again = [step for step in range(COLUMNS, COLUMNS + 2) if is_due(step + 1)]
    assert sorted(long.drawn) == sorted(due + again)
    assert not is_due(end)
    resumed.finish(long.model, end - 1, checkpoint_name(end - 1))
    assert long.drawn[-1] == end - 1, "the last checkpoint is always drawn"


def test_pictures_of_a_checkpoint_that_is_not_drawn_come_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long, shown = Long(tmp_path, monkeypatch), list[int]()
    monkeypatch.setattr("gcgap.training.run.write_pictures", lambda _writer, record, _raster: shown.append(record["step"]))
    monkeypatch.setattr(Run, "_tensorboards", lambda _: [_Logger()])
    run = long.start()
    for step in range(COLUMNS + 2):
        run.track(long.model, step)
    assert shown == list(range(COLUMNS + 1))
    run.finish(long.model, COLUMNS + 1, checkpoint_name(COLUMNS + 1))
    assert shown == list(range(COLUMNS + 2))


class _Logger:
    """Stands for a TensorBoardLogger."""

    experiment = type("Writer", (), {"add_custom_scalars": lambda *_: None})()

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...
