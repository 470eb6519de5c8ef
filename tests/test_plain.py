"""Text of others is text alone in figures, and the figure's own ticks stay mathematics."""

from __future__ import annotations

from matplotlib.figure import Figure

from gcgap.report.panels import plain_figure


def test_ticks_of_a_logarithmic_axis_are_numbers_and_other_dollars_are_dollars() -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 1000], [1, 2])
    axes.set(xscale="log", title="a $name$ of a run")
    figure.draw_without_rendering()  # ticks have no text before
    plain_figure(figure)
    figure.draw_without_rendering()
    ticks = [label for label in axes.get_xticklabels() if label.get_text()]
    assert any("mathdefault" in label.get_text() for label in ticks)
    assert all(label.get_parse_math() for label in ticks)
    assert not axes.title.get_parse_math()
