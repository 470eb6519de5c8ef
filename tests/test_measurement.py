from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest
import reference
import torch
from torch import nn

import gcgap
from gcgap.data.batches import Batch, Purpose, Source, partner_rows
from gcgap.importance.ablation import Intervention, ablated_scores, base_scores, bound, drops
from gcgap.importance.activity import activation_norms, attention_entropies
from gcgap.importance.baselines import mean_activations, replacements, zero_activations
from gcgap.importance.experiment import id_batches
from gcgap.importance.gap import Estimate
from gcgap.importance.protocol import Baseline, Protocol, Site, window_length
from gcgap.measurement.measure import _gaps
from gcgap.models.number_format import in_precision
from gcgap.models.transformer import Origin, Transformer
from gcgap.models.wiring import Wiring
from gcgap.records.record import METRICS, Record

Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
NAMES = ["L0_H0", "L0_H1", "L0_MLP", "L1_H0", "L1_H1", "L1_MLP"]
SMALL = Protocol(gradient_batches=5, mean_batches=2, sequences=40, batch_size=20, resamples=100, random_pairs=2)
EVERY = ("mean", "mean_by_position", "zero", "resample")
TOP = {"schema", "task", "seed", "step", "run", "protocol", "checkpoint_sha256", "versions", "created", "seconds", "accuracy"}
TOP |= {"window", "length", "components", "gap", "pruning", "joint"}


def measure(model: Transformer, source: Source, protocol: Protocol = SMALL, length: int | None = 4) -> Record:
    return gcgap.measure(model, length=length, protocol=protocol, origin=Origin(source))


def numbers(record: Record) -> dict[str, Any]:
    """The record without what differs between two measurements of the same."""
    return {key: value for key, value in record.to_dict().items() if key not in ("created", "seconds")}


def column(record: Record, *keys: str) -> list[Any]:
    """One number of every component."""
    found = []
    for component in record["components"]:
        value = component
        for key in keys:
            value = value[key]
        found.append(value)
    return found


def accuracy(model: Transformer, batch: Batch) -> float:
    scored = int(batch.scored[0].sum())
    right = model(batch.inputs)[:, -scored:].argmax(-1) == batch.targets[:, -scored:]
    return sum(row.all().item() for row in right) / len(right)


ACTIVITY = {"activation_norm", "attention_entropy", "in_distribution", "held_out"}


def test_a_record_tells_the_model_its_training_its_activity_and_random_pruning(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, random_pairs=3))
    assert record["model"] == {"n_layers": 2, "n_heads": 2, "d_model": 32, "d_ff": 64, "positions": "none"}
    assert record["training"] is None  # of a model that was handed over, nothing is known
    batch = source.batch(Purpose.MEAN, record["length"], SMALL.batch_size)
    norms = activation_norms(trained, Wiring.of(trained), batch).tolist()
    assert column(record, "activation_norm") == pytest.approx(norms)
    first, second = attention_entropies(trained, batch).tolist()
    assert column(record, "attention_entropy") == [*map(pytest.approx, first), None, *map(pytest.approx, second), None]
    pairs = record["random_pairs"][SMALL.baselines[0]]["members"]
    assert [len(set(pair)) for pair in pairs] == [2, 2, 2]


def test_single_drops_in_distribution_are_those_of_the_training_lengths(trained: Transformer, source: Source) -> None:
    protocol, wiring = replace(SMALL, baselines=("zero", "resample")), Wiring.of(trained)
    record = measure(trained, source, protocol)
    for b in protocol.baselines:
        for i, component in enumerate(record["components"]):
            one, each = Intervention(frozenset([i]), Baseline(b)), []
            for batch in id_batches(source, protocol.sequences):
                other = replacements(trained, wiring, source, batch, [Baseline(b)], zero_activations(trained, wiring), 2, 20)
                each += drops(*ablated_scores(trained, wiring, batch, bound([one], other)))[0, 0].tolist()
            found = component["in_distribution"][b]
            assert found["value"] == pytest.approx(sum(each) / len(each))
            assert found["ci"][0] <= found["value"] <= found["ci"][1]
    assert column(measure(trained, source, replace(protocol, inside=False)), "in_distribution") == [None] * 6


