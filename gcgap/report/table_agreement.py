"""The same weights measured in two ways."""

from __future__ import annotations

from collections.abc import Sequence

from gcgap.report.notes import spread_note, title
from gcgap.report.render import ALL
from gcgap.report.table_parts import Column, Table
from gcgap.study.same_weights import Agreement


def agreement_table(found: Sequence[Agreement]) -> Table:
    """How far two protocols agree on the same checkpoints."""
    columns = [
        Column("task", [title(one.task) for one in found]),
        Column("measured as", [one.first for one in found]),
        Column("and as", [one.second for one in found]),
        Column("rank correlation of both C", [one.causes for one in found]),
        Column("the same by log-probability", [one.causes_by_log_prob for one in found]),
        Column("rank correlation of both Δ", [one.gaps for one in found]),
        Column("share of Heroes that stay", [one.heroes for one in found]),
        Column("share of Bloats that stay", [one.bloats for one in found]),
    ]
    return Table("same-weights", "The same weights under two protocols", ALL, columns, [*spread_note(columns)])
