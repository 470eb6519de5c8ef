"""The published figures: shipped with the package, and consistent with each other where the paper gives a number twice."""

from __future__ import annotations

import json
from importlib.resources import files
from statistics import mean, pstdev

import paper_runs
import pytest

from gcgap.study.claims import figure, published, spread
from gcgap.study.groups import RELEASED, Group, MeasuredRun, default_settings
from gcgap.study.seeds import Summary

V1, V3 = published()["v1"], published()["v3"]


def test_the_data_file_is_in_the_package() -> None:
    assert json.loads(files("gcgap.study").joinpath("published.json").read_text(encoding="utf-8")) == published()


@pytest.mark.parametrize("task", ["reverse", "sort"])
def test_means_are_those_of_the_seeds(task: str) -> None:
    values = [rho for rho in V3["rho_by_seed_mean_ablation"][task].values() if rho is not None]
    theirs = V3["rho"][task]["mean_ablation"]
    assert [round(mean(values), 2), round(pstdev(values), 2)] == [theirs["mean"], theirs["std"]]
    by_seed = V1["by_seed"][task].values()
    assert mean(one["rho"] for one in by_seed) == pytest.approx(V1["rho"][task]["mean"], abs=6e-4)
    for label in ("heroes", "bloats"):
        assert sum(one[label] for one in by_seed) == V1["counts"][task][label]


def test_joint_drops_have_the_published_means_and_ratio() -> None:
    joint = V3["joint_bloats_sort"]
    assert mean(one["joint"] for one in joint["by_seed"].values()) == pytest.approx(joint["mean_joint"])
    assert mean(one["individual"] for one in joint["by_seed"].values()) == pytest.approx(joint["mean_individual"], abs=0.1)
    assert round(joint["mean_joint"] / joint["mean_individual"], 1) == joint["ratio"]


def test_a_figure_is_none_where_nothing_was_published() -> None:
    runs = {task: (MeasuredRun(paper_runs.record(task, 1)),) for task in ("sort", "copy")}
    group = Group(default_settings(), runs["sort"])
    assert figure(group, "v3", "rho", "sort", "mean_ablation", "mean") == 0.27
    assert figure(group, "v3", "rho", "copy", "mean_ablation", "mean") is None
    assert figure(group, "v3", "rho", "sort", "mean_ablation", "mean", "deeper") is None
    assert figure(Group(default_settings(), runs["copy"]), "v3", "rho") is None
    changes = ({"n_layers": 8}, {"d_model": 64}, {"positions": "rotary"}, {"lengths": [3, 6]}, {"length": 9}, {"name": "gpt2"})
    for other in changes:
        assert figure(Group(default_settings() | other, runs["sort"]), "v3", "rho") is None
    for same in (RELEASED, {"sequences": 1000}):  # how finely it is measured makes no other run
        assert figure(Group(default_settings() | same, runs["sort"]), "v3", "rho") is not None
    assert spread(group, "v3", "rho", "reverse", "mean_ablation") == Summary(9, 0.72, 0.08)
    assert spread(group, "v3", "rho", "copy") is None
