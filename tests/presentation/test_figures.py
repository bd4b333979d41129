"""Figures: the rows and lines that they show, and the surroundings that must not reach them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from emmeter.files.tables import CURVE_COLUMNS, EMM_COLUMNS, ONSET_COLUMNS, frame, read
from emmeter.files.writing import write_csv
from emmeter.presentation import figures, style
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
    assert figures.counted_rows({"arm": "a", "snapshot": snapshot}, CURVES)["ratio"].tolist() == expected


def horizontal(axes) -> list[float]:
    """Heights of the lines across the whole of an axis."""
    return [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]


@pytest.mark.parametrize("epsilon", [0.1, 0.2])
def test_every_epsilon_has_its_line_and_its_arms_cross_it(epsilon):
    emm, curves = read([STUDY / "emm.csv"], EMM_COLUMNS), read([STUDY / "curves.csv"], CURVE_COLUMNS)
    emm.loc[1, "epsilon"] = epsilon
    levels = sorted({0.9, 1 - epsilon}, reverse=True)
    assert figures.levels(emm) == pytest.approx(levels)
    drawn = figures.draw_curves({"title": ""}, emm, curves, Figures())
    assert horizontal(drawn.axes[0]) == pytest.approx([100 * level for level in levels])
    fitted = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 200]
    arms = emm.to_dict("records")
    for arm, line in zip(arms, fitted, strict=True):
        nearest = abs(line.get_xdata() - arm["emm"]).argmin()
        assert line.get_ydata()[nearest] == pytest.approx(100 * figures.arm_level(arm), abs=0.5)
    label = figures.draw_emm({"title": ""}, emm, curves, Figures()).axes[0].get_xlabel()
    assert label.endswith(" or ".join(f"{100 * level:g} %" for level in levels) + " are memorized")
    progress = figures.draw_progress({"title": ""}, emm, curves, Figures())
    assert [horizontal(axes) for axes in progress.axes[: len(arms)]] == [
        pytest.approx([100 * figures.arm_level(arm)]) for arm in arms
    ]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The tables of a made-up study."""
    return made_up.write(tmp_path_factory.mktemp("study"))


def test_legend_names_each_arm_once(study):
    """Also arms with a limit alone."""
    emm, curves = read([study / "emm.csv"], EMM_COLUMNS), read([study / "curves.csv"], CURVE_COLUMNS)
    emm = emm[emm["arm"].isin(["small", "beyond", "under"])]
    assert set(curves.loc[curves["arm"] == "under", "role"]) == {"locate", "confirm"}
    legend = figures.draw_curves(made_up.description(), emm, curves, Figures()).axes[0].get_legend()
    assert legend is not None
    assert [text.get_text().partition(":")[0] for text in legend.get_texts()] == emm["arm"].tolist()


def test_panels_of_many_arms(study):
    """Seven arms in rows of four: one panel each, sizes below the lowest of each column, ? where undetermined."""
    emm, curves = read([study / "emm.csv"], EMM_COLUMNS), read([study / "curves.csv"], CURVE_COLUMNS)
    figure = figures.draw_curves(made_up.description(), emm, curves, Figures())
    panels = [panel for panel in figure.axes if panel.get_visible()]
    assert [panel.get_title().partition(":")[0] for panel in panels] == list(made_up.ARMS)
    assert [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels] == [False] * 3 + [True] * 4
    undetermined = emm.loc[emm["status"] == "undetermined", "arm"].tolist()
    assert undetermined == [panel.get_title()[:-3] for panel in panels if panel.get_title().endswith(": ?")]


def test_mosaic_puts_pairs_above_each_other():
    top, bottom = np.full((3, 1, 2, 2), 10, np.uint8), np.full((3, 1, 2, 2), 20, np.uint8)
    picture = figures.mosaic(top, bottom)
    assert picture.shape == (5, 8)
    assert (picture[:2, [0, 1, 3, 4, 6, 7]] == 10).all()
    assert (picture[3:, [0, 1, 3, 4, 6, 7]] == 20).all()
    assert (picture[2] == 255).all()


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
    drawn = figures.draw_onset({"title": "t"}, frame(rows, ONSET_COLUMNS), Figures())
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
