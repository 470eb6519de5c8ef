"""The figures, drawn from records with known answers: every component is there once, and every role is marked."""

from __future__ import annotations

import math
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import tiny
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from gcgap.report.figures_run import MOST, Checkpoint, emergence, is_due, scatter
from gcgap.report.panels import COLOURS, LABELS, MARKERS

NAMES = [component["name"] for component in tiny.ten()["components"]]


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels; any warning of matplotlib (a missing glyph, a layout that does not fit) is an error."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    buffer.seek(0)
    image = imread(buffer)
    assert image.std() > 0.02  # not blank
    return image


def markers(axes: Axes, role: str) -> list[tuple[float, float]]:
    """Positions of the markers of a role."""
    lines = [line for line in axes.lines if line.get_marker() == MARKERS[role]]
    points = [zip(np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True) for line in lines]
    return [(float(x), float(y)) for of_line in points for x, y in of_line]


def texts(figure: Figure) -> str:
    """All text of a figure."""
    said = [text.get_text() for axes in figure.axes for text in axes.texts]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([figure.get_suptitle(), *said, *legends])


def counts(axes: Axes) -> dict[str, int]:
    return {role: len(markers(axes, role)) for role in MARKERS}


def test_a_scatter_has_a_marker_per_component_in_both_panels() -> None:
    figure = scatter(tiny.ten())
    drawn(figure)
    values, ranks = figure.axes
    assert counts(values) == counts(ranks) == {"hero": 1, "bloat": 1, "aligned": 8}
    assert {text.get_text() for text in ranks.texts} == set(NAMES)
    assert {text.get_text() for text in values.texts} == {"L0_H0", "L1_MLP"}


def test_a_scatter_puts_values_and_ranks_where_they_belong() -> None:
    values, ranks = scatter(tiny.ten()).axes
    assert markers(values, "hero") == [pytest.approx((0.001, 11.25))]  # G, and C in points
    assert markers(values, "bloat") == [pytest.approx((0.010, 0.0))]
    assert markers(ranks, "hero") == [(1, 10)]
    assert markers(ranks, "bloat") == [(10, 1)]
    assert sorted(markers(ranks, "aligned")) == [(rank, rank) for rank in range(2, 10)]
    assert to_hex(ranks.lines[1].get_color()) == COLOURS["hero"]


def test_a_scatter_of_another_baseline_shows_that_one() -> None:
    figure = scatter(tiny.ten(), "zero")
    drawn(figure)
    assert counts(figure.axes[1]) == {"hero": 0, "bloat": 0, "aligned": 10}
    assert "zero ablation" in figure.get_suptitle()
    assert "mean" not in figure.get_suptitle()


def test_a_scatter_says_what_was_measured() -> None:
    title = scatter(tiny.ten(step=1250, rho=-0.25)).get_suptitle()
    assert all(part in title for part in ("sort", "seed 7", "step 1,250", "length 9", "mean ablation", "ρ = -0.25"))


def test_a_scatter_names_the_roles_in_its_legend() -> None:
    figure = scatter(tiny.ten())
    assert all(label in texts(figure) for label in LABELS.values())


def test_ties_share_a_rank_in_the_scatter() -> None:
    record = tiny.synthetic([1.0, 2.0, 3.0, 4.0, 5.0], {"mean": [0.0, 0.0, 0.0, 0.0, 0.5]})
    figure = scatter(record)
    drawn(figure)
    assert sorted(y for role in MARKERS for _, y in markers(figure.axes[1], role)) == [2.5, 2.5, 2.5, 2.5, 5]
    ordinal = tiny.synthetic([1.0, 2.0, 3.0, 4.0, 5.0], {"mean": [0.0, 0.0, 0.0, 0.0, 0.5]}, protocol={"ranks": "ordinal"})
    assert sorted(y for role in MARKERS for _, y in markers(scatter(ordinal).axes[1], role)) == [1, 2, 3, 4, 5]


def test_a_scatter_without_rank_correlation_says_why() -> None:
    figure = scatter(tiny.ten(reason="all components are alike"))
    drawn(figure)
    assert "no ρ: all components are alike" in figure.get_suptitle()
    assert counts(figure.axes[1]) == {"hero": 0, "bloat": 0, "aligned": 10}


def test_a_scatter_of_a_skipped_run_has_no_marker_and_says_why() -> None:
    figure = scatter(tiny.skipped())
    drawn(figure)
    assert "no OOD length has an accuracy" in figure.get_suptitle()
    assert [counts(axes) for axes in figure.axes] == [{"hero": 0, "bloat": 0, "aligned": 0}] * 2


