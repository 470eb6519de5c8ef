"""Models of Hugging Face on prompts: every measure against a plain computation, rows of unequal lengths, and limited memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import families
import pytest
import torch
from handmade import hvp, hvp_differences, joint_hvp
from memory import peak
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.paths import completeness_residual, joint_integrated_gradients, midpoint
from gcgap.attribution.sets import single_drops
from gcgap.attribution.setup import Setup
from gcgap.attribution.trust import frozen_effects, linear_effects
from gcgap.data.batches import NOTHING, Batch, partner_rows
from gcgap.data.corruption import Corruption, corrupted
from gcgap.data.prompt_source import PromptSource
from gcgap.data.prompt_tokens import as_batch
from gcgap.data.prompts import Encoded
from gcgap.importance import ablation as causal
from gcgap.importance.ablation import base_scores, chunk_size
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import activations_on, batch_means, mean_activations, zero_activations
from gcgap.importance.experiment import Experiment
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, NumberFormat, Protocol, Site
from gcgap.importance.scores import log_prob, logit_difference
from gcgap.measurement.measure import measure
from gcgap.models.families import find_wiring
from gcgap.models.pretrained import FACTORS, Pretrained, saved_bytes
from gcgap.models.transformer import Kind, Origin
from gcgap.models.wiring import Component

NAMES = ["gpt2", "gpt_neox", "llama", "mistral", "qwen3", "gemma2"]
EACH = pytest.mark.parametrize("name", NAMES)
CLOSE: dict[str, Any] = {"atol": 1e-9, "rtol": 1e-9}
NEAR: dict[str, Any] = {
    "atol": 1e-4,
    "rtol": 1e-2,
}  # of differences over 0.01; norms and softmax are float32


def made(name: str) -> Pretrained:
    """A tiny model in float64."""
    return Pretrained(families.network(name).double(), find_wiring(families.config(name))).eval()


def prompts(lengths: tuple[int, ...] = (5, 7, 5, 7, 6, 6), seed: int = 0) -> list[Encoded]:
    """Random prompts whose corrupted twins differ in one token."""
    random = torch.Generator().manual_seed(seed)
    found = []
    for length in lengths:
        clean = torch.randint(3, 40, (length,), generator=random).tolist()
        twin = [*clean[:2], 3 + (clean[2] - 2) % 37, *clean[3:]]
        found.append(Encoded(tuple(clean), tuple(twin), *torch.randperm(37, generator=random)[:2].add(3).tolist()))
    return found


def a_drop(model: Pretrained, batch: Batch, metric: Any = logit_difference) -> Drop:
    other = corrupted(batch, Corruption.PROMPT, 0).inputs
    return Drop(model, model.wiring, batch, activations_on(model, model.wiring, other, 1), metric)


def alone(drop: Drop, rows: list[Encoded]) -> list[Drop]:
    """Every prompt in a batch of its own, without a pad."""
    assert isinstance(drop.model, Pretrained)
    return [a_drop(drop.model, as_batch([one]), drop.metric) for one in rows]


def plain_effect(model: Pretrained, one: Encoded, component: Component) -> float:
    """Logit difference of a prompt, minus that with one output of a component as on the corrupted twin, without gcgap's gates."""
    head, kept, place = component.head is not None, list[Tensor](), component.head or 0
    module = model.get_submodule((model.wiring.out_projection if head else model.wiring.mlp).format(layer=component.layer))

    def columns(value: Tensor) -> Tensor:
        return value[..., place * model.d_head : (place + 1) * model.d_head] if head else value

    def changed(value: Tensor) -> Tensor:
        if not kept:
            kept.append(columns(value).clone())
            return value
        value = value.clone()
        columns(value).copy_(kept[0])
        return value

    def difference(tokens: Any) -> float:
        logits = model.network(input_ids=torch.tensor([list(tokens)])).logits[0, -1]
        return float(logits[one.answer] - logits[one.wrong])

    before = difference(one.clean)
    hook = (
        module.register_forward_pre_hook(lambda _, args: (changed(args[0]), *args[1:]))
        if head
        else module.register_forward_hook(lambda *passed: changed(passed[2]))
    )
    try:
        difference(one.corrupted)
        return before - difference(one.clean)
    finally:
        hook.remove()


