from __future__ import annotations

from itertools import combinations
from math import comb
from typing import Any

import numpy as np
import pytest
import reference
import torch
from handmade import CASES, CLOSE, N, a_drop, bent_model, case
from test_causal import COPY, copier
from torch import Tensor

from gcgap.attribution.drop import Drop
from gcgap.attribution.paths import shapley_values
from gcgap.attribution.sets import CriticalSets, critical_sets, interactions, set_drops, single_drops
from gcgap.data.batches import Purpose
from gcgap.importance.baselines import activations_on, zero_activations
from gcgap.importance.scores import Scores, exact_match
from gcgap.models.transformer import Transformer
from gcgap.models.wiring import Wiring

SETS = [frozenset([0]), frozenset([0, 1]), frozenset([1, 5]), frozenset([3, 4]), frozenset([2, 3]), frozenset(range(6))]


def hand_built(*duties: Any) -> Drop:
    """Heads 0, 1, .. of layer 0 have the duties, components 3 to 7 none; zero ablation."""
    model = copier(duties)
    zero = zero_activations(model, Wiring.of(model))
    return Drop(model, Wiring.of(model), COPY.batch(Purpose.EVALUATION, 4, 12), lambda rows: zero, exact_match)


def either_of(n: int) -> Drop:
    """Any one of n heads is enough."""
    return hand_built(*[lambda j: True] * n)


def both_needed() -> Drop:
    """One head knows the even places, the other one the odd ones."""
    return hand_built(lambda j: j % 2 == 0, lambda j: j % 2 == 1)


def means(scores: Scores) -> list[float]:
    return scores.exact_match.mean(-1).tolist()


def test_a_redundant_pair_is_worth_nothing_alone_and_all_together() -> None:
    drop = either_of(2)
    assert means(single_drops(drop)) == [0.0] * 8
    assert means(set_drops(drop, [frozenset([0, 1]), frozenset([0, 2]), frozenset(range(8))])) == [1.0, 0.0, 1.0]


def test_a_pair_that_needs_each_other_is_worth_all_alone_and_no_more_together() -> None:
    drop = both_needed()
    assert means(single_drops(drop)) == [1.0, 1.0] + [0.0] * 6
    assert means(set_drops(drop, [frozenset([0, 1]), frozenset([0, 2]), frozenset([2, 3])])) == [1.0, 1.0, 0.0]


def test_interactions_are_positive_for_redundancy_and_negative_where_two_need_each_other() -> None:
    for drop, sign in ((either_of(2), 1.0), (both_needed(), -1.0)):
        found = interactions(drop, ["exact_match", "logit_difference", "log_prob"])
        expected = torch.zeros(8, 8, dtype=torch.float64)
        expected[0, 1] = expected[1, 0] = sign
        assert torch.equal(found["exact_match"].mean, expected)
        assert torch.equal(found["exact_match"].single, single_drops(drop).exact_match.mean(-1))
        assert not found["exact_match"].error.any()
        if sign > 0:  # of the soft metrics too: the second head's logits are worth more once the first one's are gone
            assert found["log_prob"].mean[0, 1] > 0.1
            others = found["log_prob"].mean.clone()
            others[[0, 1], [1, 0]] = 0
            assert others.abs().max() < 1e-9


def test_shapley_values_share_a_redundant_and_a_complementary_pair_evenly() -> None:
    for drop in (either_of(2), both_needed()):
        found = shapley_values(drop, 1, np.random.default_rng(0))
        expected = torch.zeros(8, 12, dtype=torch.float64)
        expected[:2] = 0.5  # one of the two comes last in an order and first in its reverse
        assert torch.equal(found, expected)
    third = shapley_values(either_of(3), 2, np.random.default_rng(0)).mean(-1)
    assert third[:3].sum() == pytest.approx(1)
    assert (third[:3] - 1 / 3).abs().max() < 0.15
    assert not third[3:].any()


@pytest.mark.parametrize(("metric", "site", "where", "positions"), CASES)
@pytest.mark.parametrize("sign", [1, -1])
def test_drops_of_sets_agree_with_the_reference(sign: int, metric: str, site: Any, where: Any, positions: str) -> None:
    drop, level = case(metric, site, where, positions)
    signed = a_drop(drop.model, site=site, where=drop.where, sign=sign)
    found = getattr(set_drops(signed, SETS), metric)
    for members, own in zip(SETS, found, strict=True):
        torch.testing.assert_close(own, sign * reference.drop_of(level, N, sorted(members)), **CLOSE)
        assert own.abs().min() > 1e-6
    alone = torch.stack([reference.drop_of(level, N, [i]) for i in range(N)])
    torch.testing.assert_close(getattr(single_drops(signed), metric), sign * alone, **CLOSE)


