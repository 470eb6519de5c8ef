from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import combinations
from typing import Any, get_args

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from gcgap.data.batches import Batch, Purpose, Source, partner_rows, rank_slice
from gcgap.data.corruption import Corruption, corrupted
from gcgap.data.tasks import END, LARGEST, SEP, VOCABULARY
from gcgap.importance import ablation as causal
from gcgap.importance.ablation import Intervention, ablated_scores, base_scores, bound, drops
from gcgap.importance.baselines import Replacement, mean_activations, replacements, zero_activations
from gcgap.importance.gates import Activations, NotFiredError, recorded
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline, Site
from gcgap.importance.scores import METRICS, score
from gcgap.models.number_format import in_precision
from gcgap.models.transformer import Positions, Transformer
from gcgap.models.wiring import Wiring

POSITIONS = get_args(Positions)
APART = (Baseline.PATCH_PROMPT, Baseline.OPTIMAL)  # for those see test_prompted.py and test_optimal.py
BASELINES, SITES = [one for one in Baseline if one not in APART], list(Site)
SIZES: dict[str, Any] = {"n_layers": 2, "n_heads": 2, "d_model": 16, "d_ff": 24, "n_ctx": 14, "seed": 5}
WIRING = Wiring(2, 2)
SINGLE = [frozenset([i]) for i in range(6)]
JOINT = [frozenset([0, 1]), frozenset([1, 5]), frozenset([3, 4]), frozenset([2, 3]), frozenset(range(6))]
CLOSE: dict[str, Any] = {"atol": 1e-11, "rtol": 1e-11}
MEAN_BATCHES, MEAN_SIZE = 2, 8
Unchanged = Callable[[nn.Module], AbstractContextManager[None]]


def all_replacements(model: Transformer, source: Source, batch: Batch, wanted: Sequence[Baseline] = BASELINES) -> Any:
    """Replacements from means over the same few batches everywhere."""
    wiring, length = Wiring.of(model), int(batch.scored[0].sum()) - 1
    mean = mean_activations(model, wiring, source.batches(Purpose.MEAN, length, MEAN_BATCHES, MEAN_SIZE), by_position=False)
    return replacements(model, wiring, source, batch, wanted, mean, MEAN_BATCHES, MEAN_SIZE)


def measured(
    model: Transformer,
    source: Source,
    batch: Batch,
    sets: Sequence[frozenset[int]],
    wanted: Sequence[Baseline] = BASELINES,
    **k: Any,
) -> dict[tuple[Baseline, frozenset[int]], Tensor]:
    """Drops of every set under every baseline, shape (metric, sequence)."""
    asked = [Intervention(members, baseline) for baseline in wanted for members in sets]
    found = drops(
        *ablated_scores(model, Wiring.of(model), batch, bound(asked, all_replacements(model, source, batch, wanted)), **k)
    )
    return {(Baseline(one.replacement), one.members): found[:, number] for number, one in enumerate(asked)}


def reference_others(
    model: Transformer, positions: str, source: Source, batch: Batch
) -> dict[Baseline, dict[reference.Part, Tensor]]:
    """The replacements of every baseline, from runs of the reference."""
    state, n_heads, length = reference.float64(model.state_dict()), model.n_heads, int(batch.scored[0].sum()) - 1
    own = source.batches(Purpose.MEAN, length, MEAN_BATCHES, MEAN_SIZE)
    runs = [reference.run(state, one.inputs, n_heads, positions) for one in own]
    partner = batch.inputs[partner_rows(batch, source.seed, length)]
    return {
        Baseline.MEAN: reference.means(runs, by_position=False),
        Baseline.MEAN_BY_POSITION: reference.means(runs, by_position=True),
        Baseline.ZERO: {part: torch.zeros(1, 1, 1, dtype=torch.float64) for part in runs[0].parts},
        Baseline.RESAMPLE: reference.run(state, partner, n_heads, positions).parts,
    } | {
        baseline: reference.run(
            state, corrupted(batch, Corruption(baseline.corruption), source.seed).inputs, n_heads, positions
        ).parts
        for baseline in BASELINES
        if baseline.corruption is not None
    }


