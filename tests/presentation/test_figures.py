"""Figures: the rows and lines that they show, and the surroundings that must not reach them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from emmeter.files.tables import CURVE_COLUMNS, EMM_COLUMNS, ONSET_COLUMNS, frame, read
from emmeter.files.writing import write_csv
from emmeter.presentation import curves_figure, figures, gallery_figure, style
from emmeter.settings.sections import Figures
from tests import made_up

STUDY = Path(__file__).parents[2] / "results/reference/laptop/conditioning"


def snapshots(*ratios: float, n=10, replicate=0, arm="a") -> list[dict[str, Any]]:
    """Rows of curves.csv of one run."""
    rows = [
        {"arm": arm, "n": n, "replicate": replicate, "progress": (i + 1) / len(ratios), "ratio": ratio}
        for i, ratio in enumerate(ratios)
    ]
    return [dict.fromkeys(CURVE_COLUMNS) | row for row in rows]


CURVES = frame(
    [*snapshots(0.2, 0.9, 0.7), *snapshots(0.1, 0.3, replicate=1), *snapshots(1.0, arm="b")], CURVE_COLUMNS
)  # fmt: skip


@pytest.mark.parametrize(("snapshot", "expected"), [("last", [0.7, 0.3]), ("best", [0.9, 0.3])])
def test_the_snapshot_that_counts_is_shown_once_per_run(snapshot, expected):
    assert curves_figure.counted_rows({"arm": "a", "snapshot": snapshot}, CURVES)["ratio"].tolist() == expected


def horizontal(axes) -> list[float]:
    """Heights of the dashed lines across the whole of an axis."""
    lines = [line for line in axes.lines if list(line.get_xdata()) == [0, 1] and line.get_linestyle() == "--"]
    return [line.get_ydata()[0] for line in lines]


def texts(figure) -> list[str]:
    """All texts of a figure that say something."""
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def tables(folder: Path):
    return read([folder / "emm.csv"], EMM_COLUMNS), read([folder / "curves.csv"], CURVE_COLUMNS)


@pytest.mark.parametrize("epsilon", [0.1, 0.2])
def test_every_epsilon_has_its_line_and_its_arms_cross_it(epsilon):
    emm, curves = tables(STUDY)
    emm.loc[1, "epsilon"] = epsilon
    levels = sorted({0.9, 1 - epsilon}, reverse=True)
    assert curves_figure.levels(emm) == pytest.approx(levels)
    panel = curves_figure.draw_curves(emm, curves, Figures()).axes[0]
    assert horizontal(panel) == pytest.approx([100 * level for level in levels])
    fitted = [line for line in panel.lines if len(line.get_xdata()) == 200]
    arms = emm.to_dict("records")
    for arm, line in zip(arms, fitted, strict=True):
        nearest = abs(line.get_xdata() - arm["emm"]).argmin()
        assert line.get_ydata()[nearest] == pytest.approx(100 * curves_figure.arm_level(arm), abs=0.5)
    label = figures.draw_emm(emm, Figures()).axes[0].get_xlabel()
    assert " or ".join(f"{100 * level:g} %" for level in levels) + " are copies" in label
    progress = figures.draw_progress(curves, {arm["arm"]: 1 - arm["epsilon"] for arm in arms}, Figures())
    assert [horizontal(axes) for axes in progress.axes[: len(arms)]] == [
        pytest.approx([100 * curves_figure.arm_level(arm)]) for arm in arms
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The tables of a made-up study."""
    return made_up.write(tmp_path_factory.mktemp("study"))


@pytest.mark.parametrize("width", [7.0, 3.4])
def test_each_arm_is_named_once_beside_its_emm_and_has_a_marker_of_its_own(study, width):
    """Also arms with a limit alone."""
    emm, curves = tables(study)
    emm = emm[emm["arm"].isin(["small", "beyond", "under"])]
    figure = curves_figure.draw_curves(emm, curves, Figures(width=width))
    labels = [f"{arm['arm']} {curves_figure.label(arm)}" for arm in emm.to_dict("records")]
    assert [text for text in texts(figure) if text in labels] == labels
    markers = {path.vertices.tobytes() for points in figure.axes[0].collections for path in points.get_paths()
               if points.get_offsets().shape[0] and len(path.vertices) > 2}  # fmt: skip
    assert len(markers) >= 3


