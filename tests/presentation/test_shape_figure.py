"""The figure of the comparison by shape: what it shows of the table."""

import pytest

from emmeter.files.tables import SHAPE_COLUMNS, frame
from emmeter.presentation import style
from emmeter.presentation.shape_figure import arms, draw_shape, draw_study_shape, in_order
from emmeter.settings.sections import Figures


def row(quantity: str, arm: str, against: str = "", ours=(None,) * 3, published=(None,) * 3, **values):
    sides = {
        f"{side}{end}": number
        for side, numbers in (("ours", ours), ("published", published))
        for end, number in zip(("", "_low", "_high"), numbers, strict=True)
    }
    blank = dict.fromkeys(SHAPE_COLUMNS) | {"study": "s", "extrapolated": "", "order": ""}
    return blank | {"quantity": quantity, "arm": arm, "against": against} | sides | values


ROWS = [
    row("percent", "all", ours=(80, 70, 90), published=(92, 91, 93), extrapolated="False"),
    row("percent", "one", ours=(20, 10, 30), published=(40, 39, 41), extrapolated="True"),
    row("percent", "two", published=(0, 0, 1)),
    row("odds_ratio", "one", "all", (0.1, 0.05, 0.2), (0.06, 0.05, 0.07), order="same", published_n=1000, n=60),
    row("odds_ratio", "two", "all", (None, None, 0.01), (None, None, 0.02), order="opposite", published_n=1000, n=60),
    row("odds_ratio", "two", "one", (0.5, 0.2, 1.2), (0.3, 0.2, 0.4), order="open", published_n=1000, n=60),
]


@pytest.fixture
def figure():
    with style.styled():
        return draw_shape(frame(ROWS, SHAPE_COLUMNS), {"s": "A study"}, "Scales differ.", Figures())


def test_pairs_in_the_same_order_are_counted_among_those_told_apart():
    assert in_order(ROWS) == "same order in 1 of 2 pairs that both tell apart"
    assert in_order(ROWS[-1:]) == "no pair of arms that both tell apart"


def test_the_baseline_has_no_ratio_of_its_own(figure):
    assert arms(ROWS) == ["all", "one", "two"]
    left, _ = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["one", "two"]
    assert left.get_xlabel().startswith("odds of a copy, arm / all\nsame order in 1 of 2")


def test_values_have_markers_and_limits_have_arrows(figure):
    left, _ = figure.axes
    points = {
        (*line.get_xdata(), round(line.get_ydata()[0], 2)): line for line in left.lines if len(line.get_xdata()) == 1
    }
    markers = {place: line.get_marker() for place, line in points.items()}
    left_arrow = (3, 0, 90)
    assert markers == {
        (0.06, -0.16): "D", (0.1, 0.16): "o", (0.02, 0.84): left_arrow, (0.01, 1.16): left_arrow,
    }  # fmt: skip


def test_shares_are_open_circles_beyond_the_runs_and_missing_without_ours(figure):
    _, right = figure.axes
    drawn = [line for line in right.lines if line.get_marker() == "o"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in drawn] == [(92, 80), (40, 20)]
    assert [line.get_markerfacecolor() == style.PAPER for line in drawn] == [False, True]
    assert right.get_title(loc="left") == "N: 1,000 published,\n60 ours"


def test_the_text_says_what_differs(figure):
    assert "Scales differ." in [text.get_text() for text in figure.texts]


@pytest.mark.parametrize(("width", "beside"), [(6.6, True), (3.4, False)])
def test_the_panels_of_one_study_are_beside_each_other_unless_the_page_is_narrow(width, beside):
    with style.styled():
        figure = draw_study_shape(frame(ROWS, SHAPE_COLUMNS), Figures(width=width))
        figure.draw_without_rendering()
    left, right = (axes.get_position() for axes in figure.axes)
    assert (right.x0 > left.x1) == beside
    assert (right.y1 < left.y0) == (not beside)
    assert len(figure.legends[0].get_texts()) == 3