def test_a_record_has_the_form_of_the_contract_and_is_json(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, baselines=EVERY))
    data = record.to_dict()
    assert data.keys() >= TOP
    assert orjson.loads(orjson.dumps(data)) == data  # orjson takes no keys but plain texts
    assert Record(data).to_dict() == data
    assert (data["schema"], data["task"], data["seed"], data["length"]) == (1, "sort", 1, 4)
    assert [component["name"] for component in data["components"]] == NAMES
    for component in data["components"]:
        assert component.keys() == {"name", "layer", "kind", "gradient", "causal", "delta", "role"} | ACTIVITY
        assert component["causal"].keys() == component["delta"].keys() == component["role"].keys() == set(EVERY)
        low, high = component["gradient"]["ci"]
        assert 0 < low <= component["gradient"]["value"] <= high
        for causal in component["causal"].values():
            assert all(one["ci"][0] <= one["value"] <= one["ci"][1] for one in causal.values())
    assert len(record.table()) == 6
    protocol = replace(SMALL, baselines=EVERY).to_dict()
    assert data["protocol"] == protocol | {"layout": "contiguous", "lengths": [2, 3], "ood_lengths": [4, 5]}
    assert set(data["seconds"]) == {"accuracy", "mean", "gradient", "causal", "statistics", "pruning"}


def test_the_numbers_of_a_record_are_those_of_the_reference(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, baselines=EVERY, precision="float64"))
    state, parts = reference.float64(trained.state_dict()), [(0, 0), (0, 1), (0, None), (1, 0), (1, 1), (1, None)]
    norms = [
        reference.gradient_magnitudes(state, batch.inputs, batch.targets, 5, 2, "none", normalise=True)
        for batch in source.batches(Purpose.GRADIENT, 4, 5, 20)
    ]
    G = [sum(one[part] for one in norms) / 5 for part in parts]
    assert column(record, "gradient", "value") == pytest.approx(G, rel=1e-9)
    batch = source.batch(Purpose.EVALUATION, 4, 40)
    runs = [reference.run(state, one.inputs, 2, "none") for one in source.batches(Purpose.MEAN, 4, 2, 20)]
    partner = batch.inputs[partner_rows(batch, source.seed, 4)]
    others = {
        "mean": reference.means(runs, by_position=False),
        "mean_by_position": reference.means(runs, by_position=True),
        "zero": {part: torch.zeros(1, 1, 1, dtype=torch.float64) for part in parts},
        "resample": reference.run(state, partner, 2, "none").parts,
    }

    def means(gates: Any, other: Any) -> list[float]:
        logits = reference.run(state, batch.inputs, 2, "none", gates, other).logits[:, -5:]
        return [sum(values) / 40 for values in reference.scores(logits, batch.targets[:, -5:])]

    base = means({}, {})
    assert 0 < base[0] < 1
    for baseline, other in others.items():
        drop = [[b - a for b, a in zip(base, means({part: 1.0}, other), strict=True)] for part in parts]
        for m, metric in enumerate(METRICS):
            assert column(record, "causal", baseline, metric, "value") == pytest.approx([of[m] for of in drop], abs=1e-9)


def test_ranks_roles_and_counts_follow_from_the_numbers_of_the_record(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, resamples=720))  # as many as there are pairings, so that p is exact
    G = column(record, "gradient", "value")
    for baseline in SMALL.baselines:
        C = column(record, "causal", baseline, "exact_match", "value")
        delta = reference.rank_differences(G, C)
        roles = [reference.role(d, 1.8, strict=False) for d in delta]
        assert column(record, "delta", baseline, "value") == delta
        assert column(record, "role", baseline, "name") == roles
        gap = record["gap"][baseline]
        assert gap["rho"] == pytest.approx(reference.spearman(G, C), abs=1e-12)
        assert gap["p_value"] == pytest.approx(reference.p_value(G, C), abs=1e-9)
        assert (gap["heroes"], gap["bloats"]) == (roles.count("hero"), roles.count("bloat"))
        assert gap["expected_by_chance"] == pytest.approx(reference.by_chance(G, C, 1.8, strict=False))
        assert gap["missed"]["5"] == pytest.approx(reference.missed(G, C, 5))
        for metric in METRICS[1:]:
            other = column(record, "causal", baseline, metric, "value")
            assert gap["by_metric"][metric]["rho"] == pytest.approx(reference.spearman(G, other), abs=1e-12)
        for probabilities in column(record, "role", baseline, "probabilities"):
            assert sum(probabilities.values()) == pytest.approx(1)
    assert len({role for b in SMALL.baselines for role in column(record, "role", b, "name")}) > 1


