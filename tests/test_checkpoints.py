"""Checkpoints: what loads, what is refused, and that nothing in a file ever runs."""

from __future__ import annotations

import copy
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

import gcgap
from gcgap.data.batches import Layout, Purpose
from gcgap.importance.protocol import Baseline
from gcgap.models.checkpoints import last_checkpoint, run_directory, sha256, step_checkpoints
from gcgap.models.transformer import Transformer
from gcgap.training.module import SequenceModel

pytestmark = [pytest.mark.filterwarnings(warning) for warning in tiny.LIGHTNING_WARNINGS]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.trained(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def content(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "step=000300.ckpt", weights_only=True)


class Payload:
    """Unpickling this creates a directory."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.target),))


def refused(path: Path) -> str:
    """The one line of text with which a file is refused; nothing is written beside it."""
    before = tiny.files(path.parent)
    with pytest.raises(ValueError, match="checkpoint") as refusal:
        gcgap.load(path)
    assert tiny.files(path.parent) == before
    text = str(refusal.value)
    assert str(path) in text
    assert "\n" not in text
    return text


def same_weights(first: Any, second: Any) -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_loaded_model_gives_the_logits_of_the_trained_one(run: Path, content: dict[str, Any]) -> None:
    trained = SequenceModel(**{key: value for key, value in content["hyper_parameters"].items() if key[0] != "_"})
    trained.load_state_dict(content["state_dict"])
    model = gcgap.load(run)
    tokens = model.origin.source.batch(Purpose.EVALUATION, 4, 8).inputs
    assert torch.equal(model(tokens), trained.model.eval()(tokens))
    assert not torch.equal(model(tokens), gcgap.load(run / "checkpoints" / "step=000000.ckpt")(tokens))


def test_a_loaded_model_knows_where_it_comes_from(run: Path) -> None:
    model = gcgap.load(run)
    origin = model.origin
    assert (origin.run, origin.step) == ("sort-tiny", 300)
    assert origin.checkpoint_sha256 == sha256(run / "checkpoints" / "step=000300.ckpt")
    source = origin.source
    assert (source.task, source.seed, source.layout) == ("sort", 42, Layout.CONTIGUOUS)
    assert (source.lengths, source.ood_lengths) == ((1, 3), (4, 5))
    assert not model.training


def test_a_directory_stands_for_its_highest_step(run: Path) -> None:
    checkpoints = [run / "checkpoints" / f"step={step:06d}.ckpt" for step in tiny.STEPS]
    assert step_checkpoints(run) == checkpoints
    assert last_checkpoint(run) == last_checkpoint(str(run)) == checkpoints[-1]
    assert [gcgap.load(path).origin.step for path in checkpoints] == list(tiny.STEPS)
    assert same_weights(gcgap.load(run), gcgap.load(run / "checkpoints" / "last.ckpt"))


def test_a_directory_that_has_only_last_stands_for_that(run: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes((run / "checkpoints" / "last.ckpt").read_bytes())
    assert last_checkpoint(tmp_path) == last
    assert run_directory(last) == tmp_path.resolve()


@pytest.mark.parametrize("steps", [(999_999, 1_000_000), (2, 10)])
def test_checkpoints_are_in_the_order_of_their_steps(steps: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    for step in reversed(steps):
        (tmp_path / "checkpoints" / f"step={step:06d}.ckpt").touch()
    assert [path.name for path in step_checkpoints(tmp_path)] == [f"step={step:06d}.ckpt" for step in steps]


def test_loading_and_measuring_leave_the_random_generator_as_it_was(run: Path) -> None:
    before = torch.get_rng_state()
    gcgap.load(run)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["missing.ckpt", "missing/checkpoints/last.ckpt", "."])
def test_a_missing_checkpoint_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist|holds no checkpoint") as refusal:
        gcgap.load(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)


@pytest.mark.parametrize("share", [0, 1e-3, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(share: float, run: Path, tmp_path: Path) -> None:
    whole = (run / "checkpoints" / "step=000300.ckpt").read_bytes()
    path = tmp_path / "cut.ckpt"
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path)


def test_a_flipped_bit_is_refused_or_changes_nothing(run: Path, tmp_path: Path) -> None:
    whole = (run / "checkpoints" / "step=000300.ckpt").read_bytes()
    original, rng, path = gcgap.load(run), random.Random(0), tmp_path / "flipped.ckpt"
    said = 0
    # every part of the archive: the pickle at its beginning, the weights, and the directory at its end
    for low, high, count in ((0, 6000, 60), (6000, len(whole) - 6000, 60), (len(whole) - 6000, len(whole), 60)):
        for _ in range(count):
            damaged = bytearray(whole)
            damaged[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
            path.write_bytes(damaged)
            try:
                model = gcgap.load(path)
            except ValueError as refusal:
                said += str(path) in str(refusal)
                continue
            assert same_weights(model, original)
            assert model.origin.source == original.origin.source
            said += 1
    assert said == 180


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_damage_inside_the_pickle_is_refused_or_changes_no_weight(run: Path, tmp_path: Path) -> None:
    """The checksums of the archive are right here, so that nothing but the reading of the pickle can refuse."""
    original, rng, path = gcgap.load(run), random.Random(1), tmp_path / "damaged.ckpt"
    with zipfile.ZipFile(run / "checkpoints" / "step=000300.ckpt") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    outcomes = {"read": 0, "refused": 0}
    for _ in range(150):
        damaged = bytearray(parts[name])
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        with zipfile.ZipFile(path, "w") as archive:
            for part, data in parts.items():
                archive.writestr(part, bytes(damaged) if part == name else data)
        try:
            gcgap.load(path)
        except ValueError as refusal:
            outcomes["refused"] += str(path) in str(refusal)
            continue
        outcomes["read"] += 1
    assert same_weights(gcgap.load(run), original)
    assert sum(outcomes.values()) == 150
    assert min(outcomes.values()) > 10


@pytest.mark.parametrize("text", ["", "hello", "{}\n" * 1000, "PK\x03\x04 not an archive"])
def test_a_text_file_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "text.ckpt"
    path.write_text(text)
    refused(path)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize(
    "foreign",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        7,
        None,
        {},
        {"state_dict": {}},
        {"state_dict": {"weight": torch.zeros(2, 2)}, "hyper_parameters": {"width": 2}, "global_step": 5},
        {"model": {"embedding.weight": torch.zeros(104, 32)}},
    ],
    ids=["tensor", "list", "number", "none", "empty", "nothing", "other", "weights"],
)
def test_a_foreign_file_is_refused(foreign: Any, legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "foreign.ckpt"
    torch.save(foreign, path, _use_new_zipfile_serialization=not legacy)
    refused(path)


@pytest.mark.parametrize(
    ("block", "key", "value"),
    [
        *[("hyper_parameters", "d_model", 64), ("hyper_parameters", "d_model", 0), ("hyper_parameters", "d_model", "32")],
        *[("hyper_parameters", "n_heads", 3), ("hyper_parameters", "n_layers", 3), ("hyper_parameters", "n_layers", None)],
        *[("hyper_parameters", "positions", "spiral"), ("hyper_parameters", "attention", "flash")],
        *[("datamodule_hyper_parameters", "task", "frob"), ("datamodule_hyper_parameters", "layout", "frob")],
        *[("datamodule_hyper_parameters", "lengths", [3]), ("datamodule_hyper_parameters", "ood_lengths", [2])],
        *[("datamodule_hyper_parameters", "seed", -1), ("datamodule_hyper_parameters", "ood_lengths", 9)],
        *[("state_dict", "model.embedding.weight", torch.zeros(2, 2)), ("state_dict", "model.embedding.weight", 0)],
        *[("state_dict", "model.other", torch.zeros(1)), ("hyper_parameters", "d_ff", torch.zeros(3))],
    ],
)
def test_a_checkpoint_that_does_not_fit_together_is_refused(
    block: str, key: str, value: Any, content: dict[str, Any], tmp_path: Path
) -> None:
    changed = copy.deepcopy(content)
    changed[block][key] = value
    path = tmp_path / "changed.ckpt"
    torch.save(changed, path)
    refused(path)


WEIGHT = "model.blocks.0.attention.W_K.weight"
FORMATS: dict[str, tuple[Callable[[torch.Tensor], Any], str]] = {
    "int8": (lambda weight: weight.to(torch.int8), "got int8"),
    "bool": (lambda weight: weight > 0, "got bool"),
    "complex": (lambda weight: torch.complex(weight, torch.ones_like(weight)), "got complex64"),
    "float8": (lambda weight: weight.to(torch.float8_e4m3fn), "got float8_e4m3fn"),
    "quantised": (lambda weight: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8), "got qint8"),
    "sparse": (lambda weight: weight.to_sparse(), "in the layout sparse_coo"),
    "float64": (lambda weight: weight.double(), f"must be of one number format, float32; got float64 in `{WEIGHT}`"),
    "of one row": (lambda weight: weight[:1].expand_as(weight), "which are repeated"),
    "of one number": (lambda weight: torch.zeros(1).expand(weight.shape), "which are repeated"),
    "in no memory": (lambda weight: weight.to("meta"), "must be in memory"),
    "of another size": (lambda weight: weight[:, :3], "must be of size [32, 32]"),
    "no tensor": (lambda weight: weight.tolist(), "must be a plain tensor; got a list"),
    "not finite": (lambda weight: weight / 0, f"the weight `{WEIGHT}` is not finite"),
}
"""What PyTorch would copy into a weight, or a file may hold instead of one."""


@pytest.mark.filterwarnings("ignore:.*(quantize_per_tensor|Sparse|TypedStorage|torch.ao).*")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_weight_that_is_no_dense_number_of_the_common_format_is_refused(
    kind: str, content: dict[str, Any], tmp_path: Path
) -> None:
    make, told = FORMATS[kind]
    changed = {"state_dict": content["state_dict"] | {WEIGHT: make(content["state_dict"][WEIGHT])}}
    torch.save(content | changed, tmp_path / "changed.ckpt")
    text = refused(tmp_path / "changed.ckpt")
    assert told in text
    assert WEIGHT in text


def test_a_model_in_memory_is_measured_only_with_floating_point() -> None:
    model = Transformer(1, 2, 8, 8)
    weight = model.blocks[0].mlp.W_in.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.int8)
    with pytest.raises(ValueError, match=r"`blocks\.0\.mlp\.W_in\.weight` must be dense and of floating point .*; got int8"):
        gcgap.measure(model, task="sort")


@pytest.mark.parametrize("positions", ["none", "rotary", "sinusoidal"])
def test_a_context_that_no_weight_bears_out_is_refused_before_it_is_made(
    positions: str, content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.models.transformer.sinusoids", lambda *_: pytest.fail("the table is made"))
    sizes = content["hyper_parameters"] | {"positions": positions, "n_ctx": 50_000_000}
    torch.save(content | {"hyper_parameters": sizes}, tmp_path / "giant.ckpt")
    assert "`model.n_ctx` must be at most 65536 unless positions are learned; got 50000000" in refused(tmp_path / "giant.ckpt")


@pytest.mark.parametrize(
    ("block", "key", "value", "told"),
    [
        *[("hyper_parameters", key, True, f"`model.{key}` must be an integer") for key in ("n_layers", "n_heads", "vocabulary")],
        ("hyper_parameters", "vocabulary", 10**12, "vocabulary 1000000000000"),
        ("datamodule_hyper_parameters", "ood_lengths", [10**9], "the model's context"),
        ("datamodule_hyper_parameters", "lengths", [1.0, 3], "`data.lengths` must be of integers"),
        ("training", "learning_rate", {"a": 1}, "`training` must hold settings"),
    ],
)
def test_settings_that_no_model_was_trained_with_are_refused(
    block: str, key: str, value: Any, told: str, content: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(content | {block: content[block] | {key: value}}, tmp_path / "changed.ckpt")
    assert told in refused(tmp_path / "changed.ckpt")


@pytest.mark.parametrize("block", ["hyper_parameters", "datamodule_hyper_parameters", "state_dict", "global_step"])
def test_a_checkpoint_without_a_part_is_refused_by_its_name(block: str, content: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "part.ckpt"
    torch.save({key: value for key, value in content.items() if key != block}, path)
    if block == "state_dict":
        refused(path)
    else:
        assert block in refused(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["alone", "in the weights", "beside the weights", "plain pickle", "legacy format"])
def test_a_pickle_with_a_payload_is_refused_and_never_runs(place: str, content: dict[str, Any], tmp_path: Path) -> None:
    target, path = tmp_path / "it-ran", tmp_path / "payload.ckpt"
    payload = Payload(target)
    if place == "plain pickle":
        path.write_bytes(pickle.dumps(payload))
    elif place == "in the weights":
        torch.save(content | {"state_dict": content["state_dict"] | {"model.embedding.weight": payload}}, path)
    elif place == "beside the weights":
        torch.save(content | {"hyper_parameters": content["hyper_parameters"] | {"later": payload}}, path)
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=place == "alone")
    refused(path)
    assert not target.exists()


def test_the_payload_of_these_tests_would_run_if_it_were_unpickled(tmp_path: Path) -> None:
    target = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Payload(target)))
    assert target.is_dir()


def test_a_checkpoint_whose_model_was_compiled_is_refused_by_that_name(content: dict[str, Any], tmp_path: Path) -> None:
    other = copy.deepcopy(content)
    other["state_dict"] = {name.replace("model.", "model._orig_mod.", 1): w for name, w in content["state_dict"].items()}
    torch.save(other, tmp_path / "compiled.ckpt")
    assert "Their names carry `_orig_mod.`, which torch.compile adds" in refused(tmp_path / "compiled.ckpt")


def test_a_folder_of_checkpoints_may_be_a_link(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "named")
    (tmp_path / "named" / "checkpoints").rename(tmp_path / "elsewhere")
    (tmp_path / "named" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    model = gcgap.load(tmp_path / "named")
    assert model.origin is not None
    assert model.origin.run == "named"


def test_a_model_is_loaded_and_measured_inside_inference_mode_as_outside(run: Path) -> None:
    protocol = gcgap.Protocol(**tiny.SIZES, baselines=(Baseline.ZERO,))
    with torch.inference_mode():
        inside = gcgap.measure(gcgap.load(run), length=4, protocol=protocol)
    outside = gcgap.measure(gcgap.load(run), length=4, protocol=protocol)
    assert inside["components"] == outside["components"]
    with torch.inference_mode():
        model = Transformer(n_layers=1, n_heads=1, d_model=8, d_ff=8, n_ctx=32)
    with pytest.raises(ValueError, match=r"made under `torch\.inference_mode`"):
        gcgap.measure(model, "sort", protocol=protocol)


def test_a_default_device_does_not_matter(run: Path) -> None:
    with torch.device("meta"):
        assert not any(weight.is_meta for weight in gcgap.load(run).parameters())
