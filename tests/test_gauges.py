"""The same function written down otherwise: logits stay, and what moves is what the table of docs/gauges.md says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import gcgap
from gcgap.attribution.methods import METHODS
from gcgap.data.batches import Batch, Purpose, Source
from gcgap.importance import gauges
from gcgap.importance.gap import Judgement
from gcgap.importance.gauges import (
    CANONICAL,
    change_heads,
    fold_biases,
    fold_gains,
    gauge_root,
    gauged_norms,
    has_head_scales,
    head_groups,
    permute_heads,
    random_scales,
    rho_range,
    roles_kept,
)
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, NumberFormat, Protocol
from gcgap.measurement import symmetries as module
from gcgap.measurement.symmetries import Moved, symmetries
from gcgap.models.families import find_wiring
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Origin, Transformer
from gcgap.models.wiring import Wiring
from gcgap.records.record import Record
from gcgap.report.terminal import gauge_sentence, gauge_table

SOURCE = Source("sort", lengths=(2, 3), ood_lengths=(4, 5), seed=7)
HEADS = 3
Change = Callable[[Any, Wiring], None]


def bent(seed: int = 3) -> Transformer:
    """A model whose gains, biases and weights are all different, in float64."""
    model = Transformer(n_layers=2, n_heads=HEADS, d_model=18, d_ff=20, n_ctx=16, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, nn.LayerNorm)):
            norm.weight.copy_(0.5 + torch.rand(norm.weight.shape, generator=generator, dtype=torch.float64))
            norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator, dtype=torch.float64))
    model.origin = Origin(SOURCE)
    return model.eval()


def batches(count: int = 2) -> list[Batch]:
    return SOURCE.batches(Purpose.GRADIENT, 4, count, 6)


def apart(one: Any, other: Any, tokens: torch.Tensor) -> float:
    with torch.no_grad():
        return float((one(tokens) - other(tokens)).abs().max() / one(tokens).abs().max())


def into(model: Any, gauge: str) -> Any:
    """A copy whose heads are in a canonical gauge."""
    changed, wiring = copy.deepcopy(model), Wiring.of(model)
    change_heads(changed, wiring, [torch.linalg.inv(gauge_root(group, gauge)) for group in head_groups(changed, wiring)])
    return changed


@pytest.fixture(scope="module")
def found() -> dict[str, Moved]:
    return {one.name: one for one in symmetries(bent())}


SYMMETRIES = ("head scale", "head matrix", "gains folded", "biases folded", "heads permuted")


@pytest.mark.parametrize("name", SYMMETRIES)
def test_every_symmetry_leaves_the_logits(found: dict[str, Moved], name: str) -> None:
    assert found[name].reason == ""
    assert found[name].logits < 1e-12


TABLE = {  # = stays, x moves: scale, matrix, gains, biases, permuted
    "C, mean ablation": "=====",
    "C, resample ablation": "=====",
    "C, zero ablation": "===x=",
    "attribution patching": "=====",
    "gate gradient": "===x=",
    "weight x gradient": "=x===",
    "root of dW_V x dW_O": "=xxx=",
    "G": "xxx==",
    "Fisher trace": "xxx==",
    "G, balanced": "==x==",
}


@pytest.mark.parametrize("name", TABLE)
def test_the_table_row_by_row(found: dict[str, Moved], name: str) -> None:
    for symmetry, what in zip(SYMMETRIES, TABLE[name], strict=True):
        moved = (found[symmetry].quantities or {})[name]
        assert (moved < 1e-10) if what == "=" else (moved > 1e-4), f"{name}, {symmetry}: {moved}"
        assert (symmetry in module.INVARIANT[name]) == (what == "=")


def test_a_change_that_forgets_the_bias_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(model: Any, wiring: Wiring, matrices: Any) -> None:
        for group, A in zip(head_groups(model, wiring), matrices, strict=True):
            with torch.no_grad():
                group.value.copy_(A @ group.value)
                for output in group.outputs:
                    output.copy_(output @ torch.linalg.inv(A))

    monkeypatch.setattr(module, "change_heads", forgetful)
    broken = {one.name: one for one in symmetries(bent())}
    assert broken["head scale"].logits > 1e-4
    assert broken["head scale"].is_wrong
    assert "C, mean ablation" in broken["head matrix"].wrong
    assert not broken["biases folded"].is_wrong


@pytest.mark.parametrize("gauge", CANONICAL)
def test_g_in_a_gauge_is_that_of_the_model_in_that_gauge(gauge: str) -> None:
    model, wiring = bent(), Wiring.of(bent())
    changed, data = into(model, gauge), batches()
    assert apart(model, changed, data[0].inputs) < 1e-12
    norms = gauged_norms(model, wiring, data)
    assert torch.equal(norms[0], gradient_norms(model, wiring, data))
    torch.testing.assert_close(norms[1 + CANONICAL.index(gauge)], gradient_norms(changed, wiring, data), atol=0.0, rtol=1e-10)
    heads = [i for i, component in enumerate(wiring.components) if component.kind == "head"]
    assert not torch.allclose(norms[1 + CANONICAL.index(gauge)][heads], norms[0][heads], rtol=1e-2)


def test_the_gauges_are_what_they_are_called() -> None:
    for group in head_groups(into(bent(), "balanced"), Wiring.of(bent())):
        torch.testing.assert_close(group.value @ group.value.T, group.outputs[0].T @ group.outputs[0])
    one = torch.eye(6, dtype=torch.float64)
    for group in head_groups(into(bent(), "orthonormal_output"), Wiring.of(bent())):
        torch.testing.assert_close(group.outputs[0].T @ group.outputs[0], one)
    for group in head_groups(into(bent(), "orthonormal_value"), Wiring.of(bent())):
        torch.testing.assert_close(group.value @ group.value.T, one)


def test_mlps_keep_their_g_and_no_gauge_divides_otherwise() -> None:
    model, wiring = bent(), Wiring.of(bent())
    norms, raw = (gauged_norms(model, wiring, batches(), normalise) for normalise in (True, False))
    for layer in range(2):
        _, mlp = wiring.columns(layer)
        assert torch.equal(norms[:, mlp], norms[:1, mlp].expand(len(norms), -1))
        torch.testing.assert_close(raw[:, mlp - 1], norms[:, mlp - 1] * (18 * 6) ** 0.5)


def test_a_head_without_full_rank_has_the_limit() -> None:
    model, wiring = bent(), Wiring.of(bent())
    with torch.no_grad():
        first = next(iter(head_groups(model, wiring)))
        first.outputs[0][:, 1:] = first.outputs[0][:, :1]  # of rank 1
        near = copy.deepcopy(model)
        generator = torch.Generator().manual_seed(1)
        close = next(iter(head_groups(near, wiring))).outputs[0]
        close.add_(1e-5 * torch.randn(close.shape, generator=generator, dtype=torch.float64))
    exact, limit = gauged_norms(model, wiring, batches()), gauged_norms(near, wiring, batches())
    torch.testing.assert_close(exact[1, 0], limit[1, 0], rtol=1e-2, atol=0.0)  # balanced
    assert bool(torch.isfinite(exact).all())


def test_a_norm_between_values_and_output_is_no_symmetry_and_the_record_says_so() -> None:
    model, wiring = bent(), Wiring.of(bent())
    tokens = batches()[0].inputs
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert has_head_scales(model, wiring, tokens)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())

    def normalised(module: nn.Module, args: Any, out: Any) -> Any:
        return nn.functional.normalize(out, dim=-1)

    for block in model.blocks:
        block.attention.W_V.register_forward_hook(normalised)
    assert not has_head_scales(model, wiring, tokens)
    record = gcgap.measure(model, length=4, protocol=Protocol().smallest())
    assert "not linear" in record["gauges"]["reason"]
    assert "has no canonical gauge" in str(list(gauge_table(record).renderables))


@pytest.fixture(scope="module")
def measured() -> Record:
    return gcgap.measure(
        bent(), length=4, protocol=Protocol(baselines=(Baseline.MEAN,), precision=NumberFormat.FLOAT64).smallest()
    )


def test_a_record_holds_every_gauge_and_is_read_again(measured: Record, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = measured["gauges"]
    assert tuple(found["by_gauge"]) == CANONICAL
    norms = gauged_norms(bent(), Wiring.of(bent()), SOURCE.batches(Purpose.GRADIENT, 4, 2, 4)).mean(-1)
    assert [one["gradient"]["value"] for one in measured["components"]] == pytest.approx(norms[0].tolist(), rel=1e-9)
    for gauge, row in zip(CANONICAL, norms[1:], strict=True):
        assert found["by_gauge"][gauge]["gradient"] == pytest.approx(row.tolist(), rel=1e-9)
    path = tmp_path_factory.mktemp("gauges") / "final.json"
    assert Record.read(measured.write(path).path or path)["gauges"] == found
    older = Record({key: value for key, value in measured.to_dict().items() if key not in ("gauges", "sha256")})
    with pytest.raises(ValueError, match="older than gauges"):
        gauge_table(older)


def test_a_record_with_broken_gauges_is_refused(measured: Record) -> None:
    data = copy.deepcopy(measured.to_dict())
    data["gauges"]["by_gauge"]["balanced"]["gradient"] = "large"
    with pytest.raises(ValueError, match=r"gauges\.by_gauge\.balanced\.gradient"):
        Record(data)


def gap(rho: float, p: float) -> dict[str, Any]:
    keys = ("ci", "corrected", "expected_by_chance", "reason")
    return dict.fromkeys(keys) | {"rho": rho, "p_value": p, "ceiling": 1.0, "heroes": 1, "bloats": 1}


def with_gaps(measured: Record, trained: dict[str, Any], others: list[dict[str, Any]]) -> Record:
    data = copy.deepcopy(measured.to_dict())
    data["gap"]["mean"] |= trained
    for one, role in zip(data["components"], ["hero", "bloat", *["aligned"] * 6], strict=True):
        one["role"]["mean"] = {"name": role, "probability": 1.0, "by_metric": {}}
    scales = {"factor": 4.0, "draws": 1000, "rho": {"mean": [-0.1, 0.4]}, "roles_kept": {"mean": 0.5}}
    roles = [["hero", "bloat", *["aligned"] * 6], ["hero", *["aligned"] * 7], ["hero", "bloat", *["aligned"] * 6]]
    by_gauge = {
        name: {"gradient": [1.0], "gap": {"mean": one}, "role": {"mean": role}}
        for name, one, role in zip(CANONICAL, others, roles, strict=True)
    }
    return Record(data | {"gauges": {"by_gauge": by_gauge, "random_scales": scales}})


def test_the_sentence_says_whether_the_conclusion_survives(measured: Record) -> None:
    same = with_gaps(measured, gap(0.9, 0.001), [gap(0.8, 0.01)] * 3)
    assert "the conclusion survives. 1 of 2 Heroes and Bloats have their role in all gauges." in gauge_sentence(same)
    assert "between 1/4 and 4 give ρ from -0.10 to 0.40" in gauge_sentence(same)
    other = with_gaps(measured, gap(0.9, 0.001), [gap(0.8, 0.01), gap(0.2, 0.5), gap(0.8, 0.01)])
    assert "In the gauge orthonormal output it gives a ranking of components that cannot be" in gauge_sentence(other)
    assert "the conclusion depends on the gauge" in gauge_sentence(other)


def test_random_scales_move_heads_alone_within_the_factor() -> None:
    G, wiring = np.arange(1.0, 9.0), Wiring(2, HEADS)
    scaled = random_scales(G, wiring, 500, np.random.default_rng(0))
    ratio = scaled / G[:, None]
    assert np.array_equal(ratio[[3, 7]], np.ones((2, 500)))
    heads = np.delete(ratio, [3, 7], 0)
    assert 0.25 <= heads.min() < 0.26 < 3.9 < heads.max() <= 4
    assert np.array_equal(scaled, random_scales(G, wiring, 500, np.random.default_rng(0)))
    low, high = rho_range(scaled, G, Judgement()) or [0.0, 0.0]
    assert -1 <= low < high <= 1
    assert rho_range(scaled, np.ones(8), Judgement()) is None


def test_roles_are_kept_where_nothing_is_scaled() -> None:
    G, C = np.arange(8.0), np.arange(8.0)[::-1].copy()
    assert roles_kept(G, np.tile(G[:, None], 3), C, Judgement()) == 1.0
    assert roles_kept(G, np.tile(C[:, None], 3), C, Judgement()) == 0.0
    assert roles_kept(G, np.tile(G[:, None], 3), G, Judgement()) is None


def test_methods_that_no_head_scale_moves() -> None:
    assert {"gradient_balanced", "gradient_value_output", "weight_times_gradient"} <= set(METHODS)


class InFloat64(TorchFunctionMode):
    """Float64 wherever a network asks for float32, as some norms do always."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        wide = {torch.float32: torch.float64}
        args = tuple(wide.get(one, one) if isinstance(one, torch.dtype) else one for one in args)
        return func(*args, **{key: wide.get(one, one) if key == "dtype" else one for key, one in (kwargs or {}).items()})


