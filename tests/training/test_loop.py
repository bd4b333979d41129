"""The loop of a training: interrupted runs end with the same bits; when states are saved; where cuDNN searches."""

from types import SimpleNamespace

import pytest
import torch

from emmeter.machine import device
from emmeter.machine.process import Stop
from emmeter.training import log, loop
from emmeter.training.trainer import Trainer, start
from small_run import CPU, VARIANTS, N, assert_same_run, finish, setup_with, subset_of


@pytest.mark.parametrize("name", VARIANTS)
def test_interrupted_runs_end_with_the_same_bits(name, tmp_path):
    changes, labels = VARIANTS[name]
    setup, subset = setup_with(**changes), subset_of(labels=labels)
    whole = finish(setup, subset, tmp_path / "whole")
    # Stops after the first step, on a snapshot, in neighbouring steps, and on the last step.
    for index, stops in enumerate([(1, 6), (9, 10, 17, 20)]):
        folder = tmp_path / str(index)
        assert_same_run(whole, finish(setup, subset, folder, stops), tmp_path / "whole", folder)
    assert len(whole.rows) == 10
    moved = (whole.parameters.values - start(setup, subset, N, 0, CPU, tmp_path / "none").parameters.values).abs().max()
    assert moved > 1e-4


def test_interrupted_runs_with_flips_end_with_the_same_bits(tmp_path):
    setup, subset = setup_with(training={"flip": 0.5}), subset_of(labels=3)
    whole = finish(setup, subset, tmp_path / "whole")
    assert_same_run(whole, finish(setup, subset, tmp_path / "parts", (1, 13)), tmp_path / "whole", tmp_path / "parts")


def test_a_run_repeats_its_bits(tmp_path):
    setup, subset = setup_with(training={"duration": "60 images"}), subset_of()
    first, second = (finish(setup, subset, tmp_path / name) for name in "ab")
    assert_same_run(first, second, tmp_path / "a", tmp_path / "b")


def test_saving_takes_a_fiftieth_of_the_time():
    assert loop.pause(30, 0.1) == 30
    assert loop.pause(30, 2) == pytest.approx(100)


@pytest.mark.parametrize(("seconds", "saves"), [(0, [2, 4, 6, 8, 10, 12, 14, 16, 18, 20]), (2, [2, 13])])
def test_states_that_take_long_are_saved_less_often(tmp_path, monkeypatch, seconds, saves):
    """A clock on which a step takes 10 seconds; a state is due after 15."""
    clock, saved = SimpleNamespace(now=0.0), []

    def save(folder, content):
        saved.append(content["step"])
        clock.now += seconds

    monkeypatch.setattr(loop.state, "save", save)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock.now))
    setup, subset = setup_with(), subset_of()
    for _ in loop.train(start(setup, subset, N, 0, CPU, tmp_path), tmp_path, 15, Stop()):
        clock.now += 10
    assert saved == saves


@pytest.mark.parametrize("pays", [True, False])
def test_cudnn_searches_in_steps_that_are_many(tmp_path, monkeypatch, pays):
    """20 steps are many where a search takes as long as 20, and few where it takes as long as 21."""
    monkeypatch.setattr(device, "SEARCH", 20 if pays else 21)
    seen = {"step": set(), "evaluation": set()}

    def watched(name, function):
        def call(*arguments):
            seen[name].add(torch.backends.cudnn.benchmark)
            return function(*arguments)

        return call

    monkeypatch.setattr(Trainer, "advance", watched("step", Trainer.advance))
    monkeypatch.setattr(log, "evaluate", watched("evaluation", log.evaluate))
    finish(setup_with(), subset_of(), tmp_path)
    assert seen == {"step": {pays}, "evaluation": {False}}
