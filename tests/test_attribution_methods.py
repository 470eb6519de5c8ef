"""What every attribution method keeps, whatever it computes: the tests take their names from the registry."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import torch
from handmade import CLOSE, LENGTH, PARTS, ROWS, SOURCE, WIRING, N, a_drop, bent_model, exact, level_of, other_inputs
from torch import Tensor, nn

import gcgap
from gcgap.attribution.attribute import attribute
from gcgap.attribution.drop import Drop, Passes
from gcgap.attribution.methods import METHODS, Method, Problem, find_methods, method
from gcgap.attribution.scoring import forward_seconds, scored
from gcgap.attribution.sets import single_drops
from gcgap.cli import main
from gcgap.data.batches import Purpose, Source
from gcgap.importance.baselines import activations_on, zero_activations
from gcgap.importance.gates import Activations
from gcgap.importance.protocol import Attribution, Baseline, Metric, Protocol
from gcgap.importance.scores import DIFFERENTIABLE
from gcgap.models.transformer import Decoder, Origin, Transformer
from gcgap.records.attribution_record import AttributionRecord
from gcgap.report.figures_methods import FAMILIES
from gcgap.report.tensorboard import scalars
from gcgap.report.write import write_files

Unchanged = Callable[[nn.Module], AbstractContextManager[None]]
NAMES = list(METHODS)
PAGE = Path(str(gcgap.__file__)).parent.parent / "docs" / "attribution.md"
BATCHES, FISHER = 3, 2
ESTIMATES = [name for name in NAMES if METHODS[name].estimates is not None]
OF_ONE = [name for name in NAMES if METHODS[name].estimates == "drop" and not METHODS[name].corrupts]
OF_A_PATH = [name for name in OF_ONE if METHODS[name].family == "path"] + ["multi_step_hvp"]
INTERVENING = [name for name in NAMES if METHODS[name].family not in ("weights", "control")]


class Ran(NamedTuple):
    """What a method gave, the model that it saw, and its passes."""

    scores: Tensor
    model: Decoder
    passes: Passes


def test_the_table_of_the_page_lists_every_method_and_no_other() -> None:
    rows = re.findall(r"^\| (`.*?`) \| .* \| `\w+/\w+\.py`.*\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(NAMES)


def problem(model: Transformer | None = None, seed: int = 0, metric: str = "log_prob", **settings: Any) -> Problem:
    """Four sequences of a small bent network, whose components are replaced by what they put out on others."""
    drop = a_drop(model, metric=DIFFERENTIABLE[Metric(metric)])
    zero = zero_activations(drop.model, drop.wiring)
    changed: dict[str, Any] = {"metric": metric, "steps": 2, "pairs": 1, "probes": 2, "gradient_batches": FISHER} | settings
    gradients = SOURCE.batches(Purpose.GRADIENT, LENGTH, BATCHES, ROWS)
    return Problem(
        drop.batch, drop, replace(drop, replacement=lambda rows: zero), gradients, Attribution(**changed), seed, other_inputs()
    )


def run(name: str, *arguments: Any, **changes: Any) -> Tensor:
    return METHODS[name].run(problem(*arguments, **changes))


@cache
def plain(name: str, metric: str = "log_prob") -> Tensor:
    """Scores that several tests compare with theirs."""
    return told(name, metric).scores


@cache
def told(name: str, metric: str = "log_prob") -> Ran:
    one = problem(metric=metric)
    return Ran(METHODS[name].run(one), one.drop.model, one.drop.passes)


@cache
def truth() -> Tensor:
    return exact(a_drop())


def samples(name: str) -> int:
    """Sequences, batches of gradients, or one."""
    of = {"fisher_trace": FISHER * ROWS} | dict.fromkeys(("activation_norm", "layer_index", "random_order"), 1)
    return of.get(name, BATCHES if METHODS[name].family == "weights" else ROWS)


def test_every_method_says_what_it_is() -> None:
    assert NAMES
    for name, one in METHODS.items():
        assert one.name == name
        assert re.fullmatch(r"[a-z_]+", name)  # it is a tag, a column and a choice of the command
        assert one.family in FAMILIES
        assert one.estimates in ("drop", "shapley", None)
        assert re.fullmatch(r"\S[^\n]*\.", one.text), one.text


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_numbers_of_component_and_sample(name: str) -> None:
    found = plain(name)
    assert found.shape == (N, samples(name))
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())
    assert not found.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_left_as_it_was_and_equal_problems_give_equal_scores_bit_for_bit(name: str, unchanged: Unchanged) -> None:
    one = problem()
    with unchanged(one.drop.model):
        found = METHODS[name].run(one)
    assert torch.equal(found, plain(name))  # nor does the model's mode, or what asks for a gradient, change a score


@pytest.mark.parametrize("name", NAMES)
def test_a_bare_model_gets_no_gradient_and_no_hook(name: str) -> None:
    model = told(name).model
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert not any(value for module in model.modules() for key, value in vars(module).items() if key.endswith("_hooks"))


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_float64_to_its_rounding(name: str) -> None:
    wide, narrow = plain(name), run(name, bent_model().float())
    largest = float(wide.abs().max()) or 1.0
    close = 2e-3 if name.endswith("_differences") else 1e-4  # the rounding of a gradient over h
    assert float((narrow - wide).abs().max()) < close * largest


def test_exact_scores_are_the_single_drops() -> None:
    for metric in DIFFERENTIABLE:
        one = problem(metric=metric)
        found = METHODS["exact"].run(one)
        assert torch.equal(found, getattr(single_drops(one.drop), metric))
        level = level_of(one.drop, metric)
        by_hand = torch.stack([reference.drop_of(level, N, [i]) for i in range(N)])
        torch.testing.assert_close(found, by_hand, **CLOSE)


def short(drop: Drop, size: float) -> Drop:
    """Replacements that lie only a small part of the way from the clean outputs to the others: D is nearly linear there."""
    own = activations_on(drop.model, drop.wiring, drop.batch.inputs, drop.last)

    def between(rows: slice) -> Activations:
        return own(rows).each(partial(torch.lerp, weight=size), drop.replacement(rows))

    return replace(drop, replacement=between)


@pytest.mark.parametrize("name", OF_ONE)
def test_for_small_changes_every_estimate_of_a_drop_is_the_exact_effect(name: str) -> None:
    size = 1e-5
    near = short(a_drop(), size)
    found, small = METHODS[name].run(replace(problem(), drop=near)) / size, exact(near) / size
    assert float(small.abs().max()) > 0.1
    torch.testing.assert_close(found, small, atol=1e-3 * float(small.abs().max()), rtol=0)
    if name != "exact":
        assert float((plain(name) - truth()).abs().max()) > 1e-3 * float(truth().abs().max())  # and not everywhere


@pytest.mark.parametrize("name", OF_A_PATH)
def test_path_methods_approach_the_exact_effect_with_more_steps(name: str) -> None:
    errors = [float((run(name, steps=steps) - truth()).abs().max()) for steps in (1, 3, 9)]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.2 * errors[0]
    assert errors[2] < 0.2 * float(truth().abs().max())


def test_shares_of_a_joint_effect_sum_to_it() -> None:
    drop = a_drop()
    whole = drop.value(drop.zero_gates() + 1)
    torch.testing.assert_close(plain("shapley_value").sum(0), whole, **CLOSE)
    errors = [float((run("joint_ig", steps=steps).sum(0) - whole).abs().max()) for steps in (2, 6, 18)]
    assert errors[2] < 0.02 * float(whole.abs().max())
    assert errors[2] < errors[1] < errors[0]


@pytest.mark.parametrize("name", ESTIMATES)
def test_other_units_give_scores_in_those_units_and_gains_the_other_sign(name: str) -> None:
    larger = bent_model()
    with torch.no_grad():
        for weight in (larger.unembedding.weight, larger.unembedding.bias):
            weight.mul_(4)  # logits, and so their difference, in units a quarter as large
    one = problem(larger, metric="logit_difference")
    gain = METHODS[name].run(replace(one, drop=replace(one.drop, sign=-1)))
    torch.testing.assert_close(gain, -4 * plain(name, "logit_difference"), **CLOSE)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("layer_index", "random_order", "gradient_output")])
def test_a_head_that_writes_nothing_scores_nothing(name: str) -> None:
    model = bent_model()
    silent = PARTS.index((0, 1))
    with torch.no_grad():
        model.blocks[0].attention.W_O.weight[:, model.d_head : 2 * model.d_head] = 0
    found = run(name, model)
    assert float(found[silent].abs().max()) < 1e-13
    if METHODS[name].family in ("gates", "curvature", "path", "weights"):
        assert not found[silent].any()  # exactly: no derivative passes through weights that are zero
    if name != "shapley_exact_match":  # of a model that is never right
        assert found.abs().mean(-1).count_nonzero() == N - 1


def test_the_gradient_of_what_a_head_writes_is_not_silent_with_it() -> None:
    model = bent_model()
    with torch.no_grad():
        model.blocks[0].attention.W_O.weight[:, model.d_head : 2 * model.d_head] = 0
    assert run("gradient_output", model)[PARTS.index((0, 1))].min() > 0


@pytest.mark.parametrize("name", [name for name in INTERVENING if name != "gate_gradient"])
def test_replacing_outputs_by_themselves_scores_nothing(name: str) -> None:
    one = problem()
    own = activations_on(one.drop.model, one.drop.wiring, one.drop.batch.inputs, one.drop.last)
    found = METHODS[name].run(replace(one, drop=replace(one.drop, replacement=own)))
    assert float(found.abs().max()) < 1e-11


def test_a_gate_gradient_replaces_by_zero_and_forgets_the_sign() -> None:
    one = problem()
    slopes = METHODS["attribution_patching"].run(replace(one, drop=one.zero))
    assert torch.equal(plain("gate_gradient"), slopes.abs())
    assert float(slopes.min()) < 0
    assert not torch.allclose(plain("attribution_patching").abs(), slopes.abs())


def test_the_weights_are_those_of_the_reference_over_the_gradient_batches() -> None:
    one = problem()
    state = reference.float64(one.drop.model.state_dict())
    for name, normalise in (("gradient", True), ("gradient_raw", False)):
        found = METHODS[name].run(one)
        for b, batch in enumerate(one.gradients):
            by_hand = reference.gradient_magnitudes(state, batch.inputs, batch.targets, LENGTH + 1, 2, "none", normalise)
            assert found[:, b].tolist() == pytest.approx([by_hand[part] for part in PARTS], rel=1e-9)


def test_controls_know_the_place_or_nothing_at_all() -> None:
    assert plain("layer_index").flatten().tolist() == [0, 0, 0, 1, 1, 1]
    orders = {tuple(run("random_order", seed=seed).flatten().tolist()) for seed in range(5)}
    assert len(orders) > 1
    assert all(sorted(order) == list(range(N)) for order in orders)
    state, drop = reference.float64(bent_model().state_dict()), a_drop()
    writes = reference.run(state, drop.batch.inputs, 2, "none")
    norms = [(writes.writes if head is not None else writes.parts)[layer, head].norm(dim=-1).mean() for layer, head in PARTS]
    torch.testing.assert_close(plain("activation_norm").squeeze(-1), torch.stack(norms), **CLOSE)


def test_shapley_values_of_exact_match_are_of_exact_match(trained: Transformer, source: Source) -> None:
    batch = source.batch(Purpose.EVALUATION, 4, 16)
    other = activations_on(trained, WIRING, source.batch(Purpose.EVALUATION, 4, 16, 1).inputs, 5)
    drop = Drop(trained, WIRING, batch, other)
    one = Problem(batch, drop, drop, [], Attribution(pairs=2), 0)
    found = METHODS["shapley_exact_match"].run(one)
    whole = [float(row.all()) for row in trained(batch.inputs)[:, -5:].argmax(-1) == batch.targets[:, -5:]]
    gone = single_drops(drop).exact_match
    assert set(torch.unique(4 * found).tolist()) <= {float(i) for i in range(-4, 5)}  # of four orders, steps of one
    assert float(found.sum(0).max()) <= max(whole) == 1
    assert gone.any()
    assert not torch.equal(found, METHODS["shapley_value"].run(one))


CHANGES: list[tuple[str, str, Any]] = [
    *((name, "steps", 3) for name in (*OF_A_PATH, "joint_ig", "eap_ig")),
    *((name, "difference", 0.1) for name in NAMES if name.endswith("_differences")),
    ("shapley_value", "pairs", 2),
    ("hvp_probes", "probes", 3),
    ("screen_flag_fix", "budget", 4),
    ("screen_flag_fix", "budget", 0.5),
    ("exact_for_largest", "budget", 4),
    ("fisher_trace", "gradient_batches", 1),
    *((name, "metric", "logit_difference") for name in INTERVENING if name != "shapley_exact_match"),
]


@pytest.mark.parametrize(("name", "setting", "value"), CHANGES)
def test_a_setting_reaches_the_methods_that_it_is_for(name: str, setting: str, value: Any) -> None:
    after = plain(name, value) if setting == "metric" else run(name, **{setting: value})
    before = plain(name)
    assert before.shape != after.shape or not torch.allclose(before, after, atol=1e-9)


PASSES: dict[str, tuple[float, float, float]] = {
    "exact": (1 + N, 0, 0),
    "attribution_patching": (1, 1, 0),
    "gate_gradient": (1, 1, 0),
    "hvp": (N, N, N),
    "hvp_differences": (2 * N, 2 * N, 0),
    "hvp_probes": (1, 1, 2),
    "hvp_by_layer": (1, 1, 2),
    "joint_hvp": (1, 1, 1),
    "joint_hvp_differences": (2, 2, 0),
    "multi_step_hvp": (2 * N, 2 * N, 2 * N),
    **dict.fromkeys([name for name in NAMES if name.startswith("ig_")], (2 * N, 2 * N, 0)),
    "ig_trapezoid": (3 * N, 3 * N, 0),
    "joint_ig": (2, 2, 0),
    "eap_ig": (5, 2, 0),
    "shapley_value": (2 * (N + 1), 0, 0),
    "shapley_exact_match": (2 * (N + 1), 0, 0),
    **dict.fromkeys(("gradient", "gradient_output", "gradient_raw", "weight_times_gradient"), (BATCHES, BATCHES, 0)),
    "gradient_balanced": (BATCHES, BATCHES, 0),
    "gradient_value_output": (2 * BATCHES, 2 * BATCHES, 0),
    "fisher_trace": (FISHER, FISHER, 0),
    "screen_flag_fix": (1 + 2 + 1 + 2, 1, 2),  # two exact effects are a fifth of six components
    "exact_for_largest": (1 + 1 + 2, 1, 0),
    "activation_norm": (1, 0, 0),
    "layer_index": (0, 0, 0),
    "random_order": (0, 0, 0),
}


@pytest.mark.parametrize("name", NAMES)
def test_passes_are_those_that_the_method_needs(name: str) -> None:
    passes = told(name).passes
    assert (passes.forward, passes.backward, passes.double_backward) == PASSES[name]


def test_every_method_gets_its_own_cost_in_passes_and_in_units_of_a_forward_pass() -> None:
    one, done, names = problem(), [], ["joint_hvp", "attribution_patching", "layer_index", "exact"]
    found = scored(one, find_methods(names, Baseline.MEAN), unit=0.25, done=done.append)
    assert done == names
    for of, name in zip(found, names, strict=True):
        assert of.method is METHODS[name]
        assert (of.cost.forward, of.cost.backward, of.cost.double_backward) == PASSES[name]
        assert 0 <= of.cost.forward_equivalents == pytest.approx(4 * of.cost.seconds)
        assert of.samples.dtype == np.float64
        np.testing.assert_allclose(
            of.samples, plain(name).numpy(), rtol=0, atol=1e-13
        )  # replacements are kept, and may round otherwise


def test_passes_over_weights_are_counted_by_their_sequences() -> None:
    gradients = SOURCE.batches(Purpose.GRADIENT, LENGTH, 8, 2)  # 16 sequences, four times those of the evaluation
    for name, passes in (("gradient", 4.0), ("fisher_trace", 2.0)):  # of the first four batches, as many samples as batches
        one = replace(problem(gradient_batches=4), gradients=gradients)
        (found,) = scored(one, find_methods([name], Baseline.MEAN), unit=1.0)
        assert found.samples.shape == (N, 8)
        assert (found.cost.forward, found.cost.backward) == (passes, passes)


def test_the_unit_of_cost_is_the_time_of_a_forward_pass() -> None:
    assert forward_seconds(a_drop()) > 0


@pytest.mark.parametrize("names", [["attribution"], ["exact", "hvpp"], [""]])
def test_an_unknown_method_is_refused_with_the_known_ones(names: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`methods` must be among exact, gradient, .*; got '(attribution|hvpp|)'\.$"):
        find_methods(names, Baseline.MEAN)


def test_methods_come_in_the_order_that_was_asked_for() -> None:
    assert [one.name for one in find_methods(["joint_hvp", "exact"], Baseline.MEAN)] == ["joint_hvp", "exact"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"steps": 0}, "`attribution.steps` must be at least 1; got 0."),
        ({"pairs": 0}, "`attribution.pairs` must be at least 1; got 0."),
        ({"gradient_batches": -1}, "`attribution.gradient_batches` must be at least 1; got -1."),
        ({"probes": 0}, "`attribution.probes` must be at least 1; got 0."),
        ({"budget": -1}, "`attribution.budget` must be a share below 1 or a whole number of effects; got -1."),
        ({"budget": 1.5}, "`attribution.budget` must be a share below 1 or a whole number of effects; got 1.5."),
        ({"difference": 0.0}, "`attribution.difference` must be between 0 and 0.5; got 0.0."),
        ({"difference": 0.5}, "`attribution.difference` must be between 0 and 0.5; got 0.5."),
        (
            {"metric": "loss"},
            "`attribution.metric` must be one of log_prob, logit_difference, probability_difference; got 'loss'.",
        ),
        ({"methods": ("hvp", "exact", "hvp")}, "`attribution.methods` must be different ones; got hvp, exact, hvp."),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        Attribution(**settings)


def test_no_attribution_is_the_default() -> None:
    assert Attribution().methods == ()
    assert Attribution(budget=0).budget == 0


def made_up_number(p: Problem) -> Tensor:
    """The number of the component, once for every sequence."""
    return torch.arange(float(p.drop.components), dtype=torch.float64)[:, None].repeat(1, p.drop.sequences)


@pytest.fixture
def made_up() -> Iterator[Method]:
    """A new method, which is one function; gone again after the test."""
    before = dict(METHODS)
    method("control")(made_up_number)
    yield METHODS["made_up_number"]
    del METHODS["made_up_number"]
    assert before == METHODS


SMALL = Protocol(gradient_batches=2, mean_batches=1, sequences=12, batch_size=4, resamples=100, inside=False, random_pairs=0)


def test_a_new_method_is_in_the_record_in_the_list_and_in_the_files(
    made_up: Method,
    trained: Transformer,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("gcgap.report.write.FIGURES", {})  # drawn elsewhere
    protocol = replace(SMALL, attribution=Attribution(methods=("exact", made_up.name)))
    record = attribute(trained, length=4, protocol=protocol, origin=Origin(source))
    assert record["methods"][made_up.name]["family"] == "control"
    assert record["methods"][made_up.name]["text"] == "The number of the component, once for every sequence."
    assert [component["scores"][made_up.name]["value"] for component in record["components"]] == list(range(N))
    effects = [component["exact"]["log_prob"]["value"] for component in record["components"]]
    rho = record["methods"][made_up.name]["agreement"]["log_prob"]["all"]["rho"]
    assert rho == pytest.approx(reference.spearman(list(range(N)), effects))
    assert main(["attribute", "--list-methods"]) == 0
    assert re.search(rf"^  {made_up.name} +The number of the component", capsys.readouterr().out, re.MULTILINE)
    write_files(AttributionRecord(record.to_dict()), tmp_path)
    rows = list(csv.DictReader((tmp_path / "methods.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["exact", made_up.name]
    assert float(rows[1]["log_prob_all_rho"]) == pytest.approx(rho)
    columns = list(csv.DictReader((tmp_path / "components.csv").read_text().splitlines()))
    assert [float(row[made_up.name]) for row in columns] == list(range(N))


def test_a_new_method_is_a_curve_over_training(made_up: Method, trained: Transformer, source: Source) -> None:
    protocol = replace(SMALL, baselines=("mean",), attribution=Attribution(methods=(made_up.name,)))
    record = gcgap.measure(trained, length=4, protocol=protocol, origin=Origin(source))
    C = [component["causal"]["mean"]["log_prob"]["value"] for component in record["components"]]
    assert scalars(record)[f"attribution/rho_log_prob/{made_up.name}"] == pytest.approx(reference.spearman(list(range(N)), C))
    assert f"attribution/rho/{made_up.name}" in scalars(record)


def broken(value: float, component: int) -> Method:
    def run(p: Problem) -> Tensor:
        found = torch.zeros(N, p.drop.sequences, dtype=torch.float64)
        found[component, 1] = value
        return found

    return Method("broken", "control", None, run, "Broken.")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("component", [0, 2, 5])
def test_a_score_that_is_not_finite_is_refused_by_the_names_of_method_and_component(value: float, component: int) -> None:
    done: list[str] = []
    with pytest.raises(FloatingPointError) as refused:
        scored(problem(), [METHODS["layer_index"], broken(value, component)], 1.0, done.append)
    assert str(refused.value) == f"The score of {WIRING.components[component].name} by broken is not finite."
    assert done == ["layer_index"]
