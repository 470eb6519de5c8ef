"""Own curvatures of all components at once, from products of the Hessian with random signs.

    v_i (H v)_i = H_ii + sum_{j != i} H_ij v_i v_j,    v_i = +-1, drawn for each sequence and component by itself

The signs of two components are independent, so the sum has mean zero: one double backward gives an unbiased own curvature of
every component (Bekas, Kokiopoulou and Saad 2007, after Hutchinson). Its variance is sum_{j != i} H_ij^2 for one sequence and
probe, and averages out over both. With v = 1 in place of signs the same product is the joint HVP, whose sum stays.

H is taken with the changes a_j - z_j held. Else the gate of j also undoes what a gate below changes in z_j: cross terms of first
order in the changes, which are no curvature of the network. The diagonal is the same. A probe that is zero outside one layer
leaves of the sum the components of that layer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gcgap.attribution.drop import Drop


class Curvatures(NamedTuple):
    """Slopes g_i and own curvatures H_ii at xi = 0, and the standard error of a curvature's mean from the probes alone.

    None where there is but one probe. The spread over sequences holds both, what probes and what sequences do.
    """

    slope: Float[Tensor, "component sequence"]
    own: Float[Tensor, "component sequence"]
    error: Float[Tensor, " component"] | None


def signs(drop: Drop, random: np.random.Generator) -> Float[Tensor, "sequence component"]:
    """+1 or -1 for every sequence and component, evenly and independently."""
    return torch.from_numpy(random.choice([-1.0, 1.0], (drop.sequences, drop.components)))


def curvatures(drop: Drop, probes: int, random: np.random.Generator) -> Curvatures:
    """Own curvatures from so many probes: one forward pass, one backward and a double backward for each."""
    slope, each = _probed(drop, [signs(drop, random) for _ in range(probes)])
    error = each.var(0).div(probes).sum(-1).sqrt() / drop.sequences if probes > 1 else None
    return Curvatures(slope, each.mean(0), error)


def curvatures_by_layer(drop: Drop, random: np.random.Generator) -> Curvatures:
    """Own curvatures from one probe for each layer, zero elsewhere: as many double backwards as layers."""
    layer, drawn = torch.tensor([component.layer for component in drop.wiring.components]), signs(drop, random)
    slope, each = _probed(drop, [drawn * (layer == one) for one in range(drop.wiring.n_layers)])
    return Curvatures(slope, each.sum(0), None)


def _probed(
    drop: Drop, directions: list[Float[Tensor, "sequence component"]]
) -> tuple[Float[Tensor, "component sequence"], Float[Tensor, "probe component sequence"]]:
    """The slopes, and v (H v) of each direction."""
    slope, *products = drop.hessian_product(drop.zero_gates(), *directions, held=True)
    return slope, torch.stack([v.T * product for v, product in zip(directions, products, strict=True)])
