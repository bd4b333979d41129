"""The glyphs of DejaVu Sans: what is drawn, how, in which classes; and what happens without the font."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from digits import faults
from emmeter.data import datasets, glyphs, named, subset
from emmeter.data.images import Images, digest, downscale
from emmeter.errors import DataError
from emmeter.settings.sections import Data
from emmeter.settings.validation import read_setup
from one_run import CONTENT, Pipeline

EM = 2048 * 128  # side of an image in the parts of a unit in which outlines are given
PIXEL = EM // 64
FONT = glyphs.font()


@pytest.fixture(scope="module")
def everything() -> Images:
    return datasets.load(Data(source="glyphs"))


@pytest.fixture(scope="module")
def font() -> glyphs.Outlines:
    return glyphs.read_outlines(FONT)


@pytest.fixture(scope="module")
def drawn(font) -> dict[str, np.ndarray]:
    """An image of every character of the font that has ink, uint8 (64, 64)."""
    return dict(zip(map(chr, font.codes.tolist()), glyphs.draw(glyphs.placed(font)), strict=True))


def find(images: Images, image: np.ndarray) -> list[int]:
    return np.flatnonzero((images.images[:, 0] == image).all(axis=(1, 2))).tolist()


def outline(*contours: list[tuple[float, float]]) -> glyphs.Outlines:
    """A single glyph of contours with straight lines; coordinates in pixels."""
    corners = [np.rint(np.array(contour) * PIXEL).astype(np.int64) for contour in contours]
    start = np.concatenate(corners)
    end = np.concatenate([np.roll(points, -1, axis=0) for points in corners])
    return glyphs.Outlines(np.array([65]), np.zeros(len(start), np.int64), start, end)


def square(left: float, bottom: float, side: float) -> list[tuple[float, float]]:
    return [(left, bottom), (left + side, bottom), (left + side, bottom + side), (left, bottom + side)]


# -- the set


def test_facts_are_what_is_loaded(everything):
    facts = datasets.describe(Data(source="glyphs"))
    assert everything.images.shape == (facts.images, *facts.shape) == (5315, 1, 64, 64)
    assert tuple(np.bincount(everything.labels)) == facts.class_counts == glyphs.COUNTS
    assert len(glyphs.CLASSES) == len(glyphs.COUNTS) == 10 and min(glyphs.COUNTS) >= 120
    assert np.array_equal(everything.indices, np.arange(5315))
    assert everything.images.dtype == np.uint8 and everything.labels.dtype == np.int64


def test_a_second_reading_is_equal(everything):
    again = datasets.load(Data(source="glyphs"))
    assert digest(again) == digest(everything)


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_all_images_differ_and_can_be_seen_at_every_size(side):
    images = datasets.load(Data(source="glyphs", resolution=side)).images
    assert images.shape == (5315, 1, side, side)
    assert len(np.unique(images.reshape(5315, -1), axis=0)) == 5315
    assert images.max(axis=(1, 2, 3)).min() >= 30
    assert (images.max(axis=(1, 2, 3)) >= 128).mean() > 0.9


def test_the_first_of_equal_glyphs_is_kept(everything, drawn):
    assert np.array_equal(drawn["A"], drawn["\N{GREEK CAPITAL LETTER ALPHA}"])
    assert np.array_equal(drawn["A"], drawn["\N{CYRILLIC CAPITAL LETTER A}"])
    positions = find(everything, drawn["A"])
    assert len(positions) == 1 and glyphs.CLASSES[everything.labels[positions[0]]] == "LATIN"


def test_images_are_in_the_order_of_code_points(everything, drawn):
    assert min(drawn) == "!"  # a space has no ink
    positions = [find(everything, drawn[character]) for character in "!09AZaz\u00c6\u0416\u05d0\u2803"]
    assert positions == sorted(positions) and all(len(position) == 1 for position in positions)
    assert np.array_equal(everything.images[:3, 0], [drawn[character] for character in '!"#'])


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("A", "LATIN"), ("\u00df", "LATIN"), ("\u03a9", "GREEK"), ("\u0416", "CYRILLIC"), ("\u0634", "ARABIC"),
        ("\u1401", "CANADIAN"), ("\u2803", "BRAILLE"), ("\u02b0", "MODIFIER"), ("\u253c", "BOX"),
        ("\u10d0", "GEORGIAN"), ("!", "other"), ("\u05d0", "other"), ("\u2665", "other"), ("\ue000", "other"),
    ],
)  # fmt: skip
def test_scripts_are_classes(character, name):
    assert glyphs.CLASSES[glyphs.scripts(np.array([ord(character)]))[0]] == name


def test_every_image_has_the_class_of_its_character(everything, drawn):
    positions = {image.tobytes(): i for i, image in enumerate(everything.images[:, 0])}
    labels: dict[int, int] = {}  # of the first character with each image
    for character in sorted(drawn):
        if (position := positions.get(drawn[character].tobytes())) is not None:
            word = unicodedata.name(character, "").split(" ")[0]
            number = glyphs.CLASSES.index(word) if word in glyphs.CLASSES else 9
            labels.setdefault(position, number)
    assert [labels[i] for i in range(len(positions))] == everything.labels.tolist()


def test_all_characters_with_ink_are_drawn_once(everything, drawn):
    assert len(drawn) == 5845
    kept = {image.tobytes() for image in everything.images[:, 0]}
    left_out = {image.tobytes() for image in drawn.values()} - kept
    assert len(left_out) == 2  # equal to others at 8x8 pixels only


# -- drawing


@pytest.mark.parametrize(
    ("shape", "covered"),
    [
        (outline(square(10, 20, 4)), 16),
        (outline(square(10.5, 20.25, 4)), 16),
        (outline(square(10, 20, 4)[::-1]), 16),
        (outline(square(10, 20, 4), square(11, 21, 2)[::-1]), 12),  # a hole
        (outline(square(10, 20, 4), square(12, 20, 4)), 24),  # an overlap counts once
        (outline([(0, 0), (64, 0), (64, 64)]), 2048),
        (outline(square(0, 0, 64)), 4096),
    ],
    ids=["square", "between pixels", "reversed", "hole", "overlap", "triangle", "all"],
)
def test_pixels_are_covered_shares(shape, covered):
    image = glyphs.draw(shape)[0]
    assert image.sum() / 255 == pytest.approx(covered, rel=2e-3)


def test_shares_of_pixels():
    image = glyphs.draw(outline(square(10.5, 20.25, 4)))[0]
    assert image[64 - 21, 10:15].tolist() == [96, 191, 191, 191, 96]  # three quarters of a row, halves at its ends
    assert image[64 - 22, 10:15].tolist() == [128, 255, 255, 255, 128]
    assert image[64 - 25, 10:15].tolist() == [32, 64, 64, 64, 32]
    assert np.count_nonzero(image) == 25


def test_curves_are_parabolas():
    """Four control points make a closed curve from middle to middle of the sides of their square, 16 x 16.

    Each of its parabolas cuts off a third of the triangle at its corner, 8 x 8 / 2.  Eight straight lines in place of
    the parabola cut off 1/64 more of the other two thirds.
    """
    points = np.array(square(10, 20, 16), dtype=np.int64) * (2048 // 64)
    lines = glyphs._lines(points, np.zeros(4, bool), np.array([3]))
    start, end = (np.concatenate([piece[i] for piece in lines]) for i in (1, 2))
    glyph = np.zeros(len(start), np.int64)
    image = glyphs.draw(glyphs.Outlines(np.array([65]), glyph, start, end))[0]
    assert image.sum() / 255 == pytest.approx(16**2 - 4 * 32 * (1 / 3 + 2 / 3 / 64), rel=1e-3)


@pytest.mark.parametrize("character", "!Ag&@\u00e5\u0414\u05d0\u1401\u2665\u263a\ufb03")
def test_freetype_draws_the_same(font, character):
    """Up to the rounding of FreeType, to 1/64 of a pixel, and ours, to 1/8 of a row."""
    from matplotlib.ft2font import FT2Font, LoadFlags

    position = int(np.flatnonzero(font.codes == ord(character))[0])
    lines = font.glyph == position
    one = glyphs.Outlines(font.codes[[position]], font.glyph[lines] * 0, font.start[lines], font.end[lines])
    corner = np.minimum(one.start, one.end).min(0) // PIXEL * PIXEL  # whole pixels: FreeType keeps the rest
    ours = glyphs.draw(replace(one, start=one.start - corner, end=one.end - corner))[0]
    face = FT2Font(str(FONT))
    face.set_size(64, 72)
    face.set_text(character, 0, flags=LoadFlags.NO_HINTING)
    face.draw_glyphs_to_bitmap(antialiased=True)
    theirs = np.asarray(face.get_image())
    theirs = theirs[(theirs > 24).any(axis=1)][:, (theirs > 24).any(axis=0)].astype(int)
    ours = ours[(ours > 24).any(axis=1)][:, (ours > 24).any(axis=0)].astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 32 and np.abs(ours - theirs).mean() < 3


def ends(image: np.ndarray) -> tuple[int, int, int, int]:
    """First and last row, first and last column with ink."""
    rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


def test_letters_stand_on_one_baseline_in_the_middle(drawn):
    for character in "AHxz1":
        _, bottom, left, right = ends(drawn[character])
        assert bottom == 48  # the baseline is 483 units, 15.1 pixels, above the lower edge
        assert abs(left - (63 - right)) <= 1
    assert ends(drawn["g"])[1] > 48
    assert ends(drawn["x"])[0] > ends(drawn["X"])[0]


def test_large_glyphs_fit(drawn):
    arrow = ends(drawn["\N{LONG LEFTWARDS ARROW}"])
    assert arrow[2:] == (0, 63)  # wider than an em: reduced
    assert ends(drawn["\N{LATIN CAPITAL LETTER A WITH CIRCUMFLEX}"])[:2] == (0, 59)  # too high: moved down


def test_outlines_stay_within_the_image(font):
    inside = glyphs.placed(font)
    both = np.concatenate([inside.start, inside.end])
    assert both.min() >= 0 and both.max() <= EM


# -- as a source like the others


def setup(**data: object):
    return read_setup({"data": {"source": "glyphs"} | data, "search": {"n_min": 20, "n_max": 1200, "start": 160}})


def test_balanced_subsets_hold_every_class_alike():
    drawn = subset.draw(setup(resolution=8, labels="true", held_out=20), 40, 1)
    assert drawn.images.shape == (40, 1, 8, 8) and drawn.label_count == 10
    assert drawn.labels.tolist() == list(range(10)) * 4
    assert np.array_equal(drawn.groups, np.arange(40))
    assert len(drawn.held_out) == 20


def test_largest_subsets():
    assert faults(setup()) == []
    small = setup().model_copy(update={"search": setup().search.model_copy(update={"n_max": 1201})})
    assert "must be at most 1200, the largest subset of glyphs (10 classes x 120 images" in faults(small)[0]
    assert datasets.describe(Data(source="glyphs", classes=[0])).images == 938


def test_classes_and_mixture_with_digits():
    mixed = setup(resolution=8, classes=[0], mixture="digits", mixture_share=0.25, balanced=False)
    drawn = subset.draw(mixed, 100, 0)
    assert np.count_nonzero(drawn.indices >= 5315) == 25  # digits are counted from the end of all glyphs on
    assert drawn.images.shape == (100, 1, 8, 8)


def test_a_run_on_glyphs_goes_to_its_end(tmp_path, everything):
    data = {"data": {"source": "glyphs", "resolution": 8, "labels": "true", "held_out": 8}}
    run = Pipeline(tmp_path / "results", CONTENT | data).complete()
    images = subset.load(run.file("subset")).images
    small = downscale(everything.images, 8)
    indices = subset.load(run.file("subset")).indices
    assert np.array_equal(images, small[indices])
    assert json.loads(run.record("score").read_text())["n"] == 20
    record = json.loads(run.record("subset").read_text())
    assert record["data_sha256"] == digest(replace(everything, images=small))


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        ({"resolution": 65}, "data.resolution = 65: must be at most 64"),
        ({"classes": [10]}, "data.classes = [10]: must be among 0 to 9"),
        (
            {"mixture": "digits", "mixture_share": 0.5},
            "data.mixture = 'digits': its images have shape (1, 8, 8), those of glyphs (1, 64, 64); set data.",
        ),
    ],
)
def test_impossible_selection(data, rule):
    assert faults(setup(**data))[0].startswith(rule)


def test_unknown_spelling_is_answered_with_the_name():
    with pytest.raises(ValueError, match="did you mean 'glyphs'"):
        Data(source="glyph")


# -- the font


def test_without_matplotlib(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert named.absent(Data(source="glyphs")) == "glyphs: not found; install matplotlib, which ships their font"
    with pytest.raises(DataError, match="install matplotlib"):
        datasets.load(Data(source="glyphs"))


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """Where an installation of matplotlib, with no font yet, has its font."""
    path = tmp_path / "matplotlib" / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    path.parent.mkdir(parents=True)
    spec = type("Spec", (), {"origin": str(tmp_path / "matplotlib" / "__init__.py")})
    monkeypatch.setattr(glyphs.importlib.util, "find_spec", lambda _: spec)
    return path


def message() -> str:
    with pytest.raises(DataError) as failure:
        datasets.load(Data(source="glyphs"))
    return str(failure.value)


def test_without_the_font(installed):
    assert message() == f"{installed}: not found; install matplotlib again"
    assert named.absent(Data(source="glyphs")) == message()
    second = Data(source="digits", mixture="glyphs", mixture_share=0.5)
    assert named.absent(second) == message()
    assert named.absent(Data(source="digits")) is None


@pytest.mark.parametrize("damage", ["empty", "text", "half"])
def test_damaged_font(installed, damage):
    whole = FONT.read_bytes()
    installed.write_bytes({"empty": b"", "text": b"not a font" * 100, "half": whole[: len(whole) // 2]}[damage])
    line = message()
    assert line.startswith(f"{installed}: damaged (") and line.endswith("); install matplotlib again")
    assert "\n" not in line


def test_another_font_is_refused(installed):
    installed.write_bytes(FONT.with_name("DejaVuSans-Bold.ttf").read_bytes())
    assert message().startswith(f"{installed}: holds other glyphs than DejaVu Sans 2.37; install the version of matpl")