def test_layers_add_up_what_their_components_are(trained: Transformer, source: Source) -> None:
    record = measure(trained, source)
    G, roles = column(record, "gradient", "value"), column(record, "role", "zero", "name")
    assert [layer["layer"] for layer in record["layers"]] == [0, 1]
    for number, layer in enumerate(record["layers"]):
        for group, mine in (("all", slice(3 * number, 3 * number + 3)), ("heads", slice(3 * number, 3 * number + 2))):
            assert layer[group]["gradient"] == pytest.approx(float(np.mean(G[mine])))
            assert layer[group]["zero"] == {"heroes": roles[mine].count("hero"), "bloats": roles[mine].count("bloat")}


def proportion_confint(right: int, n: int = 40, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson's interval by his own formula (1927)."""
    middle, reach = right / n + z**2 / (2 * n), z * (right / n * (1 - right / n) / n + z**2 / (4 * n**2)) ** 0.5
    return (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)


def test_accuracies_are_exact_matches_and_the_window_is_the_first_length_inside(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, length=None)
    by_length = {str(n): accuracy(trained, source.batch(Purpose.EVALUATION, n, 40)) for n in (4, 5)}
    inside = [accuracy(trained, source.batch(Purpose.EVALUATION, n, 20)) for n in (2, 3)]
    assert record["accuracy"]["by_length"] == pytest.approx(by_length)
    assert record["accuracy"]["in_distribution"] == pytest.approx(sum(inside) / 2)
    held_out = source.batch(Purpose.HELD_OUT, 4, 40)
    right = round(40 * accuracy(trained, held_out))
    low, high = proportion_confint(right)
    assert record["accuracy"]["held_out"] == {"value": right / 40, "ci": pytest.approx([low, high]), "sequences": 40}
    assert record.ood_accuracy == right / 40
    first = next(n for n in (4, 5) if 0.2 <= by_length[str(n)] <= 0.75)
    assert record["window"] == {"length": first, "accuracy": pytest.approx(by_length[str(first)]), "in_window": True}
    assert record["length"] == first
    assert record.skipped is None


def test_the_smallest_of_several_lengths_inside_the_window_is_measured(trained: Transformer, source: Source) -> None:
    everything = replace(SMALL, window=(0.0, 1.0))
    assert measure(trained, source, everything, length=None)["length"] == 4
    assert measure(trained, replace(source, ood_lengths=(5, 4)), everything, length=None)["length"] == 4, "sorted"


def test_a_model_without_a_length_in_the_window_is_skipped_with_its_accuracies(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, window=(0.999, 1.0)), length=None)
    data = json.loads(json.dumps(record.to_dict(), allow_nan=False))
    assert record.skipped is not None
    assert record.skipped.startswith("no OOD length has an accuracy in [100%, 100%] (4: ")
    assert data["length"] is None
    assert data["window"] == {"length": None, "accuracy": None, "in_window": False}
    assert set(data["accuracy"]["by_length"]) == {"4", "5"}
    assert (data["components"], data["layers"], data["pruning"], data["joint"], data["sets"]) == ([], [], {}, {}, {})
    for baseline in SMALL.baselines:
        assert data["gap"][baseline]["reason"] == record.skipped
        assert data["gap"][baseline]["rho"] is None
    assert list(data["seconds"]) == ["accuracy"]


def test_a_length_that_is_asked_for_is_measured_whatever_the_window_says(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, length=6)
    assert record["length"] == 6
    assert set(record["accuracy"]["by_length"]) == {"4", "5", "6"}
    assert record["window"]["length"] in (4, 5)
    assert len(record["components"]) == 6


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.9, 0.8, 0.7, 0.5], 10),
        ([0.75, 0.5, 0.3, 0.2], 8),
        ([0.9, 0.2, 0.1, 0.0], 9),
        ([0.9, 0.76, 0.19, 0.5], 11),
        ([0.9, 0.8, 0.1, 0.0], None),
        ([0.1 + 0.1 + 1e-17, 0.0, 0.0, 0.0], 8),
        ([0.7500000000000001, 0.0, 0.0, 0.0], 8),
        ([], None),
    ],
)
def test_the_window_rule_takes_the_first_length_inside_both_ends_included(accuracies: list[float], expected: int | None) -> None:
    assert window_length(zip((8, 9, 10, 11), accuracies, strict=False), (0.20, 0.75)) == expected


