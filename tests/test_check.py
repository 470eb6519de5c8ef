"""`gcgap check`: symmetries of a model as a table, and an audit that knows right ablations from wrong ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import families
import pytest
import torch
from torch import Tensor, nn

import gcgap.commands.check_command as command
from gcgap.cli import main
from gcgap.data.batches import Source
from gcgap.measurement.hook_audit import LEAVES, OWN, SILENT, SUM, HookError, audit
from gcgap.measurement.symmetries import INVARIANT, OUTPUT_NORMS, Moved
from gcgap.models.families import find_wiring
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Decoder, Origin, Transformer

PAGE = Path(__file__).parent.parent / "docs" / "gauges.md"
SOURCE = Source("sort", lengths=(2, 3), ood_lengths=(4, 5), seed=7)


def model() -> Transformer:
    made = Transformer(n_layers=2, n_heads=2, d_model=8, d_ff=12, n_ctx=16, seed=1).eval()
    made.origin = Origin(SOURCE)
    return made


def part(head: int, width: int) -> slice:
    return slice(head * width, (head + 1) * width)


@contextmanager
def hooked(module: nn.Module, where: slice, value: Any, behind: bool = False) -> Iterator[None]:
    def replaced(own: Tensor) -> Tensor:
        own = own.clone()
        own[..., where] = value
        return own

    def before(module: nn.Module, args: Any) -> Any:
        return (replaced(args[0]),)

    def after(module: nn.Module, args: Any, out: Tensor) -> Any:
        return replaced(out)

    handle = module.register_forward_hook(after) if behind else module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


def right(model: Any, layer: int, head: int, value: Tensor) -> Any:
    return hooked(model.blocks[layer].attention.W_O, part(head, 4), value)


def right_with_inputs(model: Any, layer: int, head: int, inputs: Tensor, value: Tensor) -> Tensor:
    with right(model, layer, head, value):
        return model(inputs)


def right_by_a_mean(model: Any, layer: int, head: int) -> Any:
    return hooked(model.blocks[layer].attention.W_O, part(head, 4), 0.25)


def behind_the_projection(model: Any, layer: int, head: int, value: Tensor) -> Any:
    return hooked(model.blocks[layer].attention.W_O, part(head, 4), value, behind=True)


def behind_by_a_mean(model: Any, layer: int, head: int) -> Any:
    return hooked(model.blocks[layer].attention.W_O, part(head, 4), 0.25, behind=True)


def of_another_head(model: Any, layer: int, head: int, value: Tensor) -> Any:
    return hooked(model.blocks[layer].attention.W_O, part(1 - head, 4), value)


def of_the_whole_layer(model: Any, layer: int, head: int, value: Tensor) -> Any:
    return hooked(model.blocks[layer].attention.W_O, slice(None), value.repeat(1, 1, 2))


def interleaved(model: Any, layer: int, head: int, value: Tensor) -> Any:
    return hooked(model.blocks[layer].attention.W_O, slice(head, None, 2), value)


def left_behind(model: Any, layer: int, head: int, inputs: Tensor) -> Tensor:
    def before(module: nn.Module, args: Any) -> Any:
        return (args[0] * 0.5,)

    model.blocks[layer].attention.W_O.register_forward_pre_hook(before)
    return model(inputs)


def verdicts(ablation: Any, of: Decoder | None = None) -> dict[str, bool | None]:
    return {one.text: one.holds for one in audit(of or model(), ablation)}


@pytest.mark.parametrize("ablation", [right, right_with_inputs])
def test_a_right_ablation_fulfils_every_identity_exactly(ablation: Any) -> None:
    found = audit(model(), ablation)
    assert [one.text for one in found] == [SILENT, SUM, OWN, LEAVES]
    assert [one.largest for one in found] == [0.0] * 4


def test_a_function_without_a_value_is_held_against_what_can_be_asked() -> None:
    assert verdicts(right_by_a_mean) == {SILENT: True, SUM: None, OWN: None, LEAVES: True}
    assert verdicts(behind_by_a_mean)[SILENT] is False


WRONG = [behind_the_projection, of_another_head, of_the_whole_layer, interleaved]


@pytest.mark.parametrize("ablation", WRONG)
def test_wrong_ablations_are_caught(ablation: Any) -> None:
    found = verdicts(ablation)
    assert found[SILENT] is False
    assert found[SUM] is False
    assert found[OWN] is False
    assert found[LEAVES] is True


def test_a_hook_that_stays_is_caught_and_stays_in_the_copy() -> None:
    ours = model()
    assert verdicts(left_behind, ours)[LEAVES] is False
    assert not any(module._forward_pre_hooks for module in ours.modules())


def test_a_network_of_hugging_face_is_given_as_it_is() -> None:
    network = families.network("gpt2")
    wrapped = Pretrained(network, find_wiring(network.config))
    wrapped.origin = Origin(Source("sort", lengths=(2, 3), ood_lengths=(4,), seed=7))
    wrapped.get_submodule("network.transformer.wte").weight.data = torch.randn(
        104, 24, generator=torch.Generator().manual_seed(0)
    )

    def ablate(model: Any, layer: int, head: int, value: Tensor) -> Any:
        return hooked(model.transformer.h[layer].attn.c_proj, part(head, 6), value)

    def behind(model: Any, layer: int, head: int, value: Tensor) -> Any:
        return hooked(model.transformer.h[layer].attn.c_proj, part(head, 6), value, behind=True)

    assert set(verdicts(ablate, wrapped).values()) == {True}
    assert verdicts(behind, wrapped)[OWN] is False


def idle(model: Any, layer: int, head: int, inputs: Tensor) -> Tensor:
    return model(inputs)


def failing(model: Any, layer: int, head: int, inputs: Tensor) -> Tensor:
    raise RuntimeError("no such head")


def no_context(model: Any, layer: int, head: int) -> int:
    return 1


def no_logits(layer: int, head: int, inputs: Tensor) -> Tensor:
    return inputs


@pytest.mark.parametrize(
    ("ablation", "said"),
    [
        (idle, "changes no logit"),
        (failing, "L0_H0 fails (RuntimeError: no such head)"),
        (no_context, "must be a context manager; got a int"),
        (no_logits, "logits must be a tensor"),
        (lambda model, heads: None, "got (model, heads)"),
        (lambda layer, head, other: None, "got (layer, head, other)"),
    ],
)
def test_a_function_that_cannot_be_audited_is_refused(ablation: Any, said: str) -> None:
    with pytest.raises(HookError, match=re.escape(said)):
        audit(model(), ablation)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_load", lambda options: (model(), "a model"))


@pytest.mark.usefixtures("loaded")
def test_the_command_catches_slices_behind_the_projection(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    wrong = example.replace("def before(module, args):\n        z = args[0]", "def before(module, args, out):\n        z = out")
    wrong = wrong.replace("return (z,)", "return z").replace("register_forward_pre_hook", "register_forward_hook")
    for name, code in (("right_example", example), ("wrong_example", wrong)):
        (tmp_path / f"{name}.py").write_text(code)
    assert main(["check", "--hook", f"{tmp_path}/right_example.py:ablate", "x"]) == 0
    assert "NO" not in capsys.readouterr().out
    assert main(["check", "--hook", f"{tmp_path}/wrong_example.py:ablate", "x"]) == 1
    assert capsys.readouterr().out.count("NO") == 3


@pytest.mark.usefixtures("loaded")
def test_the_command_shows_what_moves(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "x"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("head scale", "logits", *INVARIANT))
    assert "%" in out
    assert "!" not in out.replace("!: must not move", "")


@pytest.mark.usefixtures("loaded")
def test_what_moves_and_must_not_is_marked_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    moved = Moved("head scale", "", 0.0, dict.fromkeys(INVARIANT, 0.5))
    other = Moved("biases folded", "W_O has no bias")
    monkeypatch.setattr("gcgap.measurement.symmetries.symmetries", lambda model: [moved, other])
    assert main(["check", "x"]) == 1
    out = capsys.readouterr().out
    assert out.count("50.0% !") == sum("head scale" in names for names in INVARIANT.values())
    assert "biases folded, not for this model: W_O has no bias" in out


REASONS = {
    "olmo": (
        *(f"{name}, not for this model: `clip_qkv` clips values" for name in ("head scale", "head matrix", "biases folded")),
        "gains folded, not for this model: norms have no gain",
    ),
    "gemma2": ("biases folded, not for this model: values have no bias", f"gains folded: {OUTPUT_NORMS}"),
}


@pytest.mark.parametrize("name", REASONS)
def test_what_a_family_has_not_is_a_reason_and_no_failure(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = families.network(name, vocab_size=104)
    wrapped = Pretrained(network, find_wiring(network.config))
    wrapped.origin = Origin(SOURCE)
    monkeypatch.setattr(command, "_load", lambda options: (wrapped, name))
    assert main(["check", "x"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(reason in out for reason in REASONS[name])
    assert out.count("not for this model") == sum("not for this model" in reason for reason in REASONS[name])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a run directory or a .ckpt file, or `--model`"),
        (["x", "--model", "y"], "only one of them"),
        (["nowhere"], "`nowhere` does not exist"),
        (["x", "--seed", "3"], "`--seed` belongs to `--model`"),
        (["x", "--hook", "ablate"], "must be MODULE:FUNCTION"),
        (["x", "--hook", "nowhere_at_all:ablate"], "`--hook`: nowhere_at_all cannot be imported"),
        (["x", "--hook", "json:ablate"], "json has no function 'ablate'"),
    ],
)
def test_bad_input_is_refused_in_few_lines(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert 1 <= len(error.splitlines()) <= 3
