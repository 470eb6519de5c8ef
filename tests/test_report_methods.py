"""Attribution methods over runs, from synthetic records: groups, rules by hand, every number of the tables, files of reports."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean, median, pstdev, stdev
from typing import Any

import numpy as np
import paper_runs
import pytest
import reference
from paper_runs import to_html, to_markdown
from rich.cells import cell_len
from rich.console import Console
from scipy import stats

from gcgap.attribution.agreement import CLOSE, advice
from gcgap.attribution.methods import METHODS
from gcgap.attribution.setup import default_protocol
from gcgap.cli import main
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report import tables_methods as tables
from gcgap.report.blocks import Column, Table
from gcgap.report.figures_methods import FIGURES, rhos
from gcgap.report.page import MISSING, format_cell, to_csv
from gcgap.report.terminal_methods import ends_of, found, method_table
from gcgap.report.top_components import top_tables
from gcgap.report.write import copy_records, pdf, png
from gcgap.study import methods_over_seeds as study
from gcgap.study.methods_over_seeds import MethodGroup, gather_methods
from gcgap.study.seeds import POSITIVE, SHARE, Summary, summary

CHOSEN = ("exact", "gradient", "attribution_patching", "hvp", "joint_hvp", "shapley_value", "shapley_exact_match", "layer_index")
SEEDS = (42, 123, 456)
TASKS = ("reverse", "sort")
EFFECTS = ("exact_match", "log_prob")
EFFECT = {"effect": 0.25, "effect_again": 0.125, "error_again": 0.0625}
BINS = [(0.0, 0.1), (0.1, 0.3), (0.3, 1.0), (1.0, 3.0), (3.0, None)]
TRAINING = {"learning_rate": 0.001, "batch_size": 64}


def numbers(rng: np.random.Generator, method: str, n: int) -> dict[str, Any]:
    """One method against one effect over one group of components."""
    del method
    keys = ("rho", "tau_b", "top_k", "missed", "l1")
    return {key: float(rng.uniform(-0.5, 1)) for key in keys} | {"k": max(1, round(n / 4)), "reason": None}


def made(
    task: str = "sort",
    seed: int = 42,
    *,
    n_layers: int = 2,
    n_heads: int = 2,
    methods: tuple[str, ...] = CHOSEN,
    setup: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = TRAINING,
    length: int = 9,
    given: bool = False,
    none: tuple[str, ...] = (),
) -> AttributionRecord:
    """A whole record of numbers drawn at random; `none` names methods without ranks."""
    rng = np.random.default_rng([*task.encode(), seed])
    names = [f"L{layer}_{part}" for layer in range(n_layers) for part in (*(f"H{h}" for h in range(n_heads)), "MLP")]
    n = len(names)

    def number() -> float:
        return float(rng.normal())

    def score() -> dict[str, Any]:
        return {"value": number(), "ci": [-3.0, 3.0], "error": 0.1}

    components = []
    for name in names:
        effects = {key: number() for key in ("tangent", "linear", "frozen", "exact")} | {"local": None}
        trust = {"reliability": abs(number()), "slope": number(), "curvature": number(), "slope_at_end": number()}
        trust |= {"bound": {"ap": abs(number()), "hvp": abs(number())}, "effects": effects}
        place = {"name": name, "layer": int(name[1]), "kind": "mlp" if name.endswith("MLP") else "head"}
        drops = {"exact_match": {**score(), "value": round(float(rng.uniform(0, 0.5)), 3)}, "log_prob": score()}
        again = {"exact_match": round(float(rng.uniform(0, 0.5)), 3), "log_prob": number()}
        scores = {method: score() for method in methods}
        components.append(place | {"exact": drops, "exact_again": again, "scores": scores, "trust": trust})
    entries = {}
    for method in methods:
        agreement = {}
        for effect in EFFECTS:
            of = {group: numbers(rng, method, n) for group in ("all", "heads", "mlps")}
            if n_layers < 2:
                del of["mlps"]
            of["all"] |= {"ci": [0.1, 0.9], "no_ci": None, "ceiling": float(rng.uniform(0.8, 1)), "no_ceiling": None}
            if method in none:
                of["all"] |= dict.fromkeys(("rho", "tau_b", "top_k", "missed", "ci", "ceiling")) | {"reason": "all the same"}
            agreement[effect] = of
        cost = {key: float(rng.uniform(1, 9)) for key in ("forward", "backward", "double_backward")}
        cost |= {"forward_equivalents": float(rng.uniform(1, 100)), "seconds": float(rng.uniform(0, 1))}
        of_method = METHODS.get(method) or METHODS["layer_index"]
        told = {"family": of_method.family, "estimates": of_method.estimates, "text": of_method.text}
        entries[method] = told | {"agreement": agreement, "cost": cost}
    patching = {
        f"patch_{kind}": {effect: {"rho": number() / 4, "ci": [-0.5, 0.5], "ceiling": 0.9} for effect in EFFECTS}
        for kind in ("sequence", "token", "swap")
    }
    matrix = rng.normal(size=(n, n))
    interactions = {effect: {"mean": (matrix + matrix.T).tolist(), "error": matrix.tolist(), "single": []} for effect in EFFECTS}
    critical = {"dispensable": names[:2], "tolerance": 0.05, "critical": 0.2, "size": 2, "searched": 2, "greedy": None}
    critical |= {"sets": [{"members": names[:2]} | EFFECT], "evaluated": 1}
    flags = {names[0]: ["large tangent"], names[1]: ["zero gradient"]}
    workflow = {"tau": 0.1, "flags": flags, "fixed": names[:1], "unresolved": names[1:2], "verified": names[-1:], "above": []}
    settings = default_protocol().to_dict() | {"layout": "contiguous", "lengths": [3, 7], "ood_lengths": [8, 9, 10, 11]}
    settings["attribution"] = settings["attribution"] | {"methods": list(methods)}
    parts = ("total", "downstream", "metric", "frozen")
    data = {
        "kind": "attribution",
        "schema": 1,
        "task": task,
        "seed": seed,
        "step": 1000,
        "run": f"{task}-seed{seed}",
        "model": {"n_layers": n_layers, "n_heads": n_heads} | (model or {}),
        "training": training,
        "protocol": settings | (protocol or {}),
        "checkpoint_sha256": "0" * 64,
        "versions": {"gcgap": "0.1.0"},
        "created": "2026-01-01T00:00:00+00:00",
        "accuracy": {"in_distribution": 0.9, "by_length": {str(length): 0.5}},
        "window": {"length": length, "accuracy": 0.5, "in_window": True},
        "length": length,
        "length_given": given,
        "setup": {"baseline": "mean", "direction": "noising", "positions": "all"} | (setup or {}),
        "components": components,
        "methods": entries,
        "patching": patching,
        "trust": {
            "sequences": 64,
            "calibration": [{"low": low, "high": high, "components": 2, "ap_error": 0.5} for low, high in BINS],
            "bounds": {name: {"covered": 0.75, "bound_over_error": 2.0} for name in ("ap", "hvp")},
            "completeness": {"steps": 4, "joint_effect": 1.5, "residual": 0.03125},
            "error": {part: abs(number()) for part in parts} | {"local": None},
        },
        "sets": {"interactions": interactions, "critical": critical},
        "workflow": workflow | {"limit": 0.5, "rule_of_three": 1.0},
        "advice": advice(entries),
        "seconds": {},
    }
    return AttributionRecord(data)


def written(root: Path, *records: AttributionRecord, name: str = "mean") -> Path:
    """Every record in its run."""
    for record in records:
        record.write(root / record["run"] / "attribution" / f"{name}.json")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    every = [made(task, seed, length=8 + seed % 2) for task in TASKS for seed in SEEDS]
    return written(tmp_path_factory.mktemp("methods") / "default", *every)


@pytest.fixture(scope="module")
def group(root: Path) -> MethodGroup:
    (found,) = gather_methods([root])
    return found


def of(root: Path, task: str) -> list[dict[str, Any]]:
    """The records of a task as plain dictionaries, in the order of their seeds."""
    every = [json.loads(path.read_text()) for path in root.glob(f"{task}-*/attribution/*.json")]
    return sorted(every, key=lambda data: data["seed"])


def column(table: Table, name: str) -> Column:
    (found,) = [one for one in table.columns if one.name == name]
    return found


def same(found: Any, values: list[float]) -> None:
    """Mean, std and t-interval by plain arithmetic."""
    assert isinstance(found, Summary)
    assert (found.n, found.mean, found.std) == (len(values), pytest.approx(mean(values)), pytest.approx(pstdev(values)))
    if found.within and len(values) <= 3:  # each is shown
        assert (found.ci, found.each) == (None, pytest.approx(tuple(values)) if pstdev(values) else ())
        return
    reach = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    if found.within == POSITIVE:
        factor = math.exp(reach / mean(values))
        assert found.ci == pytest.approx((mean(values) / factor, mean(values) * factor))
        return
    assert found.ci == pytest.approx((mean(values) - reach, mean(values) + reach))


def test_runs_of_both_tasks_are_one_group_whatever_length_the_window_picked(group: MethodGroup) -> None:
    assert [(record["task"], record["seed"]) for record in group.records] == [(task, seed) for task in TASKS for seed in SEEDS]
    assert {record["length"] for record in group.records} == {8, 9}
    assert group.name == "mean, noising, log prob, 128 sequences"
    assert group.tasks == ["reverse", "sort"]
    assert group.methods == list(CHOSEN)
    assert [record["seed"] for record in group.of_task("sort")] == list(SEEDS)


ATTRIBUTION = default_protocol().to_dict()["attribution"] | {"methods": list(CHOSEN)}
OTHERS: list[dict[str, Any]] = [
    {"setup": {"baseline": "zero"}},
    {"setup": {"baseline": "patch_swap"}},
    {"setup": {"baseline": "patch_swap", "direction": "denoising"}},
    {"setup": {"positions": "input"}},
    {"setup": {"positions": [0, 2]}},
    {"protocol": {"sequences": 64}},
    {"protocol": {"batch_size": 32}},
    {"protocol": {"gradient_batches": 7}},
    {"protocol": {"attribution": ATTRIBUTION | {"budget": 3}}},
    {"protocol": {"attribution": ATTRIBUTION | {"metric": "logit_difference"}}},
    {"methods": ("exact", "hvp")},
    {"model": {"d_model": 256}},
    {"training": {"learning_rate": 0.1, "batch_size": 64}},
    {"training": None},
    {"given": True},
]


def test_no_two_settings_are_ever_one_group_and_every_group_has_a_name_of_its_own(tmp_path: Path) -> None:
    records = [made(seed=seed) for seed in (1, 2)] + [made(seed=3 + i, **changes) for i, changes in enumerate(OTHERS)]
    groups = gather_methods([written(tmp_path, *records)])
    assert len(groups) == 1 + len(OTHERS)
    assert [record["seed"] for record in groups[0].records] == [1, 2]  # the largest first
    assert sorted(group.records[0]["seed"] for group in groups[1:]) == [3 + i for i in range(len(OTHERS))]
    assert len({group.name for group in groups}) == len(groups)
    names = {group.records[0]["seed"] - 3: group.name for group in groups}
    assert names[0] == "zero, noising, log prob, 128 sequences"
    assert names[2] == "patch_swap, denoising, log prob, 128 sequences"
    assert names[3] == "mean, noising, log prob, positions input, 128 sequences"
    assert names[9].startswith("mean, noising, logit difference, ")
    assert names[14] == "mean, noising, log prob, length 9, 128 sequences"
    for i, told in ((6, "protocol.batch_size=32"), (7, "protocol.gradient_batches=7"), (8, "attribution.budget=3")):
        assert told in names[i]
    for i, told in ((10, "methods=[exact, hvp]"), (11, "model.d_model=256"), (12, "training.learning_rate=0.1")):
        assert told in names[i]


def test_a_given_length_is_a_setting(tmp_path: Path) -> None:
    groups = gather_methods([written(tmp_path, *(made(seed=seed, length=seed, given=True) for seed in (8, 9)))])
    assert [group.settings["length"] for group in groups] == [8, 9]


def test_the_same_run_twice_is_refused_by_both_names(root: Path, tmp_path: Path) -> None:
    again = tmp_path / "again" / "attribution" / "mean.json"
    made("sort", 42).write(again)
    with pytest.raises(ValueError, match="are of the same run and settings; leave one out") as refused:
        gather_methods([root, tmp_path])
    assert f"`{again}`" in str(refused.value)
    assert f"`{root}/sort-seed42/attribution/mean.json`" in str(refused.value)


def test_no_attribution_records_are_no_groups(tmp_path: Path) -> None:
    paper_runs.record("sort", 42).write(tmp_path / "run" / "gap" / "final.json")
    assert gather_methods([tmp_path]) == []


def test_only_methods_of_every_record_are_compared(group: MethodGroup) -> None:
    less = made("sort", 7)
    del less.data["methods"]["hvp"]
    assert MethodGroup(group.settings, (*group.records, less)).methods == [name for name in CHOSEN if name != "hvp"]


def test_numbers_over_seeds_leave_out_runs_without_one(root: Path, group: MethodGroup) -> None:
    values = [data["methods"]["hvp"]["agreement"]["exact_match"]["mlps"]["tau_b"] for data in of(root, "sort")]
    same(study.over_seeds(group, "sort", "hvp", "exact_match", "tau_b", "mlps"), values)
    same(study.cost(group, "hvp"), [r["methods"]["hvp"]["cost"]["forward_equivalents"] for t in TASKS for r in of(root, t)])
    records = tuple(made(seed=seed, none=("hvp",) if seed == 1 else ()) for seed in (1, 2, 3))
    found = study.over_seeds(MethodGroup(group.settings, records), "sort", "hvp", "log_prob")
    assert found.n == 2
    assert found.mean == mean(record["methods"]["hvp"]["agreement"]["log_prob"]["all"]["rho"] for record in records[1:])


def with_rhos(exact: list[float | None], own: list[float | None]) -> MethodGroup:
    """Runs of sorting in which exact effects and attribution patching have these rank correlations."""
    records = [made(seed=seed, methods=("exact", "attribution_patching")) for seed in range(len(exact))]
    for record, values in zip(records, zip(exact, own, strict=True), strict=True):
        for method, rho in zip(("exact", "attribution_patching"), values, strict=True):
            record.data["methods"][method]["agreement"]["exact_match"]["all"]["rho"] = rho
    return MethodGroup({}, tuple(records))


@pytest.mark.parametrize(
    ("exact", "own", "short", "answer"),
    [
        ([0.9, 0.8, 0.85], [0.89, 0.81, 0.85], [0.01, -0.01, 0.0], "closed"),
        ([0.9, 0.9, 0.9], [0.95, 0.99, 0.98], [-0.05, -0.09, -0.08], "closed"),  # better than the exact effects
        ([0.9, 0.9, 0.9], [0.4, 0.5, 0.3], [0.5, 0.4, 0.6], "remains"),
        ([0.9, 0.9, 0.9], [0.8, 0.5, 0.9], [0.1, 0.4, 0.0], "inconclusive"),
        ([0.9, 0.9, 0.9], [0.7, 0.7, 0.7], [0.2, 0.2, 0.2], "remains"),  # all alike: no spread, and three runs
        ([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], [0.0, 0.0, 0.0], "closed"),
        ([0.9, 0.9], [0.9, 0.9], [0.0, 0.0], "inconclusive"),  # two runs do not tell their spread
        ([0.9, None, 0.9, 0.9, 0.9], [0.4, 0.4, None, 0.5, 0.3], [0.5, 0.4, 0.6], "remains"),  # pairs only
        ([None], [0.4], [], "inconclusive"),
    ],
)
def test_the_shortfall_and_the_answer_by_hand(
    exact: list[float | None], own: list[float | None], short: list[float], answer: str
) -> None:
    found = study.shortfall(with_rhos(exact, own), "sort", "attribution_patching", "exact_match")
    assert found.n == len(short)
    assert found.mean == (pytest.approx(mean(short)) if short else None)
    assert study.answer(found) == answer


@pytest.mark.parametrize(
    ("ci", "answer"),
    [
        ((-0.3, 0.1), "closed"),  # up to the limit
        ((-0.3, 0.1001), "inconclusive"),
        ((0.1, 0.4), "inconclusive"),
        ((0.1001, 0.4), "remains"),
    ],
)
def test_answers_at_the_limit(ci: tuple[float, float], answer: str) -> None:
    assert study.CLOSED == 0.1
    assert study.answer(Summary(5, sum(ci) / 2, 0.1, ci)) == answer


def test_without_exact_effects_no_shortfall_can_be_told(tmp_path: Path) -> None:
    records = [made(seed=seed, methods=("hvp", "gradient")) for seed in SEEDS]
    (alone,) = gather_methods([written(tmp_path, *records)])
    assert study.shortfall(alone, "sort", "hvp", "log_prob") == Summary(0, None)
    gap = tables.gap_table(alone, "sort")
    assert set(column(gap, "gap, log-prob").cells) == {"inconclusive"}
    assert not [table for table in tables.method_tables(alone) if "gap" in table.key]
    for table in tables.method_tables(alone):
        to_markdown(table)


@pytest.mark.parametrize("changes", [{}, {"strict": True}, {"ranks": "ordinal", "strict": True}, {"threshold": 0.5}])
@pytest.mark.parametrize("causal", [None, "shapley_value", "again:exact_match"])
def test_roles_are_those_of_the_reference(changes: dict[str, Any], causal: str | None) -> None:
    protocol = default_protocol().to_dict() | changes | {"attribution": ATTRIBUTION}
    for seed in range(3):
        record = made(seed=seed, protocol=protocol)
        for component in record["components"][:3]:
            component["scores"]["gradient"]["value"] = 0.5  # ties
        G = [component["scores"]["gradient"]["value"] for component in record["components"]]
        known: dict[str | None, Callable[[dict[str, Any]], float]] = {
            None: lambda one: one["exact"]["exact_match"]["value"],
            "shapley_value": lambda one: one["scores"]["shapley_value"]["value"],
            "again:exact_match": lambda one: one["exact_again"]["exact_match"],
        }
        C = [known[causal](component) for component in record["components"]]
        cut, ranks, strict = protocol["threshold"] * 6, protocol["ranks"], protocol["strict"]
        by_hand = [reference.role(d, cut, strict) for d in reference.rank_differences(G, C, ranks)]
        chance = reference.by_chance(G, C, cut, strict, ranks)
        found = study.roles(record, "gradient", causal)
        assert found is not None
        assert found.heroes == by_hand.count("hero")
        names = [component["name"] for component in record["components"]]
        assert found.bloats == {name for name, role in zip(names, by_hand, strict=True) if role == "bloat"}
        assert (found.heroes_by_chance, found.bloats_by_chance) == pytest.approx((chance["heroes"], chance["bloats"]))


def test_constant_scores_or_effects_have_no_roles() -> None:
    record = made()
    for component in record["components"]:
        component["scores"]["layer_index"]["value"] = 3.0
    assert study.roles(record, "layer_index") is None
    assert study.roles(record, "gradient", "layer_index") is None
    for component in record["components"]:
        component["exact"]["exact_match"]["value"] = 0.0
    assert study.roles(record, "gradient") is None


def costing(**entries: tuple[str, float | None, float]) -> dict[str, Any]:
    """Methods by family, rho with the effect by log-probability, and cost; those of gates and paths estimate drops."""
    return {
        name: {
            "family": family,
            "estimates": "drop" if family in ("exact", "gates", "path") else None,
            "agreement": {
                "log_prob": {"all": {"rho": rho, "ci": None}},
                "exact_match": {"all": {"rho": rho and -rho, "ci": None}},
            },
            "cost": {"forward_equivalents": price},
        }
        for name, (family, rho, price) in entries.items()
    }


EXACT = ("exact", 0.95, 7.0)
NOISE = "exact effects of all components (ρ = 0.95 with those on other sequences: that is noise) cost 7.0 forward passes"


def test_exact_effects_are_advised_where_they_cost_least_of_all_that_rank_as_they_do() -> None:
    methods = costing(exact=EXACT, ig=("path", 0.9, 40.0), joint_ig=("sets", 0.86, 9.0), ap=("gates", 0.84, 2.0))
    assert CLOSE == 0.1
    assert advice(methods) == f"Use exact: {NOISE}; joint_ig, the cheapest other method that ranks as they do, costs 9.0."


def test_where_nothing_else_ranks_as_they_do_exact_effects_are_advised_at_any_price() -> None:
    methods = costing(exact=EXACT, ap=("gates", 0.84, 2.0), gradient=("weights", -0.9, 1.0))
    assert advice(methods) == f"Use exact: {NOISE}, and no other method that was run ranks as they do."


def test_the_cheapest_that_ranks_as_they_do_is_advised_otherwise() -> None:
    methods = costing(exact=EXACT, ig=("path", 0.97, 6.0), ap=("gates", 0.85 + 1e-9, 2.0), gradient=("weights", 0.84, 1.0))
    assert advice(methods) == f"Use ap: ρ = 0.85 for 2.0 forward passes, where {NOISE}."


def test_a_score_that_is_no_drop_is_advised_for_a_ranking() -> None:
    methods = costing(exact=EXACT, ap=("gates", 0.9, 2.0), gradient=("weights", 0.9, 1.0))
    assert advice(methods) == (
        f"Use gradient, for a ranking: its scores are no drops: ρ = 0.90 for 1.0 forward passes, where {NOISE}."
    )


def test_a_joint_hvp_is_never_advised_for_a_ranking() -> None:
    methods = costing(exact=EXACT, ap=("gates", 0.9, 3.0), joint_hvp=("curvature", 0.99, 1.0), hvp=("curvature", 0.9, 2.0))
    methods["joint_hvp"] |= {"estimates": "shapley"}
    assert advice(methods).startswith("Use hvp")


def test_controls_are_never_advised() -> None:
    methods = costing(exact=EXACT, ap=("gates", 0.9, 2.0), layer=("control", 0.99, 0.0))
    assert advice(methods).startswith("Use ap: ρ = 0.90")


@pytest.mark.parametrize(
    "methods",
    [
        costing(ap=("gates", 0.9, 2.0)),
        costing(exact=EXACT),
        costing(exact=("exact", None, 7.0), ap=("gates", 0.9, 2.0)),
        costing(exact=EXACT, ap=("gates", None, 2.0)),
        costing(exact=EXACT, layer=("control", 0.9, 0.0)),
    ],
)
def test_without_something_to_compare_there_is_no_advice(methods: dict[str, Any]) -> None:
    assert advice(methods) == "No advice: it needs `exact` and another method, and effects that have ranks."


def test_there_is_no_advice_where_exact_effects_agree_with_themselves_no_better_than_by_chance() -> None:
    methods = costing(exact=("exact", 0.2, 7.0), ap=("gates", 0.3, 2.0))
    methods["exact"]["agreement"]["log_prob"]["all"]["ci"] = [0.0, 0.5]
    assert advice(methods).startswith("No advice: exact effects rank components no better")
    assert "ρ = 0.20 [0.00, 0.50]" in advice(methods)
    methods["exact"]["agreement"]["log_prob"]["all"]["ci"] = [0.01, 0.5]
    assert advice(methods).startswith("Use ap: ")


def test_the_advice_can_be_by_another_effect() -> None:
    methods = costing(exact=("exact", -0.9, 7.0), ap=("gates", -0.9, 2.0), hvp=("path", 0.5, 1.0))
    assert advice(methods, "exact_match").startswith("Use ap: ρ = 0.90")


@pytest.mark.parametrize("task", TASKS)
def test_the_agreement_table_holds_every_number_over_seeds(task: str, root: Path, group: MethodGroup) -> None:
    table, records = tables.agreement_table(group, task), of(root, task)
    assert table.key == {"sort": "methods", "reverse": "methods-reverse"}[task]
    assert list(column(table, "method").cells) == list(CHOSEN)
    for effect, name in (("log_prob", "log-prob"), ("exact_match", "exact match")):
        parts = {"noise ceiling": ("all", "ceiling"), "heads": ("heads", "rho"), "MLPs": ("mlps", "rho")}
        parts |= {"τ-b": ("all", "tau_b"), "missed": ("all", "missed")}
        for row, method in enumerate(CHOSEN):
            every = [data["methods"][method]["agreement"][effect] for data in records]
            same(column(table, f"ρ, {name}").cells[row], [one["all"]["rho"] for one in every])
            for heading, (part, key) in parts.items():
                assert column(table, f"{heading}, {name}").cells[row] == pytest.approx(mean(one[part][key] for one in every))
    l1 = [mean(data["methods"][method]["agreement"]["log_prob"]["all"]["l1"] for data in records) for method in CHOSEN]
    assert list(column(table, "L1 (metric's units)").cells) == pytest.approx(l1)


def test_the_gap_table_holds_shortfalls_and_answers(root: Path, group: MethodGroup) -> None:
    table = tables.gap_table(group, "sort")
    assert list(column(table, "method").cells) == [name for name in CHOSEN if name != "exact"]
    for effect, name in (("log_prob", "log-prob"), ("exact_match", "exact match")):
        for row, method in enumerate(column(table, "method").cells):
            rhos = [
                [data["methods"][m]["agreement"][effect]["all"]["rho"] for m in ("exact", method)] for data in of(root, "sort")
            ]
            short = column(table, f"shortfall in ρ, {name}").cells[row]
            same(short, [exact - own for exact, own in rhos])
            assert isinstance(short, Summary)
            assert column(table, f"gap, {name}").cells[row] == study.answer(short)


def test_the_roles_table_counts_by_method_and_how_many_bloats_of_the_gradient_stay(group: MethodGroup) -> None:
    table = tables.bloats_table(group, "sort")
    records = group.of_task("sort")
    rows = list(column(table, "score").cells)
    others = {"exact effects on other sequences": "again:exact_match", "exact effects by log-probability": "again:log_prob"}
    others |= {name: name for name in ("shapley_exact_match", "shapley_value")}
    assert rows == [*CHOSEN, *(f"gradient, C = {other}" for other in others)]
    first = [study.roles(record, "gradient") for record in records]
    for row, name in enumerate(rows):
        causal = others.get(str(name).partition(" = ")[2])
        found = [study.roles(record, "gradient" if causal else str(name), causal) for record in records]
        every = [one for one in found if one is not None]
        assert len(every) == 3
        assert column(table, "Heroes").cells[row] == summary([one.heroes for one in every], POSITIVE)
        assert column(table, "Bloats").cells[row] == summary([len(one.bloats) for one in every], POSITIVE)
        assert column(table, "Bloats by chance").cells[row] == pytest.approx(mean(one.bloats_by_chance for one in every))
        shares = [len(a.bloats & b.bloats) / len(a.bloats) for a, b in zip(first, every, strict=True) if a and a.bloats]
        assert column(table, "share of the gradient's Bloats that stay").cells[row] == summary(shares, SHARE)
    stayed = column(table, "share of the gradient's Bloats that stay").cells[rows.index("gradient")]
    assert stayed == summary([1.0] * sum(bool(one and one.bloats) for one in first), SHARE)


def test_tables_of_both_tasks_hold_the_numbers_of_patching_cost_error_and_workflow(root: Path, group: MethodGroup) -> None:
    patching, cost = tables.patching_table(group), tables.cost_table(group)
    error, workflow = tables.error_table(group), tables.workflow_table(group)
    assert list(column(patching, "patching").cells) == ["patch_sequence", "patch_token", "patch_swap"]
    for task, name in zip(TASKS, ("reversal", "sorting"), strict=True):
        records = of(root, task)
        for effect, label in (("exact_match", "exact match"), ("log_prob", "log-prob")):
            for row, kind in enumerate(("patch_sequence", "patch_token", "patch_swap")):
                values = [data["patching"][kind][effect]["rho"] for data in records]
                same(column(patching, f"ρ, {name}, {label}").cells[row], values)
                assert column(patching, f"noise ceiling, {name}, {label}").cells[row] == pytest.approx(0.9)
        for row, part in enumerate(("total", "downstream", "metric")):
            same(column(error, f"mean |error|, {name}").cells[row], [data["trust"]["error"][part] for data in records])
        assert column(error, f"mean |error|, {name}").cells[3] == Summary(
            0, None, within=POSITIVE
        )  # the local part is of activation patching
        counts = [one.mean for one in column(workflow, name).cells if isinstance(one, Summary)]
        assert counts == [2, 1, 1, 1, 0]
    every = [data for task in TASKS for data in of(root, task)]
    for row, method in enumerate(CHOSEN):
        for key, heading in {"forward_equivalents": "forward-equivalents", "seconds": "seconds"}.items():
            same(column(cost, heading).cells[row], [data["methods"][method]["cost"][key] for data in every])
        wanted = mean(data["methods"][method]["cost"]["backward"] for data in every)
        assert column(cost, "backward").cells[row] == pytest.approx(wanted)


def test_the_sets_table_says_what_was_proved(group: MethodGroup) -> None:
    three = {"members": ["L0_H0", "L0_H1", "L0_MLP"]} | EFFECT
    nothing = {"sets": [], "size": None, "searched": 2, "greedy": None}
    changes = [{}, nothing | {"searched": 3, "greedy": three}, nothing, nothing | {"searched": 0, "dispensable": ["L0_H0"]}]
    records = [made(seed=seed) for seed in range(4)]
    for record, change in zip(records, changes, strict=True):
        record.data["sets"]["critical"] |= change
    table = tables.sets_table(MethodGroup(group.settings, tuple(records)))
    assert list(column(table, "smallest critical set").cells) == ["L0_H0 + L0_H1", "L0_H0 + L0_H1 + L0_MLP", "none", "none"]
    assert list(column(table, "costs together (points)").cells) == [25.0, 25.0, None, None]
    assert list(column(table, "on other sequences").cells) == [12.5, 12.5, None, None]
    assert list(column(table, "standard error").cells) == [6.25, 6.25, None, None]
    assert list(column(table, "dispensable").cells) == [2, 2, 2, 1]
    assert list(column(table, "smallest").cells) == [
        "yes: every smaller set was tried",
        "no set of up to 3 is; larger ones were not all tried",
        "none of up to 2 is, nor are all together",
        "there is no set: fewer than two are dispensable",
    ]
    assert "costs at most 5 points" in table.notes[0]
    assert "20 points or more together" in table.notes[0]


def test_denoising_has_no_critical_sets_and_no_table_of_them(tmp_path: Path) -> None:
    record = made(setup={"baseline": "patch_token", "direction": "denoising"})
    record.data["sets"]["critical"] = None
    (group,) = gather_methods([written(tmp_path, record)])
    assert "methods-sets" not in {table.key for table in tables.method_tables(group)}
    assert not [line for line in found(record) if "dispensable" in line or "sets" in line]
    assert "red: in need of each other, blue: redundant" in FIGURES["interactions"](record).get_suptitle()
    assert "red: redundant, blue: in need of each other" in FIGURES["interactions"](made()).get_suptitle()


def test_a_method_without_ranks_is_named_with_its_reason(group: MethodGroup) -> None:
    records = tuple(made(seed=seed, none=("hvp",) if seed == 1 else ()) for seed in (1, 2))
    notes = tables.agreement_table(MethodGroup(group.settings, records), "sort").notes
    assert "Left out: sort seed 1, hvp, log prob: all the same." in notes
    assert sum(note.startswith("Left out") for note in notes) == 2


def test_trust_is_pooled_over_every_component_of_every_run(root: Path, group: MethodGroup) -> None:
    table, bounds = tables.trust_table(group), tables.bounds_table(group)
    assert list(column(table, "task").cells) == ["reversal"] * 5 + ["sorting"] * 5
    assert list(column(table, "R").cells)[:5] == ["0 to 0.1", "0.1 to 0.3", "0.3 to 1", "1 to 3", "3 to inf"]
    for t, task in enumerate(TASKS):
        trust = [component["trust"] for data in of(root, task) for component in data["components"]]
        assert sum(cell for cell in column(table, "components").cells[5 * t : 5 * t + 5] if isinstance(cell, int)) == len(trust)
        inside = [one for one in trust if 1 <= abs(one["curvature"]) / (2 * abs(one["slope"])) < 3]
        errors = [abs(one["slope"] - one["effects"]["exact"]) / abs(one["effects"]["exact"]) for one in inside]
        assert column(table, "median relative error of AP").cells[5 * t + 3] == pytest.approx(median(errors))
        for row, (name, half) in enumerate((("ap", 0.0), ("hvp", 0.5))):
            wrong = [abs(one["effects"]["exact"] - one["slope"] - half * one["curvature"]) for one in trust]
            kept = [one["bound"][name] >= error for one, error in zip(trust, wrong, strict=True)]
            ratios = [one["bound"][name] / error for one, error in zip(trust, wrong, strict=True)]
            assert column(bounds, "share of errors below the bound").cells[2 * t + row] == pytest.approx(mean(kept))
            assert column(bounds, "median of bound / error").cells[2 * t + row] == pytest.approx(median(ratios))


def test_every_setting_of_a_group_is_told(group: MethodGroup) -> None:
    table = tables.settings_table(group)
    told = dict(zip(*(one.cells for one in table.columns), strict=True))
    assert told["setup.baseline"] == "mean"
    assert told["protocol.sequences"] == "128"
    assert told["model.n_layers"] == "2"
    assert told["training.learning_rate"] == "0.001"
    assert "'budget': 0.2" in str(told["protocol.attribution"])


def test_every_table_has_a_key_of_its_own_and_every_form(group: MethodGroup) -> None:
    every = tables.method_tables(group)
    assert len({table.key for table in every}) == len(every) == 14
    for table in every:
        assert table.group == group.name
        assert table.rows
        assert len(list(csv.reader(to_csv(table).splitlines()))) == 1 + len(table.rows)
        assert table.title.replace("|", "\\|") in to_markdown(table)
        assert "<table" in to_html(table)
        for one in table.columns:
            assert all("nan" not in format_cell(cell, one.form).lower() for cell in one.cells if not isinstance(cell, str))


def test_missing_numbers_are_dashes() -> None:
    records = tuple(made(seed=seed, none=("hvp",)) for seed in SEEDS)
    group = MethodGroup(gathered(records[0]), records)
    row = CHOSEN.index("hvp")
    cell = column(tables.agreement_table(group, "sort"), "ρ, log-prob")
    assert format_cell(cell.cells[row], cell.form) == MISSING
    assert column(tables.gap_table(group, "sort"), "gap, log-prob").cells[row - 1] == "inconclusive"


def gathered(record: AttributionRecord) -> dict[str, Any]:
    """The settings of a group of such records."""
    return {key: record[key] for key in ("setup", "protocol", "model", "training")} | {"length": None}


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of attribution records alone, with the records."""
    out = tmp_path_factory.mktemp("report") / "out"
    assert main(["report", str(root), "--out", str(out), "--records"]) == 0
    return out


