"""Counterparts of published numbers: by the names of study and arm, at every scale."""

from pathlib import Path

import pytest

from emmeter.settings.configuration import load, read
from emmeter.settings.published import counterparts, numbers
from emmeter.settings.studies import Settings

ROOT = Path(__file__).parents[2]
STUDIES = ["conditioning", "data_dimension", "random_labels", "skip_location", "skip_number"]


def settings(overlay: str = "", **changes: object) -> Settings:
    return read(load([ROOT / overlay] if overlay else [], ROOT) | changes)


@pytest.fixture(scope="module")
def paper():
    return counterparts(settings("config/paper.yaml"), ROOT)


def test_at_the_papers_scale_every_number_of_a_study_with_several_arms_has_its_arm(paper):
    assert sorted(paper) == STUDIES
    for study in STUDIES:
        theirs = {(n.n, n.percent) for n in numbers() if n.study == study and n.setting is not None}
        assert theirs <= {(n.n, n.percent) for arm in paper[study].values() for n in arm}


def test_numbers_stay_in_their_study_but_for_the_first_arm(paper):
    """Figure 4b is about the same network as some arms of Figure 4a, and figures share their baseline."""
    assert list(paper["skip_number"]) == ["all", "keep-1-2-3", "keep-4-5-6", "keep-7-8-9"]
    assert [number.n for number in paper["random_labels"]["random-10"]] == [1000, 2000, 5000]
    for study in STUDIES:
        first, *others = paper[study].values()
        assert [number.n for number in first] == [500, 1000, 2000, 3000, 4000, 5000]
        assert {number.study for arm in others for number in arm} == {study}
    # Of one size its own study's number counts: 17.1 % in Figure 2a, 17.2 % elsewhere.
    assert [paper[study][arm][4].percent for study, arm in (("data_dimension", "full"), ("skip_number", "all"))] == [
        17.1, 17.2,
    ]  # fmt: skip


def test_another_scale_has_the_same_numbers_for_the_arms_that_it_has(paper):
    laptop = counterparts(settings("config/laptop.yaml"), ROOT)
    assert sorted(laptop) == STUDIES
    for study, arms in laptop.items():
        assert arms.items() <= paper[study].items()
    assert paper["random_labels"].keys() - laptop["random_labels"].keys() == {"random-500", "random-1000"}


def test_renamed_and_missing_arms_have_none():
    arms = {"plain": {"data.labels": "none"}, "true-labels": {"data.labels": "true"}, "random-labels": {}}
    config = load([], ROOT)
    config["studies"]["conditioning"] = {"title": "Mine", "factor": "data.labels", "arms": arms}
    paper = counterparts(read(config), ROOT)
    assert list(paper["conditioning"]) == ["true-labels", "random-labels"]
    arms.pop("true-labels")
    assert counterparts(read(config), ROOT) == {}


def test_the_first_arm_is_that_of_our_order():
    config = load([], ROOT)
    config["studies"]["conditioning"]["without"] = ["unconditional"]
    config["studies"]["conditioning"]["findings"] = {}
    arms = counterparts(read(config), ROOT)["conditioning"]
    assert list(arms) == ["true-labels", "random-labels"]
    assert [number.n for number in arms["true-labels"]] == [1000, 2000, 3000, 4000, 5000]


def test_only_selected_studies_are_compared():
    assert list(counterparts(settings(run=["conditioning", "width"]), ROOT)) == ["conditioning"]
    assert counterparts(settings(run=["width"]), ROOT) == {}


def test_numbers_of_single_epochs_are_left_out():
    assert "unique_labels_full" not in counterparts(settings("config/paper.yaml"), ROOT)
    assert any(number.epoch for number in numbers() if number.study == "unique_labels_full")
