"""Several right and wrong answers to a prompt, of one token each or of several."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gcgap.data.answer_sets import Step, steps_of
from gcgap.data.batches import Batch
from gcgap.data.prompt_tokens import as_batch, encoded
from gcgap.data.prompts import Encoded, Prompt
from gcgap.importance.protocol import Metric
from gcgap.importance.scores import FUNCTIONS

HERE = torch.device("cpu")


def digits(text: str) -> list[int]:
    """A token per letter; digits are their own tokens."""
    return [int(letter) if letter.isdigit() else 10 + ord(letter) % 5 for letter in text]


def year(last: int) -> Prompt:
    """The prompt that goes on with any two digits larger than `last`."""
    later, others = (tuple(f"{one:02}" for one in range(*ends)) for ends in ((last + 1, 100), (last + 1,)))
    return Prompt("abc", "abd", later, others)


def scores(batch: Batch, logits: torch.Tensor) -> dict[Metric, list[float]]:
    return {metric: function(logits, *batch.answers(slice(None), HERE)).tolist() for metric, function in FUNCTIONS.items()}


@given(st.lists(st.integers(0, 98), min_size=1, max_size=6), st.integers(0, 2**32))
def test_two_digits_are_scored_exactly_in_one_pass(years: list[int], seed: int) -> None:
    """P(later) is the sum over all pairs of digits, where a second digit after another first one than the year's is any."""
    prompts = [encoded(year(last), digits) for last in years]
    batch = as_batch(prompts)
    logits = torch.randn(len(years), batch.last, 20, dtype=torch.double, generator=torch.Generator().manual_seed(seed)) * 3
    found = scores(batch, logits)
    for row, (last, prompt, of) in enumerate(zip(years, prompts, logits.softmax(-1).tolist(), strict=True)):
        first, seconds = of[0][:10], of[-1][:10]
        tens, ones = divmod(last, 10)
        if len(prompt.steps) == 1:  # the year ends in 9: its first digit is wrong, whatever the second one
            right, wrong = sum(first[tens + 1 :]), sum(first[: tens + 1])
        else:
            assert prompt.clean[-1] == tens
            right = sum(first[tens + 1 :]) + first[tens] * sum(seconds[ones + 1 :])
            wrong = sum(first[:tens]) + first[tens] * sum(seconds[: ones + 1])
        assert found[Metric.PROBABILITY_DIFFERENCE][row] == pytest.approx(right - wrong, abs=1e-12)
        assert found[Metric.LOG_PROB][row] == pytest.approx(math.log(right), abs=1e-12)
        assert found[Metric.LOGIT_DIFFERENCE][row] == pytest.approx(math.log(right / wrong), abs=1e-12)
        best, then = (int(logits[row, step].argmax()) for step in (0, -1))
        written = best * 10 + then if best == tens and len(prompt.steps) > 1 else best * 10
        is_right = best < 10 and (then < 10 or best != tens) and (written > last if best == tens else best > tens)
        assert found[Metric.EXACT_MATCH][row] == found[Metric.TOKEN_ACCURACY][row] == is_right


@pytest.mark.parametrize("wrong", [None, 4])
def test_a_set_of_one_is_scored_as_the_answer_itself(wrong: int | None) -> None:
    """A prompt with one answer beside one with two, and alone; all scores agree, and so do their gradients."""
    plain = Encoded((1, 2), (1, 3), 7, wrong)
    logits = torch.randn(1, 1, 9, dtype=torch.double, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = encoded(Prompt((5, 6), (5, 8), (1, 2), wrong), digits)
    alone, both = as_batch([plain]), as_batch([plain, other])
    assert alone.sets is None
    for metric, function in FUNCTIONS.items():
        first = function(logits, *alone.answers(slice(None), HERE))
        second = function(logits, *both.answers(slice(1), HERE))
        torch.testing.assert_close(first, second, atol=1e-12, rtol=0)
        if metric.has_gradient:
            torch.testing.assert_close(*(torch.autograd.grad(of.sum(), logits)[0] for of in (first, second)), atol=1e-12, rtol=0)


def test_a_step_without_answers_has_finite_derivatives_of_second_order() -> None:
    batch = as_batch([encoded(year(39), digits), encoded(year(31), digits)])
    logits = torch.zeros(2, 2, 20, dtype=torch.double, requires_grad=True)
    for metric in (Metric.LOG_PROB, Metric.LOGIT_DIFFERENCE, Metric.PROBABILITY_DIFFERENCE):
        value = FUNCTIONS[metric](logits, *batch.answers(slice(None), HERE)).sum()
        (first,) = torch.autograd.grad(value, logits, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), logits)
        assert first.isfinite().all()
        assert second.isfinite().all()
        assert first[0, 1].eq(0).all(), "39 is decided by the first digit"
        assert first[1, 1].ne(0).any()


def test_answers_part_after_the_tokens_that_leave_them_open() -> None:
    assert steps_of([(1,), (2,)], [(3,)]) == ((), (Step((1, 2), (3,)),))
    assert steps_of([(1, 5), (1, 6), (2,)], [(3,)]) == ((), (Step((1, 2), (3,)),)), "all that begin with 1 are right"
    assert steps_of([(1, 5), (2,)], [(1, 6), (1, 7)]) == ((1,), (Step((2,), ()), Step((5,), (6, 7))))
    for right, wrong, said in [
        ([(1,), (2,)], [(2,)], "`wrong` must differ from `answer`; the tokens [2] are in both"),
        ([(1, 2)], [(1,), (1, 3)], "no answer may begin another one; the tokens [1] do"),
        ([(1, 2)], [(3,)], "an answer must be one token, or part from others in its last one; got [1, 2]"),
        ([(1, 2), (3, 2)], [(1, 4), (3, 4)], "after each of [1, 3] there are both"),
    ]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            steps_of(right, wrong)
        assert said in " ".join(str(caught.value).split())


def test_rows_with_fewer_steps_keep_their_scores_beside_others() -> None:
    prompts = [encoded(year(39), digits), encoded(year(31), digits), Encoded((1, 2, 3), (1, 2, 4), 5, 6)]
    batch = as_batch(prompts)
    assert (batch.last, batch.world_scored) == (2, 6)
    assert batch.scored.tolist() == [[False, False, True, True]] * 3, "from the last token of the text on"
    assert batch.inputs[:, 3].tolist() == [4, 3, 5], "the answer, the first digit of the year, the answer"
    assert batch.corrupted is not None
    assert ((batch.corrupted != batch.inputs).sum(1) == 1).all()
    logits = torch.randn(3, 2, 20, dtype=torch.double, generator=torch.Generator().manual_seed(1))
    together = scores(batch, logits)
    for row in (0, 2):
        alone = scores(as_batch([prompts[row]]), logits[row : row + 1, :1])
        for metric, (value,) in alone.items():
            assert together[metric][row] == pytest.approx(value, abs=1e-12)
    half = batch.rows(slice(1, 2)).answers(slice(None), HERE, times=2)
    assert half[1].shape == (2, 2, 2, 8)