@EACH
@torch.no_grad()
def test_exact_effects_are_those_of_plain_hooks_on_every_prompt_by_itself(name: str) -> None:
    model, rows = made(name), prompts()
    found = single_drops(a_drop(model, as_batch(rows))).logit_difference
    assert found.abs().min() > 0
    wanted = [[plain_effect(model, one, component) for one in rows] for component in model.wiring.components]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), **CLOSE)


@EACH
def test_a_batch_of_unequal_prompts_gives_what_each_gives_by_itself(name: str) -> None:
    model, rows = made(name), prompts()
    drop = a_drop(model, as_batch(rows))
    assert (drop.batch.inputs == NOTHING).any()

    def everything(of: Drop) -> list[Tensor]:
        closed = of.zero_gates()
        slopes, curvatures = of.path_derivatives(0.3, curvature=True)
        return [*single_drops(of), of.gradient(closed + 0.2), *of.hessian_product(closed, closed + 1), slopes, curvatures]

    apart = [everything(one) for one in alone(drop, rows)]
    for together, *each in zip(everything(drop), *apart, strict=True):
        torch.testing.assert_close(together, torch.cat(each, -1), **CLOSE)


@EACH
def test_derivatives_are_those_of_finite_differences_and_paths_are_complete(name: str) -> None:
    drop = a_drop(made(name), as_batch(prompts()), log_prob)
    closed, step = drop.zero_gates(), 1e-2
    torch.testing.assert_close(hvp_differences(drop, step), hvp(drop), **NEAR)
    g, h = drop.hessian_product(closed, closed + 1)
    for i in range(0, drop.components, 3):
        one = torch.zeros_like(closed)
        one[i] = step
        torch.testing.assert_close((drop.value(one) - drop.value(-one)) / (2 * step), g[i], **NEAR)
    torch.testing.assert_close((drop.gradient(closed + step) - drop.gradient(closed - step)) / (2 * step), h, **NEAR)
    torch.testing.assert_close(joint_hvp(drop), g + h / 2)
    assert h.abs().max() > 1e-6
    whole = float(drop.value(closed + 1).mean().abs())
    assert completeness_residual(drop, joint_integrated_gradients(drop, midpoint, 40)) < 0.01 * max(whole, 0.01)


