from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import reference
import torch
from handmade import CLOSE, PARTS, WIRING, N, a_drop, bent_model
from torch import Tensor

from gcgap.data.batches import Batch, Purpose, Source, partner_rows
from gcgap.data.corruption import OF_SEQUENCES, Corruption, corrupted
from gcgap.data.tasks import LARGEST, SEP, START, find_task
from gcgap.importance.ablation import Intervention, ablated_scores, bound
from gcgap.importance.baselines import activations_on, mean_activations, replacements
from gcgap.importance.protocol import Baseline
from gcgap.importance.scores import log_prob

LENGTH = 3
SORT, REVERSE = (Source(task, seed=3, lengths=(1, 2), ood_lengths=(LENGTH,)) for task in ("sort", "reverse"))
KINDS = list(OF_SEQUENCES)
PATCHES = {Baseline.PATCH_SEQUENCE: "sequence", Baseline.PATCH_TOKEN: "token", Baseline.PATCH_SWAP: "swap"}


def a_batch(rows: int = 40, length: int = LENGTH, source: Source = SORT) -> Batch:
    return source.batch(Purpose.EVALUATION, length, rows)


def integers(batch: Batch, length: int = LENGTH) -> Tensor:
    return batch.inputs[:, 1 : length + 1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [2, 3, 7])
def test_only_integers_change_and_what_is_asked_for_stays(length: int, kind: Corruption) -> None:
    batch = a_batch(length=length)
    before = [part.clone() for part in (batch.inputs, batch.targets, batch.scored)]
    found = corrupted(batch, kind, seed=1)
    assert torch.equal(found.targets, batch.targets)
    assert torch.equal(found.scored, batch.scored)
    assert found.world_scored == batch.world_scored
    assert found.inputs.dtype == batch.inputs.dtype
    assert torch.equal(found.inputs[:, 0], torch.full((40,), START))
    assert torch.equal(found.inputs[:, length + 1], torch.full((40,), SEP))
    assert torch.equal(found.inputs[:, length + 1 :], batch.inputs[:, length + 1 :])
    assert integers(found, length).min() >= 1
    assert integers(found, length).max() <= LARGEST
    assert (integers(found, length) != integers(batch, length)).any(-1).double().mean() > 0.9
    assert all(torch.equal(part, copy) for part, copy in zip(batch[:3], before, strict=True))


def test_another_sequence_is_uniform_and_knows_nothing_of_the_clean_one() -> None:
    batch = a_batch(6000)
    clean, other = integers(batch).numpy(), integers(corrupted(batch, Corruption.SEQUENCE, seed=1)).numpy()
    assert abs((clean == other).mean() - 1 / LARGEST) < 0.004
    assert abs(np.corrcoef(clean.ravel(), other.ravel())[0, 1]) < 0.03
    counts = np.bincount(other.ravel(), minlength=LARGEST + 1)[1:]
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 160  # chi square with 98 degrees of freedom


def test_another_token_changes_exactly_one_place_to_any_other_value() -> None:
    batch = a_batch(9000)
    batch.inputs[:, 2] = 7
    other = corrupted(batch, Corruption.TOKEN, seed=1)
    changed = integers(batch) != integers(other)
    assert (changed.sum(-1) == 1).all()
    places = changed.sum(0).tolist()
    assert all(abs(count - 3000) < 200 for count in places)
    values = integers(other)[changed[:, 1], 1].tolist()
    assert set(values) == set(range(1, LARGEST + 1)) - {7}
    counts = np.array(list(Counter(values).values()))
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 160


def test_every_value_can_become_another_one_within_the_vocabulary() -> None:
    batch = a_batch(5 * LARGEST)
    batch.inputs[:, 1 : LENGTH + 1] = torch.arange(1, LARGEST + 1).repeat(5)[:, None]
    other = integers(corrupted(batch, Corruption.TOKEN, seed=2))
    assert ((other != integers(batch)).sum(-1) == 1).all()
    assert other.min() >= 1
    assert other.max() <= LARGEST


def test_a_swap_exchanges_two_neighbours_that_differ() -> None:
    batch = a_batch(2000, length=4)
    batch.inputs[:500, 2] = batch.inputs[:500, 1]  # the first two are equal: not these
    places = []
    for clean, other in zip(integers(batch, 4).tolist(), integers(corrupted(batch, Corruption.SWAP, 1), 4).tolist(), strict=True):
        first, second = (i for i in range(4) if clean[i] != other[i])
        assert second == first + 1
        assert (other[first], other[second]) == (clean[second], clean[first])
        places.append(first)
    assert 0 not in places[:500]
    assert all(abs(places[500:].count(place) - 500) < 80 for place in range(3))


def test_a_swap_leaves_the_sorted_target_right_and_makes_the_reversed_one_wrong() -> None:
    for source, same in ((SORT, True), (REVERSE, False)):
        batch = a_batch(source=source)
        targets = find_task(source.task).target(integers(corrupted(batch, Corruption.SWAP, seed=1)))
        assert (targets == batch.targets[:, LENGTH + 1 : -1]).all(-1).tolist() == [same] * 40


@pytest.mark.parametrize("length", [1, LENGTH])
def test_a_swap_of_a_sequence_of_one_value_is_an_error(length: int) -> None:
    batch = a_batch(length=length)
    batch.inputs[17, 1 : length + 1] = 5
    with pytest.raises(
        ValueError, match="`patch_swap` needs sequences in which two neighbours differ; got one that holds a single"
    ):
        corrupted(batch, Corruption.SWAP, seed=1)
    assert corrupted(batch, Corruption.TOKEN, seed=1).inputs.shape == batch.inputs.shape