def test_drops_of_every_metric_of_a_trained_model_agree_with_the_reference(trained: Transformer, source: Any) -> None:
    model, batch = trained.double(), source.batch(Purpose.EVALUATION, 4, 30)
    other = source.batch(Purpose.EVALUATION, 4, 30, 1).inputs
    drop = Drop(model, Wiring.of(model), batch, activations_on(model, Wiring.of(model), other, 5))
    state = reference.float64(model.state_dict())
    parts = [(part.layer, part.head) for part in drop.wiring.components]
    level = reference.level(
        state,
        batch.inputs,
        batch.targets,
        5,
        2,
        "none",
        parts,
        reference.run(state, other, 2, "none").parts,
        lambda logits, targets: torch.tensor(reference.scores(logits, targets), dtype=torch.float64).T,
    )
    found = set_drops(drop, SETS)
    for number, members in enumerate(SETS):
        theirs = reference.drop_of(level, N, sorted(members)).T
        torch.testing.assert_close(torch.stack(list(found))[:, number], theirs, **CLOSE)
    assert 0 < found.exact_match.abs().mean() < 1


def test_drops_of_sets_are_those_of_open_gates() -> None:
    drop = a_drop()
    xi = torch.zeros(len(SETS), N, dtype=torch.float64)
    for row, members in enumerate(SETS):
        xi[row, list(members)] = 1
    torch.testing.assert_close(set_drops(drop, SETS).log_prob, torch.stack([drop.value(one) for one in xi]), **CLOSE)
    before = drop.passes.forward
    set_drops(drop, SETS)
    assert drop.passes.forward == before + len(SETS) + 1


def test_interactions_and_their_standard_errors_are_those_of_a_loop() -> None:
    drop = a_drop()
    found = interactions(drop, ["log_prob", "logit_difference"])
    assert list(found) == ["log_prob", "logit_difference"]
    sets = [frozenset(members) for members in combinations(range(N), 2)] + [frozenset([i]) for i in range(N)]
    drops = set_drops(drop, sets)
    for metric, one in found.items():
        of = dict(zip(sets, getattr(drops, metric).tolist(), strict=True))
        for i, j in combinations(range(N), 2):
            trio = zip(*(of[frozenset(members)] for members in ([i, j], [i], [j])), strict=True)
            each = [both - first - second for both, first, second in trio]
            mean = sum(each) / len(each)
            error = (sum((x - mean) ** 2 for x in each) / (len(each) - 1) / len(each)) ** 0.5
            for a, b in ((i, j), (j, i)):
                assert float(one.mean[a, b]) == pytest.approx(mean, abs=1e-11)
                assert float(one.error[a, b]) == pytest.approx(error, abs=1e-11)
        assert not one.mean.diagonal().any()
        assert not one.error.diagonal().any()
        assert one.error[0, 1] > 1e-4


def search(drop: Drop, most: int = 1500) -> CriticalSets:
    return critical_sets(drop, "exact_match", tolerance=0.01, critical=0.5, most=most)


def test_a_redundant_pair_is_found() -> None:
    found = search(either_of(2))
    assert found.dispensable == frozenset(range(8))
    assert found.sets == ((frozenset([0, 1]), 1.0),)
    assert (found.size, found.searched, found.greedy, found.evaluated) == (2, 2, None, comb(8, 2))
    assert (found.tolerance, found.critical) == (0.01, 0.5)


def test_a_redundant_triple_is_found_after_every_pair_was_tried() -> None:
    found = search(either_of(3))
    assert found.sets == ((frozenset([0, 1, 2]), 1.0),)
    assert (found.size, found.searched, found.greedy, found.evaluated) == (3, 3, None, comb(8, 2) + comb(8, 3))


def test_where_no_set_is_critical_every_one_was_tried() -> None:
    found = search(both_needed())
    assert found.dispensable == frozenset(range(2, 8))
    assert found.sets == ()
    assert (found.size, found.searched, found.greedy) == (None, 6, None)
    assert found.evaluated == 2**6 - 1 - 6