@EACH
def test_the_effect_along_the_tangent_of_the_logits_is_that_of_small_steps(name: str) -> None:
    drop, step = a_drop(made(name), as_batch(prompts()), logit_difference), 1e-2
    ways = step * torch.eye(drop.components, dtype=torch.float64)
    tangent = torch.stack([(drop.value(way) - drop.value(-way)) / (2 * step) for way in ways])
    torch.testing.assert_close(linear_effects(drop), tangent, **NEAR)
    with pytest.raises(ValueError, match="know the mathematics of gcgap's own transformer only"):
        frozen_effects(drop)


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3"])
def test_means_and_norms_leave_out_where_no_token_is(name: str) -> None:
    model, rows = made(name), prompts()
    batch = as_batch(rows)
    found = batch_means(model, model.wiring, [batch], by_position=False)[0, 0]
    each = [batch_means(model, model.wiring, [as_batch([one])], by_position=False)[0, 0] * len(one.clean) for one in rows]
    tokens = sum(len(one.clean) for one in rows)
    torch.testing.assert_close(found, torch.stack(each).sum(0) / tokens, **CLOSE)
    mean = mean_activations(model, model.wiring, [batch], by_position=False)
    assert mean.heads[1].shape == (1, 1, model.n_heads, model.d_head)
    torch.testing.assert_close(mean.mlps[1].flatten(), found[-model.d_model :])
    norms = [activation_norms(model, model.wiring, as_batch([one])) * len(one.clean) for one in rows]
    torch.testing.assert_close(activation_norms(model, model.wiring, batch), torch.stack(norms).sum(0) / tokens, **CLOSE)
    with pytest.raises(ValueError, match="`mean_by_position` needs inputs of one length"):
        batch_means(model, model.wiring, [batch], by_position=True)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_attention_patterns_are_read_and_entropies_leave_out_where_no_token_is(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(**_: Any) -> Any:
        raise OSError("no room")

    model, rows = made(name), prompts()
    network: Any = model.network
    before, patterns = network.config._attn_implementation, model.patterns(as_batch(rows[:1]).inputs)
    assert len(patterns) == model.n_layers
    for pattern in patterns:
        assert pattern.shape == (1, model.n_heads, 5, 5)
        torch.testing.assert_close(pattern.sum(-1), torch.ones(1, model.n_heads, 5, dtype=pattern.dtype))
        assert not pattern.triu(1).any()
    assert network.config._attn_implementation == before
    with monkeypatch.context() as patch:
        patch.setattr(network, "forward", failing)
        with pytest.raises(OSError, match="no room"):
            model.patterns(as_batch(rows[:1]).inputs)
    assert network.config._attn_implementation == before
    each = [attention_entropies(model, as_batch([one])) * (len(one.clean) - 1) for one in rows]
    wanted = torch.stack(each).sum(0) / sum(len(one.clean) - 1 for one in rows)
    torch.testing.assert_close(attention_entropies(model, as_batch(rows)), wanted, **CLOSE)


@pytest.mark.parametrize("kind", ["means", "gradients", "norms", "entropies"])
def test_limited_memory_takes_batches_apart_and_puts_them_together_again(kind: str) -> None:
    model, batch = made("llama"), as_batch(prompts((5, 7, 7, 7, 5, 6)))  # no two pieces have as many tokens
    seen: list[int] = []
    model.network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)

    def measured() -> Tensor:
        return {
            "means": lambda: batch_means(model, model.wiring, [batch], by_position=False),
            "gradients": lambda: gradient_norms(model, model.wiring, [batch]),
            "norms": lambda: activation_norms(model, model.wiring, batch),
            "entropies": lambda: attention_entropies(model, batch),
        }[kind]()

    free = measured()
    passes: dict[str, Kind] = {"gradients": "backward", "entropies": "double"}
    of = passes.get(kind, "forward")
    model.memory = 2.5 * saved_bytes(model, 7, of) * FACTORS[of] / 2**30
    seen.clear()
    torch.testing.assert_close(measured(), free, **CLOSE)
    assert seen[-3:] == [2, 2, 2]


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_what_gemma_multiplies_heads_by_counts_in_their_norms(name: str) -> None:
    model, batch = made(name), as_batch(prompts((6, 6)))
    before = activation_norms(model, model.wiring, batch)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    with torch.no_grad():
        projection: Any = model.get_submodule(model.wiring.out_projection.format(layer=1))
        projection.weight *= 0.01
    after = activation_norms(model, model.wiring, batch)
    assert (after / before)[-5:-1].min() > 0.5, "the norm behind takes the factor out again"


def test_an_activation_norm_is_that_of_what_a_head_adds_by_itself() -> None:
    for name in ("gpt2", "llama"):
        model, batch = made(name), as_batch(prompts((6, 6)))
        found = activation_norms(model, model.wiring, batch)
        seen: list[Tensor] = []
        module = model.get_submodule(model.wiring.out_projection.format(layer=1))

        def note(_: Any, args: tuple[Tensor, ...], seen: list[Tensor] = seen) -> None:
            seen.append(args[0])

        hook = module.register_forward_pre_hook(note)
        with torch.no_grad():
            model(batch.inputs)
            hook.remove()
            z = torch.zeros_like(seen[0])
            part = slice(2 * model.d_head, 3 * model.d_head)
            z[..., part] = seen[0][..., part]
            written = module(z) - module(torch.zeros_like(z))
        place = model.wiring.find(["L1_H2"])[0]
        torch.testing.assert_close(found[place], written.norm(dim=-1).mean(), **CLOSE)