@pytest.mark.parametrize("width", [7.0, 3.4])
def test_nothing_is_cut_off_and_no_label_hides_another(study, width):
    emm, curves = tables(study)
    gallery = [made_up.gallery()] * 2
    for figure in (
        curves_figure.draw_curves(emm[:4], curves, Figures(width=width), style.Heading("A title " * 12, "below " * 30)),
        curves_figure.draw_curves(emm, curves, Figures(width=width)),
        figures.draw_emm(emm, Figures(width=width)),
        gallery_figure.draw_gallery(emm[:2], gallery, Figures(width=width)),
    ):
        figure.draw_without_rendering()
        box = figure.bbox
        shown = [
            text for text in figure.findobj(matplotlib.text.Text) if text.get_visible() and text.get_text().strip()
        ]
        extents = [(text, text.get_window_extent()) for text in shown]
        for text, extent in extents:
            assert extent.x0 >= box.x0 - 1 and extent.x1 <= box.x1 + 1, text.get_text()
            assert extent.y0 >= box.y0 - 1 and extent.y1 <= box.y1 + 1, text.get_text()
        bold = [(text, extent) for text, extent in extents if text.get_fontweight() == "bold"]
        for index, (text, extent) in enumerate(bold):
            assert not any(extent.shrunk(0.9, 0.8).overlaps(other) for _, other in bold[:index]), text.get_text()


def test_panels_of_many_arms(study):
    """Seven arms in rows of four: one panel each, sizes below the lowest of each column."""
    emm, curves = tables(study)
    panels = curves_figure.draw_curves(emm, curves, Figures()).axes
    assert [panel.get_title("left") for panel in panels] == list(made_up.ARMS)
    assert [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels] == [False] * 3 + [True] * 4
    undetermined = emm.loc[emm["status"] == "undetermined", "arm"].tolist()
    assert undetermined == [p.get_title("left") for p in panels if p.get_title("right") == "not determined"]


@pytest.mark.parametrize(("low", "high"), [(9, 80), (12, 55), (40, 460), (95, 105), (3, 3000), (18, 24), (1.5, 2)])
@pytest.mark.parametrize("most", [4, 7])
def test_an_axis_has_enough_round_numbers_and_not_too_many(low, high, most):
    numbers = style.round_numbers(low, high, most, whole=low > 2)
    assert numbers == sorted(numbers) and all(low <= number <= high for number in numbers)
    assert len(numbers) <= most
    if most == 7 and high / low > 1.3:
        assert len(numbers) >= 3


def test_gallery_marks_copies_and_spans_all_ranks():
    emm = frame([dict.fromkeys(EMM_COLUMNS) | {"arm": "a", "epsilon": 0.1}], EMM_COLUMNS)
    gallery = made_up.gallery(16)
    assert gallery_figure.chosen(gallery, 8)[[0, -1]].tolist() == [0, 15]
    assert len(set(gallery_figure.chosen(gallery, 8).tolist())) == 8
    assert gallery_figure.chosen(made_up.gallery(3), 8).tolist() == [0, 1, 2]
    figure = gallery_figure.draw_gallery(emm, [gallery], Figures(gallery=8))
    shown = gallery_figure.chosen(gallery, 8)
    marks = [text for text in texts(figure) if text[:2] in ("0.", "1.")]
    assert marks == [f"{gallery['d1'][i] / 30:.2f}" + (" copy" if gallery["copy"][i] else "") for i in shown]
    assert len([axes for axes in figure.axes if axes.images]) == 3 * 8
    assert any("N = 30: 50 % of 500 images are copies" in text for text in texts(figure))


def test_long_names_are_broken_into_lines():
    lines = style.wrapped("a-name-of-an-arm-" * 4, style.NAME).split("\n")
    assert max(map(len, lines)) <= style.NAME and "".join(lines) == "a-name-of-an-arm-" * 4
    assert style.wrapped("x1.5", style.NAME) == "x1.5"
    assert style.wrapped("", style.NAME) == ""


def onsets(*arms: str, factor: float = 100) -> list[dict[str, Any]]:
    """Rows of onset.csv, three runs per arm."""
    rows = [
        {"level": 0.5, "arm": arm, "n": n, "replicate": 0, "onset_images": factor * n * (i + 1)}
        for i, arm in enumerate(arms)
        for n in (10, 20, 40)
    ]
    return [dict.fromkeys(ONSET_COLUMNS) | row for row in rows]