def test_measuring_twice_gives_the_same_record_whatever_the_global_generators(trained: Transformer, source: Source) -> None:
    protocol = replace(SMALL, baselines=EVERY, sets=(("L0_H0", "L1_H1"),))
    first = measure(trained, source, protocol)
    torch.manual_seed(99)
    np.random.seed(99)
    assert numbers(measure(trained, source, protocol)) == numbers(first)


@pytest.mark.parametrize(
    "change", [{}, {"site": "released"}, {"paired": False}, {"precision": "float64"}, {"window": (1.0, 1.0)}]
)
def test_measuring_leaves_the_model_as_it_was(
    change: dict[str, Any], trained: Transformer, source: Source, unchanged: Unchanged
) -> None:
    with unchanged(trained):
        measure(trained, source, replace(SMALL, baselines=EVERY, **change), length=None)


def test_a_failed_measurement_leaves_the_model_as_it_was(trained: Transformer, source: Source, unchanged: Unchanged) -> None:
    with unchanged(trained), pytest.raises(ValueError, match="unknown component 'L7_H0'"):
        measure(trained, source, replace(SMALL, sets=(("L7_H0",),)))
    trained.blocks[0].attention.W_V.weight.register_hook(lambda gradient: gradient * torch.nan)
    trained.blocks[0].attention.W_V.weight.requires_grad_(True)
    with unchanged(trained), pytest.raises(FloatingPointError, match="The gradient of L0_H0 is not finite"):
        measure(trained, source)


def test_weights_that_are_not_finite_are_an_error(trained: Transformer, source: Source) -> None:
    with torch.no_grad():
        trained.blocks[0].mlp.W_out.weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        measure(trained, source)


def ablated(model: Transformer, source: Source, names: list[str], baseline: Baseline, batch: Batch, **k: Any) -> float:
    """The drop of exact match of one set, measured by itself."""
    wiring = Wiring.of(model)
    mean = mean_activations(model, wiring, source.batches(Purpose.MEAN, 4, 2, 20), by_position=False)
    other = replacements(model, wiring, source, batch, [baseline], mean, 2, 20)
    one = Intervention(frozenset(wiring.find(names)), baseline)
    return float(drops(*ablated_scores(model, wiring, batch, bound([one], other), **k))[0].mean())


@pytest.mark.parametrize("site", list(Site))
def test_pruning_joint_and_named_sets_are_joint_interventions_measured_again(
    site: Site, trained: Transformer, source: Source
) -> None:
    named = (("L0_H0", "L1_H1"), ("L0_MLP",))
    record = measure(trained, source, replace(SMALL, site=site.value, sets=named, baselines=EVERY))
    batch, inside = source.batch(Purpose.HELD_OUT, 4, 40), id_batches(source, 40)
    assert {label for of in record["sets"].values() for label in of} == {"L0_H0 + L1_H1", "L0_MLP"}
    checked = 0
    for baseline in EVERY:
        entries = [which for of in ("pruning", "sets") for group in record[of][baseline].values() for which in group.values()]
        for entry in entries:
            if not entry["members"]:
                continue
            names, kind = entry["members"], Baseline(baseline)
            ood = ablated(trained, source, names, kind, batch, site=site)
            assert entry["ood_drop"]["value"] == pytest.approx(ood, abs=1e-12)
            apart = [ablated(trained, source, names, kind, one, site=site) for one in inside]
            assert entry["in_distribution_drop"]["value"] == pytest.approx(sum(apart) / len(apart), abs=1e-12)
            checked += 1
        C = dict(zip(NAMES, column(record, "held_out", baseline, "value"), strict=True))
        for name in NAMES[::4]:
            assert C[name] == pytest.approx(ablated(trained, source, [name], Baseline(baseline), batch, site=site), abs=1e-12)
        for label, entry in record["joint"][baseline].items():
            assert entry["members"] == record["pruning"][baseline][label]["all"]["members"]
            if not entry["members"]:
                continue
            total = sum(C[name] for name in entry["members"])
            together = record["pruning"][baseline][label]["all"]["ood_drop"]["value"]
            assert entry["joint"] == pytest.approx(together, abs=1e-12)
            assert entry["individual_sum"] == pytest.approx(total, abs=1e-12)
            assert entry["individual_mean"] == pytest.approx(total / len(entry["members"]), abs=1e-12)
            if total > 0:
                assert entry["ratio_to_sum"] == pytest.approx(together / total)
                assert entry["ratio_to_mean"] == pytest.approx(together / total * len(entry["members"]))
    assert checked > 10


