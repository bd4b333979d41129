"""The loop of a training: interrupted runs end with the same bits."""

import pytest

from emmeter.training.trainer import start
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
