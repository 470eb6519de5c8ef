"""Measuring fits where training does."""

from bench.memory import of_stages


def test_measuring_never_needs_more_than_twice_the_memory_of_a_training_step() -> None:
    step, *stages = of_stages().items()
    assert step[0].startswith("a training step")
    assert len(stages) == 6
    assert {name for name, bytes in stages if bytes > 2 * step[1]} == set()
