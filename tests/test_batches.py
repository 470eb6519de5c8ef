from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.data.batches import Batch, Layout, Purpose, Source, partner_rows, rank_slice
from gcgap.data.corruption import Corruption, corrupted
from gcgap.data.ioi import NAMES, WORDS
from gcgap.data.tasks import END, PAD, SEP, START, TASKS, Sentences, Task

INTEGERS = sorted(name for name, task in TASKS.items() if not isinstance(task, Sentences))

seeds = st.integers(0, 2**32 - 1)
LAYOUTS = list(Layout)
IOI = Source("ioi", seed=5, lengths=(1, 3), ood_lengths=(4, 5))
IOI_PAD = len(WORDS)


def partners(seed: int, length: int, size: int) -> torch.Tensor:
    return partner_rows(Source("sort").batch(Purpose.EVALUATION, 3, size), seed, length)


def equal(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b
        for a, b in zip(first, second, strict=True)
    )


def laid_out(x: list[int], y: list[int], longest: int, layout: Layout) -> tuple[list[int], list[bool]]:
    """Tokens of one example and whether each is scored, as method.md puts it."""
    room = [PAD] * (longest - len(x))
    middle, end = ([], 2 * room) if layout == Layout.CONTIGUOUS else (room, room)
    tokens = [START, *x, SEP, *middle, *y, END, *end]
    return tokens, [False] * (len(x) + 2 + len(middle)) + [True] * (len(y) + 1) + [False] * len(end)


@pytest.mark.parametrize("task", INTEGERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_mixed_batch_lays_out_every_example_as_the_method_says(layout: Layout, task: str) -> None:
    source = Source(task, seed=4, layout=layout)
    target = {"sort": sorted, "reverse": lambda x: x[::-1], "copy": list}[task]
    for index in range(10):
        batch = source.training_batch(index, 16)
        rows = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1).tolist()
        assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
        longest = max(row.index(SEP) - 1 for row in rows)
        for row, scored in zip(rows, batch.scored.tolist(), strict=True):
            x = row[1 : row.index(SEP)]
            tokens, counts = laid_out(x, target(x), longest, layout)
            assert row == tokens
            assert scored == counts[1:]
        assert batch.world_scored == sum(map(sum, batch.scored.tolist()))


def test_in_the_released_layout_the_first_target_of_a_short_example_is_predicted_from_a_pad() -> None:
    batch = Source("sort", layout=Layout.RELEASED).training_batch(0, 64)
    first = batch.scored.int().argmax(1)
    before = batch.inputs.gather(1, first[:, None])[:, 0]
    length = batch.scored.sum(1) - 1
    assert set(before[length < length.max()].tolist()) == {PAD}
    assert set(before[length == length.max()].tolist()) == {SEP}


@given(seed=seeds, index=st.integers(0, 1000), length=st.integers(1, 12), task=st.sampled_from(INTEGERS))
def test_a_batch_of_one_length_has_no_pad_and_scores_its_last_positions(seed: int, index: int, length: int, task: str) -> None:
    batch = Source(task, seed).batch(Purpose.EVALUATION, length, 5, index)
    assert batch.inputs.shape == batch.targets.shape == (5, 2 * length + 2)
    assert PAD not in batch.inputs
    assert PAD not in batch.targets
    assert batch.scored.tolist() == [[False] * (length + 1) + [True] * (length + 1)] * 5
    assert batch.world_scored == 5 * (length + 1)


def test_the_layouts_agree_on_batches_of_one_length() -> None:
    two = [Source("sort", 2, layout, (4, 4)).training_batch(0, 8) for layout in LAYOUTS]
    assert equal(*two)


@given(seed=seeds, index=st.integers(0, 1000), layout=st.sampled_from(LAYOUTS))
def test_a_batch_is_a_pure_function_of_its_arguments(seed: int, index: int, layout: Layout) -> None:
    source, again = Source("sort", seed, layout), Source("sort", seed, layout)
    first = source.training_batch(index, 8)
    source.training_batch(index + 1, 8)
    source.batch(Purpose.MEAN, 8, 4)
    assert equal(source.training_batch(index, 8), first)
    assert equal(again.training_batch(index, 8), first)
    assert equal(source.batch(Purpose.MEAN, 9, 4, index), again.batch(Purpose.MEAN, 9, 4, index))


