"""Schedules of learning rate and EMA decay against the table of the reference implementation."""

import csv
from pathlib import Path

import pytest

from emmeter.settings.sections import Setup
from emmeter.training.schedule import budget, ema_decay, learning_rate_factor
from small_run import setup_with

VECTORS = Path(__file__).parents[1] / "vectors"

with open(VECTORS / "schedules.csv", newline="") as _file:
    ROWS = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(_file)]


def position(row) -> tuple[float, float, int]:
    """(images seen, ramp of 200 epochs in images, batch size)."""
    return row["images_seen"], 200 * row["train_size"], int(row["batch"])


def test_table_covers_the_ramp():
    assert len(ROWS) == 108
    assert {row["train_size"] for row in ROWS} == {100, 500, 1000, 2000, 16_000, 50_000}
    assert {row["batch"] for row in ROWS} == {128, 512, 896}
    shares = [row["images_seen"] / (200 * row["train_size"]) for row in ROWS]
    assert min(shares) == 0
    assert max(shares) > 1
    assert any(0 < share < 1 for share in shares)


def test_learning_rate_equals_reference():
    for row in ROWS:
        seen, ramp, _ = position(row)
        assert abs(learning_rate_factor(seen, ramp) - row["lr_factor"]) < 1e-12, row


def test_ema_mode1_equals_reference():
    """A half-life of 10 epochs at the batch size, with its own warm-up."""
    for row in ROWS:
        seen, ramp, batch = position(row)
        final = 0.5 ** (batch / (10 * row["train_size"]))
        assert abs(ema_decay(seen, ramp, final) - row["ema_mode1"]) < 1e-12, row


def test_ema_mode2_equals_reference():
    """The paper's default: 512 images of a half-life of 500,000 per step, for every batch size."""
    for row in ROWS:
        seen, ramp, _ = position(row)
        assert abs(ema_decay(seen, ramp, 0.5 ** (512 / 500_000)) - row["ema_mode2"]) < 1e-12, row


@pytest.mark.parametrize("final", ["0.99929", "0.9", "0.0"])
def test_ema_mode4_equals_reference(final):
    """The paper's EMA study: a given final decay with the warm-up common to all decays."""
    for row in ROWS:
        seen, ramp, batch = position(row)
        assert abs(ema_decay(seen, ramp, float(final), batch) - row[f"ema_mode4_{final}"]) < 1e-12, row


@pytest.mark.parametrize("batch", [None, 128])
def test_decay_grows_to_its_final_value_and_stays(batch):
    decays = [ema_decay(seen, 1000, 0.97, batch) for seen in range(0, 3000, 100)]
    assert decays[0] == 0
    assert decays == sorted(decays)
    assert decays[10:] == [0.97] * 20


def test_no_ramp_means_final_values_at_once():
    assert learning_rate_factor(0, 0) == 1
    assert ema_decay(0, 0, 0.9) == 0.9
    assert ema_decay(0, 0, 0.9, 512) == 0.9


def test_learning_rate_is_linear():
    assert [learning_rate_factor(seen, 400) for seen in (0, 100, 200, 400, 4000)] == [0, 0.25, 0.5, 1, 1]


# Budget


def test_budget_in_epochs_images_and_shares():
    schedule = budget(setup_with(training={"duration": "10 epochs", "batch_size": 16, "lr_ramp": "2 epochs"}), 100)
    assert (schedule.steps, schedule.images, schedule.lr_ramp) == (63, 1008, 200.0)
    assert schedule.ema_ramp == pytest.approx(0.2 * 1008)
    assert schedule.snapshots == (19, 32, 63)
    schedule = budget(setup_with(training={"ema_ramp": "70 images", "lr_ramp": "5 %"}), 100)
    assert (schedule.steps, schedule.images, schedule.lr_ramp, schedule.ema_ramp) == (20, 200, 10.0, 70.0)
    assert schedule.snapshots == (6, 10, 20)
    assert schedule.log == (2, 4, 6, 8, 10, 12, 14, 16, 18, 20)


def test_papers_budget():
    schedule = budget(Setup(), 1000)
    assert (schedule.steps, schedule.images) == (78_125, 40_000_000)
    assert (schedule.lr_ramp, schedule.ema_ramp) == (200_000.0, 200_000.0)


def test_budget_has_as_many_snapshots_for_every_n():
    setup = setup_with(training={"duration": "3 epochs", "batch_size": 64, "snapshots": [0.1, 0.25, 0.5, 1.0]})
    for n in (1, 2, 21, 64, 1000):
        schedule = budget(setup, n)
        assert len(schedule.snapshots) == 4
        assert schedule.snapshots[-1] == schedule.steps
        assert schedule.log[-1] == schedule.steps
        assert min(schedule.snapshots) >= 1
        assert schedule.images >= 3 * n