def test_a_report_of_attribution_records_alone(report: Path, group: MethodGroup) -> None:
    (folder,) = (report / "tables").iterdir()
    assert {path.stem for path in folder.iterdir()} == {table.key for table in tables.method_tables(group)}
    for table in tables.method_tables(group):
        assert (folder / f"{table.key}.csv").read_text() == to_csv(table)
    assert [path.name for path in sorted((report / "figures" / folder.name).iterdir())] == ["methods.pdf", "methods.png"]
    text = (report / "report.md").read_text()
    assert f"## Attribution methods: {group.name}" in text
    assert "Runs: 3 of reversal, 3 of sorting." in text
    assert "Verdict" not in text
    assert group.name in (report / "index.html").read_text()


def test_copied_records_make_the_same_report_again(report: Path, root: Path, tmp_path: Path) -> None:
    copied = {path.relative_to(report): json.loads(path.read_text()) for path in report.rglob("attribution/*.json")}
    assert len(copied) == 6
    for path, data in copied.items():
        assert data == json.loads((root.parent / path).read_text())
    shipped = shutil.copytree(report / "default", tmp_path / "default")
    out = tmp_path / "again"
    assert main(["report", str(shipped), "--out", str(out)]) == 0
    for path in (report / "tables").rglob("*.csv"):
        assert (out / path.relative_to(report)).read_bytes() == path.read_bytes()
    assert (out / "report.md").read_text() == (report / "report.md").read_text()
    assert (out / "index.html").read_bytes() == (report / "index.html").read_bytes()


