"""Rows of training.csv and the evaluation behind them."""

import pytest
import torch

from emmeter.files.tables import LOG_COLUMNS
from emmeter.training import log
from emmeter.training.schedule import learning_rate_factor
from emmeter.training.trainer import start
from small_run import CPU, N, finish, setup_with, subset_of


def test_rows_report_the_schedule_and_both_losses(tmp_path):
    setup = setup_with()
    trainer = finish(setup, subset_of(), tmp_path)
    assert [row["images_seen"] for row in trainer.rows] == list(range(20, 201, 20))
    for row in trainer.rows:
        assert tuple(row) == LOG_COLUMNS
        assert row["progress"] == pytest.approx(row["images_seen"] / 200)
        assert row["learning_rate"] == pytest.approx(3e-3 * learning_rate_factor(row["images_seen"], 50))
        assert min(row["loss"], row["train_loss"], row["held_out_loss"]) > 0
    assert trainer.denoiser.training


def test_evaluation_changes_nothing_and_repeats(tmp_path):
    trainer = start(setup_with(), subset_of(), N, 0, CPU, tmp_path)
    for _ in range(5):
        trainer.advance()
    before, random = trainer.parameters.values.clone(), torch.get_rng_state()
    assert log.evaluate(trainer) == log.evaluate(trainer)
    assert torch.equal(trainer.parameters.values, before)
    assert torch.equal(torch.get_rng_state(), random)
    without = start(setup_with(), subset_of(held_out=0), N, 0, CPU, tmp_path)
    assert log.evaluate(without)[1] is None


def test_evaluation_uses_the_first_average(tmp_path):
    trainer = start(setup_with(), subset_of(), N, 0, CPU, tmp_path)
    for _ in range(10):
        trainer.advance()
    expected = log.evaluate(trainer)
    trainer.averages[1].zero_()
    trainer.parameters.values.mul_(1.5)
    assert log.evaluate(trainer) == expected
    trainer.averages[0].mul_(1.5)
    assert log.evaluate(trainer) != expected


def test_evaluation_does_not_flip(tmp_path):
    flipping, still = (
        start(setup_with(training={"flip": flip}), subset_of(), N, 0, CPU, tmp_path / str(flip)) for flip in (0.5, 0.0)
    )
    assert log.evaluate(flipping) == log.evaluate(still)
