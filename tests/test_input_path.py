"""EAP-IG: the gradients and outputs of its formula, made by other hooks; and where it is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from handmade import CLOSE, LENGTH, N, a_drop, attribution_patching, bent_model, exact, other_inputs, projected, straight
from test_prompted import a_drop as prompted
from test_prompted import made, prompts
from torch import Tensor

import gcgap
from gcgap.attribution.drop import Drop
from gcgap.attribution.input_path import input_gradients, token_embedding
from gcgap.attribution.methods import default_methods, find_methods
from gcgap.attribution.truth import truth
from gcgap.cli import main
from gcgap.data.batches import NOTHING, Source
from gcgap.data.prompt_tokens import as_batch
from gcgap.data.prompts import Encoded
from gcgap.importance.protocol import Attribution, Baseline, Protocol, Site
from gcgap.models.pretrained import Pretrained
from gcgap.models.transformer import Origin, Transformer

REFUSED = "`methods`: eap_ig needs a corrupted input, which a baseline patch_* has; got mean. Leave it out."


def by_hand(drop: Drop, model: Transformer, steps: int) -> Tensor:
    """Outputs and gradients at every interpolated embedding, seen by hooks and taken by autograd."""
    seen: list[Tensor] = []
    places = [(block.attention.W_O, block.mlp) for block in model.blocks]
    hooks = [out.register_forward_pre_hook(lambda _, x: seen.append(x[0])) for out, _ in places]
    hooks += [mlp.register_forward_hook(lambda *passed: seen.append(passed[2])) for _, mlp in places]
    clean, other = (model.embed(tokens) for tokens in (drop.batch.inputs, other_inputs(drop.sequences)))

    def outputs(t: float) -> tuple[Tensor, list[Tensor]]:
        seen.clear()
        logits = model.run_from(0, (1 - t) * clean + t * other)[:, -drop.last :]
        return drop.metric(logits, drop.batch.targets[:, -drop.last :], None), list(seen)

    changes = [b - a for a, b in zip(outputs(0.0)[1], outputs(1.0)[1], strict=True)]
    total = torch.zeros(N, drop.sequences, dtype=torch.float64)
    for k in range(1, steps + 1):  # as in the paper: from the corrupted input, without it, to the clean one
        value, puts = outputs(1 - k / steps)
        for place, (slope, change) in enumerate(zip(torch.autograd.grad(-value.sum(), puts), changes, strict=True)):
            here = torch.ones(1) if drop.where is None else drop.where.double()
            each = (slope * change * here[:, None]).sum(1)  # a number for each row and entry
            layer, mlp = divmod(place, 2)
            if mlp:
                total[3 * layer + 2] += each.sum(-1) / steps
            else:
                total[3 * layer : 3 * layer + 2] += each.unflatten(-1, (2, -1)).sum(-1).T / steps
    for hook in hooks:
        hook.remove()
    return total.detach()


@pytest.mark.parametrize("where", [None, torch.tensor([True, False] * (LENGTH + 1))])
def test_scores_are_those_of_the_formula(where: Tensor | None) -> None:
    model = bent_model(positions="learned")
    drop = a_drop(model, where=where)
    for steps in (1, 3):
        torch.testing.assert_close(input_gradients(drop, other_inputs(), steps), by_hand(drop, model, steps), **CLOSE)
    assert torch.equal(input_gradients(drop, other_inputs(), 1), attribution_patching(drop))
    assert not torch.allclose(input_gradients(drop, other_inputs(), 3), attribution_patching(drop), atol=1e-3)
    gains = input_gradients(replace(drop, sign=-1), other_inputs(), 3)
    assert torch.equal(gains, -input_gradients(drop, other_inputs(), 3))


def test_of_a_network_that_is_linear_in_its_embedding_it_is_the_exact_effect() -> None:
    drop = a_drop(straight(parallel=True), metric=projected)
    torch.testing.assert_close(input_gradients(drop, other_inputs(), 2), exact(drop), atol=1e-8, rtol=1e-8)


def test_sequences_that_do_not_fit_together_give_the_same_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    drop, whole = a_drop(), input_gradients(a_drop(), other_inputs(), 2)
    monkeypatch.setattr("gcgap.attribution.drop.ROWS", 3)
    torch.testing.assert_close(input_gradients(drop, other_inputs(), 2), whole, **CLOSE)
    assert (drop.passes.forward, drop.passes.backward, drop.passes.double_backward) == (5, 2, 0)


def plain_scores(model: Pretrained, one: Encoded, steps: int) -> Tensor:
    """The same of one prompt without a pad, whose embeddings the network itself takes as `inputs_embeds`."""
    seen: list[Tensor] = []
    hooks = []
    for layer in range(model.n_layers):
        out, mlp = (model.get_submodule(name.format(layer=layer)) for name in (model.wiring.out_projection, model.wiring.mlp))
        hooks.append(out.register_forward_pre_hook(lambda _, x: seen.append(x[0])))
        hooks.append(mlp.register_forward_hook(lambda *passed: seen.append(passed[2])))
    network: Any = model.network
    embed = network.get_input_embeddings()
    assert one.corrupted is not None
    clean, other = (embed(torch.tensor([list(tokens)])) for tokens in (one.clean, one.corrupted))

    def outputs(t: float) -> tuple[Tensor, list[Tensor]]:
        seen.clear()
        logits = network(inputs_embeds=(1 - t) * clean + t * other).logits[0, -1].double()
        return logits[one.answer] - logits[one.wrong], list(seen)

    changes = [b - a for a, b in zip(outputs(0.0)[1], outputs(1.0)[1], strict=True)]
    total = torch.zeros(len(model.wiring.components), dtype=torch.float64)
    for k in range(steps):
        value, puts = outputs(k / steps)
        slopes = torch.autograd.grad(-value, puts)
        products = [(slope * change).sum((0, 1)).double() for slope, change in zip(slopes, changes, strict=True)]
        for layer in range(model.n_layers):
            heads, mlp = model.wiring.columns(layer)
            total[heads] += products[2 * layer].unflatten(0, (model.n_heads, -1)).sum(-1) / steps
            total[mlp] += products[2 * layer + 1].sum() / steps
    for hook in hooks:
        hook.remove()
    return total.detach()


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_of_networks_of_hugging_face_inputs_lie_between_their_own_embeddings_and_pads_change_nothing(name: str) -> None:
    model, rows = made(name), prompts()
    batch = as_batch(rows)
    assert bool((batch.inputs == NOTHING).any())
    assert batch.corrupted is not None
    found = input_gradients(prompted(model, batch), batch.corrupted, 3)
    by_hand = torch.stack([plain_scores(model, one, 3) for one in rows], -1)
    torch.testing.assert_close(found, by_hand, atol=1e-5 * float(by_hand.abs().max()), rtol=0)  # of norms in float32
    assert float((found - attribution_patching(prompted(model, batch))).abs().max()) > 1e-3 * float(by_hand.abs().max())


def test_without_a_corrupted_input_it_is_refused_by_name_and_is_no_default(
    tmp_path: Path, trained: Transformer, source: Source, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED)):
        find_methods(["exact", "eap_ig"], Baseline.MEAN)
    for baseline in Baseline:
        assert ("eap_ig" in default_methods(None, baseline)) == str(baseline).startswith("patch_")
    protocol = Protocol(baselines=(Baseline.MEAN, Baseline.PATCH_TOKEN), attribution=Attribution(methods=("eap_ig",)))
    for call in (gcgap.attribute, gcgap.measure):
        with pytest.raises(ValueError, match=re.escape(REFUSED)):
            call(trained, length=4, protocol=protocol, origin=Origin(source))
    with pytest.raises(ValueError, match=r"^`methods`: eap_ig needs a corrupted input, .* got zero"):
        truth(methods=["eap_ig"])
    assert main(["attribute", "--known", "--methods=eap_ig", f"--out={tmp_path / 'known'}"]) == 2
    assert "eap_ig needs a corrupted input" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.json"))


def test_where_heads_have_no_output_of_their_own_or_no_embedding_is_known_it_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"^`eap_ig` needs the site component .* got the site released\.$"):
        input_gradients(a_drop(site=Site.RELEASED), other_inputs(), 2)
    model = made("gpt2")
    monkeypatch.setattr(model.network, "get_input_embeddings", None)
    assert token_embedding(model) is None
    assert "eap_ig" not in default_methods(model, Baseline.PATCH_PROMPT)
    batch = as_batch(prompts())
    assert batch.corrupted is not None
    with pytest.raises(ValueError, match=r"got a network without `get_input_embeddings`\.$"):
        input_gradients(prompted(model, batch), batch.corrupted, 2)