def test_roles_name_the_sets_that_are_pruned(trained: Transformer, source: Source) -> None:
    record = measure(trained, source)
    for baseline in SMALL.baselines:
        roles, delta = record.roles(baseline), dict(zip(NAMES, column(record, "delta", baseline, "value"), strict=True))
        for label, role in (("heroes", "hero"), ("bloats", "bloat")):
            groups = record["pruning"][baseline][label]
            assert sorted(groups["all"]["members"]) == sorted(roles[role])
            assert groups["top2"]["members"] == groups["all"]["members"][:2]
            sizes = [abs(delta[name]) for name in groups["all"]["members"]]
            assert sizes == sorted(sizes, reverse=True)


def test_the_site_changes_what_an_ablated_head_does_but_not_an_ablated_mlp(trained: Transformer, source: Source) -> None:
    here, there = (measure(trained, source, replace(SMALL, site=site)) for site in ("component", "released"))
    assert there["protocol"]["site"] == "released"
    for one, other in zip(here["components"], there["components"], strict=True):
        assert (one["causal"] == other["causal"]) == (one["kind"] == "mlp")
        assert one["gradient"] == other["gradient"]


def test_unpaired_accuracies_come_from_sequences_of_their_own(trained: Transformer, source: Source) -> None:
    record = measure(trained, source, replace(SMALL, paired=False, baselines=("zero", "mean")))
    base = accuracy(trained, source.batch(Purpose.EVALUATION, 4, 40))
    for number, (baseline, name) in enumerate([(baseline, name) for baseline in ("zero", "mean") for name in NAMES]):
        batch = source.batch(Purpose.EVALUATION, 4, 40, 1 + number)
        own = float(base_scores(trained, batch).exact_match.mean())
        drop = ablated(trained, source, [name], Baseline(baseline), batch)
        found = column(record, "causal", baseline, "exact_match", "value")[NAMES.index(name)]
        assert found == pytest.approx(base - (own - drop), abs=1e-12)


def test_raw_gradients_are_not_divided_by_their_size(trained: Transformer, source: Source) -> None:
    normal, raw = (measure(trained, source, replace(SMALL, normalise_gradient=on)) for on in (True, False))
    roots = [(32 * 16) ** 0.5, (32 * 16) ** 0.5, (32 * 64) ** 0.5] * 2
    expected = [value * root for value, root in zip(column(normal, "gradient", "value"), roots, strict=True)]
    assert column(raw, "gradient", "value") == pytest.approx(expected, rel=1e-9)


def test_precision_is_that_of_the_measurement_and_not_of_the_model(trained: Transformer, source: Source) -> None:
    single, double = (measure(trained, source, replace(SMALL, precision=precision)) for precision in ("float32", "float64"))
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.float32}
    assert column(double, "gradient", "value") == pytest.approx(column(single, "gradient", "value"), rel=1e-3)
    assert column(double, "gradient", "value") != column(single, "gradient", "value")
    trained.double()
    assert column(measure(trained, source, replace(SMALL, precision="float64")), "gradient", "value") == column(
        double, "gradient", "value"
    )


