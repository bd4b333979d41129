"""Figures inside a page: ids of their own, colours as variables, text as text."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from emmeter.files.tables import CURVE_COLUMNS, EMM_COLUMNS, read
from emmeter.presentation import curves_figure, style
from emmeter.presentation.inline import VARIABLES, inline
from emmeter.settings.sections import Figures

STUDY = Path(__file__).parents[2] / "results/reference/laptop/conditioning"


def drawn(prefix: str = "a", width: float = 6.6, name: str = "unconditional", **options: str) -> str:
    emm, curves = read([STUDY / "emm.csv"], EMM_COLUMNS), read([STUDY / "curves.csv"], CURVE_COLUMNS)
    for table in (emm, curves):
        table["arm"] = table["arm"].replace("unconditional", name)
    with style.styled():
        return inline(curves_figure.draw_curves(emm, curves, Figures(width=width)), prefix, "Title", **options)


def test_colours_are_variables_of_the_page_and_no_style_reaches_beyond_the_figure():
    svg = drawn()
    assert not re.search(r"#[0-9a-fA-F]{6}", svg) and "<style" not in svg and "font-family" not in svg
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    assert {"ink", "muted", "rule", "paper", "s0", "s3"} <= used <= set(VARIABLES.values())
    assert len(set(VARIABLES.values())) == len(VARIABLES) == 10


def test_two_figures_share_no_id_and_every_reference_has_its_target():
    both = [drawn("a"), drawn("b")]
    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in both]
    assert not ids[0] & ids[1]
    for svg, own in zip(both, ids, strict=True):
        assert len(re.findall(r'\bid="', svg)) == len(own)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) <= own


def test_a_figure_is_well_formed_and_named_for_readers_who_do_not_see_it():
    root = ElementTree.fromstring(drawn(description="A <description>"))
    names = root.attrib["aria-labelledby"].split()
    found = {element.attrib.get("id"): element.text for element in root.iter()}
    assert [found[name] for name in names] == ["Title", "A <description>"]
    assert root.attrib["role"] == "img"


@pytest.mark.parametrize("name", ["x0.25", "<b>a & $b$", "#1166b1"])
def test_names_of_arms_stay_as_they_are(name):
    root = ElementTree.fromstring(drawn(name=name))
    assert any((element.text or "").startswith(f"{name} ") for element in root.iter())


def test_a_figure_is_small():
    assert len(drawn()) < 30_000
