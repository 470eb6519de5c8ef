from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.data.tasks import END, LARGEST, PAD, SEP, START, TASKS, VOCABULARY, Task, find_task, module_of

numbers = st.integers(1, 9).flatmap(
    lambda n: st.lists(st.lists(st.integers(1, 99), min_size=n, max_size=n), min_size=1, max_size=4)
)


@given(numbers)
def test_sort_gives_each_row_in_ascending_order(rows: list[list[int]]) -> None:
    assert find_task("sort").target(torch.tensor(rows)).tolist() == [sorted(row) for row in rows]


@given(numbers)
def test_sort_is_idempotent(rows: list[list[int]]) -> None:
    once = find_task("sort").target(torch.tensor(rows))
    assert torch.equal(find_task("sort").target(once), once)


@given(numbers)
def test_reverse_gives_each_row_backwards_and_is_an_involution(rows: list[list[int]]) -> None:
    once = find_task("reverse").target(torch.tensor(rows))
    assert once.tolist() == [row[::-1] for row in rows]
    assert find_task("reverse").target(once).tolist() == rows


@given(numbers)
def test_copy_gives_each_row_again(rows: list[list[int]]) -> None:
    assert find_task("copy").target(torch.tensor(rows)).tolist() == rows


@pytest.mark.parametrize("name", ["copy", "reverse", "sort"])
def test_a_target_is_new_memory_and_leaves_its_input(name: str) -> None:
    inputs = torch.tensor([[3, 1, 2]])
    target = find_task(name).target(inputs)
    target.zero_()
    assert inputs.tolist() == [[3, 1, 2]]


def test_integers_are_their_own_tokens_and_the_vocabulary_is_that_of_the_paper() -> None:
    assert (LARGEST, PAD, START, SEP, END, VOCABULARY) == (99, 100, 101, 102, 103, 104)


def test_an_unknown_task_is_refused_with_the_choice() -> None:
    with pytest.raises(ValueError, match=rf"`data.task` must be one of {', '.join(sorted(TASKS))}; got 'shuffle'"):
        find_task("shuffle")


def test_a_subclass_with_a_name_registers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))

    class Nothing(Task):
        name = "nothing"

    assert isinstance(find_task("nothing"), Nothing)
    with pytest.raises(TypeError, match="Nothing defines no target"):
        find_task("nothing").target(torch.tensor([[1]]))


def test_a_name_that_another_task_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))
    with pytest.raises(ValueError, match=r"'sort' is that of gcgap\.data\.tasks\.Sort"):
        type("Other", (Task,), {"name": "sort"})
    assert type(find_task("sort")).__name__ == "Sort"


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (lambda x: x.float(), r"must be torch\.int64 of size \[2, any\]; got torch\.float32"),
        (lambda x: x.sum(-1), r"size \[2, any\]; got torch\.int64 of size \[2\]"),
        (lambda x: x[:1], r"got torch\.int64 of size \[1, 3\]"),
        (lambda x: x.tolist(), "got list"),
        (lambda x: x + 99, r"must hold 0\.\.99 alone; got 100"),
        (lambda x: x - 2, r"alone; got -1"),
    ],
)
def test_a_target_that_is_none_is_refused_with_the_name_of_the_task(
    target: Callable[[torch.Tensor], torch.Tensor], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))
    task = type("Own", (Task,), {"name": "own", "target": lambda self, inputs: target(inputs)})()
    with pytest.raises(ValueError, match=rf"`own`: a target {told}" if told.startswith("must") else told):
        task.checked_target(torch.tensor([[1, 2, 3], [1, 2, 3]]))


def test_where_a_task_comes_from_is_known_of_those_that_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))
    assert module_of(find_task("sort")) is None
    assert module_of(type("Own", (Task,), {"name": "own"})()) == f"{__name__} ({__file__})"
