"""The index: which scores are still asked for, and what all finished arms tell of the scatter of runs."""

import math
from pathlib import Path

import numpy as np
import pytest

from emmeter.files.writing import write_json
from emmeter.measure import scatter
from emmeter.measure.outcome import RunId
from emmeter.measure.search import replay
from emmeter.pipeline.index import Index, index
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
def dag(tmp_path: Path) -> Index:
    return index(read(CONTENT), tmp_path / "results")


def score(dag: Index, path: Path) -> None:
    """Write the score of a run whose EMM is about 30, slope 3 and scatter 0.5 logit."""
    run = RunId(int(path.parts[-3][1:]), int(path.parts[-2][1:]))
    noise = np.random.default_rng([run.n, run.replicate, int(path.parts[-4], 16)]).normal(0, 0.5)
    ratio = 1 / (1 + math.exp(-math.log(9) - 3 * math.log2(30 / run.n) - noise))
    write_json(path, {"snapshots": [{"memorized": round(250 * ratio), "images": 250}]})


def finish(dag: Index, *studies: str) -> None:
    while paths := dag.pending(studies):
        for path in set(paths):
            score(dag, path)


def test_scores_are_pending_until_the_searches_end(dag):
    assert len(set(dag.pending(["first", "second"]))) == 3  # the base arm is one arm in both
    assert dag.prior() is None
    finish(dag, "first")
    assert dag.pending(["first"]) == []
    assert len(dag.pending(["second"])) == 1
    # A run that is told once tells nothing of the scatter: nobody waits for it.
    assert dag.pending(["once"]) == []


def test_the_prior_is_that_of_all_finished_arms_each_once(dag):
    finish(dag, "first")
    early = dag.prior()
    finish(dag, "second")
    known = {}
    for study in dag.settings.studies[:2]:
        for arm in study.arms:
            scores = dag.scores(key("emm", arm.run))
            trail = replay(arm.run.search, dag.sizes[key("emm", arm.run)], scores)
            assert trail.finished
            known[scores.key] = (trail, {run: scores[run] for run in trail.confirm})
    assert len(known) == 3
    own = [one for trail, counts in known.values() if (one := scatter.own(trail, counts)) is not None]
    assert dag.prior() == scatter.fit(own)
    assert early is not None and dag.prior() != early
    # Another start finds the same, whatever was asked for first.
    assert index(read(CONTENT), dag.results).prior() == dag.prior()


def test_a_score_that_is_gone_is_asked_for_again(dag):
    finish(dag, "first")
    path = next(dag.results.glob("scores/*/n*/r*/score.json"))
    path.unlink()
    again = index(read(CONTENT), dag.results)
    assert again.pending(["first"]) == [path]
