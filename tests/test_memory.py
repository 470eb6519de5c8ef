"""Measuring fits where training does."""

import pytest
from bench.memory import of_stages, step


@pytest.mark.robust
def test_measuring_never_needs_more_than_twice_the_memory_of_a_training_step() -> None:
    stages = of_stages()
    assert len(stages) == 9
    assert {name for name, bytes in stages.items() if bytes > 2 * stages[step(name)]} == set()
