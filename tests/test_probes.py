"""Own curvatures from random signs: unbiased, exact where nothing interacts, with a standard error that covers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import reference
import torch
from handmade import CASES, CLOSE, PARTS, QUADRATIC, N, a_drop, bent_model, case, exact, hvp, other_inputs, scores, straight
from torch import Tensor

from gcgap.attribution.agreement import compared_with_exact
from gcgap.attribution.drop import Drop
from gcgap.attribution.methods import METHODS, Problem
from gcgap.attribution.probes import curvatures, curvatures_by_layer, signs
from gcgap.attribution.scoring import Scored, scored
from gcgap.importance.baselines import activations_on
from gcgap.importance.gap import Judgement
from gcgap.importance.gates import Activations
from gcgap.importance.protocol import Attribution

LAYER = torch.tensor([layer for layer, _ in PARTS])


@cache
def hessian(held: bool = True) -> Tensor:
    """H of D at 0, (component, component, sequence): what is changed is held, or by the reference."""
    drop, level = case(*CASES[1])
    with drop.frozen_weights(curved=True):
        return reference.derivatives(adding(drop) if held else level, torch.zeros(N, dtype=torch.float64))[1]


def adding(drop: Drop) -> reference.Level:
    """M where a gate of component i adds xi_i (a_i - z_i), made of the clean outputs and the others once and for all."""
    state, model = reference.float64(drop.model.state_dict()), drop.model
    clean, other = (reference.run(state, inputs, 2, "none").parts for inputs in (drop.batch.inputs, other_inputs()))
    here = torch.ones(1) if drop.where is None else drop.where.double()
    change = {part: (other[part] - clean[part]) * here[:, None] for part in PARTS}

    def level(xi: Tensor) -> Tensor:
        xi = xi.expand(drop.sequences, -1)
        moved = [xi[:, i, None, None] * change[part] for i, part in enumerate(PARTS)]
        hooks = []
        for layer, block in enumerate(model.blocks):  # pyright: ignore[reportArgumentType]
            z, mlp = torch.cat(moved[3 * layer : 3 * layer + 2], -1), moved[3 * layer + 2]
            hooks.append(block.attention.W_O.register_forward_pre_hook(lambda _, x, z=z: x[0] + z[:, -x[0].shape[1] :]))
            hooks.append(block.mlp.register_forward_hook(lambda _, x, y, mlp=mlp: y + mlp[:, -y.shape[1] :]))
        logits = model(drop.batch.inputs)[:, -drop.last :]
        for hook in hooks:
            hook.remove()
        return reference.logit_difference(logits, drop.batch.targets[:, -drop.last :])

    return level


def of(drop: Drop, v: Tensor) -> tuple[Tensor, Tensor]:
    g, product = drop.hessian_product(drop.zero_gates(), v, held=True)
    return g, product


def test_a_product_takes_a_direction_of_its_own_for_each_sequence_and_several_share_the_passes_below() -> None:
    drop, level = case(*CASES[1])
    first, second = (signs(drop, np.random.default_rng(seed)) for seed in (0, 1))
    directions = (first, second, torch.ones(N, dtype=torch.float64))
    for held in (False, True):
        drop.passes.forward = drop.passes.backward = drop.passes.double_backward = 0
        g, *products = drop.hessian_product(drop.zero_gates(), *directions, held=held)
        torch.testing.assert_close(g, reference.derivatives(level, drop.zero_gates())[0], **CLOSE)
        for v, product in zip((first, second, torch.ones_like(first)), products, strict=True):
            torch.testing.assert_close(product, torch.einsum("ijs,sj->is", hessian(held), v), **CLOSE)
        assert (drop.passes.forward, drop.passes.backward, drop.passes.double_backward) == (1, 1, 3)
    assert not torch.equal(first, second)


def test_held_changes_leave_the_own_curvatures_and_take_from_the_cross_terms_what_a_gate_undoes_of_another() -> None:
    free, held = hessian(held=False), hessian()
    torch.testing.assert_close(free.diagonal(), held.diagonal(), **CLOSE)
    assert not torch.allclose(free, held, atol=1e-3)
    small = replace(a_drop(), replacement=nearly(a_drop(), 1e-4))  # where every output is replaced by nearly itself
    ones = torch.ones(N, dtype=torch.float64)
    of_free, of_held = (small.hessian_product(small.zero_gates(), ones, held=held)[1] for held in (False, True))
    assert float(of_free.abs().max()) > 1e-6  # of first order in the changes
    assert float(of_held.abs().max()) < 1e-7  # of second order


def nearly(drop: Drop, size: float) -> Any:
    """Outputs that lie a small part of the way from the clean ones to the others."""
    own = activations_on(drop.model, drop.wiring, drop.batch.inputs, drop.last)

    def rows(index: slice) -> Activations:
        return own(index).each(partial(torch.lerp, weight=size), drop.replacement(index))

    return rows


def test_the_mean_over_all_patterns_of_signs_is_the_own_curvature() -> None:
    drop = case(*CASES[1])[0]
    patterns = [torch.tensor(one) for one in itertools.product([-1.0, 1.0], repeat=N)]
    each = [pattern[:, None] * of(drop, pattern)[1] for pattern in patterns]
    own = drop.path_derivatives(0.0, curvature=True)[1]
    torch.testing.assert_close(torch.stack(each).mean(0), own, **CLOSE)
    assert float((each[0] - own).abs().max()) > 0.1 * float(own.abs().max())  # one alone is not
    torch.testing.assert_close(own, hessian().diagonal().T, **CLOSE)


def test_the_variance_of_a_probe_is_the_sum_of_the_squared_cross_terms() -> None:
    patterns = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=N)), dtype=torch.float64)
    found = patterns.T[:, :, None] * torch.einsum("ijs,pj->ips", hessian(), patterns)
    cross = (hessian() ** 2).sum(1) - hessian().diagonal().T ** 2
    torch.testing.assert_close(found.var(1, correction=0), cross, **CLOSE)


def test_signs_of_a_layer_leave_the_cross_terms_of_that_layer_alone() -> None:
    drop = case(*CASES[1])[0]
    v = signs(drop, np.random.default_rng(3))
    same = (LAYER[:, None] == LAYER).double()
    expected = torch.einsum("si,ijs,sj->is", v, hessian() * same[:, :, None], v)
    found = curvatures_by_layer(drop, np.random.default_rng(3))
    torch.testing.assert_close(found.own, expected, **CLOSE)
    assert found.error is None
    assert float((expected - hessian().diagonal().T).abs().max()) > 1e-6  # heads of one layer do interact


def test_where_no_layer_interacts_with_itself_by_layer_is_the_own_curvature_whatever_the_signs() -> None:
    drop = a_drop(bent_model(n_layers=3, n_heads=1))
    for block in drop.model.blocks:  # pyright: ignore[reportGeneralTypeIssues]
        block.mlp.W_out.weight.data.zero_()  # of a layer only its head is left, and an MLP that writes a constant
    own = drop.path_derivatives(0.0, curvature=True)[1]
    for seed in range(2):
        torch.testing.assert_close(curvatures_by_layer(drop, np.random.default_rng(seed)).own, own, **CLOSE)
    assert float(own.abs().max()) > 1e-3
    assert not torch.allclose(curvatures(drop, 1, np.random.default_rng(0)).own, own, **CLOSE)


def test_of_parallel_components_and_a_quadratic_metric_many_probes_approach_the_exact_effect() -> None:
    drop = a_drop(straight(parallel=True), metric=QUADRATIC)
    truth = exact(drop)
    torch.testing.assert_close(hvp(drop), truth, atol=1e-8, rtol=1e-8)
    errors = [float((scores("hvp_probes", drop, probes=probes) - truth).square().mean()) for probes in (1, 64)]
    assert errors[1] < 0.1 * errors[0]


@pytest.mark.parametrize("name", ["hvp_probes", "hvp_by_layer"])
def test_methods_are_slopes_and_half_the_curvatures_that_their_generator_draws(name: str) -> None:
    drop = case(*CASES[1])[0]
    one = Problem(drop.batch, drop, drop, [], Attribution(probes=3), 7)
    found = METHODS[name].run(one)
    drawn = curvatures(drop, 3, one.random(3)) if name == "hvp_probes" else curvatures_by_layer(drop, one.random(4))
    assert torch.equal(found, drawn.slope + drawn.own / 2)
    assert torch.equal(found, METHODS[name].run(one))  # nor does any other generator play a part
    assert not torch.equal(found, METHODS[name].run(Problem(drop.batch, drop, drop, [], Attribution(probes=3), 8)))


@dataclass
class Known:
    """A game whose Hessians are known: products with them cost nothing."""

    hessians: Tensor
    sequences: int
    components: int = N

    def zero_gates(self) -> Tensor:
        return torch.zeros(N, dtype=torch.float64)

    def hessian_product(self, xi: Tensor, *directions: Tensor, held: bool) -> tuple[Tensor, ...]:
        return self.hessians.new_zeros(N, self.sequences), *(torch.einsum("ijs,sj->is", self.hessians, v) for v in directions)


@pytest.mark.parametrize(("probes", "least"), [(2, 0.90), (8, 0.93)])  # two probes of 32 sequences say less of their own error
def test_the_standard_error_is_that_of_the_draws_and_covers(probes: int, least: float) -> None:
    game: Any = Known(hessian().repeat(1, 1, 8), 8 * hessian().shape[-1])
    truth, rng, draws = game.hessians.diagonal().T.mean(-1), np.random.default_rng(1), 1500
    found = [curvatures(game, probes, rng) for _ in range(draws)]
    means = torch.stack([one.own.mean(-1) for one in found])
    errors = torch.stack([one.error for one in found])  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close(means.mean(0), truth, atol=float(4 * means.std(0).max() / draws**0.5), rtol=0)
    torch.testing.assert_close(errors.square().mean(0), means.var(0), atol=0, rtol=0.15)
    covered = ((means - truth).abs() <= 1.96 * errors).double().mean(0)
    assert float(covered.min()) > least
    assert float(covered.max()) < 0.98


def test_one_probe_has_no_standard_error_and_several_are_in_the_record_beside_the_spread_over_sequences() -> None:
    drop = case(*CASES[1])[0]
    assert curvatures(drop, 1, np.random.default_rng(0)).error is None
    rows = []
    for probes in (1, 3):
        one = Problem(drop.batch, drop, drop, [], Attribution(probes=probes), 7)
        rows.append(scored(one, [METHODS["hvp_probes"]], unit=1.0)[0])
    assert rows[0].errors is None
    drawn = curvatures(drop, 3, one.random(3))
    assert drawn.error is not None
    np.testing.assert_array_equal(rows[1].errors, drawn.error.numpy() / 2)
    entries = [entries_of([one]) for one in rows]
    assert all("error_of_draws" not in entry["hvp_probes"] for entry in entries[0])
    assert [entry["hvp_probes"]["error_of_draws"] for entry in entries[1]] == (drawn.error / 2).tolist()


def entries_of(rows: list[Scored]) -> list[dict[str, Any]]:
    kinds = ["mlp" if head is None else "head" for _, head in PARTS]
    by = Judgement(resamples=100)
    return compared_with_exact(kinds, rows, {"log_prob": rows[0].samples}, by, np.random.default_rng(0)).scores
