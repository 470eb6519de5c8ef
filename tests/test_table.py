"""The table and the sentence, from records with known answers."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import tiny
from rich.console import Console

import gcgap
from gcgap.commands.verify import Difference, comparison
from gcgap.importance.gap import Judgement, expected_by_chance, is_role, rank
from gcgap.records.record import Record
from gcgap.report.figures_run import Checkpoint, scatter
from gcgap.report.named_roles import beyond_chance
from gcgap.report.tensorboard import scalars
from gcgap.report.terminal import sentence, table

NUMBER = r"-?\d+\.\d\d"


def printed(record: Record, baseline: str | None = None, width: int = 80) -> str:
    console = Console(width=width, record=True, file=StringIO())
    console.print(table(record, baseline))
    return console.export_text()


def rows(text: str) -> dict[str, list[str]]:
    """The cells of the table by component."""
    found = {}
    for line in text.splitlines():
        cells = line.split()
        if cells and re.fullmatch(r"L\d+_(H\d+|MLP)", cells[0]) and len(cells) > 5:
            found[cells[0]] = cells[1:]
    return found


def wide(drop: float) -> Record:
    """Four layers of four heads, late in a run, with the widest numbers that one component of a model can have."""
    G, C = [0.05 * (i + 1) for i in range(20)], [0.01 * i for i in range(20)]
    record = tiny.synthetic(G, {"mean_by_position": C}, step=15_000)
    widest = record["components"][0]
    widest["gradient"] = {"value": 9.99, "ci": [9.75, 10.25]}
    widest["causal"]["mean_by_position"]["exact_match"] = {"value": drop, "ci": [drop, drop]}
    widest["delta"]["mean_by_position"] |= {"value": -12.5, "ci": [-14.5, -10.5]}
    widest["role"]["mean_by_position"]["name"] = "aligned"
    return Record(record.to_dict())


@pytest.mark.parametrize(
    "record",
    [tiny.ten(), tiny.ten(reason="all alike"), tiny.skipped(), wide(0.75), wide(-0.10), wide(1.0)],
    ids=["ten", "null", "skipped", "at the window", "negative", "everything lost"],
)
def test_the_table_fits_into_80_columns(record: Record) -> None:
    text = printed(record)
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    assert len(rows(text)) == len(record["components"])


@pytest.mark.parametrize("width", [20, 21, 33, 40, 60, 72, 77, 78])
def test_a_narrow_table_shows_every_name_and_number_whole(width: int) -> None:
    record = wide(-0.10)
    text = printed(record, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    whole = rows(printed(record, width=200))
    assert {cell for cells in whole.values() for cell in cells} <= set(text.split())
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, *cells = line.split() or [""]
        if re.fullmatch(r"L\d+_(H\d+|MLP)", name):
            found.setdefault(name, []).extend(cells)
    assert width == 20 or {name: cells for name, cells in found.items() if len(cells) > 5} == whole  # at 20 names break


@pytest.mark.parametrize("width", [20, 50, 79])
def test_a_name_that_is_longer_than_the_terminal_breaks_and_leaves_numbers_whole(width: int) -> None:
    record, name = tiny.ten(), "L0_" + "".join(f"{i:03}" for i in range(60))
    record["components"][3]["name"] = name
    text = printed(Record(record.to_dict()), width=width)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert {cell for cells in rows(printed(tiny.ten())).values() for cell in cells} <= set(text.split())
    beginnings = (line.split()[0] for line in text.splitlines() if line.split())
    assert name in "".join(part for part in beginnings if part in name and part != "L0_")


def test_long_values_that_differ_are_shown_where_they_differ() -> None:
    record = tiny.ten()
    changed = Difference("protocol.sets", ["L0_H0"] * 9 + ["L1_H1"], ["L0_H0"] * 9 + ["L1_H2"])
    console = Console(width=60, record=True, file=StringIO())
    console.print(comparison(record, record.to_dict(), [changed]))
    text = "".join(console.export_text().split())
    assert "L1_H1" in text
    assert "L1_H2" in text


def test_every_table_of_the_program_is_shown_whole() -> None:
    root = Path(str(gcgap.__file__)).parent
    made = [
        path.name for path in root.rglob("*.py") if re.search(r"^from rich\.table import|\brich\.table\b", path.read_text(), re.M)
    ]
    assert made == ["whole_table.py"]


def test_a_row_shows_the_numbers_of_its_component() -> None:
    found = rows(printed(tiny.ten()))
    assert list(found) == [component["name"] for component in tiny.ten()["components"]]
    # G in units of 0.01, C in points, rank difference, role and its probability, each with its interval
    assert found["L0_H0"] == ["0.10", "0.09..0.11", "+11.2", "6..16", "-9.0", "-10.0..-8.0", "hero", "0.88"]
    assert found["L1_MLP"] == ["1.00", "0.90..1.10", "+0.0", "-5..5", "+9.0", "+8.0..+10.0", "bloat", "0.88"]
    assert found["L1_H0"][4:] == ["+0.0", "-1.0..+1.0", "aligned", "0.88"]
    assert rows(printed(tiny.ten(), "zero"))["L0_H0"][2:] == ["+0.0", "-5..5", "+0.0", "-1.0..+1.0", "aligned", "0.88"]


def test_a_gradient_that_heads_share_is_said_once() -> None:
    record = tiny.synthetic([1.0, 1.0, 2.0, 2.0, 3.0, 2.0, 2.0, 4.0, 5.0, 6.0], {"mean": [float(i) for i in range(10)]})
    shared = Record(record.to_dict() | {"model": {"heads_per_value": 2}})
    found, whole = rows(printed(shared)), rows(printed(record))
    again = {"L0_H1", "L0_H3", "L1_H1"}  # the values of L1_H2 and L1_H3 differ
    assert {name for name, cells in found.items() if cells[0] == '"'} == again
    assert {name: ['"', *cells[2:]] if name in again else cells for name, cells in whole.items()} == found


def test_a_table_without_ranks_has_dashes() -> None:
    text = printed(tiny.ten(reason="all alike"))
    assert rows(text)["L0_H0"][4:] == ["-", "-", "-", "-"]
    assert "all alike" in text


def test_the_table_says_what_was_measured_and_in_which_units() -> None:
    text = " ".join(printed(tiny.ten(step=1250)).split())
    assert all(part in text for part in ("sort", "seed 7", "step 1,250", "length 9", "mean ablation", "1e-2", "points", "95%"))


def test_gradients_that_are_all_zero_have_a_table() -> None:
    record = tiny.synthetic([0.0] * 5, {"mean": [0.1 * i for i in range(5)]}, reason="the gradient magnitude is the same, 0")
    assert rows(printed(record))["L0_H0"][0] == "0.00"


def test_a_skipped_run_is_a_sentence_with_its_reason() -> None:
    assert sentence(tiny.skipped()) == "Skipped: no OOD length has an accuracy in [20%, 75%] (8: 90.0%, 9: 0.0%)."
    assert rows(printed(tiny.skipped())) == {}


def test_a_sentence_without_rank_correlation_says_why() -> None:
    said = sentence(tiny.ten(reason="the causal importance of all components is the same"))
    assert "no rank correlation: the causal importance of all components is the same." in said
    assert "ρ =" not in said


def test_the_sentence_holds_every_number() -> None:
    said = sentence(tiny.ten())
    assert "On sort at length 9 (exact match 50.0%, mean ablation)" in said
    assert "ρ = 0.50 [0.25, 0.75] where noise alone would allow 0.80, p = 0.01" in said
    assert "1 Hidden Hero (L0_H0) and 1 Gradient Bloat (L1_MLP) (random pairing would give 5.1 and 5.2)" in said
    assert said.endswith(".")
    assert said.count("\n") == 0


def test_the_sentence_says_the_accuracy_of_sequences_that_did_not_choose_the_length() -> None:
    record = tiny.ten()
    record.data["accuracy"]["held_out"] = {"value": 0.612, "ci": [0.5687, 0.6537], "sequences": 500}
    assert "On sort at length 9 (exact match 61.2% [56.9, 65.4], mean ablation)" in sentence(record)
    assert scalars(record)["accuracy/ood"] == 0.612
    assert Checkpoint.of(record).ood == 0.612


def test_the_sentence_of_another_baseline_speaks_of_that_one() -> None:
    said = sentence(tiny.ten(), "zero")
    assert "zero ablation" in said
    assert "no Hidden Hero and no Gradient Bloat" in said


def test_the_sentence_counts_in_the_plural() -> None:
    G, C = [float(i) for i in range(10)], [9.0, 8.0, 3.0, 2.0, 4.0, 5.0, 7.0, 6.0, 1.0, 0.0]
    said = sentence(tiny.synthetic(G, {"mean": C}))
    assert "2 Hidden Heroes (L0_H0, L0_H1) and 2 Gradient Bloats (L1_H3, L1_MLP)" in said


@pytest.mark.parametrize(("by_chance", "named"), [(24.5, 10), (30.0, 0)])
def test_of_many_components_ten_roles_are_named_and_only_beyond_chance(by_chance: float, named: int) -> None:
    expected = {"heroes": by_chance, "bloats": 30.0}
    record = tiny.synthetic(
        [float(i) for i in range(100)], {"mean": [-float(i) for i in range(100)]}, expected_by_chance=expected
    )
    heroes = [f"L{layer}_{part}" for layer in (0, 1) for part in ("H0", "H1", "H2", "H3", "MLP")]
    told = f" (largest |Δ|: {', '.join(heroes)}) and" if named else ", not more than by chance, and"
    said = f"; 35 Hidden Heroes{told} 35 Gradient Bloats, not more than by chance, (random pairing"
    assert said in sentence(record)
    shown = rows(printed(record))
    assert len(shown) == 100
    assert [name for name, cells in shown.items() if "hero" in cells] == heroes[:named]
    assert not [name for name, cells in shown.items() if "bloat" in cells]
    assert sum("aligned" in cells for cells in shown.values()) == 30
    texts = {text.get_text() for axes in scatter(record).axes for text in axes.texts}
    assert texts == set(heroes[:named])


@pytest.mark.parametrize(("components", "threshold"), [(41, 0.3), (156, 0.3), (156, 0.5)])
def test_roles_at_random_are_seldom_beyond_chance(components: int, threshold: float) -> None:
    rng, by, runs = np.random.default_rng(0), Judgement(threshold=threshold), 400
    G, found = np.arange(components, dtype=float), 0
    chance = expected_by_chance(G, G, by)
    for _ in range(runs):
        heroes = is_role(rank(G) - rank(rng.permutation(G)), by.role_threshold(components), strict=False)["hero"]
        found += beyond_chance(int(heroes.sum()), chance["heroes"])
    assert found <= 0.05 * runs


def test_missing_intervals_and_ceilings_are_left_out_of_the_sentence() -> None:
    said = sentence(tiny.ten(ci=None, ceiling=None))
    assert re.search(rf"ρ = {NUMBER}, p = ", said)
    assert "noise alone" not in said
    assert "None" not in said


@pytest.mark.parametrize(
    ("gap", "verb"),
    [
        ({"rho": 0.90, "p_value": 0.051}, "cannot be distinguished from"),
        ({"rho": -0.90, "p_value": 0.051}, "cannot be distinguished from"),
        ({"rho": 0.57, "p_value": 0.050}, " tracks causal"),
        ({"rho": 0.56, "p_value": 0.001}, " tracks causal"),  # 0.7 of the ceiling 0.8
        ({"rho": 0.55, "p_value": 0.001}, "partly tracks"),
        ({"rho": 0.33, "p_value": 0.001}, "partly tracks"),
        ({"rho": 0.31, "p_value": 0.001}, "hardly tracks"),
        ({"rho": 0.00, "p_value": 0.001}, "hardly tracks"),
        ({"rho": -0.01, "p_value": 0.001}, "against their causal importance"),
        ({"rho": 0.69, "p_value": 0.001, "ceiling": None}, "partly tracks"),
        ({"rho": 0.71, "p_value": 0.001, "ceiling": None}, " tracks causal"),
        ({"rho": 0.39, "p_value": 0.001, "ceiling": None}, "hardly tracks"),
        ({"rho": 0.39, "p_value": 0.001, "ceiling": 0.5}, " tracks causal"),
    ],
)
def test_the_verb_follows_from_rho_its_ceiling_and_p(gap: dict[str, float], verb: str) -> None:
    said = sentence(tiny.ten(**gap))
    others = ("cannot be distinguished from", "partly tracks", "hardly tracks", "against their causal importance")
    assert verb in said
    assert [other for other in others if other in said] == [other for other in others if other == verb]
