"""Sets of right and wrong answers, of one token each or of several, as what is scored at one position after the other.

After "to the year 17", a tokenizer of single digits writes 32 as 3 and 2. All years later than 1732 are then the tokens 4 .. 9,
and 3 followed by 3 .. 9. So the prompt is read with a 3 behind it: the position before it decides between the first digits, the
position of the 3 between the second ones, and P(later) = P(4 .. 9) + P(3) P(3 .. 9 | 3) is exact in one forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

Tokens = tuple[int, ...]


class Step(NamedTuple):
    """The tokens that are right answers, and those that are wrong ones, at one scored position."""

    right: Tokens
    wrong: Tokens


def steps_of(right: Sequence[Tokens], wrong: Sequence[Tokens]) -> tuple[Tokens, tuple[Step, ...]]:
    """The tokens to be read behind the prompt, and the step before the first of them and after each.

    A token decides if all answers that begin with it are right, or all are wrong; it then stands for all of them.

    Args:
        right: The tokens of every right answer, at least one.
        wrong: Those of every wrong one.

    Raises:
        ValueError: An answer is both right and wrong, or begins another one; or more than one token leaves it open.
    """
    answers = {one: "right" for one in right} | {one: "wrong" for one in wrong}
    if both := set(right) & set(wrong):
        raise ValueError(f"`wrong` must differ from `answer`; the tokens {list(min(both))} are in both. Remove one.")
    read: Tokens = ()
    steps: list[Step] = []
    while True:
        here = {one: kind for one, kind in answers.items() if one[: len(read)] == read}
        if read in here:
            raise ValueError(f"no answer may begin another one; the tokens {list(read)} do. Remove one.")
        kinds: dict[int, set[str]] = {}
        for one, kind in here.items():
            kinds.setdefault(one[len(read)], set()).add(kind)
        for token in kinds:
            few = [one for one in here if one[len(read)] == token]
            if len(few) == 1 and len(few[0]) > len(read) + 1:
                raise ValueError(
                    f"an answer must be one token, or part from others in its last one; got {list(few[0])}. Remove it."
                )
        steps.append(Step(*(tuple(sorted(t for t, of in kinds.items() if of == {kind})) for kind in ("right", "wrong"))))
        if not (mixed := [token for token, of in kinds.items() if len(of) > 1]):
            return read, tuple(steps)
        if len(mixed) > 1:
            raise ValueError(
                f"right and wrong answers must part after one first token, to be scored in one pass; after each of "
                f"{sorted(mixed)} there are both. Use fewer answers."
            )
        read += (mixed[0],)
