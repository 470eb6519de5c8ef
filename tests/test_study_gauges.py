"""Claims in other gauges, from synthetic records in whose gauges the answers are known to be other ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import paper_runs
import pytest
from paper_runs import BASELINES
from scipy.stats import rankdata

from gcgap.records.matching_record import MatchingRecord
from gcgap.records.record import Record
from gcgap.report.blocks import Drawing, Table
from gcgap.report.contents import contents
from gcgap.report.figures_gauges import gauges
from gcgap.report.tables_gauges import gauge_answers_table
from gcgap.study.claims import CLAIMS, verdicts
from gcgap.study.evidence import MATCHED_BY, collapse, heads_not_layers, identities, missed, shortcut
from gcgap.study.gauge_views import GAUGES, TRAINED, in_gauge, verdicts_by_gauge, with_gauges
from gcgap.study.groups import Group, MeasuredRun, default_settings
from gcgap.study.roles import component_arrays

SHAKE = (-0.04, 0.01, 0.03, 0.0, 0.02)  # what differs from seed to seed
COLLAPSE, IDENTITIES = (next(claim.title for claim in CLAIMS if claim.evidence is one) for one in (collapse, identities))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    paper_runs.predict_quickly(monkeypatch)


def record(task: str, seed: int, rho: float, step: int = 1000) -> Record:
    """A record whose G and C are those of the task's first seed, so that all seeds have the same roles."""
    data = paper_runs.record(task, 0, step, final=step == 1000).to_dict()
    data |= {"seed": seed, "checkpoint_sha256": f"{task}{seed}{step}"}
    data["pruning"]["mean"]["bloats"]["all"]["in_distribution_drop"]["ci"] = [0.0, 1.0]
    data["gap"]["mean"] |= {"rho": rho, "missed": {"5": 0.8 + rho / 10}}
    return Record(data)


def gauged(of: Record, rho: float, G: Sequence[float] | None = None) -> Record:
    """The record with this rho, and G, in every gauge; roles follow from G."""
    data = copy.deepcopy(of.to_dict())
    G = [one["gradient"]["value"] for one in data["components"]] if G is None else list(G)
    gaps, roles = {}, {}
    for b in BASELINES:
        C = [one["causal"][b]["exact_match"]["value"] for one in data["components"]]
        deltas = rankdata(G) - rankdata(C)
        roles[b] = ["hero" if delta <= -6 else "bloat" if delta >= 6 else "aligned" for delta in deltas]
        gaps[b] = data["gap"][b] | {"rho": rho, "missed": {"5": 0.2 + rho / 10}}
    one = {"gradient": G, "gap": gaps, "role": roles}
    scales = {
        "factor": 4.0,
        "draws": 1000,
        "rho": {b: [0.0, 0.3] for b in BASELINES},
        "roles_kept": dict.fromkeys(BASELINES, 0.5),
    }
    names = (*GAUGES, "orthonormal_value")
    data["gauges"] = {"by_gauge": {name: copy.deepcopy(one) for name in names}, "random_scales": scales}
    return Record(data)


def group(runs: Sequence[MeasuredRun]) -> Group:
    return Group(default_settings(), tuple(runs))


def flipped() -> list[MeasuredRun]:
    """As trained rho is 0.7 on reversal and 0.1 on sorting, in every gauge the other way round."""
    rhos = {"reverse": 0.7, "sort": 0.1}
    return [
        MeasuredRun(gauged(record(task, seed, rho + shake), 0.8 - rho - shake))
        for task, rho in rhos.items()
        for seed, shake in enumerate(SHAKE)
    ]


def test_a_claim_that_holds_as_trained_is_refuted_in_a_gauge() -> None:
    runs = flipped()
    before = copy.deepcopy([run.final.to_dict() for run in runs])
    found = verdicts_by_gauge([group(runs)])
    answers = {gauge: next(one.answer for one in of if one.claim.title == COLLAPSE) for gauge, of in found.items()}
    assert answers == {TRAINED: "holds", "balanced": "does not hold", "orthonormal_output": "does not hold"}
    seen = in_gauge(group(runs), "balanced")
    assert collapse(seen).numbers["difference"].mean == pytest.approx(-0.6 - 2 * np.mean(SHAKE) + 2 * np.mean(SHAKE))
    assert missed(seen).holds is False
    assert missed(group(runs)).holds is True
    assert [run.final.to_dict() for run in runs] == before


def test_roles_are_those_of_g_in_the_gauge() -> None:
    """As trained all seeds have the same roles; in the gauge G is in another random order in every seed."""
    rng = np.random.default_rng(0)
    orders = [rng.permutation(20) + 1.0 for _ in range(6)]
    runs = [MeasuredRun(gauged(record("sort", seed, 0.5), 0.5, G.tolist())) for seed, G in enumerate(orders)]
    seen = in_gauge(group(runs), "balanced")
    assert identities(group(runs)).holds is True
    shared = [identities(of).numbers["Heroes"].mean for of in (group(runs), seen)]
    assert shared[0] is not None
    assert shared[1] is not None
    assert shared[1] < shared[0] - 1
    for run, G in zip(seen.runs, orders, strict=True):
        arrays = component_arrays(run.final, "mean")
        assert arrays.G.tolist() == G.tolist()
        roles = run.final["gauges"]["by_gauge"] if "gauges" in run.final.data else None
        assert roles is None  # nothing of another gauge is left to be mixed in
        named = {role: np.flatnonzero(mask).tolist() for role, mask in arrays.roles().items()}
        for i, one in enumerate(run.final["components"]):
            assert i in named[one["role"]["mean"]["name"]]
            assert one["delta"]["mean"]["value"] == rankdata(G)[i] - rankdata(arrays.C)[i]