def test_a_partner_has_as_many_tokens_and_is_another_prompt() -> None:
    batch = as_batch(prompts())
    tokens, partner = (batch.inputs != NOTHING).sum(1), partner_rows(batch, 3, 0)
    assert torch.equal(tokens[partner], tokens)
    assert sorted(partner.tolist()) == list(range(6))
    assert (partner != torch.arange(6)).all()
    with pytest.raises(ValueError, match="only one has 9"):
        partner_rows(as_batch(prompts((5, 5, 9))), 3, 0)


def test_the_wrong_answer_decides_the_logit_difference_alone() -> None:
    logits = torch.tensor([[[1.0, 5.0, 2.0, -1.0]], [[0.0, 1.0, 2.0, 3.0]]])
    targets, wrong = torch.tensor([[1], [0]]), torch.tensor([3, 2])
    assert logit_difference(logits, targets, wrong).tolist() == [6.0, -2.0]
    assert logit_difference(logits, targets).tolist() == [3.0, -3.0]
    assert torch.equal(log_prob(logits, targets, wrong), log_prob(logits, targets))


def test_the_baseline_of_prompts_lets_in_what_components_put_out_on_the_twins() -> None:
    model, rows = made("llama"), prompts()
    zero, batch = zero_activations(model, model.wiring), as_batch(rows)
    source = PromptSource(task="mine", seed=0, draw=lambda *_: rows)
    subject = Experiment(model, model.wiring, source, Protocol(), 0, zero)
    noising, denoising = Setup(Baseline.PATCH_PROMPT), Setup(Baseline.PATCH_PROMPT, "denoising")
    found, wanted = single_drops(noising.drop(subject, batch)), single_drops(a_drop(model, batch))
    torch.testing.assert_close(found.logit_difference, wanted.logit_difference, atol=0, rtol=0)
    back = denoising.drop(subject, batch)
    assert batch.corrupted is not None
    assert torch.equal(back.batch.inputs, batch.corrupted)
    everything = back.zero_gates() + 1
    torch.testing.assert_close(back.value(everything), noising.drop(subject, batch).value(everything), **CLOSE)
    for setup, other in ((noising, batch.corrupted), (denoising, batch.inputs)):
        let_in = setup.other_inputs(batch, 0)
        assert let_in is not None
        assert torch.equal(let_in, other)


def test_denoising_restores_what_noising_breaks() -> None:
    model, rows = made("llama"), prompts((6, 6, 6))
    clean = as_batch(rows)
    twin = corrupted(clean, Corruption.PROMPT, 0)
    assert twin.corrupted is not None
    assert torch.equal(twin.corrupted, clean.inputs)
    restored = activations_on(model, model.wiring, clean.inputs, 1)
    drop = Drop(model, model.wiring, twin, restored, logit_difference, sign=-1)
    everything = drop.zero_gates() + 1
    gain, lost = drop.value(everything), a_drop(model, clean).value(everything)
    torch.testing.assert_close(gain, lost, atol=1e-9, rtol=0)  # the last token is the same, and all else is let in


def test_zero_is_zero_for_heads_that_are_wider_than_the_model() -> None:
    model = made("qwen3")
    assert model.n_heads * model.d_head != model.d_model
    zero = zero_activations(model, model.wiring)
    drop = replace(a_drop(model, as_batch(prompts())), replacement=lambda rows: zero)
    assert single_drops(drop).log_prob.isfinite().all()