def test_a_report_holds_methods_beside_ordinary_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gcgap.report.contents._figures", lambda group: [])  # those of ordinary runs are drawn elsewhere
    runs = tmp_path / "default"
    paper_runs.record("sort", 42).write(runs / "sort-seed42" / "gap" / "final.json")
    written(runs, made("sort", 42), made("sort", 123))
    written(runs, made("sort", 42, setup={"baseline": "zero"}), name="zero")
    out = tmp_path / "out"
    assert main(["report", str(runs), "--out", str(out), "--records"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 run in 1 group, 3 attribution records in 2 groups." in said
    text = (out / "report.md").read_text()
    for heading in ("Attribution methods: mean, noising", "Attribution methods: zero, noising", "Group: default"):
        assert f"## {heading}" in text
    assert len(list((out / "tables").iterdir())) == 3
    assert {path.name for path in (out / "default" / "sort-seed42").rglob("*.json")} == {"final.json", "mean.json", "zero.json"}


def test_a_report_of_methods_needs_no_torch(root: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from gcgap.cli import main
assert main(["report", {str(root / "sort-seed42")!r}, "--out", {str(tmp_path)!r}]) == 0
print("loaded", sorted({{"torch", "lightning", "pandas", "tensorboard"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded []\n")


def test_a_broken_attribution_record_stops_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / "attribution" / "mean.json"
    made().write(path)
    path.write_text(path.read_text()[:50])
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert f"`{path}` is not an attribution record" in capsys.readouterr().err


def every_rho_gone(record: AttributionRecord) -> AttributionRecord:
    """No method has ranks, and no component an effect."""
    for entry in record["methods"].values():
        for groups in entry["agreement"].values():
            groups["all"] |= dict.fromkeys(("rho", "tau_b", "top_k", "missed", "ci", "ceiling")) | {"reason": "all the same"}
    for component in record["components"]:
        component["trust"] |= {"reliability": None, "slope": 0.0, "curvature": 0.0}
        component["trust"]["effects"] |= dict.fromkeys(("tangent", "linear", "exact"), 0.0)
        for one in (*component["exact"].values(), *component["scores"].values()):
            one["value"] = 0.0
    return record


RECORDS: dict[str, Callable[[], AttributionRecord]] = {
    "two components": lambda: made(n_layers=1, n_heads=1),
    "twenty components, all methods": lambda: made(n_layers=4, n_heads=4, methods=tuple(METHODS)),
    "few methods": lambda: made(methods=("exact", "ig_left")),
    "no numbers": lambda: every_rho_gone(made()),
    "logit difference": lambda: in_logits(made()),
}


def in_logits(record: AttributionRecord) -> AttributionRecord:
    """The same record, scored by logit difference."""
    record.data["protocol"]["attribution"] = record["protocol"]["attribution"] | {"metric": "logit_difference"}
    for entry in record["methods"].values():
        entry["agreement"]["logit_difference"] = entry["agreement"]["log_prob"]
    for component in record["components"]:
        component["exact"]["logit_difference"] = component["exact"]["log_prob"]
    return record


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("of", RECORDS)
def test_every_figure_of_a_record_can_be_drawn(name: str, of: str) -> None:
    record = RECORDS[of]()
    figure = FIGURES[name](record)
    assert png(figure).startswith(b"\x89PNG")
    title = figure.get_suptitle()
    assert "sort, seed 42, step 1,000, length 9, mean, noising" in title
    if name == "scores":
        shown = [axes.get_title() for axes in figure.axes]
        assert len(shown) == {"two": 5, "twenty": 6, "few": 2, "no": 5, "logit": 5}[of.split()[0]]
        assert all(len(axes.lines) >= len(record["components"]) for axes in figure.axes)
    if name == "interactions":
        labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
        assert labels == [component["name"] for component in record["components"]]


def test_points_of_the_cost_figure_are_the_numbers_of_the_record() -> None:
    record = made(none=("gradient",))
    left, right = FIGURES["agreement"](record).axes
    for axes, effect in ((left, "log_prob"), (right, "exact_match")):
        points = {
            str(line.get_label()).split(" ", 1)[1]: line.get_xydata() for line in axes.lines if " " in str(line.get_label())
        }
        assert list(points) == [name for name in CHOSEN if name != "gradient"]
        for name, point in points.items():
            entry = record["methods"][name]
            wanted = [entry["cost"]["forward_equivalents"], entry["agreement"][effect]["all"]["rho"]]
            assert np.asarray(point).flatten().tolist() == pytest.approx(wanted)


def test_the_grid_has_every_score_at_its_layer_and_head_and_says_which_are_shared() -> None:
    record = made(n_layers=3, n_heads=4, methods=("gradient", "hvp"), model={"heads_per_value": 2})
    for i, one in enumerate(record["components"]):
        one["scores"]["gradient"]["value"] = float(i) if one["kind"] == "mlp" else 10.0 * one["layer"] + int(one["name"][-1]) // 2
    panels = FIGURES["grid"](record).axes[:3]
    assert [panel.get_title().split("\n")[0] for panel in panels] == ["exact effect (nats per scored token)", "gradient", "hvp"]
    assert ["one value for 2 heads" in panel.get_title() for panel in panels] == [False, True, False]
    for panel, of in zip(panels[1:], ("gradient", "hvp"), strict=True):
        cells = np.asarray(panel.images[0].get_array())
        assert cells.shape == (3, 6)
        scale = np.quantile([abs(one["scores"][of]["value"]) for one in record["components"]], 0.98)
        for one in record["components"]:
            column = 5 if one["kind"] == "mlp" else int(one["name"][-1])
            assert cells[one["layer"], column] * scale == pytest.approx(one["scores"][of]["value"])
        assert np.isnan(cells[:, 4]).all()


@pytest.mark.parametrize("many", [1, 3])
def test_the_figure_over_runs_shows_every_seed(many: int, group: MethodGroup) -> None:
    records = tuple(record for record in group.records if record["seed"] in SEEDS[:many])
    figure = rhos(MethodGroup(group.settings, records))
    assert len(figure.axes) == 4  # two effects, two tasks
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == f"reversal, log prob, {many} seed" + "s" * (many > 1)
    shown = sorted(float(x) for line in figure.axes[1].lines if line.get_marker() == "o" for x in np.asarray(line.get_xdata()))
    wanted = [
        r["methods"][name]["agreement"]["log_prob"]["all"]["rho"] for r in records if r["task"] == "sort" for name in CHOSEN
    ]
    assert set(np.round(wanted, 9)) <= set(np.round(shown, 9))
    assert pdf(figure).startswith(b"%PDF")


def shown(record: AttributionRecord, width: int = 80) -> list[str]:
    """The table of a terminal, line by line."""
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(method_table(record), highlight=False)
        return console.export_text().splitlines()


def test_the_components_of_the_largest_effects_come_first_with_their_sign_and_every_score() -> None:
    record = made(n_layers=4, n_heads=4, methods=tuple(METHODS), model={"name": "gpt2", "heads_per_value": 2})
    effects = {"L2_H1": (-9.0, [-9.5, -8.5], "-"), "L0_MLP": (7.0, [6.5, 7.5], "+"), "L3_H3": (5.0, [-1.0, 11.0], "?")}
    for one in record["components"]:
        if one["name"] in effects:
            value, ci, _ = effects[one["name"]]
            one["exact"]["log_prob"] |= {"value": value, "ci": ci}
    lines = shown(record)
    for name, (value, (low, high), sign) in effects.items():
        (scores,) = (one["scores"] for one in record["components"] if one["name"] == name)
        cells = [cell for line in lines if line.startswith(f" {name} ") for cell in line.split()[1:]]
        wanted = [f"{value:g}", f"{low:g}..{high:g}", sign, *(f"{scores[method]['value']:.3g}" for method in METHODS)]
        assert cells == wanted
    first = [line.split()[0] for line in lines if re.match(r" L\d_\S+ ", line)][:10]
    assert first[:3] == list(effects)
    assert "The 10 of 20 components with the largest |exact effect| by log prob" in " ".join(lines)
    assert " ".join(lines).count("Groups of 2 heads share their values") == 1
    group = MethodGroup(gathered(record), (record,))
    (table,) = top_tables(group)
    assert table in tables.method_tables(group)
    assert [list(column.cells) for column in table.columns[:1]] == [first]
    assert [row[1:5] for row in table.rows[:3]] == [(value, *ci, sign) for value, ci, sign in effects.values()]
    (scores_of,) = ({m: s["value"] for m, s in one["scores"].items()} for one in record["components"] if one["name"] == "L2_H1")
    assert list(table.rows[0][5:]) == pytest.approx([scores_of[name] for name in METHODS])


@pytest.mark.parametrize("of", ["twenty components, all methods", "no numbers", "logit difference"])
def test_the_table_of_a_terminal_fits_in_80_columns_and_has_every_method(of: str) -> None:
    record = RECORDS[of]()
    lines = shown(record)
    assert max(cell_len(line) for line in lines) <= 80
    for name, entry in record["methods"].items():
        rows = [line.split() for line in lines if re.match(rf" {name} +[–\d-]", line)]
        effects = ["log_prob", *["logit_difference"] * (of == "logit difference"), "exact_match"]
        assert len(rows) == len(effects) + 1
        for row, effect in zip(rows, effects, strict=False):
            rho = entry["agreement"][effect]["all"]["rho"]
            assert row[1] == ("–" if rho is None else f"{rho:.2f}")
        assert rows[-1][-2:] == [f"{entry['cost'][key]:.1f}" for key in ("forward_equivalents", "seconds")]
        missed = entry["agreement"]["exact_match"]["all"]["missed"]
        assert rows[-1][2] == ("–" if missed is None else f"{missed:.2f}")
    if of == "no numbers":
        assert "all the same" in " ".join(lines)  # why there is no ρ
    assert record["advice"] in " ".join(" ".join(lines).split())


def test_what_was_found_is_told_in_sentences() -> None:
    record = made()
    told = found(record)
    rho = record["patching"]["patch_token"]["exact_match"]["rho"]
    assert f"patch_token {rho:.2f} -0.50..0.50" in told[0]
    apart = "25% together, 12% ± 6% on other sequences"
    few = "2 components change exact match by at most 5% each"
    assert told[1] == f"{few}; the smallest of their sets that cost 20%: L0_H0 + L0_H1, {apart}."
    total = record["trust"]["error"]["total"]
    assert told[2].startswith(f"Mean error of attribution patching, and of its parts alone: total {total:.3f}, downstream ")
    assert told[3:6] == [
        "Median relative error by R (bin: components, error): 0-0.1: 2, 50%; 0.1-0.3: 2, 50%; 0.3-1: 2, 50%; 1-3: 2, 50%; "
        "3-: 2, 50%. A small R is no certificate.",
        "Estimated bounds held for 75% of the errors of attribution patching and 75% of the errors of its correction.",
        "Joint integrated gradients miss completeness by 0.031 of 1.5.",
    ]
    assert told[6] == (
        "Screen-Flag-Fix: 2 flagged, 1 fixed exactly, 1 beyond the budget; of 1 others checked 0 are large, "
        "so at most 50% of the unflagged are large (95 %)."
    )
    assert told[7:] == [record["advice"]]


def test_what_was_not_found_is_told_too() -> None:
    record = made()
    critical = record["sets"]["critical"]
    critical |= {"sets": [], "size": None, "searched": 3, "greedy": {"members": ["L0_H0", "L1_H1"]} | EFFECT}
    few = "2 components change exact match by at most 5% each; none of their sets of up to 3"
    assert found(record)[1] == f"{few} costs 20%, L0_H0 + L1_H1 does: 25% together, 12% ± 6% on other sequences."
    critical |= {"greedy": None}
    assert found(record)[1] == f"{few}, nor all together, costs 20%."
    record.data["trust"] |= {"calibration": []}
    record.data["patching"] = {}
    assert not any("by R (bin" in text or "against activation patching" in text for text in found(record))  # without numbers
    record = made()
    record["sets"]["critical"] |= critical
    record.data["workflow"] |= {"verified": [], "limit": None}
    assert found(record)[6].endswith("1 beyond the budget; none of the others was checked.")
    record.data["workflow"]["flags"] = {component["name"]: ["large tangent"] for component in record["components"]}
    assert found(record)[6].endswith("6 flagged, 1 fixed exactly, 1 beyond the budget; the screen spares nothing here.")


@pytest.mark.parametrize(
    ("dispensable", "search", "text", "cell"),
    [
        (1, (0, 0, False), ": fewer than two, so they have no sets.", "there is no set: fewer than two are dispensable"),
        (
            40,
            (0, 0, False),
            "; none of their sets was tried: there are too many pairs.",
            "none was tried: there are too many pairs",
        ),
        (
            5,
            (2, 10, False),
            "; none of their sets of up to 2 costs 20%; larger ones were not tried.",
            "none of up to 2 is; larger ones were not tried",
        ),
        (
            5,
            (2, 11, False),
            "; none of their sets of up to 2, nor all together, costs 20%.",
            "none of up to 2 is, nor are all together",
        ),
        (
            5,
            (5, 26, False),
            "; none of their sets of up to 5, nor all together, costs 20%.",
            "none of up to 5 is, nor are all together",
        ),
        (
            5,
            (0, 1, False),
            "; not even all together costs 20%; smaller sets were not tried.",
            "all together are none; smaller ones were not tried",
        ),
        (5, (0, 9, True), "; L0_H0 + L1_H1 costs 20%: EFFECT; smaller sets were not tried.", "smaller ones were not tried"),
        (
            5,
            (2, 19, True),
            "; none of their sets of up to 2 costs 20%, L0_H0 + L1_H1 does: EFFECT.",
            "no set of up to 2 is; larger ones were not all tried",
        ),
    ],
)
def test_no_sentence_says_of_sets_what_was_not_tried(
    dispensable: int, search: tuple[int, int, bool], text: str, cell: str
) -> None:
    record, (size, evaluated, greedy) = made(), search
    one = {"members": ["L0_H0", "L1_H1"]} | EFFECT
    record["sets"]["critical"] |= {"dispensable": [f"L0_H{i}" for i in range(dispensable)], "sets": [], "size": None}
    record["sets"]["critical"] |= {"searched": size, "evaluated": evaluated, "greedy": one if greedy else None}
    told = text.replace("EFFECT", "25% together, 12% ± 6% on other sequences")
    assert found(record)[1] == f"{dispensable} components change exact match by at most 5% each{told}"
    assert tables._proof(record["sets"]["critical"]) == cell


def test_numbers_in_print() -> None:
    assert (format_cell(None), format_cell(0.125), format_cell(3.0, ".0f")) == ("–", "0.12", "3")
    assert (ends_of(None), ends_of([-0.25, 1.0])) == ("", "-0.25..1.00")


def test_two_records_that_would_be_copied_to_one_place_are_refused(tmp_path: Path) -> None:
    place = Path("default", "run", "attribution", "mean.json")
    records = [made(seed=seed).write(tmp_path / side / place) for seed, side in ((1, "a"), (2, "b"))]
    with pytest.raises(ValueError, match="would both be copied to"):
        copy_records([], gather_methods([tmp_path]), [])
    copies = copy_records([], gather_methods([tmp_path / "a"]), [])
    assert {name: json.loads(content) for name, content in copies.items()} == {str(place): records[0].data}
