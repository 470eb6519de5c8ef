"""A small version of `make calibrate`: intervals of one measurement hold what they should."""

from __future__ import annotations

import numpy as np
import pytest
from calibrate.measurement import QUANTITIES, coverage
from calibrate.populations import population

from gcgap.importance.gap import Judgement


@pytest.mark.parametrize(("sequences", "batches"), [(100, 10), (20, 10)])
def test_intervals_of_prompts_hold_the_truth(sequences: int, batches: int) -> None:
    of, rng = population("prompts by log-probability"), np.random.default_rng(1)
    found = coverage(of, sequences, batches, 60, rng, Judgement(resamples=400))
    for quantity in QUANTITIES:  # of 60 samples: standard errors up to 0.03
        assert found.share(quantity) > 0.87, quantity
    assert np.mean(found.ceilings) == pytest.approx(found.ceiling, abs=0.06)