NO_BIAS, NO_GAIN = {"biases": "values have no bias"}, {"gains": "norms have no gain"}
CLIPPED = dict.fromkeys(("matrix", "biases"), "`clip_qkv` clips values")
BIASED = ("gpt2", "gpt_neox", "gpt_neox, one after the other", "phi", "qwen2")
CASES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    *((name, {}, {} if name in BIASED else NO_BIAS) for name in families.CONFIGS if name != "olmo"),
    ("olmo", {}, NO_GAIN | CLIPPED),
    ("olmo", {"clip_qkv": None}, NO_GAIN | NO_BIAS),
    ("olmo2", {"attention_bias": True}, {}),
    ("gemma", {"attention_bias": True}, {}),
]


@pytest.mark.parametrize(("name", "settings", "without"), CASES)
def test_symmetries_of_every_family_leave_the_logits(name: str, settings: dict[str, Any], without: dict[str, str]) -> None:
    network = families.network(name, **settings).double()
    model = Pretrained(network, find_wiring(network.config))
    wiring, tokens = Wiring.of(model), torch.arange(2, 12).reshape(2, 5)
    size, generator = wiring.value.group, torch.Generator().manual_seed(2)
    heads = torch.arange(wiring.n_heads).reshape(-1, size).flip(0).flip(1).flatten().tolist()
    matrices = [torch.randn(len(one.value), len(one.value), generator=generator) for one in head_groups(model, wiring)]
    changes: dict[str, Change] = {
        "matrix": lambda model, wiring: change_heads(model, wiring, matrices),
        "gains": fold_gains,
        "biases": fold_biases,
        "permuted": lambda model, wiring: permute_heads(model, wiring, [heads] * wiring.n_layers),
    }
    assert has_head_scales(model, wiring, tokens) == (not wiring.not_linear)
    before = model.state_dict()
    for what, change in changes.items():
        changed = copy.deepcopy(model)
        if what in without:
            with pytest.raises(gauges.NotApplicableError, match=without[what]):
                change(changed, wiring)
            continue
        change(changed, wiring)
        assert any(not torch.equal(before.get(key, one), one) for key, one in changed.state_dict().items())
        with InFloat64():
            assert apart(model, changed, tokens) < 1e-12, what


