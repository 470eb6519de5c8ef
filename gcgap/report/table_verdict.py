"""The verdict as tables: every claim of the paper, what the runs say of it, and the numbers behind."""

from __future__ import annotations

from collections.abc import Sequence

from gcgap.report.render import ALL
from gcgap.report.table_parts import Cell, Column, Table
from gcgap.study.claims import Verdict


def answers_table(verdicts: Sequence[Verdict]) -> Table:
    """The answers alone."""
    columns = [
        Column("claim", [verdict.claim.title for verdict in verdicts]),
        Column("answer", [verdict.answer for verdict in verdicts]),
    ]
    return Table("answers", "The answers in short", ALL, columns)


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    """One row for each claim, its answer beside it."""
    names = list(dict.fromkeys(name for verdict in verdicts for name in verdict.by_protocol))
    columns = [
        Column("claim", [verdict.claim.title for verdict in verdicts]),
        Column("answer", [verdict.answer for verdict in verdicts]),
        Column("published", [verdict.claim.published for verdict in verdicts]),
        *(Column(f"{name} protocol", [_said(verdict, name) for verdict in verdicts]) for name in names),
        Column("holds if", [verdict.claim.rule for verdict in verdicts]),
    ]
    return Table("verdict", "Claims and answers", ALL, columns, [RULE])


RULE = (
    "The answers follow from the rules by themselves. A claim holds if the default protocol meets its rule; else holds only "
    "under the released protocol if that one does; else only with the released site if the default's own weights do when ablated "
    "there and the whole released protocol decides nothing; else it does not hold if the default protocol refutes it, and cannot "
    "be told if not. Brackets are 95 % intervals."
)


def _said(verdict: Verdict, name: str) -> Cell:
    return verdict.by_protocol[name].text if name in verdict.by_protocol else None


def numbers_table(verdicts: Sequence[Verdict]) -> Table:
    """Every number that the verdict rests on."""
    rows = [
        (verdict.claim.title, name, what, found)
        for verdict in verdicts
        for name, evidence in verdict.by_protocol.items()
        for what, found in evidence.numbers.items()
    ]
    names, forms = ("claim", "protocol", "number", "value"), (".2f", ".2f", ".2f", ".3f")
    columns = [Column(name, [row[at] for row in rows], form) for at, (name, form) in enumerate(zip(names, forms, strict=True))]
    return Table("verdict-numbers", "The numbers behind the answers (drops as shares of sequences)", ALL, columns)
