"""The page as a browser shows it: at several widths, in light and dark, printed, without scripts or network."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, program
from tests.presentation.pages import ODD, made_up_page, reference_page

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(program() is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]
WIDTHS = (1280, 820, 700, 360, 320)

# Elements that reach beyond the right edge of the window, apart from those that scroll on their own.
BEYOND = """[...document.querySelectorAll("main *, nav *")].filter(
    part => part.getBoundingClientRect().right > innerWidth + 1 && !part.closest("svg, .scroll, .sr")
).map(part => part.tagName + "." + part.className)"""

# Contrasts of all visible text below 4.5, by text.
FAINT = """(() => {
    const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const linear = part => (part /= 255) <= .04045 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
    const paper = element => {
        for (; element; element = element.parentElement) {
            const colour = rgba(getComputedStyle(element).backgroundColor);
            if (colour[3] > 250) return colour;
        }
        return [255, 255, 255, 255];
    };
    const faint = {}, walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    let texts = 0;
    while (walker.nextNode()) {
        const text = walker.currentNode, element = text.parentElement;
        if (!text.data.trim() || ["SCRIPT", "STYLE"].includes(element.tagName) || element.closest(".sr")) continue;
        if (!element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const colour = element.namespaceURI.includes("svg") ? style.fill : style.color;
        const [high, low] = [luminance(rgba(colour)), luminance(paper(element))].sort((a, b) => b - a);
        const contrast = (high + .05) / (low + .05);
        texts += 1;
        if (contrast < 4.5) faint[text.data.trim().slice(0, 30)] = contrast;
    }
    return {texts, faint};
})()"""
OPEN = "document.querySelectorAll('details').forEach(part => part.open = true)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as started:
        yield started


@pytest.fixture(scope="module", params=["made-up", pytest.param("laptop", marks=pytest.mark.exhaustive)])
def page(request, tmp_path_factory) -> Path:
    """A page of one study with every kind of answer and odd names, and one of all 27 studies."""
    folder = tmp_path_factory.mktemp("page")
    if request.param == "made-up":
        return made_up_page(folder, ODD)
    return reference_page(folder, request.param, folder / "results")


def problems(browser: Browser) -> list[str]:
    """Errors, messages of the console, and requests for anything but the page itself, since the page was opened."""
    noisy = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    found = [json.dumps(event) for event in browser.events if event.get("method") in noisy]
    requests = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    return found + [url for url in requests if not url.startswith(("data:", "file:"))]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_every_width_and_is_legible(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    browser.evaluate(OPEN)
    assert browser.evaluate("innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(BEYOND) == []
    seen = browser.evaluate(FAINT)
    assert seen["texts"] > 200 and seen["faint"] == {}
    assert problems(browser) == []


@pytest.mark.parametrize("width", [1280, 360])
def test_letters_of_figures_are_large_enough(browser, page, width):
    browser.open(page, width)
    browser.evaluate(OPEN)
    heights = browser.evaluate(
        "[...document.querySelectorAll('svg.figure text')].filter(text => text.getClientRects().length)"
        ".map(text => text.getBoundingClientRect().height).filter(height => height > 0)"
    )
    assert len(heights) > 10
    assert min(heights) >= 8.5


def test_one_form_of_each_figure_is_shown(browser, page):
    shown = "[...document.querySelectorAll('.{}')].map(part => part.getClientRects().length > 0)"
    for width, form, other in ((1280, "wide", "narrow"), (360, "narrow", "wide")):
        browser.open(page, width)
        browser.evaluate(OPEN)
        assert all(browser.evaluate(shown.format(form))) and not any(browser.evaluate(shown.format(other)))


def test_a_link_to_a_closed_study_opens_it_without_a_script(browser, page):
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        names = re.findall(r'id="(study-\w+)"', page.read_text(encoding="utf-8"))
        browser.call("Page.navigate", url="about:blank")
        browser.open(page, 1280, anchor=f"#{names[-1]}")
        top = browser.evaluate(f"document.getElementById('{names[-1]}').getBoundingClientRect()")
        height = browser.evaluate(f"document.getElementById('{names[-1]}').getBoundingClientRect().height")
        assert top is not None and height > 300
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_every_study_prints(browser, page, tmp_path):
    browser.open(page, 1280)
    browser.pdf(tmp_path / "page.pdf")
    studies = len(re.findall(r'id="study-\w+"', page.read_text(encoding="utf-8")))
    pages = len(re.findall(rb"/Type\s*/Page\b", (tmp_path / "page.pdf").read_bytes()))
    assert pages >= max(3, studies)


def test_all_studies_stay_below_five_megabytes(page):
    assert page.stat().st_size < 5e6
