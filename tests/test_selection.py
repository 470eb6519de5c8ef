"""The winner's curse, and intervals of what chosen sets cost, on a made-up population whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from calibrate.selection import curse, set_coverage

from gcgap.importance.gap import Array, Judgement, interval_of_share

COMPONENTS, SEQUENCES = 20, 4000


def population() -> tuple[Array, Array]:
    """Gradient norms and exact-match drops of components that cost 2 to 12 of 100 sequences each and give 2 back."""
    rng = np.random.default_rng(0)
    lost, gained = rng.random((2, COMPONENTS, SEQUENCES))
    drops = (lost < np.linspace(0.02, 0.12, COMPONENTS)[:, None]).astype(float) - (gained < 0.02)
    return rng.random((COMPONENTS, 1)) * rng.uniform(0.9, 1.1, (COMPONENTS, 200)), drops


def test_sums_of_chosen_sets_are_cursed_on_the_sequences_that_chose_them_and_not_on_others() -> None:
    norms, drops = population()
    for role, sign in (("bloat", 1), ("hero", -1)):
        found = curse(norms, drops, role, 100, 10, 1000, np.random.default_rng(1))
        assert sign * (found.same - 1) > 0.05
        assert found.held_out == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("sequences", [500, 100, 20])
def test_intervals_of_sums_joint_drops_and_ratios_cover(sequences: int) -> None:
    _, drops = population()
    each = drops[[3, 8, 12]]
    whole = np.clip(each.sum(0) + (np.random.default_rng(2).random(SEQUENCES) < 0.1), -1, 1)
    found = set_coverage(each, whole, sequences, 400, np.random.default_rng(3), Judgement(resamples=300))
    assert 0.91 < found.sum < 0.995
    assert 0.91 < found.joint < 0.995
    assert found.without > 0.1 if sequences == 20 else found.ratio > 0.91


def test_the_interval_of_a_share_knows_that_none_of_twenty_is_not_none() -> None:
    low, high = interval_of_share(np.zeros(20), 0.95)
    assert low == pytest.approx(0)
    assert high == pytest.approx(0.161, abs=0.001)  # Wilson's, z^2 / (n + z^2)
