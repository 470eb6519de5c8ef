"""The tables of the page on the trained GPT-2 are those of its records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from gcgap.records.attribution_record import AttributionRecord, find_attributions
from gcgap.records.read_records import find_records
from gcgap.records.record import Record

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "ioi.md").read_text()
RECORDS = find_records(DOCS / "ioi")
FINAL = next(record for record in RECORDS if record["final"])
HEAD = "L0_H1"


def rows(table: str) -> list[list[str]]:
    """The cells of a table of the page, without its head."""
    lines = PAGE.split(f"<!-- {table} -->\n")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def ranged(entry: dict[str, Any]) -> str:
    return "{:.2f} [{:.2f}, {:.2f}]".format(entry["rho"], *entry["ci"])


def test_effects_of_every_component() -> None:
    found = []
    for component in FINAL["components"]:
        drops = [component["causal"][name] for name in ("mean", "patch_prompt")]
        effects = [cell for of in drops for cell in (points(of), f"{of['log_prob']['value']:.2f}")]
        roles = [component["role"][name]["name"] for name in ("mean", "patch_prompt")]
        found.append([component["name"], f"{1e3 * component['gradient']['value']:.2f}", *effects, *roles])
    assert [[cell.replace("-0.00", "0.00") for cell in row] for row in found] == rows("components")


def points(drops: dict[str, Any], form: str = "+.1f") -> str:
    return format(100 * drops["exact_match"]["value"], form)


def test_the_gap_by_every_baseline() -> None:
    found = []
    for name in FINAL["protocol"]["baselines"]:
        gap = FINAL["gap"][name]
        by_log_prob = gap["by_metric"]["log_prob"]
        counts = f"{gap['heroes']} / {gap['bloats']}"
        by_match = [ranged(gap), f"{gap['ceiling']:.2f}", f"{gap['p_value']:.2f}"]
        raw = [one["gradient"]["raw"] for one in FINAL["components"]]
        drops = [one["causal"][name] for one in FINAL["components"]]
        by_raw = [
            f"{np.asarray(spearmanr(raw, [of[metric]['value'] for of in drops]))[0]:.2f}"
            for metric in ("exact_match", "log_prob")
        ]
        found.append([name, *by_match, ranged(by_log_prob), f"{by_log_prob['p_value']:.2f}", *by_raw, counts])
    assert found == rows("gap")


def test_the_course_of_the_head_that_decides() -> None:
    def row(record: Record) -> list[str]:
        by_gradient = sorted(record["components"], key=lambda component: -component["gradient"]["value"])
        place, head = next((i, one) for i, one in enumerate(by_gradient, start=1) if one["name"] == HEAD)
        drops = [points(head["causal"][name], "+.0f").replace("-0", "+0") for name in ("mean", "patch_prompt")]
        role = head["role"]["mean"]["name"] or "–"
        rho = record["gap"]["mean"]["by_metric"]["log_prob"]["rho"]
        return [f"{record['step']}", f"{record['accuracy']['by_length']['2']:.0%}", f"{place}", *drops, role, f"{rho:.2f}"]

    steps = sorted((record for record in RECORDS if not record["final"]), key=lambda record: record["step"])
    assert [row(record) for record in steps] == rows("steps")


@pytest.mark.parametrize("baseline", ["patch_prompt", "mean"])
def test_every_method(baseline: str) -> None:
    record = attributed(baseline)
    assert [row_of_method(record, name) for name in record["methods"]] == rows(baseline)


def attributed(baseline: str, direction: str = "noising") -> AttributionRecord:
    setup = {"baseline": baseline, "direction": direction, "positions": "all"}
    (record,) = [one for one in find_attributions(DOCS / "ioi") if one["setup"] == setup]
    return record


def scored(record: AttributionRecord) -> tuple[dict[str, Any], dict[str, float]]:
    """The head that decides, and its scores."""
    (head,) = [one for one in record["components"] if one["name"] == HEAD]
    return head, {name: one["value"] for name, one in head["scores"].items()}


def row_of_method(record: AttributionRecord, name: str) -> list[str]:
    entry = record["methods"][name]
    by_log_prob, by_match = (entry["agreement"][metric]["all"] for metric in ("log_prob", "exact_match"))
    l1 = "–" if by_log_prob["l1"] is None else f"{by_log_prob['l1']:.3f}"
    price = f"{entry['cost']['forward_equivalents']:.1f}"
    return [name, ranged(by_log_prob), f"{by_match['rho']:.2f}", l1, f"{by_log_prob['missed']:.2f}", price]


def test_the_scores_of_the_head_that_decides_in_the_text() -> None:
    head, scores = scored(attributed("patch_prompt"))
    flowing = " ".join(PAGE.split())
    assert f"sees {scores['attribution_patching']:.2f} nats of the {head['exact_again']['log_prob']:.2f}" in flowing
    assert f"HVP correction it is {scores['hvp']:.2f}" in flowing
    assert f"integrated gradients find {scores['ig_midpoint']:.2f}" in flowing
    assert f"Shapley value is {scores['shapley_value']:.2f}" in flowing
    assert f"R = {head['trust']['reliability']:.1f}" in flowing
    assert f"exact match {100 * FINAL['accuracy']['by_length']['2']:.1f} %" in flowing


def test_what_restoring_the_head_gives_back_in_the_text() -> None:
    record = attributed("patch_prompt", "denoising")
    head, scores = scored(record)
    flowing = " ".join(PAGE.split())
    assert head["exact_again"]["exact_match"] == 1
    assert f"gives the whole answer back, {head['exact_again']['logit_difference']:.2f} of logit difference" in flowing
    assert f"attribution patching says {scores['attribution_patching']:.2f}" in flowing
    assert f"overshoots to {scores['hvp']:.2f}" in flowing
    errors = [record["methods"][name]["agreement"]["logit_difference"]["all"]["l1"] for name in ("hvp", "attribution_patching")]
    assert "({:.2f} against {:.2f})".format(*errors) in flowing
    assert f"R = {head['trust']['reliability']:.2f}" in flowing
