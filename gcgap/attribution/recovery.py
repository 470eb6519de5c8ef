"""How well scores of components recover a circuit that is known, or at least a circuit that works.

Three numbers: the area under the ROC curve needs the true circuit; CPR and CMD need only the metric M of the circuits made of the
k highest-scoring components. These two are those of MIB (Mueller et al. 2025, arXiv:2504.13151), which takes edges, at ten chosen
shares of them. Here they are over components, at every size. Owns no model and runs none.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.stats import rankdata


def area_under_roc(scores: Float[ndarray, " component"], true: Bool[ndarray, " component"]) -> float:
    """Probability that a random component of the circuit scores above a random other one; a tie counts half.

    (sum of the ranks of the m true ones - m (m + 1) / 2) / (m (n - m)), the statistic of Mann and Whitney. 1 is perfect, 0.5 is
    chance. It sees the order only: a method that puts the circuit first by a hair gets 1.

    Raises:
        ValueError: Sizes that differ, a score that is NaN, or a circuit that holds nothing or everything.
    """
    if scores.shape != true.shape:
        raise ValueError(f"`true` must say of each of the {scores.size} scores whether it is true; got {true.size}.")
    if np.isnan(scores).any():
        raise ValueError(f"`scores` must be numbers; number {int(np.isnan(scores).argmax())} is NaN.")
    m, n = int(true.sum()), true.size
    if not 0 < m < n:
        raise ValueError(f"`true` must hold some components and leave out others; it holds {m} of {n}.")
    return float((rankdata(scores)[true].sum() - m * (m + 1) / 2) / (m * (n - m)))


def faithfulness(values: Float[ndarray, " size"]) -> Float[ndarray, " size"]:
    """f_k = (M(C_k) - M(empty)) / (M(full) - M(empty)): the share of the performance that a circuit of k components keeps.

    Above 1 the circuit does better than the model, below 0 worse than nothing at all.

    Args:
        values: M of the circuits C_0 .. C_n, where C_k is the k highest-scoring components and all others are ablated: first
            M(empty), everything ablated, and last M(full), the untouched model.

    Raises:
        ValueError: A value is not finite; or ablating everything changes nothing, so that there is no performance to keep.
    """
    if not np.isfinite(values).all():
        raise ValueError(f"`values` must be finite; that of size {int(np.isfinite(values).argmin())} is not.")
    empty, full = values[0], values[-1]
    if full == empty:
        raise ValueError(f"`values` must differ between no component and all of them; both are {full:g}. Take another metric.")
    return (values - empty) / (full - empty)


def cpr(f: Float[ndarray, " size"]) -> float:
    """Circuit performance ratio: the integral of f over the share k / n of kept components, by the trapezoid rule.

    Larger is better: components that help come early. One that harms, kept late, raises it, even above 1. MIB integrates over the
    share of edges, at ten shares from 0.1 % to 100 %.
    """
    return _integral(f)


def cmd(f: Float[ndarray, " size"]) -> float:
    """Circuit-model distance: the integral of |1 - f| likewise. 0 is best: a circuit of any size does what the model does.

    It cannot be reached by components at every size, since f = 0 where nothing is kept: a circuit of one component, put first,
    leaves 1 / (2 n).
    """
    return _integral(np.abs(1 - f))


def _integral(heights: Float[ndarray, " size"]) -> float:
    assert len(heights) > 1, "there is a circuit of no component and one of all"
    return float(np.trapezoid(heights, dx=1 / (len(heights) - 1)))