def reference_scores(
    model: Transformer, positions: str, batch: Batch, members: frozenset[int], other: Mapping[reference.Part, Tensor], site: str
) -> Tensor:
    """Scores with a set ablated, shape (metric, sequence)."""
    scored = int(batch.scored[0].sum())
    parts = Wiring.of(model).components
    off = {(parts[member].layer, parts[member].head): 1.0 for member in members}
    state = reference.float64(model.state_dict())
    logits = reference.run(state, batch.inputs, model.n_heads, positions, off, other, site).logits[:, -scored:]
    return torch.tensor(reference.scores(logits, batch.targets[:, -scored:]), dtype=torch.float64)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("positions", POSITIONS)
def test_ablated_scores_agree_with_the_reference_for_every_component_set_and_baseline(positions: Positions, site: Site) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    source = Source("sort", seed=3, lengths=(2, 3), ood_lengths=(4,))
    batch = source.batch(Purpose.EVALUATION, 4, 19)
    asked = [Intervention(members, baseline) for baseline in BASELINES for members in SINGLE + JOINT]
    found = all_replacements(model, source, batch)
    base, ablated = (torch.stack(list(values)) for values in ablated_scores(model, WIRING, batch, bound(asked, found), site))
    others = reference_others(model, positions, source, batch)
    close: dict[str, Any] = {"atol": 1e-4, "rtol": 0.0} if positions == "sinusoidal" else CLOSE
    nothing = reference_scores(model, positions, batch, frozenset(), {}, site)
    torch.testing.assert_close(base, nothing, **close)
    for number, (members, baseline) in enumerate((one.members, Baseline(one.replacement)) for one in asked):
        theirs = reference_scores(model, positions, batch, members, others[baseline], site)
        torch.testing.assert_close(ablated[:, number], theirs, **close)
        assert not torch.allclose(theirs[1], nothing[1], atol=1e-6)


@pytest.mark.parametrize("site", SITES)
def test_drops_of_a_trained_model_agree_with_the_reference(site: Site, trained: Transformer, source: Source) -> None:
    model = trained.double()
    batch = source.batch(Purpose.EVALUATION, 4, 40)
    others = reference_others(model, "none", source, batch)
    base = reference_scores(model, "none", batch, frozenset(), {}, site)
    assert 0 < base[0].mean() < 1
    partial = 0
    for (baseline, members), found in measured(model, source, batch, SINGLE, site=site).items():
        theirs = (base - reference_scores(model, "none", batch, members, others[baseline], site))[: len(METRICS)]
        torch.testing.assert_close(found, theirs, atol=1e-9, rtol=1e-9)
        partial += 0 < float(theirs[0].mean()) < float(base[0].mean())
    assert partial > 4


def test_means_are_over_batch_and_positions_or_over_the_batch_alone() -> None:
    model = Transformer(**SIZES).double()
    own = Source("sort", seed=3).batches(Purpose.MEAN, 4, 3, 5)
    runs = [reference.run(reference.float64(model.state_dict()), one.inputs, 2, "none") for one in own]
    for by_position in (False, True):
        found, theirs = mean_activations(model, WIRING, own, by_position), reference.means(runs, by_position)
        for layer in range(2):
            assert found.heads[layer].shape == (1, 10 if by_position else 1, 2, 8)
            torch.testing.assert_close(found.mlps[layer][0].squeeze(0), theirs[layer, None], **CLOSE)
            for head in range(2):
                torch.testing.assert_close(found.heads[layer][0, :, head].squeeze(0), theirs[layer, head], **CLOSE)


def test_resampling_uses_the_partner_of_each_row() -> None:
    model = Transformer(**SIZES).double()
    source = Source("sort", seed=3)
    batch = source.batch(Purpose.EVALUATION, 4, 19)
    give: Replacement = all_replacements(model, source, batch)[Baseline.RESAMPLE]
    partner = batch.inputs[partner_rows(batch, 3, 4)]
    for rows in (slice(0, 16), slice(16, 19)):
        theirs = reference.run(reference.float64(model.state_dict()), partner[rows], 2, "none").parts
        torch.testing.assert_close(give(rows).heads[0][:, :, 1], theirs[0, 1], **CLOSE)
        torch.testing.assert_close(give(rows).mlps[1], theirs[1, None][:, -5:], **CLOSE)