def test_batches_leave_the_global_generators_and_do_not_listen_to_them(generators: Callable[[], list[Any]]) -> None:
    source = Source("reverse", seed=6)
    before, first = generators(), source.training_batch(3, 8)
    partners(6, 8, 10)
    assert generators() == before
    torch.manual_seed(77)
    random.seed(77)
    np.random.seed(77)
    assert equal(source.training_batch(3, 8), first)


def test_every_purpose_index_length_and_seed_draws_something_of_its_own() -> None:
    drawn = [
        Source("sort", seed).batch(purpose, length, 4, index).inputs[:, 1:9]
        for seed, purpose, length, index in itertools.product((0, 1, 42), Purpose, (8, 9), range(3))
    ]
    drawn += [Source("sort", seed, lengths=(7, 7)).training_batch(index, 4).inputs[:, 1:9] for seed in (0, 1) for index in (0, 1)]
    kept = {tuple(batch.flatten().tolist()) for batch in drawn}
    assert len(kept) == len(drawn) == 3 * len(Purpose) * 2 * 3 + 4


def test_batches_are_the_first_ones_of_their_purpose() -> None:
    source = Source("sort", seed=8)
    several = source.batches(Purpose.GRADIENT, 9, 3, 4)
    assert len(several) == 3
    assert all(equal(batch, source.batch(Purpose.GRADIENT, 9, 4, index)) for index, batch in enumerate(several))


def test_lengths_and_values_are_uniform_over_their_whole_range() -> None:
    source = Source("sort", seed=11)
    lengths, values, repeats = np.zeros(12), np.zeros(104), 0
    for index in range(300):
        batch = source.training_batch(index, 64)
        for row in batch.inputs.tolist():
            x = row[1 : row.index(SEP)]
            lengths[len(x)] += 1
            values[x] += 1
            repeats += len(set(x)) < len(x)
    assert lengths.nonzero()[0].tolist() == [3, 4, 5, 6, 7]
    expected = 300 * 64 / 5
    assert np.abs(lengths[3:8] - expected).max() < 4 * np.sqrt(expected)
    assert values.nonzero()[0].tolist() == list(range(1, 100))
    share = values.sum() / 99
    assert np.abs(values[1:100] - share).max() < 4.5 * np.sqrt(share)
    assert repeats > 0


