"""Heads between seeds: the section of a report, and the table of a terminal, from records of matched heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.markup import escape

from gcgap.records.matching_record import MatchingRecord
from gcgap.report.blocks import ALL, Cell, Section, Table, columns_of
from gcgap.report.describe import of_task, pluralise, title, without_ticks
from gcgap.report.page import format_cell
from gcgap.report.tables_groups import p_text
from gcgap.report.whole_table import WholeTable
from gcgap.study.evidence import MATCHED_BY, ROLES, SURE
from gcgap.study.seeds import Summary

BY = {"drops": "what their removal costs", "looks": "where they look", "both": "both"}
ABOUT = (
    "Heads of every two runs are matched one to one on the same sequences: similarity is 1 for equal profiles, entry by entry "
    "over sequences and scored positions. Partners are chosen on one half of the sequences and valued on the other. Random: the "
    "mean over the heads of the layer. Own layer: share of partners among all heads that lie in the head's layer. Halves agree: "
    "share of partners that both halves choose. Finds itself: share of heads found again when a run is matched with itself, from "
    "the means of two halves. p of functions: the heads of each layer are dealt out anew among the runs, and match as well. "
    "Brackets: 95 % by the jackknife over runs."
)
OF_ROLES = (
    "Roles are those by exact match under the first baseline. Partners are chosen within layers without looking at roles, but "
    "what removal costs is part of a role: only matching by where heads look is independent of it. By chance: the labels of each "
    "layer's heads exchanged within each run."
)


def matching_sections(records: Sequence[MatchingRecord]) -> list[Section]:
    """A section for each record."""
    sections = []
    for record in records:
        blocks: list[str | Table] = [matching_sentence(record), stable_table(record), layers_table(record)]
        blocks += [roles_table(record)] if record.roles(MATCHED_BY) else []
        sections.append(Section(f"Heads between seeds: {title(record['task'])}", [*blocks, heads_table(record)]))
    return sections


def stable_table(record: MatchingRecord) -> Table:
    """What is stable between runs, by what heads were matched by: layers, functions."""
    rows: list[tuple[Cell, ...]] = []
    for name, found in record["by"].items():
        numbers = (_number(record, found[key]) for key in ("matched", "random", "same_number", "halves_agree", "own_layer"))
        p_values = (p_text(found[key]) for key in ("own_layer_p_value", "functions_p_value"))
        rows.append((BY.get(name, name), *numbers, *p_values, found["itself"]))
    names = ("matched by", "similarity", "random", "same number", "halves agree", "own layer", "p of layers", "p of functions")
    names += ("finds itself",)
    layers = len(set(record["layers"]))
    of = f"{pluralise(len(record['runs']), 'run')}, {record['sequences']} sequences of length {record['length']}"
    notes = [ABOUT, f"By chance {1 / layers:.2f} of partners lie in the own layer."]
    return Table(of_task("matching", record["task"]), f"What is stable between seeds ({of})", ALL, columns_of(rows, names), notes)


def layers_table(record: MatchingRecord) -> Table:
    """Similarity of partners and of random heads, layer by layer."""
    rows: list[tuple[Cell, ...]] = [
        (BY.get(name, name), layer, one["matched"], one["random"], one["matched"] - one["random"])
        for name, found in record["by"].items()
        for layer, one in enumerate(found["by_layer"])
    ]
    names = ("matched by", "layer", "similarity of partners", "of a random head of the layer", "difference")
    columns = columns_of(rows, names, {"layer": "d"})
    return Table(of_task("matching-layers", record["task"]), "Partners by layer", ALL, columns)


def roles_table(record: MatchingRecord) -> Table:
    """How many Heroes and Bloats have a partner of their kind."""
    rows: list[tuple[Cell, ...]] = [
        (BY.get(name, name), ROLES[role], one["shared"], one["by_chance"], p_text(one["p_value"]))
        for name in record["by"]
        for role, one in record.roles(name).items()
    ]
    columns = columns_of(rows, ("matched by", "role", "shared by two runs", "by chance", "p"))
    return Table(of_task("matching-roles", record["task"]), "Do partners share their role? (heads)", ALL, columns, [OF_ROLES])


def heads_table(record: MatchingRecord) -> Table:
    """What every head does on average."""
    rows: list[tuple[Cell, ...]] = []
    for one in record["runs"]:
        for i, head in enumerate(one["heads"]):
            role = one["roles"][i] if one["roles"] else None
            rows.append((one["run"], head["name"], role, head["drop"], *head["looks"]))
    columns = columns_of(rows, ("run", "head", "role", "drop of log-probability (nats)", *record["looks"]))
    notes = ["Shares of attention from the scored positions; a token that is several of these counts as the first of them."]
    return Table(of_task("matching-heads", record["task"]), "What every head does on average", ALL, columns, notes)


def matching_sentence(record: MatchingRecord) -> str:
    """The answer: which of layers, functions and roles is stable between runs, by where heads look."""
    found, count = record["by"][MATCHED_BY], len(record["runs"])
    share, matched, random, number = (found[key]["value"] for key in ("own_layer", "matched", "random", "same_number"))
    by_chance, p_values = 1 / len(set(record["layers"])), (found["own_layer_p_value"], found["functions_p_value"])
    layers, functions = ("beyond chance" if p < SURE else "not shown to be beyond chance" for p in p_values)
    text = (
        f"Between {pluralise(count, 'training')} on {title(record['task'])}, matched by where heads look: layers are stable "
        f"{layers} ({100 * share:.0f} % of partners lie in the same layer, by chance {100 * by_chance:.0f} %, p "
        f"{_p(p_values[0])}), functions within a layer {functions} (partners are {matched:.2f} alike, random heads of the layer "
        f"{random:.2f}, heads of the same number {number:.2f}; p {_p(p_values[1])})."
    )
    roles = [
        f"{one['shared']:.2f} {ROLES[role]} (by chance {one['by_chance']:.2f}, p {_p(one['p_value'])})"
        for role, one in record.roles(MATCHED_BY).items()
    ]
    return f"{text} Of two runs' heads partners share {' and '.join(roles)}." if roles else text


def _p(p: float) -> str:
    text = p_text(p) or ""
    return text if text.startswith("<") else f"= {text}"


def _number(record: MatchingRecord, of: dict[str, Any]) -> Cell:
    return Summary(len(record["runs"]), of["value"], ci=None if of["ci"] is None else tuple(of["ci"]))


def matching_grid(record: MatchingRecord) -> WholeTable:
    """What is stable, for a terminal."""
    table = stable_table(record)
    grid = WholeTable(title=escape(table.title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in table.columns:
        grid.add_column(escape(column.name), justify="right" if column.numeric else "left")
    for row in table.rows:
        cells = (without_ticks(format_cell(cell, column.form)) for cell, column in zip(row, table.columns, strict=True))
        grid.add_row(*map(escape, cells))
    return grid
