"""The page of an experiment: complete, self-contained, escaped, legible; what it says follows from the tables."""

import base64
import csv
import io
import itertools
import math
import re
from html.parser import HTMLParser
from importlib.resources import files
from urllib.parse import unquote_to_bytes

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from emmeter.files.tables import ARM_COLUMNS, COPIED_COLUMNS, EMM_COLUMNS, FINDING_COLUMNS, QUALITY_COLUMNS, frame
from emmeter.files.writing import write_csv
from emmeter.presentation import page as package
from emmeter.presentation import style
from emmeter.presentation.page import claims, gallery, studies
from emmeter.presentation.page.intervals import FARTHEST, axis
from emmeter.presentation.page.words import fraction, listed
from emmeter.stages.report import report
from tests import made_up
from tests.presentation.pages import ODD, made_up_page, noise, outline, reference_page

VOID = {"br", "hr", "img", "link", "meta"}


class Reader(HTMLParser):
    """Elements of a page with their attributes, its text, and what is wrong with its structure."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.faults: list[str] = []
        self.texts: list[str] = []
        self.stack: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.stack]

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in VOID and not self.get_starttag_text().endswith("/>"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"<{tag}> repeats an attribute")
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.stack or self.stack[-1] != tag:
            self.faults.append(f"</{tag}> at {self.getpos()} closes {self.stack[-1:]}")
        else:
            self.stack.pop()

    def handle_data(self, data):
        if self.stack[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def attributes(self, name: str) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get(name)) is not None]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_up_page(tmp_path_factory.mktemp("made")).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return reference_page(folder, "photographs", folder / "results").read_text(encoding="utf-8")


@pytest.fixture(params=["made", "photographs"])
def text(request):
    return request.getfixturevalue(request.param)


# ---- the page as a document


def test_tags_are_balanced(text):
    assert Reader(text).faults == []


def test_ids_are_unique_and_every_reference_has_one(text):
    reader = Reader(text)
    ids = reader.attributes("id")
    assert len(ids) == len(set(ids))
    local = [link[1:] for name in ("href", "xlink:href") for link in reader.attributes(name) if link.startswith("#")]
    named = [word for value in reader.attributes("aria-labelledby") for word in value.split()]
    assert local and set(local + named) <= set(ids)


def test_nothing_is_loaded(text):
    reader = Reader(text)
    sources = [link for name in ("src", "srcset", "data", "poster") for link in reader.attributes(name)]
    assert all(link.startswith("data:") for link in sources)
    assert not [tag for tag, _ in reader.elements if tag in ("link", "iframe", "object", "embed")]
    assert not re.search(r"@import|url\(", re.search(r"<style>.*?</style>", text, re.DOTALL)[0])


def test_images_and_drawings_have_names(text):
    for tag, attributes in Reader(text).elements:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and attributes.get("aria-hidden") != "true":
            assert attributes["role"] == "img" and attributes["aria-labelledby"]


def test_headings_skip_no_level(text):
    levels = [int(tag[1]) for tag, _ in Reader(text).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_downloads_are_the_tables(tmp_path):
    page = made_up_page(tmp_path)
    saved = [a for tag, a in Reader(page.read_text()).elements if tag == "a" and "download" in a]
    links = {a["download"]: a["href"] for a in saved}
    assert len(links) == len(saved)  # the page holds no file twice
    assert {"made_up-emm.csv", "made_up-curves.csv", "made_up-findings.csv"} <= set(links)
    for name, link in links.items():
        content = unquote_to_bytes(link.partition(",")[2])
        assert content == (page.parent / name.replace("-", "/", 1)).read_bytes()


def test_the_same_results_make_the_same_page(tmp_path):
    first, second = (made_up_page(tmp_path / name).read_bytes() for name in ("a", "b"))
    assert first == second


def test_no_path_of_the_machine_is_on_the_page(tmp_path):
    assert str(tmp_path) not in made_up_page(tmp_path).read_text()


# ---- names


def test_names_that_look_like_markup_are_text(tmp_path):
    text = made_up_page(tmp_path, ODD).read_text(encoding="utf-8")
    reader = Reader(text)
    assert reader.faults == []
    assert "<b>a &" not in text and "<b>a & $b$" in reader.text and 'x0.25 "c"' in reader.text


def test_arms_of_claims_may_have_blanks_and_stand_for_a_mean():
    names = ["a", "a b", "c", "c+d"]
    assert claims.sides({"arms": "a b c"}, names) == [["a b"], ["c"]]
    assert claims.sides({"arms": "a+c a b"}, names) == [["a", "c"], ["a b"]]


# ---- what it says


def test_the_head_names_every_claim_with_its_verdict_or_counts_them(made, photographs):
    text = Reader(made).text
    assert "Of 9 claims, 3 are reproduced, 4 differ at this scale and 2 are not resolved." in text
    assert text.count("Differs at this scale: It is") == 4
    assert "2 claims are not resolved." in text
    assert "EMM is not a safe size." in text and "EMM is not a safe size." in photographs


def test_every_kind_of_answer_is_shown(made):
    text = Reader(made).text.replace("\u00a0", " ")
    assert "≥ 640" in text and "< 10" in text
    with_notes = [row for row in csv.DictReader(io.StringIO(_table(made, "made_up-emm.csv"))) if row["note"]]
    assert with_notes and all(row["note"] in text for row in with_notes)


def _table(text: str, name: str) -> str:
    link = next(a["href"] for tag, a in Reader(text).elements if tag == "a" and a.get("download") == name)
    return unquote_to_bytes(link.partition(",")[2]).decode()


def test_every_open_claim_says_what_would_decide_it(made):
    rows = re.findall(r'<tr role="row" id="claim-\S+" class="open">(.*?)</tr>', made, re.DOTALL)
    assert len(rows) == 2
    assert all(re.search(r"<b>To decide:</b> \S", row) for row in rows)


def test_a_page_without_claims_has_no_part_for_them(tmp_path):
    tables = tmp_path / "made_up"
    tables.mkdir()
    made_up.write(tables)
    (tables / "findings.csv").write_text(",".join(FINDING_COLUMNS) + "\n")
    report([outline(made_up.description())], tmp_path, tmp_path / "report.html")
    reader = Reader((tmp_path / "report.html").read_text())
    assert "claims" not in reader.attributes("id") and "#claims" not in reader.attributes("href")


def test_published_numbers_stand_beside_ours_where_there_are_any(photographs, made):
    title = "Beside the published numbers"
    assert Reader(photographs).texts.count(title) >= 1 and title not in made
    ids = [identity for identity in Reader(photographs).attributes("id") if "-shape-" in identity]
    assert ids and all(identity.startswith("conditioning-") for identity in ids)  # training_size has no such numbers
    assert "same order in 2 of 2 pairs" in photographs


def test_missing_records_are_said_to_be_missing(made):
    assert "are not in this folder of results" in Reader(made).text


ROW = dict.fromkeys(FINDING_COLUMNS, "") | dict.fromkeys(
    ("margin", "at", "effect", "effect_low", "effect_high", "further_runs")
)
ARMS = {
    name: dict.fromkeys(EMM_COLUMNS, "") | {"arm": name, "confirm_runs": 4.0, "runs": 6.0, "seconds": 60.0}
    for name in ("new", "old", "third")
}


def finding(**changes):
    return frame([ROW | {"arms": "new old", "expect": "more"} | changes], FINDING_COLUMNS).to_dict("records")[0]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"effect": 1.5, "effect_low": 1.2, "effect_high": 1.9},
            "The EMM of <i>new</i> is 1.50 times that of <i>old</i> (1.20 to 1.90).",
        ),
        ({"effect_low": 2.0}, "The EMM of <i>new</i> is at least 2.00 times that of <i>old</i>."),
        ({}, "The EMMs of <i>new</i> and <i>old</i> are known too poorly for a ratio."),
        (
            {"expect": "increasing", "effect": 1.5, "effect_low": 1.2, "effect_high": 1.9},
            "The EMM of <i>old</i> is 1.50 times that of <i>new</i> (1.20 to 1.90).",
        ),
        (
            {"arms": "new+third old", "effect": 2.0, "effect_low": 1.5, "effect_high": 2.5},
            "The EMM of the mean of <i>new</i> and <i>third</i> is 2.00 times that of <i>old</i> (1.50 to 2.50).",
        ),
        (
            {"at": 1000, "effect": 12.0, "effect_low": 3.0, "effect_high": 12345.0},
            "At N = 1,000, the odds of a copy of <i>new</i> are 12 times those of <i>old</i> (3.00 to &gt; 1000).",
        ),
        (
            {"expect": "proportional", "arms": "new", "effect": 1.1, "effect_low": 1.0, "effect_high": 1.2},
            "The onset of memorization grows as N to the power 1.10 (1.00 to 1.20).",
        ),
        (
            {"expect": "forecast", "arms": "new third old", "effect": 1.1, "effect_low": 1.0, "effect_high": 1.2},
            "The EMM of <i>old</i> is 1.10 times the forecast (1.00 to 1.20).",
        ),
    ],
)
def test_the_evidence_is_told_in_a_sentence(row, sentence):
    assert claims.evidence(finding(**row), ARMS) == Markup(sentence)


def test_further_runs_are_told_with_their_setting_and_their_cost():
    row = finding(verdict="not resolved", effect=1.1, effect_low=0.9, effect_high=1.4, further_runs=3)
    assert claims.decision(row, ARMS) == Markup(
        "3 further runs of each of its 2 arms should decide (80 % chance): <code>search.confirm: 7</code>, about "
        "1 core minute more."
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"expect": "more"}, (1.0, math.inf)),
        ({"expect": "decreasing"}, (0.0, 1.0)),
        ({"expect": "same", "margin": 1.25}, (0.8, 1.25)),
    ],
)
def test_the_shade_is_what_the_claim_predicts(changes, expected):
    assert claims.predicted(finding(**changes)) == expected


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((1.34, 1.08, 1.66), ("1.34", "1.08 to 1.66")),
        ((None, 2.1, None), ("≥\u00a02.10", "")),
        ((None, None, 0.5), ("≤\u00a00.50", "")),
        ((None, 0.5, 3.0), ("0.50 to 3.00", "")),
        ((None, None, None), ("–", "")),
    ],
)
def test_ratios_in_words(ends, words):
    assert studies.ratio_words(*ends) == words


def test_letters_of_notes_never_run_out():
    assert [studies.letter(index) for index in (0, 25, 26, 51, 52)] == ["a", "z", "aa", "az", "ba"]


def test_lists_and_fractions_in_words():
    assert [listed(list("abc")[:count]) for count in (1, 2, 3)] == ["a", "a and b", "a, b and c"]
    assert [fraction(value) for value in (1 / 3, 0.333333, 0.25, 0.4)] == ["1/3", "1/3", "1/4", "0.4"]


# ---- image quality


def measured_study(tmp_path, ended: str, **copies: float):
    """The made-up study with measures of quality of one arm: two snapshots of a run near EMM, and a run far from it."""
    tables = tmp_path / "made_up"
    tables.mkdir()
    made_up.write(tables)
    run = {"study": "made_up", "arm": "large", "value": "8", "replicate": 0, "role": "confirm", "images_seen": 1}
    measures = dict.fromkeys(QUALITY_COLUMNS, 0.5) | {
        "features": "pixels",
        "against": "training",
        "images": 80,
        "note": "",
    }
    runs = [run | {"n": n, "progress": progress} for n, progress in ((90, 0.5), (90, 1.0), (640, 1.0))]
    rows = [measures | each | {"precision": each["progress"] * 0.9, "trained_to_end": ended} for each in runs]
    copies = {"images": 500, "memorized": 9, "train": 90, **copies}
    counts = [each | copies | {"copied": each["progress"] * 40} for each in runs]
    write_csv(tables / "quality.csv", (*ARM_COLUMNS, *QUALITY_COLUMNS), rows)
    empty = dict.fromkeys(COPIED_COLUMNS)
    write_csv(tables / "copied.csv", (*ARM_COLUMNS, *COPIED_COLUMNS), [empty | each for each in counts])
    report([outline(made_up.description())], tmp_path, tmp_path / "report.html")
    return Reader((tmp_path / "report.html").read_text(encoding="utf-8")).text


def test_quality_is_that_of_the_last_snapshot_of_the_run_nearest_to_emm(tmp_path):
    text = measured_study(tmp_path, "True")
    assert "Image quality, compared by pixels" in text
    assert "large 90 0.50 (0.50) 0.90 (0.50) 0.50 (0.50) 0.50 (0.50) 0.50 (0.50) 40 of 90 yes" in text
    assert "Not trained to the end:" not in text


def test_an_arm_that_was_not_trained_to_the_end_is_marked_at_the_head_and_in_its_row(tmp_path):
    text = measured_study(tmp_path, "False")
    assert "Not trained to the end: at least half of the runs of large" in text
    assert "2 of its 2 runs were not trained to the end: EMM is that of unfinished models." in text


def test_copies_of_repeated_images_stand_beside_those_of_the_others_at_each_snapshot(tmp_path):
    counted = {"repeated": 9, "repeated_share": 0.75, "repeated_copies": 2.5, "once_share": 0.1, "once_copies": 0.25}
    text = measured_study(tmp_path, "True", **counted)
    assert "Copies of repeated training images" in text
    for progress in ("0.5", "1"):
        assert f"large 90 {progress} 9 75 % 10 % 2.50 0.25" in text


def test_without_repeated_images_the_page_has_no_table_of_them(tmp_path):
    assert "Copies of repeated" not in measured_study(tmp_path, "True", repeated=0, once_share=0.1, once_copies=0.25)


# ---- drawings


def test_places_on_an_axis_grow_with_the_number():
    scale = axis([10, 20, 80])
    places = [scale.place(number) for number in (1, 10, 20, 40, 80, 1000)]
    assert places == sorted(places) and places[0] == 5 and places[-1] == 95
    assert math.isclose(places[3] - places[2], places[2] - places[1], abs_tol=0.11)  # logarithmic


def test_an_axis_of_ratios_holds_one_and_ends():
    scale = axis([3.0, 1e6], ratios=True)
    assert scale.low < 1 < scale.high < 2 * FARTHEST


@pytest.mark.parametrize(
    ("ends", "arrows", "dots"),
    [((20, 15, 30), [], 1), ((None, 15, None), ["right"], 0), ((None, None, 15), ["left"], 0), ((None,) * 3, [], 0)],
)
def test_open_ends_have_arrows(ends, arrows, dots):
    drawn = axis([10, 80]).draw(*ends)
    assert re.findall(r'href="#(left|right)"', drawn) == arrows
    assert drawn.count('class="dot"') == dots
    assert drawn.count('class="bar"') == (ends != (None,) * 3)


def test_the_picture_of_a_column_holds_the_images_exactly():
    images = [noise(8), noise(8)[::-1], noise(8)[:, ::-1]]
    data = base64.b64decode(gallery.column(images).partition(",")[2])
    picture = np.asarray(Image.open(io.BytesIO(data)))
    for number, image in enumerate(images):
        part = picture[number * 9 : number * 9 + 8]
        assert np.array_equal(part[..., :3].transpose(2, 0, 1), image) and (part[..., 3] == 255).all()
    assert (picture[8, :, 3] == 0).all()


# ---- colours


def schemes() -> dict[str, dict[str, str]]:
    """Colours of the style sheet by scheme and name."""
    sheet = files(package) / "page.css"
    light, dark = re.findall(r":root \{(.*?)\n *\}", sheet.read_text(encoding="utf-8"), re.DOTALL)
    pairs = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    return {"light": pairs[0], "dark": pairs[0] | pairs[1]}


def contrast(first: str, second: str) -> float:
    """Contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(map(luminance, (first, second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_in_every_colour_has_enough_contrast(scheme):
    colours = schemes()[scheme]
    texts = ["ink", "muted", "link", "ok", "no", "open", "care", *(f"s{index}" for index in range(style.TOGETHER))]
    assert {name: contrast(colours[name], colours["paper"]) >= 4.5 for name in texts} == dict.fromkeys(texts, True)
    assert contrast(colours["ink"], colours["soft"]) >= 4.5


def test_the_light_colours_are_those_of_the_figures():
    light = schemes()["light"]
    figures = {"ink": style.INK, "muted": style.MUTED, "rule": style.RULE, "paper": style.PAPER}
    figures |= {f"s{index}": colour for index, colour in enumerate(style.SERIES)}
    assert {name: light[name] for name in figures} == figures
