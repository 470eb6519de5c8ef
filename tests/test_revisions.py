"""Revisions of a pretrained model: which record is taken, made, told or refused, with stand-ins for loading and measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny

from gcgap.commands import options, targets
from gcgap.commands.options import PretrainedOptions, check_alone
from gcgap.commands.targets import Revisions
from gcgap.data.prompt_source import PromptSource
from gcgap.importance.protocol import Protocol
from gcgap.models.loading import step_of
from gcgap.models.transformer import Origin
from gcgap.records.record import Record
from gcgap.training.usage import UsageError

PROTOCOL = Protocol(sequences=9)
Measured = Callable[..., tuple[list[str], Record]]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """Measures revisions, and gives the new records and the last one; weights that are not given are those of the name."""

    def call(*names: str | None, protocol: Protocol = PROTOCOL, force: bool = False, **weights: Any) -> tuple[list[str], Record]:
        source = PromptSource(task="ioi", seed=42, draw=lambda *_: [], file_sha256=weights.pop("prompts", None))
        new: list[str] = []

        def load(given: PretrainedOptions, name: str | None) -> Any:
            return SimpleNamespace(origin=Origin(source, None, step_of(name), weights.get(str(name), f"weights of {name}")))

        def measure(model: Any, length: None, protocol: Protocol) -> Record:
            told = {"protocol": protocol.to_dict() | source.as_record(), "checkpoint_sha256": model.origin.checkpoint_sha256}
            return Record(tiny.ten(step=model.origin.step).to_dict() | told)

        def done(record: Record, known: bool) -> None:
            assert record.path is not None
            new.extend([] if known else [record.path.name])

        monkeypatch.setattr(PretrainedOptions, "load", load)
        monkeypatch.setattr(targets, "measure", measure)
        return new, Revisions(PretrainedOptions("me/mine"), names, protocol, tmp_path / "gap", force).measure(done)

    return call


def test_a_record_is_taken_only_for_the_same_weights_protocol_and_prompts(measured: Measured) -> None:
    assert measured(None)[0] == ["final.json"]
    assert measured(None)[0] == []
    cases: list[tuple[str, dict[str, Any]]] = [
        (r"with `protocol\.sequences` 9; asked for 8", {"protocol": replace(PROTOCOL, sequences=8)}),
        (r"with `protocol\.prompts_sha256` None; asked for 0000", {"prompts": "0" * 64}),
        ("of other weights", {"None": "others"}),
    ]
    for told, change in cases:
        with pytest.raises(ValueError, match=rf"final\.json` holds a record {told}"):
            measured(None, **change)
        new, record = measured(None, force=True, **change)
        assert new == ["final.json"]
        assert measured(None, **change)[0] == []
        assert (record["final"], record["revision"], record["run"]) == (True, None, "me-mine-ioi-seed42")
        assert measured(None, force=True)[0] == ["final.json"]


def test_the_final_record_is_that_of_the_last_step_whatever_was_asked_for_last(measured: Measured) -> None:
    new, record = measured("step2000", "step0", "step512")
    assert new == ["step=000000.json", "step=000512.json", "step=002000.json"], "in the order of the steps"
    assert record.path is not None
    assert record.path.name == "final.json"
    assert (record["step"], record["final"], record["revision"]) == (2000, True, "step2000")
    steps = [Record.read(path) for path in sorted(record.path.parent.glob("step=*.json"))]
    assert [(one["step"], one["final"], one["revision"]) for one in steps] == [
        (0, False, "step0"),
        (512, False, "step512"),
        (2000, False, "step2000"),
    ]
    new, record = measured("step1000")
    assert (new, record["step"]) == (["step=001000.json"], 2000)


def test_a_revision_without_a_step_stays_the_final_one(measured: Measured) -> None:
    assert measured("main")[1]["revision"] == "main"
    new, record = measured("step5")
    assert new == ["step=000005.json"]
    assert (record["revision"], record["step"], record["final"]) == ("main", None, True)


@pytest.mark.parametrize("names", [("step1", None), ("main", "step1"), ("step1", "step2", "step-1"), ("main", "other")])
def test_several_revisions_must_be_of_different_steps(names: tuple[str | None, ...], measured: Measured) -> None:
    with pytest.raises(UsageError, match=r"`--revision` must be one, or several of different steps"):
        measured(*names)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("checkpoint-500", "step500"), "got checkpoint-500 and step500, which both name step 500"),
        (("step1", "tokens424B"), "got tokens424B, in which no one number follows step, iter, checkpoint or ckpt"),
        (("stage1-step9", "stage2-ingredient1-step3"), "of one stage; got stage1-step9 and stage2-ingredient1-step3"),
        (("step1-seed0", "step2-seed1"), "of one stage; got step1-seed0 and step2-seed1"),
    ],
)
def test_revisions_that_are_not_steps_of_one_training_say_why(names: tuple[str, ...], said: str, measured: Measured) -> None:
    with pytest.raises(UsageError, match=said):
        measured(*names)


@pytest.mark.parametrize("names", [("checkpoint-1000", "checkpoint-500"), ("epoch=1-step=1000", "epoch=0-step=500")])
def test_names_of_steps_that_others_use_are_steps(names: tuple[str, ...], measured: Measured) -> None:
    new, record = measured(*names)
    assert new == ["step=000500.json", "step=001000.json"]
    assert (record["step"], record["revision"], record["final"]) == (1000, names[0], True)


def test_steps_of_one_stage_differ_in_their_tokens(measured: Measured) -> None:
    new, _ = measured("stage1-step101000-tokens424B", "stage1-step102000-tokens428B")
    assert new == ["step=101000.json", "step=102000.json"]


def test_revisions_of_the_same_weights_are_told_and_others_are_not(
    measured: Measured, capsys: pytest.CaptureFixture[str]
) -> None:
    measured("step1", "step2")
    measured("step1", "step2", force=True)
    assert capsys.readouterr().err == ""
    measured("step3", step3="weights of step1")
    assert "revision step3 of `me/mine` has the very weights of step1" in capsys.readouterr().err


ALL = PretrainedOptions("m", "p", "before", True, "random", 0, 3, "bf16", "auto", "eager", 0.5, True, True)


def test_all_that_is_given_reaches_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}
    monkeypatch.setattr("gcgap.models.loading.load_pretrained", lambda *names, **more: asked.update(more, names=names))
    given = PretrainedOptions.of(vars(ALL) | {"out": "elsewhere", "revision": ["step1"]})
    assert given == ALL
    given.load("step1")
    wanted = {name: value for name, value in vars(ALL).items() if name not in ("model", "precision")}
    assert asked == wanted | {"names": ("m", "step1"), "dtype": "bfloat16"}
    PretrainedOptions.of(dict.fromkeys(vars(ALL)) | {"model": "m"}).load(None)
    assert asked["names"] == ("m", None)
    assert (asked["prompts"], asked["seed"], asked["dtype"], asked["trust_remote_code"]) == ("ioi", 42, "float32", False)


def test_the_name_of_a_run_tells_model_prompts_and_seed_and_leads_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert PretrainedOptions("EleutherAI/pythia-70m", "induction", seed=7).run == "EleutherAI-pythia-70m-induction-seed7"
    assert PretrainedOptions("..").run == f"{options.plain(tmp_path.parent.name)}-ioi-seed42"
    assert PretrainedOptions("../..//\0").run == "model-ioi-seed42"
    (tmp_path / "ioi").write_text("a file of this name does not change what the name means")
    assert PretrainedOptions("gpt2").run == "gpt2-ioi-seed42"
    names = []
    for text in ("one", "two"):
        (tmp_path / "mine.jsonl").write_text(text)
        names.append(PretrainedOptions("gpt2", "mine.jsonl").run)
    assert len(set(names)) == 2
    assert all(name.startswith("gpt2-mine-") for name in names)


@pytest.mark.parametrize("name", [*options.TEXTS, "revision"])
def test_every_option_of_a_model_is_refused_without_one(name: str) -> None:
    unset: dict[str, Any] = dict.fromkeys(options.TEXTS) | dict.fromkeys(options.FLAGS, False)
    check_alone(unset | {"revision": []})
    check_alone(unset | {"revision": None})
    given = True if name in options.FLAGS else 0
    if name == "model":
        check_alone(unset | {name: given})
    else:
        with pytest.raises(UsageError, match=f"`--{name.replace('_', '-')}` belongs to `--model`"):
            check_alone(unset | {name: given})


def test_many_revisions_read_the_records_that_are_there_once(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    measured(*(f"step{number}" for number in range(1, 5)))
    reads, read = list[str](), Record.read
    monkeypatch.setattr(Record, "read", classmethod(lambda _, path: reads.append(path.name) or read(path)))
    measured(*(f"step{number}" for number in range(5, 13)))
    assert max(Counter(reads).values()) <= 2, "once before the first is measured, and once for the last of them"