def test_what_removing_sets_costs_is_asked_of_the_roles_as_trained_alone() -> None:
    found = verdicts_by_gauge([group(flipped())])
    removing = {claim.title for claim in CLAIMS if claim.removes_sets}
    assert len(removing) == 5
    assert {one.claim.title for one in found[TRAINED]} == {claim.title for claim in CLAIMS}
    assert {one.claim.title for one in found["balanced"]} == {claim.title for claim in CLAIMS} - removing
    seen = in_gauge(group(flipped()), "balanced").runs[0].final
    assert not {"joint", "pruning", "layers", "attribution"} & seen.data.keys()


def test_matched_heads_whose_roles_are_as_trained_are_not_asked_in_a_gauge() -> None:
    roles = {role: {"shared": 4.0, "by_chance": 1.0, "p_value": 1e-4} for role in ("hero", "bloat")}
    data = {"task": "sort", "runs": [{"checkpoint_sha256": str(i)} for i in range(5)], "by": {MATCHED_BY: {"roles": roles}}}
    matching = object.__new__(MatchingRecord)
    object.__setattr__(matching, "data", data)
    whole = replace(group(flipped()), matchings=(matching,))
    assert "Matched by" in heads_not_layers(whole).text
    for verdicts_in in verdicts_by_gauge([whole]).values():
        (own,) = [one for one in verdicts_in if one.claim.evidence is heads_not_layers]
        assert "Matched by" not in own.by_protocol["default"].text


def test_runs_without_gauges_are_counted_and_never_mixed_in() -> None:
    older = [MeasuredRun(record(task, 9, rho)) for task, rho in (("reverse", 0.9), ("sort", 0.9))]
    skipped = MeasuredRun(paper_runs.skipped("sort", 11))
    whole = group([*flipped(), *older, skipped])
    kept = with_gauges(whole)
    assert [len(kept.measured(task)) for task in ("reverse", "sort")] == [5, 5]
    assert len(kept.skipped("sort")) == 1
    found = verdicts_by_gauge([whole])
    of_gauge = next(one for one in found["balanced"] if one.claim.title == COLLAPSE)
    assert of_gauge.by_protocol["default"].numbers["sorting"].n == 5
    table = gauge_answers_table(verdicts([whole]), found, [whole])
    assert "default, reversal: 5 of 6; default, sorting: 5 of 6." in table.notes[1]
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows[COLLAPSE][1::2] == ("holds", "does not hold", "does not hold")
    assert rows["Bloats are dispensable"][3:] == ("as trained only", None, "as trained only", None)
    assert f"answers depend on the gauge: {COLLAPSE};" in table.notes[2]
    assert verdicts_by_gauge([group(older)]) == {}


def test_checkpoints_are_seen_in_the_gauge_where_all_of_them_have_one() -> None:
    """As trained the early Bloats come and go with the accuracy; in the gauge G is C, and there are none."""
    runs = []
    for seed in range(5):
        tracked = []
        for step in range(0, 300, 50):
            one = record("sort", seed, 0.5, step)
            one.data["accuracy"]["by_length"][str(one["length"])] = 0.1 + step / 1000 + seed / 100
            C = [component["causal"]["mean"]["exact_match"]["value"] for component in one["components"]]
            tracked.append(gauged(one, 0.5, C))
        runs.append(MeasuredRun(gauged(record("sort", seed, 0.5), 0.5), tuple(tracked)))
    assert shortcut(with_gauges(group(runs))).numbers
    assert "tracked runs" in shortcut(in_gauge(group(runs), "balanced")).text  # no early Bloats: nothing that varies
    del runs[0].tracked[2].data["gauges"]
    assert [len(run.tracked) for run in with_gauges(group(runs)).runs] == [0, 6, 6, 6, 6]


def test_a_report_has_tables_and_a_figure_of_gauges_just_where_records_have_some() -> None:
    def keys(runs: Sequence[MeasuredRun]) -> set[str]:
        blocks = [block for section in contents([group(runs)]) for block in section.blocks]
        return {block.key for block in blocks if isinstance(block, Table | Drawing)}

    own = {"verdict-gauges", "gauge-numbers", "gauges"}
    older = [MeasuredRun(Record({k: v for k, v in run.final.to_dict().items() if k != "gauges"})) for run in flipped()]
    assert own <= keys(flipped())
    assert not own & keys(older)
    assert keys(older) == keys(flipped()) - own


def test_the_figure_shows_every_run_in_every_gauge() -> None:
    figure = gauges(group([*flipped(), MeasuredRun(record("sort", 9, 0.9))]))
    above, below = figure.axes[1], figure.axes[3]
    assert above.get_title() == "sorting, 5 of 6 runs"
    lines = [np.asarray(line.get_ydata()).tolist() for line in above.get_lines()]
    rhos = [[0.1 + shake, *[0.7 - shake] * 3] for shake in SHAKE]
    assert [line for line in lines if len(line) == 4] == [pytest.approx(one) for one in rhos]
    assert sum(line == [0.0, 0.3] for line in lines) == len(SHAKE)  # the range of random head scales
    assert np.asarray(below.get_lines()[0].get_ydata()).tolist() == [1.0, 1.0, 1.0, 0.5]
