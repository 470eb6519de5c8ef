"""The hand-set models do what is said of them: their circuit is needed, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import reference
import torch

from gcgap.attribution import known_circuits as wires
from gcgap.attribution.known_circuits import COPY, HALF, KNOWN, LENGTH, Known, either
from gcgap.data.tasks import END, SEP, START
from gcgap.importance.ablation import Intervention, ablated_scores, base_scores
from gcgap.importance.activity import activation_norms
from gcgap.importance.baselines import Replacement, activations_on, mean_activations, zero_activations
from gcgap.importance.gates import recorded
from gcgap.importance.gradient import gradient_norms
from gcgap.importance.protocol import Baseline
from gcgap.importance.scores import Scores
from gcgap.models.transformer import MLP
from gcgap.models.wiring import Wiring

Names = tuple[str, ...]
NOTHING, EVERYTHING = 0.0, 1.0  # of exact match

TRUTH: dict[str, dict[Names, float]] = {
    "copy_head": {("L0_H1",): EVERYTHING},
    "reversal_head": {("L1_H2",): EVERYTHING},
    "induction_pair": {("L0_H2",): EVERYTHING, ("L1_H1",): EVERYTHING, ("L0_H2", "L1_H1"): EVERYTHING},
    "redundant_pair": {
        ("L0_H0",): NOTHING,
        ("L0_H3",): NOTHING,
        ("L1_MLP",): EVERYTHING,
        ("L0_H0", "L0_H3"): EVERYTHING,
        ("L0_H0", "L1_MLP"): EVERYTHING,
    },
    "backup_head": {("L0_H1",): NOTHING, ("L1_H2",): NOTHING, ("L0_H1", "L1_H2"): EVERYTHING},
}
LOUD = {
    "copy_head": ("L0_H3", "L1_MLP"),
    "reversal_head": ("L0_H0", "L0_MLP"),
    "induction_pair": ("L1_H3", "L0_MLP"),
    "redundant_pair": ("L0_H1", "L0_MLP"),
    "backup_head": ("L1_H0", "L1_MLP"),
}
LOOK_ALIKE = {  # a head of the circuit, and the one that looks where it looks
    "copy_head": ((0, 1), (1, 0)),
    "reversal_head": ((1, 2), (0, 3)),
    "induction_pair": ((0, 2), (0, 0)),
    "redundant_pair": ((0, 0), (1, 2)),
    "backup_head": ((0, 1), (0, 2)),
}
BASELINES = [Baseline.ZERO, Baseline.MEAN]

every_model = pytest.mark.parametrize("name", sorted(KNOWN))
every_baseline = pytest.mark.parametrize("baseline", BASELINES)


def replacement_of(known: Known, baseline: Baseline) -> Replacement:
    wiring = Wiring.of(known.model)
    if baseline == Baseline.ZERO:
        zero = zero_activations(known.model, wiring)
        return lambda rows: zero
    mean = mean_activations(known.model, wiring, [known.batch(64, 1), known.batch(64, 2)], baseline == Baseline.MEAN_BY_POSITION)
    return lambda rows: mean


def effects(known: Known, baseline: Baseline, sets: Iterable[Iterable[str]], replacement: Replacement | None = None) -> Scores:
    """Mean drops of every set, one field per metric."""
    wiring = Wiring.of(known.model)
    given = replacement or replacement_of(known, baseline)
    asked = [Intervention(frozenset(wiring.find(names)), given) for names in sets]
    base, ablated = ablated_scores(known.model, wiring, known.batch(64, 0), asked)
    return Scores(*(before.mean() - after.mean(-1) for before, after in zip(base, ablated, strict=True)))


def names_of(known: Known) -> list[str]:
    return [component.name for component in Wiring.of(known.model).components]


def outside(known: Known) -> list[str]:
    return [name for name in names_of(known) if name not in known.circuit]


def test_every_model_is_here_under_its_own_name() -> None:
    assert KNOWN.keys() == TRUTH.keys() == LOUD.keys() == LOOK_ALIKE.keys()
    for name, build in KNOWN.items():
        known = build()
        assert known.name == name
        assert known.note.endswith(".")
        assert set(known.circuit) == {one for names in TRUTH[name] for one in names} <= set(names_of(known))


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_untouched_model_is_right_and_sure_but_not_beyond_a_gradient(name: str, dtype: torch.dtype) -> None:
    known = KNOWN[name]()
    known.model.to(dtype)
    for seed in range(3):
        scores = base_scores(known.model, known.batch(64, seed))
        assert scores.exact_match.min() == 1
        assert scores.log_prob.min() > -0.05
        assert scores.logit_difference.min() > 6
        assert scores.logit_difference.max() < 10


@every_model
@every_baseline
def test_all_that_is_outside_the_circuit_can_go_at_once(name: str, baseline: Baseline) -> None:
    known = KNOWN[name]()
    found = effects(known, baseline, [outside(known)])
    assert len(outside(known)) == 10 - len(known.circuit)
    assert found.exact_match.tolist() == [0]
    assert found.log_prob.abs().max() < 0.02


@every_model
@every_baseline
def test_nothing_outside_the_circuit_has_an_effect_alone(name: str, baseline: Baseline) -> None:
    known = KNOWN[name]()
    found = effects(known, baseline, [[one] for one in outside(known)])
    assert not found.exact_match.any()
    assert found.log_prob.abs().max() < 0.02


@every_model
@every_baseline
def test_without_the_circuit_nothing_is_right(name: str, baseline: Baseline) -> None:
    known = KNOWN[name]()
    found = effects(known, baseline, [known.circuit, names_of(known)])
    assert found.exact_match.min() >= 0.95
    assert found.log_prob.min() > 3.5


@every_model
@every_baseline
def test_single_and_joint_effects_are_those_of_the_note(name: str, baseline: Baseline) -> None:
    known = KNOWN[name]()
    truth = TRUTH[name]
    found = effects(known, baseline, truth)
    assert found.exact_match.tolist() == list(truth.values())
    for effect, expected in zip(found.log_prob.tolist(), truth.values(), strict=True):
        assert effect > 3.5 if expected else abs(effect) < 0.02


@every_model
@pytest.mark.parametrize("ablated", [False, True])
def test_the_models_agree_with_the_reference(name: str, ablated: bool) -> None:
    known = KNOWN[name]()
    model, batch = known.model.double(), known.batch(16, 3)
    off = {(one.layer, one.head): 1.0 for one in Wiring.of(model).components if ablated and one.name == known.circuit[0]}
    zero = dict.fromkeys(off, torch.zeros(1, 1, 1, dtype=torch.float64))
    logits = reference.run(reference.float64(model.state_dict()), batch.inputs, model.n_heads, "learned", off, zero).logits
    if not ablated:
        torch.testing.assert_close(model(batch.inputs), logits, atol=1e-9, rtol=1e-9)
    scored = int(batch.scored[0].sum())
    theirs = torch.tensor(reference.scores(logits[:, -scored:], batch.targets[:, -scored:]), dtype=torch.float64)
    asked = Intervention(frozenset(Wiring.of(model).find(known.circuit[:1])), replacement_of(known, Baseline.ZERO))
    ours = [part[0] if ablated else part for part in ablated_scores(model, Wiring.of(model), batch, [asked])[ablated]]
    torch.testing.assert_close(torch.stack(ours), theirs, atol=1e-9, rtol=1e-9)


@every_model
@every_baseline
def test_float32_says_what_float64_says(name: str, baseline: Baseline) -> None:
    known = KNOWN[name]()
    single = [[one] for one in names_of(known)]
    coarse = effects(known, baseline, single)
    known.model.double()
    fine = effects(known, baseline, single)
    torch.testing.assert_close(torch.stack(list(coarse)), torch.stack(list(fine)), atol=1e-3, rtol=1e-3)


@every_model
def test_what_has_no_effect_is_active_and_has_a_gradient(name: str) -> None:
    known = KNOWN[name]()
    wiring, batch = Wiring.of(known.model), known.batch(64, 0)
    norms = dict(zip(names_of(known), activation_norms(known.model, wiring, batch).tolist(), strict=True))
    assert min(norms[one] for one in outside(known)) > 0.5
    assert max(norms[one] for one in known.circuit) < 1.5
    for decoy in LOUD[name]:
        assert decoy in outside(known)
        assert norms[decoy] > 3 * max(norms[one] for one in known.circuit)
    gradients = gradient_norms(known.model, wiring, [batch]).squeeze(1)
    assert gradients.min() > 1e-10


@every_model
def test_the_look_alike_looks_and_moves_as_a_head_of_the_circuit_does(name: str) -> None:
    known = KNOWN[name]()
    batch = known.batch(8, 0)
    (own_layer, own), (layer, other) = LOOK_ALIKE[name]
    assert f"L{own_layer}_H{own}" in known.circuit
    assert f"L{layer}_H{other}" not in known.circuit
    with recorded(known.model, Wiring.of(known.model)) as seen, torch.no_grad():
        known.model(batch.inputs)
    z = seen.heads[own_layer][:, :, own]
    assert z.norm(dim=-1).amax() > 1
    torch.testing.assert_close(seen.heads[layer][:, :, other], z, atol=0.02, rtol=0.0)


@every_model
def test_the_pin_holds_the_scale_of_every_layer_norm(name: str) -> None:
    known = KNOWN[name]()
    batch = known.batch(64, 0)
    with torch.no_grad():
        streams = [x for x, _ in known.model.states(batch.inputs)]
        streams.append(known.model.blocks[-1].write(*known.model.states(batch.inputs)[-1]))
    for x in streams:
        assert torch.equal(x[..., wires.PIN], torch.tensor([wires.A, -wires.A]).expand(*x.shape[:2], 2))
        assert not x[..., wires.BALANCE].any()
        assert x[..., wires.BALANCE.stop :].square().sum(-1).max() / (4 * wires.A**2) < 0.01


def test_the_backup_is_silent_until_the_first_head_is_off() -> None:
    known = KNOWN["backup_head"]()
    inputs = known.batch(8, 0).inputs
    with torch.no_grad():
        pattern = known.model.patterns(inputs)[1][:, 2]
        assert pattern[..., 0].min() > 0.99
        known.model.blocks[0].attention.W_O.weight[:, 32:64] = 0  # those of L0_H1
        pattern = known.model.patterns(inputs)[1][:, 2]
    for query, key in COPY.items():
        assert pattern[:, query, key].min() > 0.99


def test_the_induction_head_looks_behind_the_last_time_that_the_token_stood_there() -> None:
    known = KNOWN["induction_pair"]()
    inputs = known.batch(8, 0).inputs
    with torch.no_grad():
        before, after = known.model.patterns(inputs)[0][:, 2], known.model.patterns(inputs)[1][:, 1]
    for query in range(1, 2 * HALF):
        assert before[:, query, query - 1].min() > 0.99
    for query in range(HALF + 1, 2 * HALF):
        assert after[:, query, query - HALF + 1].min() > 0.95


def test_one_answer_is_as_good_as_two_and_the_derivative_there_is_small_but_no_zero() -> None:
    mlp = MLP(wires.WIDTH, wires.HIDDEN)
    either(mlp, wires.SCRATCH, wires.ANSWER)
    times = torch.tensor([0.0, 0.3, 1.0, 2.0, 9.0], requires_grad=True)
    x = torch.zeros(1, 5, wires.WIDTH)
    x[..., wires.SCRATCH.start + 3] = times / wires.SCALE
    answer = (mlp(x) - mlp.W_out.bias)[0, :, wires.ANSWER]
    torch.testing.assert_close(answer[:, 3], torch.tensor([0, 0.5, 1, 1, 1]), atol=0.06, rtol=0.0)
    assert answer[:, :3].abs().max() < 0.06
    (slope,) = torch.autograd.grad(answer[:, 3].sum(), times)
    assert slope[1] > 1
    assert 0 < -slope[3] < 1e-4


@pytest.mark.parametrize(("name", "needed"), [("redundant_pair", "L0_H0"), ("backup_head", "L0_H1")])
def test_another_answer_in_the_place_of_the_right_one_is_not_made_up_for(name: str, needed: str) -> None:
    known = KNOWN[name]()
    other = activations_on(known.model, Wiring.of(known.model), known.batch(64, 9).inputs, LENGTH + 1)
    found = effects(known, Baseline.RESAMPLE, [[needed], outside(known)], other)
    assert found.exact_match[0] > 0.9
    assert found.log_prob[0] > 0.5
    assert found.exact_match[1] == 0


def test_the_mean_by_position_keeps_the_backup_silent() -> None:
    found = effects(KNOWN["backup_head"](), Baseline.MEAN_BY_POSITION, [["L0_H1"], ["L1_H2"]])
    assert found.exact_match.tolist() == [1, 0]


@every_model
def test_batches_are_drawn_again_from_their_seed(name: str) -> None:
    known = KNOWN[name]()
    one, again, other = known.batch(32, 0), known.batch(32, 0), known.batch(32, 1)
    assert all(torch.equal(a, b) for a, b in zip(one[:3], again[:3], strict=True))
    assert not torch.equal(one.inputs, other.inputs)
    assert one.inputs.shape == (32, 14)
    last = int(one.scored[0].sum())
    assert one.scored[:, -last:].all()
    assert not one.scored[:, :-last].any()
    assert one.world_scored == 32 * last


def test_the_second_half_repeats_the_first_and_holds_no_token_twice() -> None:
    batch = KNOWN["induction_pair"]().batch(50, 4)
    tokens = torch.cat([batch.inputs, batch.targets[:, -1:]], 1)
    assert (tokens[:, 0] == START).all()
    first, second = tokens[:, 1 : HALF + 1], tokens[:, HALF + 1 :]
    assert torch.equal(first, second)
    assert all(len(set(row)) == HALF for row in first.tolist())
    assert torch.equal(batch.targets[batch.scored].unflatten(0, (50, -1)), second[:, 1:])


def test_examples_of_a_task_are_those_of_the_package() -> None:
    batch = KNOWN["reversal_head"]().batch(5, 0)
    assert (batch.inputs[:, LENGTH + 1] == SEP).all()
    assert torch.equal(batch.targets[:, -LENGTH - 1 : -1], batch.inputs[:, 1 : LENGTH + 1].flip(1))
    assert (batch.targets[:, -1] == END).all()


@every_model
def test_building_again_gives_the_same_weights(name: str) -> None:
    first, second = KNOWN[name]().model.state_dict(), KNOWN[name]().model.state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