def test_zero_is_zero_for_every_component() -> None:
    zero = zero_activations(Transformer(**SIZES), WIRING)
    assert [tuple(value.shape) for value in (*zero.heads, *zero.mlps)] == [(1, 1, 2, 8)] * 2 + [(1, 1, 16)] * 2
    assert not any(value.any() for value in (*zero.heads, *zero.mlps))


@pytest.mark.parametrize(("chunk", "rows"), [(1, 1), (7, 21), (16, 80), (19, 19), (64, 1000)])
def test_a_batch_gives_what_its_rows_give_one_by_one(chunk: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Transformer(**SIZES).double()
    source = Source("sort", seed=3)
    batch = source.batch(Purpose.EVALUATION, 4, 19)
    found = all_replacements(model, source, batch, [Baseline.MEAN, Baseline.RESAMPLE])
    asked = [Intervention(members, baseline) for members in SINGLE + JOINT for baseline in found]
    monkeypatch.setattr(causal, "CHUNK", chunk)
    monkeypatch.setattr(causal, "ROWS", rows)
    together = torch.stack(list(ablated_scores(model, WIRING, batch, bound(asked, found))[1]))
    assert together.shape == (5, len(asked), 19)
    for row in range(0, 19, 3):
        alone = {baseline: row_of(give, row) for baseline, give in found.items()}
        one = rank_slice(batch, row, 19, "rows")
        scores = torch.stack(list(ablated_scores(model, WIRING, one, bound(asked, alone))[1]))
        torch.testing.assert_close(together[:, :, row], scores[:, :, 0], **CLOSE)


def row_of(give: Replacement, row: int) -> Replacement:
    """The replacement of one row of the whole batch, for a batch of that row alone."""
    return lambda _: give(slice(row, row + 1))


def test_base_scores_are_those_beside_the_ablated_ones(trained: Transformer, source: Source) -> None:
    batch = source.batch(Purpose.EVALUATION, 4, 37)
    asked = [Intervention(frozenset([0]), Baseline.ZERO)]
    beside = ablated_scores(trained, WIRING, batch, bound(asked, all_replacements(trained, source, batch)))[0]
    alone = base_scores(trained, batch)
    assert torch.equal(beside.exact_match, alone.exact_match)
    assert torch.equal(beside.token_accuracy, alone.token_accuracy)
    torch.testing.assert_close(beside.log_prob, alone.log_prob, atol=1e-5, rtol=1e-5)


def test_ablated_scores_do_not_depend_on_what_else_is_asked_for(trained: Transformer, source: Source) -> None:
    batch = source.batch(Purpose.EVALUATION, 4, 37)
    model = trained.double()
    many = measured(model, source, batch, [*JOINT, *SINGLE])
    for (baseline, members), found in measured(model, source, batch, [frozenset([4]), frozenset([0, 1])]).items():
        torch.testing.assert_close(found, many[baseline, members], **CLOSE)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("head", [0, 1])
def test_a_head_without_columns_in_w_o_has_no_effect_at_all_but_the_released_site_sees_one(
    head: int, layer: int, trained: Transformer, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(causal, "ROWS", 16)  # one intervention a run, so that its shape is that of the base
    mine, columns = WIRING.columns(layer)[0].start + head, slice(16 * head, 16 * head + 16)
    with torch.no_grad():
        trained.blocks[layer].attention.W_O.weight[:, columns] = 0
    batch = source.batch(Purpose.EVALUATION, 4, 32)
    for (_, members), found in measured(trained, source, batch, [frozenset([mine])]).items():
        assert members == {mine}
        assert not found.any()
    released = measured(trained, source, batch, [frozenset([mine])], site=Site.RELEASED)
    assert all(found[1].abs().mean() > 0.01 for found in released.values())


def test_an_mlp_that_is_replaced_writes_what_an_open_gate_lets_in_in_bfloat16_too() -> None:
    model, source = in_precision(Transformer(**SIZES), "bf16"), Source("sort", seed=3)
    assert isinstance(model, Transformer)
    batch = source.batch(Purpose.EVALUATION, 4, 7)
    asked = [Intervention(frozenset([member]), Baseline.MEAN) for member in (2, 5)]
    found = all_replacements(model, source, batch)
    gates, skipped = (
        torch.stack(ablated_scores(model, WIRING, batch, bound(asked, found), where=where)[1])
        for where in (torch.ones(2 * 4 + 2, dtype=torch.bool), None)
    )
    assert torch.equal(skipped, gates)


@pytest.mark.parametrize("site", SITES)
def test_an_mlp_that_is_replaced_does_not_run_and_its_effect_is_that_of_an_open_gate(site: Site) -> None:
    model, source = Transformer(**SIZES).double(), Source("sort", seed=3)
    batch = source.batch(Purpose.EVALUATION, 4, 7)
    sets = [frozenset(members) for members in ([2], [5], [2, 5], [2, 3], [5, 0])]
    asked = [Intervention(members, baseline) for baseline in BASELINES for members in sets]
    found = all_replacements(model, source, batch)
    everywhere = torch.ones(2 * 4 + 2, dtype=torch.bool)  # chosen positions are replaced by gates, which need the MLP to run
    _, gates = ablated_scores(model, WIRING, batch, bound(asked, found), site, everywhere)
    runs: list[int] = []
    hooks = [block.mlp.register_forward_hook(lambda *_, layer=i: runs.append(layer)) for i, block in enumerate(model.blocks)]
    _, skipped = ablated_scores(model, WIRING, batch, bound(asked, found), site)
    torch.testing.assert_close(torch.stack(list(skipped)), torch.stack(list(gates)), atol=1e-12, rtol=1e-12)
    runs.clear()
    zero = {Baseline.ZERO: found[Baseline.ZERO]}
    ablated_scores(model, WIRING, batch, bound([Intervention(sets[1], Baseline.ZERO)], zero), site)
    for hook in hooks:
        hook.remove()
    assert runs == [0, 1], "the untouched model alone runs the last MLP"


@pytest.mark.parametrize("positions", POSITIONS)
def test_replacing_a_component_by_its_own_output_changes_nothing(positions: Positions) -> None:
    model = Transformer(**SIZES, positions=positions).double()
    batch = Source("sort").batch(Purpose.EVALUATION, 4, 16)
    with recorded(model, WIRING) as own, torch.no_grad():
        model(batch.inputs)
    asked = [Intervention(members, Baseline.MEAN) for members in SINGLE + JOINT]
    base, ablated = ablated_scores(model, WIRING, batch, bound(asked, {Baseline.MEAN: lambda rows: own}))
    assert drops(base, ablated).abs().max() < 1e-12


def test_an_ablation_that_never_happens_is_an_error_that_names_it() -> None:
    model = Transformer(**SIZES)
    model.add_module("idle", nn.Identity())
    batch = Source("sort").batch(Purpose.EVALUATION, 4, 4)
    zero = {Baseline.ZERO: lambda rows: zero_activations(model, WIRING)}
    for wiring, member, text in (
        (Wiring(2, 2, mlp="idle"), 5, "MLP of layer 1 did not fire"),
        (Wiring(2, 2, out_projection="idle"), 0, "heads of layer 0 did not fire"),
    ):
        with pytest.raises(NotFiredError, match=text):
            ablated_scores(model, wiring, batch, bound([Intervention(frozenset([member]), Baseline.ZERO)], zero))


def test_effects_are_measured_in_evaluation_mode_and_full_precision(trained: Transformer, source: Source) -> None:
    batch = source.batch(Purpose.EVALUATION, 4, 20)
    plain, base = measured(trained.eval(), source, batch, SINGLE), base_scores(trained, batch)
    modes: list[bool] = []
    trained.norm.register_forward_hook(lambda module, *_: modes.append(module.training))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for asked, found in measured(trained.train(), source, batch, SINGLE).items():
            assert torch.equal(found, plain[asked])
        assert torch.equal(base_scores(trained, batch).log_prob, base.log_prob)
    assert len(modes) > 10
    assert not any(modes)


def test_measuring_effects_leaves_the_model_as_it_was_after_success_and_after_an_exception(
    unchanged: Unchanged, trained: Transformer, source: Source
) -> None:
    batch = source.batch(Purpose.EVALUATION, 4, 20)
    for site in SITES:
        with unchanged(trained):
            measured(trained, source, batch, SINGLE + JOINT, site=site)
            base_scores(trained, batch)
    outside = batch._replace(inputs=batch.inputs + 10_000)
    with unchanged(trained), pytest.raises(IndexError):
        measured(trained, source, outside, SINGLE, [Baseline.RESAMPLE])
    with unchanged(trained), pytest.raises(IndexError):
        base_scores(trained, outside)

    def fail(rows: slice) -> Activations:
        raise ZeroDivisionError

    with unchanged(trained), pytest.raises(ZeroDivisionError):
        ablated_scores(trained, WIRING, batch, bound([Intervention(SINGLE[0], Baseline.ZERO)], {Baseline.ZERO: fail}))
    bad = zero_activations(trained, WIRING)
    bad.heads[0][:] = torch.nan
    with unchanged(trained), pytest.raises(FloatingPointError, match="not finite"):
        ablated_scores(trained, WIRING, batch, bound([Intervention(SINGLE[0], Baseline.ZERO)], {Baseline.ZERO: lambda rows: bad}))


@given(rows=st.integers(1, 6), scored=st.integers(1, 5), seed=st.integers(0, 1000), sure=st.floats(0, 6))
def test_scores_agree_with_the_reference(rows: int, scored: int, seed: int, sure: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, scored, VOCABULARY, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCABULARY, (rows, scored), generator=generator)
    logits.scatter_add_(2, targets[..., None], torch.full((rows, scored, 1), sure, dtype=torch.float64))
    found = torch.stack(list(score(logits, targets)))
    torch.testing.assert_close(found, torch.tensor(reference.scores(logits, targets), dtype=torch.float64), **CLOSE)
    assert METRICS == ("exact_match", "log_prob", "token_accuracy")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_log_probability_that_is_not_finite_is_an_error(value: float) -> None:
    logits = torch.zeros(2, 3, VOCABULARY)
    logits[1, 1, 5] = value
    with pytest.raises(FloatingPointError, match="A log-probability is not finite"):
        score(logits, torch.zeros(2, 3, dtype=torch.long))


def test_one_teacher_forced_pass_gives_the_exact_match_of_greedy_decoding(trained: Transformer, source: Source) -> None:
    model = trained.double()
    state = reference.float64(model.state_dict())
    outcomes = []
    for length in (3, 4, 5):
        batch = source.batch(Purpose.EVALUATION, length, 40)
        forced = base_scores(model, batch).exact_match.tolist()
        for row, (inputs, targets) in enumerate(zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True)):
            prompt, wanted = inputs[: length + 2], targets[-(length + 1) :]
            assert prompt[-1] == SEP
            decoded = reference.greedy(lambda tokens: reference.run(state, tokens, 2, "none").logits, prompt, length + 1)
            assert forced[row] == float(decoded == wanted)
            outcomes.append(forced[row])
    assert 0.2 < sum(outcomes) / len(outcomes) < 0.9


# Models whose weights are set by hand, for examples of N integers. Dimensions of the residual stream: the token (one-hot), then
# the position (one-hot), then, from OUT on, the prediction (one-hot). LayerNorm is made the identity on token + position.
N = 4
HEADS, WIDTH, OUT, GAIN = 3, 336, 224, 0.5
COPY = Source("copy", seed=2, lengths=(2, 3), ood_lengths=(N,))
NAMES = [component.name for component in Wiring(2, HEADS).components]
MEAN = (1 / WIDTH) * 2
SCALE = math.sqrt(2 / WIDTH - MEAN**2 + 1e-5)


def copier(duties: Sequence[Callable[[int], bool]]) -> Transformer:
    """Head i of layer 0 predicts the j-th scored token wherever duties[i](j); everything else writes exactly nothing.

    The token to predict stands N positions before: y_j is at x_j, and END is told by SEP. Off duty a head looks at START, whose
    value is zero.
    """
    model = Transformer(n_layers=2, n_heads=HEADS, d_model=WIDTH, d_ff=8, positions="learned", n_ctx=2 * N + 2).double()
    d_head, positions = WIDTH // HEADS, torch.arange(2 * N + 2)
    tokens = torch.arange(VOCABULARY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        assert model.position is not None
        model.embedding.weight[tokens, tokens] = 1
        model.position.weight[positions, VOCABULARY + positions] = 1
        model.norm.weight.fill_(1)
        model.unembedding.weight[tokens, OUT + tokens] = GAIN
        first = model.blocks[0]
        first.norm_attention.weight.fill_(SCALE)
        first.norm_attention.bias.fill_(MEAN)
        for head, duty in enumerate(duties):
            row = head * d_head
            for j in range(N + 1):
                seen = 1 + j if duty(j) else 0
                first.attention.W_Q.weight[row + seen, VOCABULARY + N + 1 + j] += 60 * math.sqrt(d_head)
            first.attention.W_K.weight[row + positions, VOCABULARY + positions] = 1
            numbers = torch.arange(1, LARGEST + 1)
            first.attention.W_V.weight[row + numbers, numbers] = 1
            first.attention.W_V.weight[row + END, SEP] = 1
            first.attention.W_O.weight[OUT + tokens, row + tokens] = 1
    return model


def accuracy_drops(model: Transformer, sets: Sequence[Sequence[str]], wanted: Sequence[Baseline], **k: Any) -> list[list[float]]:
    """Drops of exact match of named sets, a list for each baseline."""
    wiring, batch = Wiring.of(model), COPY.batch(Purpose.EVALUATION, N, 24)
    asked = [frozenset(wiring.find(names)) for names in sets]
    found = measured(model, COPY, batch, asked, wanted, **k)
    return [[float(found[baseline, members][0].mean()) for members in asked] for baseline in wanted]


def test_the_only_working_head_is_worth_the_whole_accuracy_and_all_others_nothing() -> None:
    model = copier([lambda j: True])
    batch = COPY.batch(Purpose.EVALUATION, N, 24)
    assert base_scores(model, batch).exact_match.tolist() == [1.0] * 24
    found = accuracy_drops(model, [[name] for name in NAMES], BASELINES)
    assert found == [[1.0] + [0.0] * (len(NAMES) - 1)] * len(BASELINES)


def test_the_drop_in_log_probability_of_the_only_working_head_is_that_worked_out_by_hand() -> None:
    model = copier([lambda j: True])
    batch = COPY.batch(Purpose.EVALUATION, N, 24)
    (found,) = measured(model, COPY, batch, [frozenset([0])], [Baseline.ZERO]).values()
    # Three of WIDTH entries of the residual stream are 1. Without the head no token is preferred.
    right = GAIN / math.sqrt(3 / WIDTH - (3 / WIDTH) ** 2 + 1e-5)
    drop = math.log(VOCABULARY) - math.log(1 + (VOCABULARY - 1) * math.exp(-right))
    torch.testing.assert_close(found[1], torch.full((24,), drop, dtype=torch.float64), atol=1e-12, rtol=0)


def test_the_gradient_of_the_only_working_head_is_that_worked_out_by_hand() -> None:
    model = copier([lambda j: True])
    tokens = torch.tensor([[31, 4, 15, 92]])
    one = Source("copy", 0).batch(Purpose.GRADIENT, N, 1)
    one.inputs[:, 1 : N + 1] = one.inputs[:, N + 2 :] = tokens
    one.targets[:, :N] = one.targets[:, N + 1 : -1] = tokens
    mean = 3 / WIDTH
    scale = math.sqrt(mean - mean**2 + 1e-5)
    wrong = 1 / (VOCABULARY - 1 + math.exp(GAIN / scale))  # probability of each wrong token
    miss = GAIN * (VOCABULARY - 1) * wrong  # minus the derivative of one token's loss by its normalised logit dimension
    # Backwards through LayerNorm: (g - mean(g) - xhat mean(g xhat)) / scale
    # with mean(g) = 0 and mean(g xhat) = -miss / scale / WIDTH.
    pull = miss / scale / WIDTH
    at_right = (-miss + (1 - mean) / scale * pull) / scale
    at_wrong = (GAIN * wrong - mean / scale * pull) / scale
    # Each of N + 1 tokens has its own token and its own position in the input of W_V, two orthogonal ones.
    norm = math.sqrt(at_right**2 + (VOCABULARY - 1) * at_wrong**2) * math.sqrt(2 * (N + 1)) / (N + 1)
    found = gradient_norms(model, Wiring.of(model), [one], normalise=False)[:, 0].tolist()
    assert found[0] == pytest.approx(norm, rel=1e-10)
    assert found[1:] == [0.0] * (len(NAMES) - 1)


def test_the_released_site_blames_the_head_whose_slice_the_working_head_writes_into() -> None:
    model = copier([lambda j: True])
    sets = [["L0_H0"], ["L0_H1"], ["L0_H2"]]
    assert accuracy_drops(model, sets, [Baseline.MEAN, Baseline.ZERO], site=Site.COMPONENT) == [[1.0, 0.0, 0.0]] * 2
    assert accuracy_drops(model, sets, [Baseline.MEAN, Baseline.ZERO], site=Site.RELEASED) == [[0.0, 0.0, 1.0]] * 2


def test_a_redundant_pair_costs_nothing_one_by_one_and_everything_together() -> None:
    model = copier([lambda j: True, lambda j: True])
    sets = [["L0_H0"], ["L0_H1"], ["L0_H0", "L0_H1"], ["L0_H2"], ["L0_MLP"]]
    assert accuracy_drops(model, sets, [Baseline.MEAN, Baseline.ZERO]) == [[0.0, 0.0, 1.0, 0.0, 0.0]] * 2


def test_a_pair_that_shares_the_work_costs_everything_one_by_one() -> None:
    model = copier([lambda j: j % 2 == 0, lambda j: j % 2 == 1])
    sets = [["L0_H0"], ["L0_H1"], ["L0_H0", "L0_H1"], ["L0_H2"], ["L0_MLP"]]
    ablations = [baseline for baseline in BASELINES if baseline.corruption is None]  # one changed token is one head's business
    assert accuracy_drops(model, sets, ablations) == [[1.0, 1.0, 1.0, 0.0, 0.0]] * 4


def test_three_heads_of_which_any_one_suffices_fall_only_together() -> None:
    model = copier([lambda j: True] * 3)
    sets = [[f"L0_H{head}" for head in members] for size in (1, 2, 3) for members in combinations(range(3), size)]
    assert accuracy_drops(model, sets, [Baseline.ZERO]) == [[0.0] * 6 + [1.0]]


def test_a_score_that_is_not_finite_names_the_group_of_rows_that_made_it() -> None:
    logits = torch.zeros(6, 3, 8)
    logits[4, 1] = float("inf")
    with pytest.raises(FloatingPointError, match="with c ablated: "):
        score(logits, torch.zeros(6, 3, dtype=torch.long), names=("a", "b", "c"))


def test_a_replacement_that_is_not_finite_is_an_error_that_names_its_component(trained: Transformer, source: Source) -> None:
    wiring, batch = Wiring.of(trained), source.batch(Purpose.EVALUATION, 4, 6)
    other = zero_activations(trained, wiring)
    other.mlps[1].fill_(float("nan"))
    sets = [Intervention(frozenset(wiring.find([name])), Baseline.ZERO) for name in ("L1_H0", "L1_MLP")]
    with pytest.raises(FloatingPointError, match="replacement of L1_MLP"):
        ablated_scores(trained, wiring, batch, bound(sets, {Baseline.ZERO: lambda rows: other}))