def test_the_released_site_needs_heads_as_wide_as_the_model() -> None:
    drop = a_drop(made("gpt2"), as_batch(prompts()))
    assert not torch.equal(single_drops(replace(drop, site=Site.RELEASED)).log_prob, single_drops(drop).log_prob)
    wide = made("qwen3")
    wide.origin = Origin(PromptSource(task="mine", seed=0, draw=lambda *_: prompts()))
    with pytest.raises(ValueError, match=r"`protocol\.site` must be component .* got released, .* 8 columns .* 4 heads"):
        measure(wide, protocol=Protocol(site=Site.RELEASED, precision=NumberFormat.FLOAT64))


@pytest.mark.parametrize(("name", "tokens"), [*((name, 9) for name in NAMES), ("gpt2", 400), ("gemma2", 400)])
def test_no_pass_takes_more_memory_than_it_is_said_to(name: str, tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Pretrained(families.network(name, max_position_embeddings=512), find_wiring(families.config(name))).eval()
    rows = 24 if tokens < 20 else 4
    drop = a_drop(model, as_batch(prompts((tokens,) * rows)))
    monkeypatch.setattr(causal, "CHUNK", rows)
    monkeypatch.setattr(causal, "ROWS", rows)
    needed = {"forward": peak(lambda: single_drops(drop)), "backward": peak(lambda: drop.gradient(drop.zero_gates()))}
    needed["double"] = peak(lambda: drop.hessian_product(drop.zero_gates(), drop.zero_gates() + 1))
    for kind, most in FACTORS.items():
        promised = most * rows * saved_bytes(model, tokens, kind)
        assert needed[kind] < promised, kind
        assert needed[kind] > promised / 10, "else far fewer rows run than could"


def test_what_fits_is_told_apart_by_the_kind_of_pass_and_the_tokens() -> None:
    model = made("llama")
    model.memory = 0.25
    for tokens in (9, 30, 9):  # the last ones from what was kept
        for kind, factor in FACTORS.items():
            assert model.fits(10**9, tokens, kind) == int(2**28 // (saved_bytes(model, tokens, kind) * factor))
    saved = [saved_bytes(model, 30, kind) for kind in ("forward", "double")]
    assert saved[0] < saved[1], "the math path keeps what fused kernels make again"
    assert model.fits(3, 9, "forward") == 3
    large = Pretrained(families.network("llama", vocab_size=4000), find_wiring(families.config("llama")))
    weights = 4 * sum(weight.numel() for weight in large.parameters())
    assert saved_bytes(large, 2, "backward") < weights / 2, "weights are there once, however many rows run"
    assert not any(weight.requires_grad for weight in model.requires_grad_(False).parameters())
    saved_bytes(model, 9, "forward")
    assert not any(weight.requires_grad for weight in model.parameters())


def test_limited_memory_makes_pieces_smaller_and_no_number_another() -> None:
    model = made("llama")
    drop = a_drop(model, as_batch(prompts()))

    def everything() -> list[Tensor]:
        drop._given.clear()
        return [*single_drops(drop), *drop.path_derivatives(0.0, curvature=True), drop.gradient(drop.zero_gates())]

    assert [len(range(6)[piece]) for piece in drop.slices()] == [6]
    free, seen = everything(), list[int]()
    model.network.register_forward_pre_hook(lambda _, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True)
    model.memory = 2.5 * saved_bytes(model, 7, "double") * FACTORS["double"] / 2**30
    assert [len(range(6)[piece]) for piece in drop.slices()] == [2, 2, 2]
    drop.path_derivatives(0.0, curvature=True)
    assert max(seen) == 2
    model.memory = 2.5 * saved_bytes(model, 7, "forward") * FACTORS["forward"] / 2**30
    seen.clear()
    assert chunk_size(model, drop.batch) == 2
    base_scores(model, drop.batch)
    assert max(seen) == 2
    model.memory = 2.5 * saved_bytes(model, 7, "double") * FACTORS["double"] / 2**30
    for one, other in zip(free, everything(), strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    assert len(drop._given) == 1, "never all caches at once"
    model.memory = saved_bytes(model, 7, "double") / 2**30 / 2
    with pytest.raises(ValueError, match=r"`--memory` must be at least .* GiB, what one prompt takes"):
        drop.slices()
