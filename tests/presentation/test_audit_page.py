"""The page of an audit: what it says, what it escapes, what it leaves out, and how a browser shows it."""

import re

import numpy as np
import pytest

from emmeter.data.audited import Input, Options, parse_criterion
from emmeter.presentation.audit_page import ORIGINALS, PAIRS, page
from emmeter.stages.audit import audit
from tests.browser import Browser, program
from tests.presentation.test_page_in_browser import BEYOND, FAINT, problems

ODD = '<b>a & $b$ "c"'


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    """An audit of images with odd names, of which the first 40 are copies."""
    folder = tmp_path_factory.mktemp("sets")
    random = np.random.default_rng(0)
    train = random.integers(0, 256, (60, 3, 150, 110), np.uint8)
    made = np.concatenate([train[np.arange(40) // 4], random.integers(0, 256, (30, 3, 150, 110), np.uint8)])
    for name, images in {"train": train, f"{ODD}": made}.items():
        np.save(folder / f"{name}.npy", images)
    (folder / "m.csv").write_text("path,group\n0," + '"""<i>"\n' + "".join(f"{i},p\n" for i in range(1, 5)))
    options = Options(
        criteria=tuple(map(parse_criterion, ("ratio", "calibrated"))), manifest=folder / "m.csv", limit=0.05
    )
    return audit(Input(folder / f"{ODD}.npy"), Input(folder / "train.npy"), None, options)


def test_the_page_names_answer_pairs_inputs_and_command(audited):
    text = page(audited, redact=False)
    assert "FAILED: copies are above the limit of 5 %." in text
    assert text.count('class="tile copy"') == 20  # each of ten training images twice
    assert len(re.findall('class="tile[ "]', text)) == PAIRS + min(ORIGINALS, 10)
    assert audited.train.sha256 in text and "--criterion ratio=1/3 calibrated=0.5" in text
    assert "is not a privacy test" in text
    assert text == page(audited, redact=False)


def test_the_names_of_suspicious_and_copied_images_are_legible(audited):
    text = page(audited, redact=False)
    names = re.findall(r"<small>([^<]*)</small></div>", text)
    assert len(names) == PAIRS + min(ORIGINALS, 10)
    assert names[0] == "0 / 0" and set(names[PAIRS:]) == {str(number) for number in range(10)}
    assert "most often image 0 (4 times)" in text


def test_names_are_escaped(audited):
    text = page(audited, redact=False)
    assert "<b>a & " not in text and "&lt;b&gt;a &amp; $b$" in text


def test_a_redacted_page_has_neither_names_nor_pictures(audited):
    text = page(audited, redact=True)
    assert "data:image" not in text and ".npy" not in text and "m.csv" not in text and "$b$" not in text
    assert "uv run emm audit GENERATED --train TRAIN" in text


def test_large_pictures_are_made_small(audited):
    assert len(page(audited, redact=False)) < 3e6


@pytest.mark.slow
@pytest.mark.skipif(program() is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.xdist_group("browser")
def test_the_page_fits_every_width_and_is_legible(audited, tmp_path):
    path = tmp_path / "audit.html"
    path.write_text(page(audited, redact=False), encoding="utf-8")
    with Browser() as browser:
        for width in (1280, 820, 360, 320):
            for dark in (False, True):
                browser.open(path, width, dark=dark)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
                assert browser.evaluate(BEYOND) == []
                seen = browser.evaluate(FAINT)
                assert seen["texts"] > 60 and seen["faint"] == {}
                assert problems(browser) == []
        browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