BEHIND = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "vision", "multi_modal")  # no stream is read through these


@pytest.mark.parametrize("name", [name for name in families.CONFIGS if name != "olmo"])
def test_every_gain_on_the_stream_is_folded_and_a_tied_embedding_stays(name: str) -> None:
    network = families.network(name).double()
    model = Pretrained(network, find_wiring(network.config))
    wiring, embedding = Wiring.of(model), network.get_input_embeddings().weight.clone()
    fold_gains(model, wiring)
    assert torch.equal(network.get_input_embeddings().weight, embedding)
    written = {str(one).format(layer=layer) for one in (wiring.attention_norm, wiring.mlp) for layer in range(2)}
    norms: dict[str, Any] = {name: one for name, one in model.named_modules() if "norm" in name.lower() or ".ln_" in name}
    folded = [one for name, one in norms.items() if name not in written and not any(part in name for part in BEHIND)]
    assert len(folded) == len(wiring.norms[:-1]) * 2 + 1
    for norm in folded:
        gain = norm.weight + wiring.gain_offset
        assert torch.equal(gain, torch.ones_like(gain))


def test_heads_that_share_values_share_one_change() -> None:
    network = families.network("llama").double()
    model = Pretrained(network, find_wiring(network.config))
    wiring = Wiring.of(model)
    groups = list(head_groups(model, wiring))
    assert [list(group.heads) for group in groups[:2]] == [[0, 1], [2, 3]]
    for group in head_groups(into(model, "balanced"), wiring):
        outputs = torch.cat(group.outputs)
        torch.testing.assert_close(group.value @ group.value.T, outputs.T @ outputs)
    for group in head_groups(into(model, "orthonormal_output"), wiring):
        outputs = torch.cat(group.outputs)
        torch.testing.assert_close(outputs.T @ outputs, 2 * torch.eye(len(group.value), dtype=torch.float64))
    batch = Batch(torch.arange(2, 12).reshape(2, 5), torch.arange(3, 13).reshape(2, 5), torch.ones(2, 5, dtype=torch.bool), 10)
    norms = gauged_norms(model, wiring, [batch])
    assert torch.equal(norms[:, 0], norms[:, 1])
    changed = gradient_norms(into(model, "balanced"), wiring, [batch])
    torch.testing.assert_close(norms[1], changed, rtol=1e-5, atol=0.0)
