"""Synthetic records in the form and the places of a whole study, with numbers drawn at random that a test can read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from scipy.stats import spearmanr

from gcgap.records.record import Record
from gcgap.report.blocks import Section, Table
from gcgap.report.page import markdown, page
from gcgap.study.bloat_kinds import predict
from gcgap.study.groups import DATA, MODEL, RELEASED

SEEDS = (42, 123, 456)
BASELINES = ("mean", "zero", "resample")
TRAINING = {"optimizer": "Adam", "learning_rate": 0.001, "batch_size": 64, "max_steps": 15000, "target_accuracy": 0.9}
SKIPPED = "no OOD length has an accuracy in [20%, 75%] (8: 90.0%, 9: 0.0%)"
ALIKE = "the causal importance of all components is the same, 0: ranks do not exist"


def record(
    task: str,
    seed: int,
    step: int = 1000,
    *,
    changes: dict[str, Any] | None = None,
    model: dict[str, Any] | None = None,
    training: dict[str, Any] | None = TRAINING,
    reason: str | None = None,
    final: bool = True,
) -> Record:
    """A whole record. `changes` are those of the protocol, `reason` makes it one without ranks."""
    rng = np.random.default_rng([*task.encode(), seed, step])
    shape = MODEL | (model or {})
    n = shape["n_layers"] * (shape["n_heads"] + 1)
    C = {b: (rng.integers(-10, 350, n) / 500).tolist() for b in BASELINES}
    data = tiny.synthetic(rng.random(n).tolist(), C, shape["n_heads"], step=step, reason=reason).to_dict()
    accuracy = {str(length): round(float(value), 3) for length, value in zip(range(8, 12), rng.random(4), strict=True)}
    data |= {"task": task, "seed": seed, "run": f"{task}-seed{seed}", "model": shape, "training": training, "final": final}
    data |= {"accuracy": {"in_distribution": 0.9, "by_length": accuracy}, "length": int(rng.integers(8, 12)), "sets": {}}
    data["protocol"] |= DATA | (changes or {})
    data["checkpoint_sha256"] = f"{task}-{seed}-{data['protocol']['layout']}-{step}"
    for component in data["components"]:
        component["gradient"]["raw"] = component["gradient"]["value"] * 64
        component |= {"activation_norm": 1.0, "attention_entropy": 0.5 if component["kind"] == "head" else None}
        component["in_distribution"] = {b: {"value": float(rng.random() / 10), "ci": [0.0, 0.1]} for b in BASELINES}
    for b in BASELINES:
        _fill(data, b, rng, reason)
    return Record(data)


def _fill(data: dict[str, Any], b: str, rng: np.random.Generator, reason: str | None) -> None:
    """The correlation that G and C have, and made-up costs of removing classes."""
    G = [one["gradient"]["value"] for one in data["components"]]
    C = [one["causal"][b]["exact_match"]["value"] for one in data["components"]]
    for gap in (data["gap"][b], *data["gap"][b]["by_metric"].values()):
        rho = None if reason else float(spearmanr(G, C)[0])  # pyright: ignore[reportArgumentType]
        gap |= {
            "rho": rho,
            "ceiling": rho and 0.9,
            "missed": None if reason else {"5": float(rng.random())},
            "by_threshold": None,
        }
    data["pruning"][b], data["joint"][b] = {}, {}
    for label, role in ROLES.items():
        names = [one["name"] for one in data["components"] if one["role"][b]["name"] == role]
        data["pruning"][b][label] = {"top2": _pruned(names[:2], rng), "all": _pruned(names, rng)}
        data["joint"][b][label] = _joint(
            names, [c for c, one in zip(C, data["components"], strict=True) if one["name"] in names], rng
        )
    data.setdefault("random_pairs", {})[b] = {"members": []} | {k: v for k, v in _pruned(["x"], rng).items() if "drop" in k}


ROLES = {"heroes": "hero", "bloats": "bloat"}


def _pruned(names: list[str], rng: np.random.Generator) -> dict[str, Any]:
    drops = {
        f"{place}_drop": {"value": float(rng.random()) if names else None, "ci": None} for place in ("ood", "in_distribution")
    }
    return {
        "members": names,
        "reason": None if names else "no such component",
        "reading": "optimisation noise" if names else None,
    } | drops


def _joint(names: list[str], drops: list[float], rng: np.random.Generator) -> dict[str, Any]:
    keys = ("individual_mean", "individual_sum", "joint", "ratio_to_mean", "ratio_to_sum", "ci")
    if not names:
        return {"members": []} | dict.fromkeys(keys) | {"reason": "no such component"}
    total, joint = sum(drops), float(rng.random())
    found = {
        "individual_mean": total / len(drops),
        "individual_sum": total,
        "joint": joint,
        "ratio_to_mean": None,
        "ratio_to_sum": None,
    }
    if total > 0:
        found |= {"ratio_to_mean": joint / (total / len(drops)), "ratio_to_sum": joint / total}
    return {"members": names} | found | {"ci": None, "reason": None if total > 0 else "no ratios: the drops add up to nothing"}


def skipped(task: str, seed: int, changes: dict[str, Any] | None = None) -> Record:
    """A record whose model has no OOD length inside the window."""
    data = record(task, seed, changes=changes, reason=SKIPPED).to_dict()
    window = {"length": None, "accuracy": None, "in_window": False}
    return Record(
        data | {"skipped": SKIPPED, "components": [], "layers": [], "length": None, "window": window, "pruning": {}, "joint": {}}
    )


def study(root: Path, tasks: tuple[str, ...] = ("reverse", "sort"), seeds: tuple[int, ...] = SEEDS) -> Path:
    """Two protocols and a variant of the first, each run tracked at four checkpoints.

    Of reversal the last seed was skipped, and the last but one has no ranks under the default protocol.
    """
    for task in tasks:
        for seed in seeds:
            skip, alike = (seeds[-1], seeds[-2]) if task == "reverse" and len(seeds) > 2 else (None, None)
            for name, changes in (("default", {}), ("released", RELEASED)):
                gap = root / name / f"{task}-seed{seed}" / "gap"
                if seed == skip:
                    skipped(task, seed, changes).write(gap / "final.json")
                else:
                    reason = ALIKE if seed == alike and name == "default" else None
                    record(task, seed, changes=changes, reason=reason).write(gap / "final.json")
                for step in (0, 50, 100, 350):
                    early = record(task, seed, step, changes=changes, reason=None if step else ALIKE, final=False)
                    early.write(gap / f"step={step:06d}.json")
            if seed != skip:
                site = {"site": "released"}
                record(task, seed, changes=site).write(
                    root / "default" / f"{task}-seed{seed}" / "gap" / "site=released" / "final.json"
                )
    return root


def predict_quickly(patch: pytest.MonkeyPatch) -> None:
    """Let the kinds of Bloats be predicted with two shufflings and few resamples, which says nothing but takes no time."""
    patch.setattr("gcgap.study.roles.PERMUTATIONS", 100)
    patch.setattr("gcgap.study.bloat_kinds.predict", lambda *given, **more: predict(*given, **more | {"shuffles": 2}))


def finals(root: Path, protocol: str, task: str) -> list[dict[str, Any]]:
    """The final records of a protocol and task as plain dictionaries, in the order of their seeds."""
    paths = (root / protocol).glob(f"{task}-seed*/gap/final.json")
    return sorted((json.loads(path.read_text()) for path in paths), key=lambda data: data["seed"])


def to_html(table: Table) -> str:
    """One table as a page shows it."""
    return page("", [Section("", [table])], {}).split("<main>")[1].split("</main>")[0]


def to_markdown(table: Table) -> str:
    """One table as the Markdown of a report shows it."""
    return markdown("", [Section("", [table])])
