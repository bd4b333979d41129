"""Time limits: 1.5 times the expected time of a run, twice as much in each further attempt."""

import math
from pathlib import Path

import pytest

from emmeter.pipeline import costs
from emmeter.pipeline.index import index_of
from emmeter.pipeline.limits import Limits
from emmeter.settings.configuration import read
from emmeter.settings.keys import key

FORWARD = 10**9  # operations per image of one forward pass


@pytest.fixture(autouse=True)
def _one_network(monkeypatch):
    monkeypatch.setattr(costs.Costs, "network", lambda *_: (FORWARD, 10**6))


def limits(duration="40000 images", **execution):
    content = {
        "training": {"duration": duration, "batch_size": 100, "snapshots": [0.5, 1.0]},
        "sampling": {"images": 1000, "steps": 10},
        "execution": execution,
        "studies": {"one": {"arms": {"plain": {}}}},
    }
    settings = read(content)
    return Limits(index_of(settings, Path("results"), data_needed=False)), settings.studies[0].arms[0].setup


def test_a_training_is_given_half_as_much_again():
    limit, run = limits(throughput=50.0)
    seconds = costs.START + 3 * FORWARD * 40000 / 50e9
    assert limit.minutes("train", key("train", run), 100, 1) == math.ceil(1.5 * seconds / 60) == 61


def test_training_time_follows_the_size_where_it_is_given_in_epochs():
    limit, run = limits("1000 epochs", throughput=50.0)
    small, large = (limit.minutes("train", key("train", run), n, 1) for n in (100, 200))
    assert (small, large) == (151, 301)


def test_sampling_is_counted_by_its_evaluations():
    limit, run = limits(throughput=1.0)
    seconds = costs.START + costs.PER_RUN + FORWARD * (2 * 10 - 1) * 1000 * 2 / 1e9
    assert limit.minutes("sample", key("sample", run), 100, 1) == math.ceil(1.5 * seconds / 60)


def test_each_attempt_has_twice_the_time_up_to_the_longest_job():
    limit, run = limits(throughput=50.0, longest_job=300)
    assert [limit.minutes("train", key("train", run), 100, attempt) for attempt in range(1, 5)] == [61, 122, 244, 300]


def test_a_short_run_has_time_to_start():
    limit, run = limits(throughput=1e6)
    assert limit.minutes("train", key("train", run), 100, 1) == 10


@pytest.mark.parametrize(("throughput", "known"), [(None, True), (50.0, False)])
def test_without_a_throughput_nothing_is_counted(monkeypatch, throughput, known):
    monkeypatch.setattr(costs.Costs, "run", lambda *_: pytest.fail("counted"))
    limit, run = limits(throughput=throughput)
    assert [limit.minutes("train", key("train", run), 100, attempt, known) for attempt in (1, 2)] == [60, 120]


def test_the_optimum_needs_no_network():
    limit, setup = limits(throughput=50.0)
    optimum = setup.model_copy(update={"diffusion": setup.diffusion.model_copy(update={"denoiser": "optimum"})})
    limit.index.setups["sample", "0" * 10] = optimum
    assert limit.minutes("sample", "0" * 10, 100, 1) == 10
