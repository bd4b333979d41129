"""Paths that rules name: with and without wildcards, with and without the prefix of a module."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from emmeter.pipeline.index import Index, index_of
from emmeter.pipeline.paths import Paths
from emmeter.settings.configuration import read
from emmeter.settings.keys import Stage, key

CONTENT = {
    "data": {"source": "digits", "held_out": 0},
    "network": {"channels": 8, "multipliers": [1, 1], "blocks": 1, "attention": []},
    "training": {"snapshots": [0.5, 1.0]},
    "search": {"n_min": 10, "n_max": 20, "start": 10, "confirm": 0},
    "studies": {
        "denoiser": {"arms": {"network": {}, "optimum": {"diffusion.denoiser": "optimum"}}},
        "onset": {
            "arms": {"network": {}},
            "findings": {"claim": {"claim": "In turn", "expect": "proportional", "arms": ["network"]}},
        },
        "budget": {
            "arms": {f"x{i}": {"training.duration": f"{i}000 images"} for i in (1, 2, 4, 8)},
            "findings": {"claim": {"claim": "As expected", "expect": "forecast", "arms": ["x1", "x2", "x4", "x8"]}},
        },
    },
}


@dataclass(frozen=True)
class Run:
    """Wildcards as Snakemake passes them."""

    key: str
    n: str = "20"
    r: str = "3"


@pytest.fixture(params=["results", "sub/results"])
def index(request: pytest.FixtureRequest) -> Index:
    """The index of a workflow, and of one that is a module with a prefix."""
    return index_of(read(CONTENT), Path(request.param))


@pytest.fixture
def paths(index: Index) -> Paths:
    return Paths(index, Path("results"))


def arm_key(index: Index, stage: Stage, arm: int) -> str:
    return key(stage, index.study("denoiser").arms[arm].setup)


def test_what_is_not_given_remains_a_wildcard(paths):
    assert paths.run("score", "score.json") == "results/scores/{key}/n{n}/r{r}/score.json"
    assert paths.emm_file("emm.json") == "results/emm/{key}/emm.json"


def test_files_of_earlier_stages_have_the_keys_of_these(index, paths):
    run = Run(arm_key(index, "score", 0))
    train, sample = (arm_key(index, stage, 0) for stage in ("train", "sample"))
    assert paths.earlier("score", "sample", "samples.npz", run) == f"results/samples/{sample}/n20/r3/samples.npz"
    assert paths.records(run) == [
        f"results/runs/{train}/n20/r3/training.json",
        f"results/samples/{sample}/n20/r3/sampling.json",
    ]
    assert paths.weights(Run(sample)) == [f"results/runs/{train}/n20/r3/snapshots.safetensors"]


def test_the_optimum_has_neither_weights_nor_a_record_of_training(index, paths):
    assert paths.weights(Run(arm_key(index, "sample", 1))) == []
    (record,) = paths.records(Run(arm_key(index, "score", 1)))
    assert record.endswith("/sampling.json")


def test_states_are_paths_on_the_disk(index, paths):
    assert paths.state() == f"{index.results}/state/{{key}}/n{{n}}-r{{r}}"
    train = arm_key(index, "train", 0)
    assert paths.training_state(Run(arm_key(index, "sample", 0))) == f"{index.results}/state/{train}/n20-r3"


def test_searches_are_named_without_the_prefix(index, paths):
    emm, score = (arm_key(index, stage, 0) for stage in ("emm", "score"))
    assert paths.trail(emm) == [f"results/scores/{score}/n10/r0/{name}" for name in ("score.json", "gallery.npz")]
    assert paths.arms("denoiser", "gallery.npz")[0] == f"results/emm/{emm}/gallery.npz"
    assert len(paths.arms("denoiser", "emm.json")) == 2


def test_a_study_draws_onset_and_budget_only_if_it_claims_something_about_them(paths):
    tables = [
        "emm.csv", "curves.csv", "contrasts.csv", "findings.csv", "onset.csv", "budget.csv", "emm.html", "quality.csv",
        "copied.csv", "tradeoff.csv", "criteria.csv",
    ]  # fmt: skip
    figures = [f"{name}.{kind}" for name in ("curves", "emm", "gallery", "tradeoff") for kind in ("svg", "png")]
    assert paths.study("denoiser") == [f"results/experiment/denoiser/{name}" for name in tables + figures]
    for name in ("onset", "budget"):
        own = {f"results/experiment/{name}/{name}.{kind}" for kind in ("svg", "png")}
        assert own <= set(paths.study(name))
        assert len(paths.study(name)) == len(tables + figures) + 2


@pytest.mark.parametrize(("snapshots", "drawn"), [([0.5, 1.0], False), ([0.25, 0.5, 1.0], True)])
def test_progress_is_drawn_where_all_arms_have_three_snapshots(tmp_path, snapshots, drawn):
    arms = {"one": {"training.snapshots": [0.1, 0.2, 1.0]}, "other": {"training.snapshots": snapshots}}
    settings = read(CONTENT | {"studies": {"course": {"arms": arms}}})
    files = Paths(index_of(settings, tmp_path), tmp_path).study("course")
    assert any(file.endswith("/progress.svg") for file in files) == drawn
