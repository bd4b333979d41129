"""The index: scores that are still missing, and the scatter of runs that all finished arms show."""

import math
from pathlib import Path

import numpy as np
import pytest

from emmeter.errors import SettingsError
from emmeter.files import scores
from emmeter.files.writing import write_json
from emmeter.measure import scatter
from emmeter.measure.outcome import RunId
from emmeter.measure.search import replay
from emmeter.pipeline.index import Index, index_of
from emmeter.settings.configuration import read
from emmeter.settings.keys import key

CONTENT = {
    "data": {"source": "digits", "resolution": 8, "balanced": False, "held_out": 0},
    "network": {"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [4]},
    "search": {"n_min": 10, "n_max": 640, "start": 20, "spread": 2},
    "studies": {
        "first": {"arms": {"base": {}, "wide": {"network.channels": 32}}},
        "second": {"arms": {"same": {}, "long": {"training.duration": "80000 epochs"}}},
        "once": {"arms": {"alone": {"search.rule": "grid", "search.grid": [20]}}},
    },
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return index_of(read(CONTENT), tmp_path / "results")


def score(index: Index, path: Path) -> None:
    """Write the score of a run whose EMM is about 30, slope 3 and scatter 0.5 logit."""
    run = RunId(int(path.parts[-3][1:]), int(path.parts[-2][1:]))
    noise = np.random.default_rng([run.n, run.replicate, int(path.parts[-4], 16)]).normal(0, 0.5)
    ratio = 1 / (1 + math.exp(-math.log(9) - 3 * math.log2(30 / run.n) - noise))
    write_json(path, {"snapshots": [{"memorized": round(250 * ratio), "images": 250}]})


def finish(index: Index, *studies: str) -> None:
    while paths := index.pending(studies):
        for path in set(paths):
            score(index, path)


def test_scores_are_pending_until_the_searches_end(index):
    assert len(set(index.pending(["first", "second"]))) == 3  # the base arm is one arm in both
    assert index.prior() is None
    finish(index, "first")
    assert index.pending(["first"]) == []
    assert len(index.pending(["second"])) == 1
    # An arm without repeated runs shows no scatter, so nothing waits for it.
    assert index.pending(["once"]) == []


def test_whoever_waits_for_one_score_after_another_waits_for_all(index):
    waits = 0
    while awaited := index.awaited(["first", "second"]):
        assert awaited[0] in index.pending(["first", "second"]) and not awaited[0].exists()
        score(index, awaited[0])
        waits += 1
    assert waits == len(list(index.results.glob("scores/*/n*/r*/score.json"))) > 3
    assert index.pending(["first", "second"]) == []


def test_a_damaged_score_is_awaited_last(index):
    pending = index.pending(["first", "second"])
    for path in pending[1:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{")
    assert index.awaited(["first", "second"]) == [pending[0]]
    path = pending[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{")
    assert index.awaited(["first", "second"]) == [pending[-1]]


def test_a_replay_reads_each_score_once(index, monkeypatch):
    finish(index, "first")
    files: list[Path] = []
    original = scores.records.read
    monkeypatch.setattr(scores.records, "read", lambda path, kind: files.append(path) or original(path, kind))
    again = index_of(read(CONTENT), index.results)
    assert again.pending(["first"]) == []
    assert len(files) == len(set(files)) == len(list(index.results.glob("scores/*/n*/r*/score.json")))


def test_arms_behind_a_score(index):
    base, wide = (key("score", arm.setup) for arm in index.study("first").arms)
    assert index.arms("score", base) == "first/base, second/same, once/alone"
    assert index.arms("score", wide) == "first/wide"


def test_keys_of_earlier_stages(index):
    for study in index.settings.studies:
        for arm in study.arms:
            score_key = key("score", arm.setup)
            assert index.upstream("score", score_key, "train") == key("train", arm.setup)
            assert index.upstream("score", score_key, "subset") == key("subset", arm.setup)


def test_the_prior_is_that_of_all_finished_arms_each_once(index):
    finish(index, "first")
    early = index.prior()
    finish(index, "second")
    arms = {}
    for study in index.settings.studies[:2]:
        for arm in study.arms:
            scores = index.scores(key("emm", arm.setup))
            trail = replay(arm.setup.search, index.sizes[key("emm", arm.setup)], scores)
            assert trail.finished
            arms[scores.key] = (trail, {run: scores[run] for run in trail.confirm})
    assert len(arms) == 3
    own = [estimate for trail, counts in arms.values() if (estimate := scatter.own(trail, counts)) is not None]
    assert index.prior() == scatter.fit(own)
    assert early is not None and index.prior() != early
    # Another start gives the same prior, for any order of questions.
    assert index_of(read(CONTENT), index.results).prior() == index.prior()


def test_a_score_that_is_gone_is_asked_for_again(index):
    finish(index, "first")
    path = next(index.results.glob("scores/*/n*/r*/score.json"))
    path.unlink()
    again = index_of(read(CONTENT), index.results)
    assert again.pending(["first"]) == [path]


def test_scores_that_are_made_again_are_read_again(index):
    """As when the user's images have changed: Snakemake makes all scores again within one start."""
    finish(index, "first")
    prior, (emm_key, _) = index.prior(), index.repeating(["first"])
    for path in index.results.glob("scores/*/n*/r*/score.json"):
        write_json(path, {"snapshots": [{"memorized": 0, "images": 250}]})
    assert index.pending(["first"])
    finish(index, "first")
    assert index.pending(["first"]) == []
    assert index.prior() != prior
    assert index.prior() == index_of(read(CONTENT), index.results).prior()
    assert index.trail(emm_key) == index_of(read(CONTENT), index.results).trail(emm_key)


def test_a_program_that_this_machine_lacks_is_told_before_any_job(tmp_path):
    arm = {"model.command": "no-such-program {subset} {samples}"}
    settings = read({"studies": {"mine": {"arms": {"a": arm}}}, "run": "mine"})
    with pytest.raises(SettingsError, match=r"a: model\.command: the program 'no-such-program' is"):
        index_of(settings, tmp_path / "results")
    index_of(settings, tmp_path / "results", data_needed=False)  # a plan may be made elsewhere
