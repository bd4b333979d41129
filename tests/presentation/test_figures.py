"""Figures: which rows and lines they show."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

from emmeter.files.tables import read
from emmeter.presentation import figures, style
from emmeter.settings.sections import Figures

STUDY = Path(__file__).parents[2] / "results/reference/laptop/conditioning"


def snapshots(*ratios, n="10", replicate="0", arm="a"):
    """Rows of curves.csv of one run."""
    shares = [(i + 1) / len(ratios) for i in range(len(ratios))]
    return [
        {"arm": arm, "n": n, "replicate": replicate, "progress": str(share), "ratio": str(ratio)}
        for share, ratio in zip(shares, ratios, strict=True)
    ]


CURVES = [*snapshots(0.2, 0.9, 0.7), *snapshots(0.1, 0.3, replicate="1"), *snapshots(1.0, arm="b")]


@pytest.mark.parametrize(("snapshot", "expected"), [("last", ["0.7", "0.3"]), ("best", ["0.9", "0.3"])])
def test_the_snapshot_that_counts_is_shown_one_a_run(snapshot, expected):
    assert [row["ratio"] for row in figures.counted_rows({"arm": "a", "snapshot": snapshot}, CURVES)] == expected


def horizontal(axes) -> list[float]:
    """Heights of the lines across the whole of an axis."""
    return [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]


@pytest.mark.parametrize("epsilon", ["0.1", "0.2"])
def test_every_epsilon_has_its_line_and_its_arms_cross_it(epsilon):
    emm, curves = read(STUDY / "emm.csv"), read(STUDY / "curves.csv")
    emm[1]["epsilon"] = epsilon
    levels = sorted({0.9, 1 - float(epsilon)}, reverse=True)
    assert figures.levels_of(emm) == pytest.approx(levels)
    drawn = figures.draw_curves({"title": ""}, emm, curves, Figures())
    assert horizontal(drawn.axes[0]) == pytest.approx([100 * level for level in levels])
    fitted = [line for line in drawn.axes[0].lines if len(line.get_xdata()) == 200]
    for arm, line in zip(emm, fitted, strict=True):
        nearest = abs(line.get_xdata() - float(arm["emm"])).argmin()
        assert line.get_ydata()[nearest] == pytest.approx(100 * figures.level_of(arm), abs=0.5)
    label = figures.draw_emm({"title": ""}, emm, curves, Figures()).axes[0].get_xlabel()
    assert label.endswith(" or ".join(f"{100 * level:g} %" for level in levels) + " are memorized")
    progress = figures.draw_progress({"title": ""}, emm, curves, Figures())
    assert [horizontal(axes) for axes in progress.axes[: len(emm)]] == [
        pytest.approx([100 * figures.level_of(arm)]) for arm in emm
    ]


def test_long_names_are_broken_into_lines():
    lines = style.wrapped("a-name-of-an-arm-" * 4, style.NAME).split("\n")
    assert max(map(len, lines)) <= style.NAME and "".join(lines) == "a-name-of-an-arm-" * 4
    assert style.wrapped("x1.5", style.NAME) == "x1.5"
    assert style.wrapped("", style.NAME) == ""


@pytest.mark.parametrize(("arms", "outside"), [(2, False), (9, True)])
def test_the_legend_of_many_onsets_lies_beside_them(arms, outside):
    rows = [
        {"level": "0.5", "arm": f"arm-{i}", "n": str(n), "onset_images": str(100 * n * (i + 1))}
        for i in range(arms)
        for n in (10, 20, 40)
    ]
    drawn = figures.draw_onset({"title": "t"}, rows, Figures())
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
    """Draw a figure in a process of its own, with variables and a working folder of a user's; its SVG and PNG."""
    place = tmp_path_factory.mktemp("drawing")
    rows = "".join(f"0.5,arm,{n},{100 * n}\n" for n in (10, 20, 40))
    (place / "onset.csv").write_text(f"level,arm,n,onset_images\n{rows}")

    def draw(name: str, folder: Path, **variables: str) -> dict[str, bytes]:
        output = place / name
        study = json.dumps({"title": "Étiquettes ≥ 3"})
        options = ["--study", study, "--style", "{}", "--onset", str(place / "onset.csv"), "--folder", str(output)]
        subprocess.run(
            [sys.executable, "-m", "emmeter.stages.onset_figure", *options],
            cwd=folder,
            env=os.environ | variables,
            check=True,
        )
        return {path.name: path.read_bytes() for path in output.iterdir()}

    return draw, draw("plain", place)


def settings_everywhere(folder: Path, text: bytes) -> None:
    """A matplotlibrc in every place of a folder where one may lie, and a style of the user's own."""
    config = folder / "home" / ".config" / "matplotlib"
    for place in (folder, config):
        (place / "stylelib").mkdir(parents=True)
        (place / "matplotlibrc").write_bytes(text)
        (place / "stylelib" / "own.mplstyle").write_bytes(text)
    (folder / "settings").write_bytes(text)


@pytest.mark.parametrize("name", SURROUNDINGS)
def test_the_user_s_surroundings_do_not_reach_the_figures(drawing, tmp_path, name):
    draw, plain = drawing
    settings_everywhere(tmp_path / "there", RC.encode())
    variables = {key: value.format(there=tmp_path / "there") for key, value in SURROUNDINGS[name].items()}
    assert draw(name, tmp_path, **variables) == plain


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
