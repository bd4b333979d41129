"""The figure of memorization against quality: its points, its marks, and that nothing is cut off."""

import matplotlib
import numpy as np
import pytest

from emmeter.measure.tradeoff import METRICS, Point
from emmeter.presentation import style
from emmeter.presentation.tradeoff_figure import draw_tradeoff
from emmeter.settings.sections import Figures

FLOORS = dict.fromkeys(METRICS, 0.9) | {"frechet": 2.0}


def runs(arms: int) -> list[Point]:
    """Runs of arms, of which the first at each arm was not trained to the end."""
    measures = dict.fromkeys(METRICS, 0.7)
    return [
        Point(f"arm-{arm}", "pixels", n, 1 - n / 100, measures | {"frechet": 200 / n}, FLOORS, n == 10)
        for arm in range(arms)
        for n in (10, 30, 90)
    ]


def drawn(axes) -> list[tuple[float, float]]:
    """Places of the markers of a panel."""
    return [tuple(place) for points in axes.collections for place in np.asarray(points.get_offsets()).tolist()]


def test_points_are_runs_at_their_distance_in_floors_and_open_if_unfinished():
    with style.styled():
        figure = draw_tradeoff(runs(1), [0.9], Figures())
    distance, precision = figure.axes
    assert drawn(distance) == [pytest.approx(place) for place in ((10, 90), (200 / 60, 70), (200 / 180, 10))]
    assert {x for x, _ in drawn(precision)} == {0.7}
    for axes, real in ((distance, 1.0), (precision, 0.9)):
        assert real in [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    faces = [matplotlib.colors.to_hex(face) for face in distance.collections[0].get_facecolors()]
    assert faces == [style.PAPER, style.SERIES[0], style.SERIES[0]]


@pytest.mark.parametrize("width", [7.0, 3.4])
@pytest.mark.parametrize("arms", [1, 6, 9])
def test_every_arm_is_named_once_and_nothing_is_cut_off(arms, width):
    with style.styled():
        figure = draw_tradeoff(runs(arms), [0.9], Figures(width=width), style.Heading("A title " * 9, "below " * 30))
        figure.draw_without_rendering()
        shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
        names = [text.get_text() for text in shown if text.get_text().startswith("arm-")]
        assert sorted(names) == [f"arm-{arm}" for arm in range(arms)]
        for text in shown:
            extent = text.get_window_extent()
            assert extent.x0 >= -1 and extent.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert extent.y0 >= -1 and extent.y1 <= figure.bbox.y1 + 1, text.get_text()