def test_a_scatter_of_twenty_components_draws() -> None:
    rng = np.random.default_rng(0)
    record = tiny.synthetic(rng.random(20).tolist(), {"mean": rng.random(20).tolist()}, protocol={"threshold": 0.5})
    figure = scatter(record)
    drawn(figure)
    assert sum(counts(figure.axes[1]).values()) == 20


HISTORY = [tiny.ten(step=0, reason="all alike"), tiny.ten(step=50), tiny.ten(step=1000)]


def rasters(figure: Figure) -> list[Axes]:
    found = [axes for axes in figure.axes if axes.images]
    assert len(found) == 2
    return found


def test_an_emergence_raster_marks_every_role_at_every_step() -> None:
    figure = emergence(HISTORY)
    drawn(figure)
    for axes in rasters(figure):
        assert markers(axes, "hero") == [(1, 0), (2, 0)]  # L0_H0 at the second and third checkpoint
        assert markers(axes, "bloat") == [(1, 9), (2, 9)]


def test_an_emergence_raster_is_coloured_by_the_rank_difference() -> None:
    (left, right) = rasters(emergence(HISTORY))
    for axes in (left, right):
        delta = np.ma.filled(np.ma.asarray(axes.images[0].get_array()), np.nan)
        assert delta.shape == (10, 3)
        assert np.isnan(delta[:, 0]).all()
        assert delta[:, 1].tolist() == [-9, 0, 0, 0, 0, 0, 0, 0, 0, 9]
        assert axes.images[0].get_clim() == (-10, 10)
    assert [label.get_text() for label in left.get_yticklabels()] == NAMES
    assert [label.get_text() for label in left.get_xticklabels()] == ["0", "50", "1,000"]


def test_an_emergence_raster_says_where_there_are_no_ranks() -> None:
    assert "C is constant" in texts(emergence(HISTORY))
    assert "C is constant" not in texts(emergence(HISTORY[1:]))


def test_an_emergence_raster_does_not_depend_on_the_order_of_its_records() -> None:
    assert np.array_equal(drawn(emergence(HISTORY)), drawn(emergence(HISTORY[::-1])))


def test_the_curves_above_the_raster_are_those_of_the_records() -> None:
    figure = emergence(HISTORY)
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}
    assert curves["accuracy in distribution"].tolist() == [0.9375] * 3
    assert curves["accuracy OOD"].tolist() == [0.5] * 3
    assert np.isnan(curves["ρ(G, C)"][0])
    assert curves["ρ(G, C)"][1:].tolist() == [0.5, 0.5]


def test_an_emergence_raster_of_another_baseline_shows_that_one() -> None:
    figure = emergence(HISTORY, "zero")
    drawn(figure)
    assert "zero ablation" in figure.get_suptitle()
    for axes in rasters(figure):
        assert markers(axes, "hero") == markers(axes, "bloat") == []


@pytest.mark.parametrize("history", [HISTORY[:1], HISTORY[1:2], HISTORY[:2] * 8], ids=["all null", "one", "many"])
def test_an_emergence_raster_draws_at_any_length(history: list) -> None:
    drawn(emergence(history))


@pytest.mark.parametrize("count", [MOST, MOST + 1, 3 * MOST, 2000])
def test_an_emergence_raster_has_few_columns_evenly_spread_and_the_last(count: int) -> None:
    column = Checkpoint.of(tiny.ten())
    figure = emergence([replace(column, step=10 * i) for i in range(count)])
    ticks = [int(label.get_text().replace(",", "")) // 10 for label in rasters(figure)[0].get_xticklabels()]
    assert ticks[0] == 0
    assert ticks[-1] == count - 1
    assert len(ticks) <= MOST + 1
    gaps = np.diff(ticks)
    assert (gaps[:-1] == gaps[0]).all()
    assert gaps[-1] <= gaps[0]
    shown = f"{len(ticks)} of {count} checkpoints"
    assert (shown in figure.get_suptitle()) == (count > MOST)
    assert figure.get_size_inches()[0] <= 5 + 0.45 * (MOST + 1)


def test_rasters_are_drawn_at_few_of_many_checkpoints() -> None:
    assert all(is_due(count) for count in range(1, MOST + 1))
    assert sum(is_due(count) for count in range(1, 2001)) <= MOST * (1 + math.log2(2000 / MOST) / 2 + 1)


def test_the_columns_of_records_are_drawn_as_the_records_are() -> None:
    columns = [Checkpoint.of(record, "zero") for record in HISTORY]
    assert np.array_equal(drawn(emergence(columns)), drawn(emergence(HISTORY, "zero")))


def test_an_emergence_raster_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="records"):
        emergence([])


def test_figures_leave_nothing_in_pyplot() -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    drawn(scatter(tiny.ten()))
    drawn(emergence(HISTORY))
    assert plt.get_fignums() == before
