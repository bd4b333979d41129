"""The studies that targets ask for, what they wait for, and what the user must know of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from emmeter.errors import SettingsError
from emmeter.files.writing import write_json
from emmeter.measure.scatter import Prior
from emmeter.pipeline.description import arms_served
from emmeter.pipeline.index import Index, index_of
from emmeter.pipeline.requests import Looks, asked_studies, prior_json, ready, waiting
from emmeter.settings.configuration import read
from emmeter.settings.keys import key
from project import write_images

CONTENT = {
    "data": {"source": "digits", "held_out": 0},
    "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": []},
    "search": {"n_min": 10, "n_max": 40, "start": 10, "steps_per_octave": 1, "spread": 2},
    "studies": {
        "first": {"arms": {"base": {}}},
        "second": {"arms": {"long": {"training.duration": "80000 epochs"}}},
        "third": {"arms": {"wide": {"network.channels": 16}}},
    },
    "run": ["third", "first"],
}


@pytest.fixture(params=["results", "sub/results"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    return index_of(read(CONTENT), tmp_path / request.param)


@pytest.mark.parametrize(
    ("targets", "studies"),
    [
        (["all"], ["third", "first"]),
        (["second", "findings"], ["third", "first"]),
        (["second"], ["second"]),
        (["plan"], []),
        (["{results}/experiment/second/emm.csv"], ["second"]),
        (["{results}/experiment/third/curves.svg", "second"], ["second", "third"]),
        (["{results}/experiment/emm.csv"], ["first", "third"]),
        (["{results}/experiment/report.html"], ["first", "third"]),
        (["{results}/scores/0123456789/n10/r0/score.json"], []),
        (["results/studies", "elsewhere/studies/second/emm.csv", "secondary"], []),
    ],
)
def test_targets_ask_for_studies(index, targets, studies):
    assert asked_studies(index, [target.format(results=index.results) for target in targets]) == studies


def finish(index: Index, study: str) -> None:
    """Score all runs of a study as if the smallest size were hardly copied."""
    while paths := index.pending([study]):
        for path in set(paths):
            write_json(path, {"snapshots": [{"memorized": 10, "images": 250}]})


def test_a_study_is_ready_while_it_waits_for_others_alone(index):
    assert ready(index, ["first", "second"]) == []
    finish(index, "first")
    assert ready(index, ["first", "second"]) == ["first"]
    assert ready(index, ["first"]) == []  # its tables wait for nothing
    index.impossible["first"] = []
    assert ready(index, ["first", "second"]) == []
    assert "`snakemake emm_first`" in waiting(["emm_first"])


def test_the_prior_is_null_while_searches_are_under_way_and_without_one(index, monkeypatch):
    assert prior_json(index, ["first"]) == "null"
    finish(index, "first")
    monkeypatch.setattr(Index, "prior", lambda _: None)
    assert prior_json(index, ["first"]) == "null"
    names = list(Prior.__dataclass_fields__)
    prior = Prior(*(1.23456789 for _ in names))
    monkeypatch.setattr(Index, "prior", lambda _: prior)
    assert json.loads(prior_json(index, ["first"])) == dict.fromkeys(names, 1.23457)
    assert prior_json(index, ["second"]) == "null"


def test_of_many_arms_the_first_are_named():
    arms = {f"a{i}": {} for i in range(13)}
    index = index_of(read(CONTENT | {"studies": {"s": {"arms": arms}}, "run": "s"}), Path("results"))
    score = key("score", index.study("s").arms[0].setup)
    assert arms_served(index, "score", score, ["s"], most=2) == "s/a0, s/a1 and 11 more"
    assert arms_served(index, "score", score, ["s"], most=13) == ", ".join(f"s/a{i}" for i in range(13))


def test_arms_of_the_requested_studies_alone_are_named():
    studies = {name: {"arms": {"a": {}}} for name in ("first", "second", "third")}
    index = index_of(read(CONTENT | {"studies": studies, "run": "all"}), Path("results"))
    train = key("train", index.study("first").arms[0].setup)
    assert arms_served(index, "train", train, ["second"]) == "second/a"
    assert arms_served(index, "train", train, ["second", "third"]) == "second/a, third/a"
    assert arms_served(index, "train", train, []) == "first/a"  # somebody asked for a file of a run


@pytest.fixture
def own(tmp_path, monkeypatch) -> Index:
    """Two selected studies on own images, and one that is not selected."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "own.npz")
    write_images(tmp_path / "more.npz", first=100)
    np.savez(tmp_path / "same.npz", images=np.zeros((50, 8, 8), np.uint8))
    studies = {name: {"arms": {"a": {"data.source": f"npz:{name}.npz"}}} for name in ("own", "more", "same")}
    return index_of(read(CONTENT | {"studies": studies, "run": ["own", "more"]}), Path("results"), asked=())


def test_each_line_about_images_is_shown_once(own):
    looks = Looks(own)
    first = looks.at("own")
    assert [line for line in first if line.startswith("data: npz:own.npz: 100 images")]
    assert looks.at("own") == []
    assert [line.partition(": 100")[0] for line in looks.at("more")] == ["data: npz:more.npz"]
    assert looks.studies == {"own", "more"}


def test_a_study_that_cannot_run_is_refused(own):
    looks = Looks(own)
    with pytest.raises(SettingsError, match="its 50 images"):
        looks.at("same")
    assert looks.studies == set()