@pytest.mark.parametrize(("most", "searched"), [(27, 0), (83, 2)])
def test_beyond_the_limit_members_are_taken_away_until_none_can_be(most: int, searched: int) -> None:
    drop = either_of(3)
    found = search(drop, most)
    assert found.sets == ()
    assert (found.size, found.searched) == (None, searched)
    assert found.greedy is not None
    members, effect = found.greedy
    assert (members, effect) == (frozenset([0, 1, 2]), 1.0)
    tried = comb(8, 2) * (searched == 2)
    assert found.evaluated == tried + 1 + 8 + 7 + 6 + 5 + 4 + 3  # all, all but one, .., and the three pairs that are not critical
    parts = [frozenset(part) for size in (1, 2) for part in combinations(sorted(members), size)]
    assert max(means(set_drops(drop, parts))) < found.critical


def test_a_greedy_pair_is_not_taken_apart() -> None:
    found = search(either_of(2), most=0)
    assert found.greedy == (frozenset([0, 1]), 1.0)
    assert found.evaluated == 1 + 8 + 7 + 6 + 5 + 4 + 3


def test_a_greedy_search_without_a_critical_set_finds_none() -> None:
    found = search(both_needed(), most=0)
    assert found.sets == ()
    assert (found.greedy, found.searched, found.evaluated) == (None, 0, 1)


def test_fewer_than_two_dispensable_components_make_no_set() -> None:
    drop = a_drop()
    effects = single_drops(drop).log_prob.mean(-1).abs()
    for tolerance, members in ((float(effects.min()), 1), (float(effects.min()) / 2, 0)):
        found = critical_sets(drop, "log_prob", tolerance, critical=-torch.inf)
        assert len(found.dispensable) == members
        assert (found.sets, found.size, found.searched, found.greedy, found.evaluated) == ((), None, 0, None, 0)


def test_of_several_critical_sets_the_largest_stands_first_and_its_effect_is_its_own() -> None:
    drop = a_drop()
    found = critical_sets(drop, "logit_difference", tolerance=torch.inf, critical=-torch.inf)
    assert found.size == 2
    assert {members for members, _ in found.sets} == {frozenset(pair) for pair in combinations(range(N), 2)}
    effects = [effect for _, effect in found.sets]
    assert effects == sorted(effects, reverse=True)
    own = set_drops(drop, [members for members, _ in found.sets]).logit_difference.mean(-1)
    torch.testing.assert_close(own, torch.tensor(effects, dtype=torch.float64), **CLOSE)
    some = critical_sets(drop, "logit_difference", tolerance=torch.inf, critical=effects[3])
    assert [members for members, _ in some.sets] == [members for members, _ in found.sets[:4]]


def test_dispensable_is_meant_both_ways() -> None:
    drop = a_drop()
    effects = single_drops(drop).log_prob.mean(-1)
    assert effects.min() < -0.01
    tolerance = float(effects.abs().median())
    found = critical_sets(drop, "log_prob", tolerance, critical=torch.inf)
    assert found.dispensable == {i for i, effect in enumerate(effects.tolist()) if abs(effect) <= tolerance}


def test_a_larger_limit_never_searches_less() -> None:
    drop = both_needed()
    counts = [search(drop, most) for most in (14, 15, 34, 35, 57)]
    assert [found.searched for found in counts] == [0, 2, 2, 3, 6]
    assert [found.evaluated for found in counts] == [1, 16, 16, 36, 57]


def test_searching_leaves_the_model_as_it_was(unchanged: Any) -> None:
    drop = a_drop(bent_model())
    with unchanged(drop.model):
        critical_sets(drop, "log_prob", torch.inf, torch.inf, most=16)
        interactions(drop, ["log_prob"])


def test_sets_of_a_batch_are_those_of_its_sequences() -> None:
    drop = a_drop(rows=19)  # more than run together
    found: Tensor = set_drops(drop, SETS).log_prob
    torch.testing.assert_close(found[:, 18:], set_drops(row(drop, 18), SETS).log_prob, **CLOSE)
    torch.testing.assert_close(found[:, :1], set_drops(row(drop, 0), SETS).log_prob, **CLOSE)


def row(drop: Drop, number: int) -> Drop:
    one = slice(number, number + 1)
    batch = drop.batch._replace(inputs=drop.batch.inputs[one], targets=drop.batch.targets[one], scored=drop.batch.scored[one])
    return a_drop(drop.model, batch=batch, replacement=lambda _: drop.replacement(one))