@pytest.mark.parametrize("world", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_of_all_ranks_join_to_the_global_batch(layout: Layout, world: int) -> None:
    batch = Source("sort", seed=3, layout=layout).training_batch(5, 16)
    slices = [rank_slice(batch, rank, world, "data.batch_size") for rank in range(world)]
    assert [len(mine.inputs) for mine in slices] == [16 // world] * world
    inputs, targets, scored = (torch.cat(parts) for parts in zip(*(mine[:3] for mine in slices), strict=True))
    assert equal(Batch(inputs, targets, scored, batch.world_scored), batch)
    assert {mine.world_scored for mine in slices} == {batch.world_scored}


def test_some_rows_of_a_batch_keep_all_that_the_batch_has() -> None:
    sentences = IOI.batch(Purpose.EVALUATION, 4, 6)
    assert sentences.wrong is not None
    assert sentences.corrupted is not None
    few = sentences.rows(slice(2, 5))
    inputs, targets, scored = (part[2:5] for part in (sentences.inputs, sentences.targets, sentences.scored))
    assert equal(few, Batch(inputs, targets, scored, 6, sentences.wrong[2:5], sentences.corrupted[2:5]))
    assert few.world_scored == 6 == 2 * int(few.scored.sum())
    assert equal(sentences.rows(slice(60)), sentences)
    integers = Source("sort").batch(Purpose.EVALUATION, 8, 6)
    few = integers.rows(slice(4))
    assert equal(few, Batch(integers.inputs[:4], integers.targets[:4], integers.scored[:4], 6 * 9))
    assert few.wrong is few.corrupted is None


def test_answers_are_the_scored_targets_with_the_rows_repeated_one_after_another() -> None:
    here = torch.device("cpu")
    integers = Source("sort").batch(Purpose.EVALUATION, 8, 5)
    (targets,) = integers.answers(slice(1, 4), here, times=2)
    assert targets.tolist() == [integers.targets[row][integers.scored[row]].tolist() for row in (1, 2, 3, 1, 2, 3)]
    sentences = IOI.batch(Purpose.EVALUATION, 4, 5)
    assert sentences.wrong is not None
    targets, wrong = sentences.answers(slice(1, 4), here, times=2)
    assert targets.tolist() == [[sentences.targets[row, -1].item()] for row in (1, 2, 3, 1, 2, 3)]
    assert wrong.tolist() == [sentences.wrong[row].item() for row in (1, 2, 3, 1, 2, 3)]
    assert len(set(wrong.tolist())) == 3
    assert [part.tolist() for part in sentences.answers(slice(1, 4), here)] == [targets[:3].tolist(), wrong[:3].tolist()]


def to_follow(prompt: list[int]) -> str:
    """The one of the first two names that the last one does not repeat."""
    names = [WORDS[token] for token in prompt if WORDS[token] in NAMES]
    (left,) = set(names[:2]) - {names[-1]}
    return left


@pytest.mark.parametrize("length", [1, 4])
def test_of_sentences_of_one_length_the_last_token_alone_is_scored_and_its_rival_follows_the_twin(length: int) -> None:
    batch = IOI.batch(Purpose.EVALUATION, length, 30)
    assert batch.wrong is not None
    assert batch.corrupted is not None
    tokens = 15 + 7 * length
    assert batch.inputs.shape == batch.corrupted.shape == (30, tokens)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    assert IOI_PAD not in torch.cat([batch.inputs, batch.corrupted, batch.targets])
    assert batch.scored.tolist() == [[False] * (tokens - 1) + [True]] * 30
    assert (batch.last, batch.world_scored, IOI.length_of(batch)) == (1, 30, length)
    assert [WORDS[token] for token in batch.targets[:, -1]] == [to_follow(row) for row in batch.inputs.tolist()]
    assert [WORDS[token] for token in batch.wrong] == [to_follow(row) for row in batch.corrupted.tolist()]
    assert not (batch.wrong == batch.targets[:, -1]).any()
    assert (batch.inputs != batch.corrupted).sum(1).tolist() == [1] * 30


def test_sentences_are_measured_at_any_length_and_integers_beyond_training() -> None:
    inside = Source("ioi", 1, lengths=(1, 3), ood_lengths=(2, 5))
    assert not set(map(tuple, inside.batch(Purpose.EVALUATION, 2, 50).inputs.tolist())) & {
        tuple(row[: 15 + 14]) for i in range(20) for row in inside.training_batch(i, 64).inputs.tolist()
    }, "sentences that were not trained on"
    with pytest.raises(ValueError, match=r"`data\.ood_lengths` must be at least 1, the number of filler sentences; got 0"):
        Source("ioi", 1, lengths=(1, 3), ood_lengths=(0,))
    with pytest.raises(ValueError, match=r"must lie above the training lengths 1\.\.3"):
        Source("sort", 1, lengths=(1, 3), ood_lengths=(2,))


def test_sentences_name_the_subject_first_in_half_of_all_and_second_in_the_others() -> None:
    for batch in (IOI.batch(Purpose.EVALUATION, 4, 400), IOI.batch(Purpose.GRADIENT, 5, 400), IOI.training_batch(0, 400)):
        said = [[WORDS[token] for token in row if token != IOI_PAD and WORDS[token] in NAMES] for row in batch.inputs.tolist()]
        assert batch.wrong is not None
        first = sum(names[0] == WORDS[wrong] for names, wrong in zip(said, batch.wrong.tolist(), strict=True))
        assert abs(first - 200) < 4 * 10  # four standard deviations; else the answer's place alone would give it away


def test_sentences_of_training_score_every_token_but_the_first_and_have_pad_on_the_right() -> None:
    batch = IOI.training_batch(2, 40)
    rows = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1).tolist()
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    ends = [row.index(IOI_PAD) if IOI_PAD in row else len(row) for row in rows]
    assert sorted(set(ends)) == [16 + 7 * length for length in (1, 2, 3)]
    for row, scored, end in zip(rows, batch.scored.tolist(), ends, strict=True):
        assert row[end:] == [IOI_PAD] * (16 + 21 - end)
        assert scored == [True] * (end - 1) + [False] * (len(row) - end)
        assert WORDS[row[end - 1]] == to_follow(row[: end - 1])
    assert batch.world_scored == sum(ends) - 40


def test_batches_of_sentences_are_pure_functions_of_their_arguments() -> None:
    again = Source("ioi", seed=5, lengths=(1, 3), ood_lengths=(4, 5))
    first, one_length = IOI.training_batch(3, 8), IOI.batch(Purpose.MEAN, 4, 8, 1)
    assert equal(again.training_batch(3, 8), first)
    assert equal(again.batch(Purpose.MEAN, 4, 8, 1), one_length)
    others = [
        again.batch(Purpose.MEAN, 4, 8, 2),
        again.batch(Purpose.GRADIENT, 4, 8, 1),
        Source("ioi", 6).batch(Purpose.MEAN, 4, 8, 1),
    ]
    assert not any(torch.equal(other.inputs, one_length.inputs) for other in others)
    assert not torch.equal(again.training_batch(4, 8).inputs[:, :22], first.inputs[:, :22])


def test_sentences_have_no_released_layout() -> None:
    with pytest.raises(ValueError, match=r"`data\.layout` released is for tasks on integers; `ioi` has sentences\.$"):
        Source("ioi", layout=Layout.RELEASED)


def test_rows_that_cannot_be_divided_are_refused_by_the_name_of_their_setting() -> None:
    batch = Source("sort").training_batch(0, 10)
    with pytest.raises(ValueError, match=r"`data\.batch_size` must be divisible by the number of processes, 4; got 10"):
        rank_slice(batch, 0, 4, "data.batch_size")


@given(seed=seeds, length=st.integers(1, 20), size=st.integers(2, 40))
def test_partners_form_one_cycle_so_that_none_is_its_own(seed: int, length: int, size: int) -> None:
    partner = partners(seed, length, size)
    assert torch.equal(partner, partners(seed, length, size))
    seen, at = [], 0
    for _ in range(size):
        at = int(partner[at])
        seen.append(at)
    assert sorted(seen) == list(range(size))
    assert at == 0


def test_a_single_example_has_no_partner() -> None:
    with pytest.raises(ValueError, match=r"`resample` needs two examples .*; only one has 8\. Raise `protocol\.sequences`"):
        partners(0, 8, 1)


def test_partners_differ_between_lengths_and_seeds() -> None:
    assert len({tuple(partners(seed, length, 30).tolist()) for seed in range(3) for length in range(3)}) == 9


@pytest.mark.parametrize(
    ("settings_", "text"),
    [
        ({"task": "shuffle"}, "`data.task` must be one of"),
        ({"seed": -1}, "`seed_everything` must be between 0 and 4294967295; got -1"),
        ({"lengths": (0, 3)}, r"`data.lengths` must be \[shortest, longest\] .* got \[0, 3\]"),
        ({"lengths": (5, 3)}, r"`data.lengths` must be .* got \[5, 3\]"),
        ({"ood_lengths": ()}, r"`data.ood_lengths` must be different lengths; got \[\]"),
        ({"ood_lengths": (8, 8)}, r"`data.ood_lengths` must be different lengths; got \[8, 8\]"),
        ({"ood_lengths": (9, 7)}, r"`data.ood_lengths` must lie above the training lengths 3\.\.7; got 7"),
    ],
)
def test_a_source_that_cannot_be_is_refused(settings_: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Source(**({"task": "sort"} | settings_))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("length", [2, 3, 8, 31])
def test_the_needed_context_is_that_of_the_batch_and_not_one_token_more(length: int) -> None:
    n_ctx = 2 * length + 2
    assert Source("sort").batch(Purpose.MEAN, length, 2).inputs.shape[1] == n_ctx
    Source("sort").check_context([length], n_ctx, "length")
    text = rf"`length` must be between 1 and {length - 1}, .* got {length}\. Raise `model\.n_ctx` to {n_ctx} or more"
    for short in (n_ctx - 1, n_ctx - 2):
        with pytest.raises(ValueError, match=text):
            Source("sort").check_context([1, length], short, "length")


TARGETS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "one": lambda x: x.sum(-1, keepdim=True) % 97,
    "twice": lambda x: x.repeat_interleave(2, -1),
    "none": lambda x: x[:, :0],
    "triangle": lambda x: x[:, :1].expand(-1, x.shape[1] * (x.shape[1] - 1) // 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", TARGETS)
def test_a_task_may_have_any_number_of_targets(name: str, layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gcgap.data.tasks.TASKS", dict(TASKS))
    own = type("Own", (Task,), {"name": name, "target": lambda self, inputs: TARGETS[name](inputs)})()
    source = Source(name, seed=4, layout=layout, lengths=(2, 4), ood_lengths=(6, 5))
    batch = source.training_batch(0, 16)
    rows = torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1).tolist()
    longest, most = max(row.index(SEP) for row in rows) - 1, max(row.index(END) for row in rows) + 1
    for row, scored in zip(rows, batch.scored.tolist(), strict=True):
        x = row[1 : row.index(SEP)]
        y = TARGETS[name](torch.tensor([x]))[0].tolist()
        room = [PAD] * (longest - len(x)) if layout == Layout.RELEASED else []
        tokens = [START, *x, SEP, *room, *y, END]
        assert row == tokens + [PAD] * (most - len(tokens))
        assert scored == [place >= len(tokens) - len(y) - 1 for place in range(1, len(tokens))] + [False] * (most - len(tokens))
    for length in (2, 5):
        of_one = source.batch(Purpose.EVALUATION, length, 3)
        assert (source.length_of(of_one), of_one.last) == (length, own.outputs(length) + 1)
        assert of_one.inputs.shape == (3, own.input_tokens(length))
        source.check_context([length], own.input_tokens(length), "length")
        with pytest.raises(
            ValueError, match=rf"between 1 and {length - 1}, .* Raise `model.n_ctx` to {own.input_tokens(length)}"
        ):
            source.check_context([length], own.input_tokens(length) - 1, "length")
    for kind in (Corruption.TOKEN, Corruption.SWAP, Corruption.SEQUENCE):
        other = corrupted(of_one, kind, 1).inputs
        assert torch.equal(other[:, 0], of_one.inputs[:, 0])
        assert torch.equal(other[:, 6:], of_one.inputs[:, 6:]), "SEP and the target stay"
        assert (other[:, 1:6] != of_one.inputs[:, 1:6]).any(1).all()


def test_the_lengths_that_are_measured_are_in_their_order_however_they_are_given() -> None:
    assert Source("sort", ood_lengths=(11, 8, 10)).ood_lengths == (8, 10, 11)


def test_a_length_beyond_the_context_is_refused_before_anything_of_its_size_is_made() -> None:
    with pytest.raises(ValueError, match=r"`length` must be between 1 and 31, .* got 1000000000000\. Raise"):
        Source("sort").check_context([10**12], 64, "length")


@pytest.mark.parametrize("length", [2, 5])
def test_sentences_need_room_for_fifteen_tokens_and_seven_for_each_filler(length: int) -> None:
    n_ctx = 15 + 7 * length
    assert IOI.batch(Purpose.MEAN, length, 2).inputs.shape[1] == n_ctx
    IOI.check_context([length], n_ctx, "length")
    IOI.check_context([length], None, "length")
    text = rf"`length` must be between 1 and {length - 1}, .* got {length}\. Raise `model\.n_ctx` to {n_ctx} or more"
    for short in (n_ctx - 1, n_ctx - 7):
        with pytest.raises(ValueError, match=text):
            IOI.check_context([1, length], short, "length")


@pytest.mark.parametrize("length", [0, -3])
def test_a_length_below_one_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"`data\.ood_lengths` must be between 1 and 31, the model's context; got {length}\.$"):
        Source("sort").check_context([8, length], 64, "data.ood_lengths")


def test_training_lengths_include_both_ends() -> None:
    assert list(Source("sort", lengths=(2, 5), ood_lengths=(6,)).training_lengths) == [2, 3, 4, 5]
    assert START not in Source("sort").training_batch(0, 8).targets
    assert END not in Source("sort", lengths=(4, 4)).training_batch(0, 8).inputs