@pytest.mark.parametrize(("arms", "outside"), [(2, False), (9, True)])
def test_the_legend_of_many_onsets_is_beside_them(arms, outside):
    rows = onsets(*(f"arm-{i}" for i in range(arms)))
    drawn = figures.draw_onset(frame(rows, ONSET_COLUMNS), Figures())
    assert bool(drawn.legends) == outside
    (legend,) = drawn.legends or [drawn.axes[0].get_legend()]
    assert [text.get_text() for text in legend.get_texts()].count("in proportion to N") == 1


# The user's surroundings

RC = "text.usetex: True\nfont.size: 25\nfont.family: serif\nfigure.facecolor: red\nsavefig.bbox: tight"
SURROUNDINGS = {
    "a notebook's backend": {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
    "a backend that does not exist": {"MPLBACKEND": "nonsense"},
    "a backend of the screen": {"MPLBACKEND": "TkAgg"},
    "MATPLOTLIBRC, a file": {"MATPLOTLIBRC": "{there}/settings"},
    "MATPLOTLIBRC, a folder": {"MATPLOTLIBRC": "{there}"},
    "MATPLOTLIBRC, nowhere": {"MATPLOTLIBRC": "{there}/nowhere"},
    "MPLCONFIGDIR": {"MPLCONFIGDIR": "{there}"},
    "MPLCONFIGDIR, unwritable": {"MPLCONFIGDIR": "/proc/nowhere"},
    "the user's home": {"HOME": "{there}/home", "XDG_CONFIG_HOME": ""},
    "XDG_CONFIG_HOME": {"XDG_CONFIG_HOME": "{there}/home/.config"},
    "no home": {"HOME": "/nowhere", "XDG_CONFIG_HOME": ""},
    "FreeType's settings": {"FREETYPE_PROPERTIES": "truetype:interpreter-version=35"},
    "an ASCII locale": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    "hashes": {"PYTHONHASHSEED": "7"},
}


@pytest.fixture(scope="module")
def drawing(tmp_path_factory):
    """A function that draws a figure in a process of its own, and the files that it draws in plain surroundings."""
    base = tmp_path_factory.mktemp("drawing")
    write_csv(base / "onset.csv", ONSET_COLUMNS, onsets("arm"))

    def draw(name: str, folder: Path, **variables: str) -> dict[str, bytes]:
        output = base / name
        study = json.dumps({"title": "Étiquettes ≥ 3"})
        options = [
            "--study",
            study,
            "--style",
            "{}",
            "--kind",
            "onset",
            "--table",
            str(base / "onset.csv"),
            "--folder",
            str(output),
        ]
        subprocess.run(
            [sys.executable, "-m", "emmeter.stages.claim_figure", *options],
            cwd=folder,
            env=os.environ | variables,
            check=True,
        )
        return {path.name: path.read_bytes() for path in output.iterdir()}

    return draw, draw("plain", base)


def settings_everywhere(folder: Path, text: bytes) -> None:
    """Write a matplotlibrc wherever Matplotlib looks for one below `folder`, and a style file beside each."""
    config = folder / "home" / ".config" / "matplotlib"
    for parent in (folder, config):
        (parent / "stylelib").mkdir(parents=True)
        (parent / "matplotlibrc").write_bytes(text)
        (parent / "stylelib" / "own.mplstyle").write_bytes(text)
    (folder / "settings").write_bytes(text)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_user_s_surroundings_do_not_reach_the_figures(drawing, tmp_path, name):
    draw, plain = drawing
    settings_everywhere(tmp_path / "there", RC.encode())
    variables = {key: value.format(there=tmp_path / "there") for key, value in SURROUNDINGS[name].items()}
    assert draw(name, tmp_path, **variables) == plain


@pytest.mark.slow
@pytest.mark.parametrize("text", [RC.encode(), b"\xff\xfe not text", b"backend: nonsense\n: :\nno colon"])
def test_settings_in_the_working_folder_do_not_reach_the_figures(drawing, tmp_path, text):
    draw, plain = drawing
    settings_everywhere(tmp_path, text)
    assert draw(text.hex()[:9], tmp_path, HOME=str(tmp_path / "home"), XDG_CONFIG_HOME="") == plain


def test_settings_of_this_process_do_not_reach_the_figures():
    with matplotlib.rc_context({"font.size": 30}):
        with style.styled():
            assert matplotlib.rcParams["font.size"] == 9
            assert matplotlib.rcParams["lines.linewidth"] == matplotlib.rcParamsDefault["lines.linewidth"]
        assert matplotlib.rcParams["font.size"] == 30