def test_a_corruption_is_a_function_of_seed_kind_and_length(generators: Any) -> None:
    batch, before = a_batch(), generators()
    for kind in KINDS:
        first = corrupted(batch, kind, seed=1).inputs
        assert torch.equal(first, corrupted(batch, kind, seed=1).inputs)
        assert not torch.equal(first, corrupted(batch, kind, seed=2).inputs)
    assert generators() == before


def test_streams_of_different_kinds_lengths_and_purposes_are_independent() -> None:
    batch = a_batch(3000)
    token = integers(corrupted(batch, Corruption.TOKEN, 1)) != integers(batch)
    swap = integers(corrupted(batch, Corruption.SWAP, 1)) != integers(batch)
    first_token, first_swap = token[:, 0].double(), swap[:, 0].double()
    assert abs(float(torch.corrcoef(torch.stack([first_token, first_swap]))[0, 1])) < 0.06
    drawn = integers(corrupted(a_batch(length=2), Corruption.SEQUENCE, SORT.seed), 2)
    assert not torch.equal(drawn, integers(a_batch(length=2), 2))
    assert not torch.equal(drawn, integers(corrupted(a_batch(), Corruption.SEQUENCE, SORT.seed))[:, :2])


def test_patches_name_their_corruption_and_ablations_have_none() -> None:
    assert {baseline: baseline.corruption for baseline in Baseline if baseline.corruption} == PATCHES | {
        Baseline.PATCH_PROMPT: "prompt"
    }


@pytest.mark.parametrize("baseline", PATCHES)
def test_patching_lets_in_what_components_put_out_on_the_corrupted_inputs(baseline: Baseline) -> None:
    model, batch = bent_model(), a_batch(19)
    mean = mean_activations(model, WIRING, [batch], by_position=False)
    give = replacements(model, WIRING, SORT, batch, [baseline], mean, 1, 4)[baseline]
    inputs = corrupted(batch, Corruption(PATCHES[baseline]), SORT.seed).inputs
    assert not torch.equal(inputs, batch.inputs)
    theirs = reference.run(reference.float64(model.state_dict()), inputs, 2, "none").parts
    for rows in (slice(0, 16), slice(16, 32)):
        for layer, head in PARTS:
            own = give(rows).mlps[layer] if head is None else give(rows).heads[layer][:, :, head]
            torch.testing.assert_close(own, theirs[layer, head][rows, -own.shape[1] :], **CLOSE)


@pytest.mark.parametrize("baseline", PATCHES)
def test_patching_everything_is_the_corrupted_run_and_restoring_everything_the_clean_one(baseline: Baseline) -> None:
    model, batch = bent_model(), a_batch(8)
    noisy = corrupted(batch, Corruption(PATCHES[baseline]), SORT.seed)

    def bare(one: Batch) -> Tensor:
        return log_prob(model(one.inputs, LENGTH + 1), batch.targets[:, -LENGTH - 1 :]).detach()

    # What is read at the scored positions, SEP and y, is the same in both runs, so all writes together are all of the difference.
    gap = bare(batch) - bare(noisy)
    assert gap.abs().min() > 1e-6
    noising = a_drop(model, batch=batch, replacement=activations_on(model, WIRING, noisy.inputs, LENGTH + 1))
    denoising = a_drop(model, batch=noisy, replacement=activations_on(model, WIRING, batch.inputs, LENGTH + 1), sign=-1)
    torch.testing.assert_close(noising.value(noising.zero_gates() + 1), gap, **CLOSE)
    torch.testing.assert_close(denoising.value(denoising.zero_gates() + 1), gap, **CLOSE)
    # The top MLP reads nothing but those positions: left alone, it puts out by itself what would have been let in.
    all_but_top = torch.ones(N, dtype=torch.float64)
    all_but_top[-1] = 0
    torch.testing.assert_close(noising.value(all_but_top), gap, **CLOSE)
    torch.testing.assert_close(denoising.value(all_but_top), gap, **CLOSE)


def test_causal_scores_of_patching_are_drops_to_the_corrupted_inputs() -> None:
    model, batch = bent_model(), a_batch(19)
    mean = mean_activations(model, WIRING, [batch], by_position=False)
    give = replacements(model, WIRING, SORT, batch, [Baseline.PATCH_TOKEN, Baseline.RESAMPLE], mean, 1, 4)
    asked = [Intervention(frozenset([i]), baseline) for baseline in give for i in range(N)]
    _, found = ablated_scores(model, WIRING, batch, bound(asked, give))
    state, targets = reference.float64(model.state_dict()), batch.targets
    inputs: dict[Any, Tensor] = {
        Baseline.PATCH_TOKEN: corrupted(batch, Corruption.TOKEN, SORT.seed).inputs,
        Baseline.RESAMPLE: batch.inputs[partner_rows(batch, SORT.seed, LENGTH)],
    }
    for (members, baseline), scores in zip([(one.members, one.replacement) for one in asked], found.log_prob, strict=True):
        other = reference.run(state, inputs[baseline], 2, "none").parts
        (member,) = members
        level = reference.level(state, batch.inputs, targets, LENGTH + 1, 2, "none", PARTS, other)
        torch.testing.assert_close(scores, level(torch.eye(N, dtype=torch.float64)[member]), **CLOSE)