@pytest.mark.parametrize("trained_in", [torch.float32, torch.float64])
def test_bf16_rounds_the_products_inside_the_layers_and_nothing_else(
    trained_in: torch.dtype, trained: Transformer, source: Source
) -> None:
    model = trained.to(trained_in)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    rounded = in_precision(model, "bf16")
    linear = {name for name, module in rounded.named_modules() if name.startswith("blocks.") and isinstance(module, nn.Linear)}
    formats = {name: weight.dtype for name, weight in rounded.state_dict().items()}
    assert {name for name, dtype in formats.items() if dtype == torch.bfloat16} == {
        f"{name}.{kind}" for name in linear for kind in ("weight", "bias")
    }
    assert set(formats.values()) == {torch.bfloat16, torch.float32}
    single, half = (measure(model, source, replace(SMALL, precision=precision)) for precision in ("float32", "bf16"))
    for key in (("gradient", "value"), ("causal", "mean", "log_prob", "value")):
        ours, theirs = column(half, *key), column(single, *key)
        assert ours == pytest.approx(theirs, rel=0.05, abs=0.02)
        assert ours != theirs
    assert half["protocol"]["precision"] == "bf16"
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_an_untrained_model_has_no_rho_by_accuracy_and_one_by_log_probability(source: Source) -> None:
    model = Transformer(n_layers=2, n_heads=2, d_model=32, d_ff=64, n_ctx=16, seed=3)
    record = measure(model, source)
    for baseline in SMALL.baselines:
        gap = record["gap"][baseline]
        assert (gap["rho"], gap["ci"], gap["heroes"], gap["expected_by_chance"]) == (None, None, None, None)
        assert gap["reason"] == "the causal importance of all components is the same, 0: ranks do not exist"
        assert gap["by_metric"]["log_prob"]["rho"] is not None
        assert column(record, "delta", baseline, "value") == [None] * 6
        assert column(record, "role", baseline, "name") == [None] * 6
        assert record["joint"][baseline]["heroes"]["reason"] == "no heroes"
    assert [layer["all"]["mean"] for layer in record["layers"]] == [None, None]


def test_a_record_says_where_its_model_comes_from(trained: Transformer, source: Source) -> None:
    trained.origin = Origin(source, run="sort-seed1", step=450, checkpoint_sha256="ab" * 32)
    record = gcgap.measure(trained, length=4, protocol=SMALL)
    assert [record[key] for key in ("task", "run", "step", "checkpoint_sha256")] == ["sort", "sort-seed1", 450, "ab" * 32]
    assert gcgap.measure(trained, "reverse", length=4, protocol=SMALL)["task"] == "reverse"


def test_what_cannot_be_measured_is_refused_by_name(trained: Transformer, source: Source) -> None:
    with pytest.raises(ValueError, match="`task` is needed for a model that was not loaded from a checkpoint"):
        gcgap.measure(trained, protocol=SMALL)
    with pytest.raises(ValueError, match=r"`data\.task` must be one of"):
        gcgap.measure(trained, "shuffle", protocol=SMALL)
    with pytest.raises(
        ValueError, match=r"`length` must be between 1 and 7, the model's context; got 8\. Raise `model.n_ctx` to 18"
    ):
        measure(trained, source, length=8)
    with pytest.raises(ValueError, match=r"`data\.ood_lengths` must be between 1 and 7, the model's context; got 9"):
        measure(trained, replace(source, ood_lengths=(4, 9)), length=None)
    with pytest.raises(ValueError, match="at least one component; got an empty one"):
        measure(trained, source, replace(SMALL, sets=((),)))


def test_a_length_inside_the_training_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`length` must lie above the training lengths 3..7; got 5"):
        gcgap.measure(Transformer(1, 1, 8, 8), "sort", length=5)


def test_the_gradient_is_told_with_and_without_its_normalisation() -> None:
    protocol = Protocol(gradient_batches=2, mean_batches=1, sequences=4, resamples=100, batch_size=4)
    model = Transformer(1, 2, 8, 16)
    for one in (protocol, replace(protocol, normalise_gradient=False)):
        for component in gcgap.measure(model, "sort", length=8, protocol=one)["components"]:
            gradient, size = component["gradient"], 128 if component["kind"] == "mlp" else 32
            assert gradient["value"] == gradient["normalised" if one.normalise_gradient else "raw"]
            assert gradient["raw"] == pytest.approx(gradient["normalised"] * size**0.5, rel=1e-12)


def test_drops_in_units_are_not_sure_to_be_nothing_and_others_are() -> None:
    """Exact match comes in units of a sequence, token accuracy in units of a token; a log-probability has none."""
    random, protocol = np.random.default_rng(0), Protocol(baselines=(Baseline.MEAN,))
    nothing = Estimate(np.zeros((1, 3, 4, 20)))
    _, (_, draws) = _gaps(Estimate(random.random((4, 5))), nothing, METRICS, protocol, 5, random)
    spread = dict(zip(METRICS, draws[0].std(-1), strict=True))
    assert (spread["log_prob"] == 0).all()
    assert (spread["exact_match"] > 0.02).all()
    assert spread["token_accuracy"] == pytest.approx(spread["exact_match"] / 5, rel=0.3)
