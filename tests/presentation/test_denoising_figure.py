"""The figure of errors by noise level: its lines, its legend, and that nothing is cut off."""

import matplotlib
import pytest

from emmeter.measure.by_noise import AtLevel
from emmeter.presentation import style
from emmeter.presentation.denoising_figure import draw_denoising, nothing_denoised
from emmeter.settings.sections import Figures


def levels(arms: int) -> list[AtLevel]:
    return [
        AtLevel(f"arm-{arm}", 30, 2, sigma, (2.0 + arm) / sigma**0.1, 0.3 + sigma / 10)
        for arm in range(arms)
        for sigma in (0.05, 0.5, 10.0)
    ]


def test_lines_are_the_values_of_each_arm():
    with style.styled():
        gap, nearness = draw_denoising(levels(2), Figures()).axes
    for axes, values in ((gap, [level.gap for level in levels(2)]), (nearness, [lv.nearness for lv in levels(2)])):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert [list(line.get_ydata()) for line in lines] == [values[:3], values[3:]]
        assert 1 in [line.get_ydata()[0] for line in axes.lines]


def test_levels_without_a_gap_are_left_out_of_the_first_panel_alone():
    found = [AtLevel("a", 30, 2, 0.5, None, 0.5), AtLevel("a", 30, 2, 1.0, 2.0, 0.5)]
    with style.styled():
        gap, nearness = draw_denoising(found, Figures()).axes
    assert [len(line.get_xdata()) for line in gap.lines if line.get_marker() == "o"] == [1]
    assert [len(line.get_xdata()) for line in nearness.lines if line.get_marker() == "o"] == [2]


@pytest.mark.parametrize("width", [7.0, 3.4])
@pytest.mark.parametrize(("arms", "named"), [(1, 1), (6, 6), (9, 2)])
def test_arms_are_named_and_nothing_is_cut_off(arms, named, width):
    with style.styled():
        figure = draw_denoising(levels(arms), Figures(width=width), style.Heading("A title " * 9, "below " * 30))
        figure.draw_without_rendering()
        shown = [text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text()]
        names = [text.get_text() for text in shown if text.get_text().startswith("arm-")]
        assert len(names) == named
        assert any("7 other arms" in text.get_text() for text in shown) == (arms == 9)
        for text in shown:
            extent = text.get_window_extent()
            assert extent.x0 >= -1 and extent.x1 <= figure.bbox.x1 + 1, text.get_text()
            assert extent.y0 >= -1 and extent.y1 <= figure.bbox.y1 + 1, text.get_text()


def test_without_any_level_the_figure_says_so():
    figure = nothing_denoised(Figures())
    assert [text.get_text() for text in figure.texts] == ["No run has its snapshots any more."]
