"""The quality stage: tables of a run on digits, files that are gone, and the tables of a study."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from emmeter.data.subset import load as load_subset
from emmeter.files import checksums
from emmeter.files.scores import read_neighbours, read_samples
from emmeter.files.tables import (
    ARM_CRITERIA_COLUMNS,
    COPIED_COLUMNS,
    COPIED_IMAGE_COLUMNS,
    CRITERIA_COLUMNS,
    QUALITY_COLUMNS,
)
from emmeter.measure.criterion import memorized
from emmeter.measure.quality.features import pixels
from emmeter.measure.quality.floors import METRICS, against_train
from emmeter.measure.tradeoff import METRICS as METRICS_SHOWN
from one_run import CONTENT, Pipeline, replaced


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Pipeline(tmp_path_factory.mktemp("made") / "results").complete()


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.results, tmp_path / "results")
    return Pipeline(tmp_path / "results")


def table(pipeline, name):
    return pd.read_csv(pipeline.file("quality", name))


def test_there_is_a_row_per_snapshot_and_set_of_real_images(made):
    rows = table(made, "quality.csv")
    assert tuple(rows.columns) == QUALITY_COLUMNS
    assert rows["progress"].tolist() == [0.25, 0.25, 0.5, 0.5, 1, 1]
    assert rows["against"].tolist() == ["training", "held-out"] * 3
    assert set(rows["features"]) == {"pixels"}
    # 24 generated, 20 training and 8 held-out images: 8 of the training images, and two halves of 4.
    assert rows["images"].tolist() == [8, 4] * 3
    assert rows["k"].tolist() == [5, 3] * 3
    assert rows[[*METRICS, *(f"{metric}_floor" for metric in METRICS)]].notna().all(axis=None)
    assert rows["trained_to_end"].notna().all()


def test_measures_are_those_of_the_stored_images(made):
    subset = load_subset(made.file("subset"))
    images = read_samples(made.file("sample"))["images"]
    expected = against_train(
        list(map(pixels, images)), pixels(subset.images), pixels(subset.held_out), k=5, most=1000, draws=10
    )
    rows = table(made, "quality.csv").query("against == 'training'")
    assert expected is not None
    for metric in METRICS:
        assert rows[metric].tolist() == pytest.approx([getattr(row.generated, metric) for row in expected], rel=1e-4)
        assert rows[f"{metric}_floor"].tolist() == pytest.approx([getattr(expected[0].floor, metric)] * 3, rel=1e-4)


def test_copied_images_are_those_of_the_criterion(made):
    shares, images = table(made, "copied.csv"), table(made, "copied_images.csv")
    assert (tuple(shares.columns), tuple(images.columns)) == (COPIED_COLUMNS, COPIED_IMAGE_COLUMNS)
    nearest = read_neighbours(made.file("score"))
    flags = [memorized(near) for near in nearest]
    assert shares["memorized"].tolist() == [flag.sum() for flag in flags]
    assert shares["copied"].tolist() == [
        len(set(near.indices[flag, 0].tolist())) for near, flag in zip(nearest, flags, strict=True)
    ]
    assert images["copies"].sum() == flags[-1].sum()


def test_which_images_are_copied_first_and_how_often(run):
    """Made-up samples: image 3 is copied from the second snapshot on, image 5 at the last, image 7 never at the end."""
    subset = load_subset(run.file("subset"))
    samples = np.full((3, 24, 1, 8, 8), 128, np.uint8)
    samples[0, :1] = subset.images[7]
    samples[1, :2] = subset.images[3]
    samples[2, :4], samples[2, 4:10] = subset.images[3], subset.images[5]
    replaced(run.file("sample"), images=samples)
    for stage in ("score", "emm", "quality"):
        assert run.call(stage) == 0
    images = table(run, "copied_images.csv")
    assert images["position"].tolist() == [7, 3, 5]
    assert images["copies"].tolist() == [0, 4, 6]
    assert images["first_progress"].tolist() == [0.25, 0.5, 1.0]
    assert images["first_images_seen"].tolist() == [160, 320, 640]
    assert images["index"].tolist() == subset.indices[[7, 3, 5]].tolist()
    assert images["label"].isna().all()
    assert table(run, "copied.csv")["copied"].tolist() == [1, 1, 2]
    last = table(run, "quality.csv").query("against == 'training' and progress == 1").iloc[0]
    assert last["authenticity"] < 1


def test_mirrored_training_images_count_as_one(tmp_path):
    pipeline = Pipeline(tmp_path / "results", CONTENT | {"scoring": {"mirrored": True}}).complete()
    shares = table(pipeline, "copied.csv")
    assert (shares["copied"] <= shares["train"]).all()


def test_labels_of_copied_images_are_given(tmp_path):
    content = CONTENT | {"data": CONTENT["data"] | {"labels": "true"}}
    pipeline = Pipeline(tmp_path / "results", content)
    for stage in ("subset", "train", "sample"):
        assert pipeline.call(stage) == 0
    subset = load_subset(pipeline.file("subset"))
    replaced(pipeline.file("sample"), images=np.stack([np.resize(subset.images, (24, 1, 8, 8))] * 3))
    for stage in ("score", "emm", "quality"):
        assert pipeline.call(stage) == 0
    images = table(pipeline, "copied_images.csv")
    assert images["label"].tolist() == subset.labels[images["position"]].tolist()
    assert table(pipeline, "copied.csv")["share"].tolist() == [1.0] * 3


def test_without_held_out_images_nothing_is_compared_but_copies_are_counted(tmp_path):
    pipeline = Pipeline(tmp_path / "results", CONTENT | {"data": {"source": "digits", "held_out": 0}}).complete()
    rows = table(pipeline, "quality.csv")
    assert set(rows["note"]) == {"too few images, or all the same"}
    assert rows["images"].isna().all()
    assert len(table(pipeline, "copied.csv")) == 3


def test_runs_whose_files_are_gone_are_named_and_not_made_again(run):
    run.file("sample").unlink()
    assert run.call("quality") == 0
    rows = table(run, "quality.csv")
    assert set(rows["note"]) == {"its samples, subset or neighbours are no longer there"}
    assert len(rows) == 3
    assert len(table(run, "copied.csv")) == 0
    record = json.loads(run.record("quality").read_text())
    assert (record["runs"], record["gone"]) == (0, 1)


def test_samples_that_have_changed_are_one_line(run, capsys):
    run.file("sample").write_bytes(b"changed")
    assert run.call("quality") == 1
    assert capsys.readouterr().err.startswith(f"error: {run.file('sample')}: has changed since it was written")


def test_more_images_than_asked_for_are_chosen_at_random_with_a_fixed_seed(tmp_path):
    content = CONTENT | {"data": {"source": "digits", "held_out": 64}, "quality": {"images": 10, "draws": 2}}
    pipeline = Pipeline(tmp_path / "results", content).complete()
    rows = table(pipeline, "quality.csv")
    assert rows["images"].tolist() == [10] * 6
    before = pipeline.file("quality").read_bytes()
    assert pipeline.call("quality") == 0
    assert pipeline.file("quality").read_bytes() == before


def test_tables_of_a_study_name_its_arms_before_the_cells_of_each(run):
    assert run.call("quality_table") == 0
    for name in ("quality", "copied"):
        study = (run.study / f"{name}.csv").read_text().splitlines()
        arm = run.file("quality", f"{name}.csv").read_text().splitlines()
        assert study == [f"study,arm,value,{arm[0]}", *(f"faults,one,,{row}" for row in arm[1:])]


def test_a_table_of_an_arm_that_has_changed_is_refused(run, capsys):
    run.file("quality").write_text("x")
    assert run.call("quality_table") == 1
    assert "has changed since it was written" in capsys.readouterr().err
    assert not (run.study / "copied.csv").exists()


def test_memorization_against_quality_has_the_shares_of_the_runs_and_their_quality(run):
    for stage in ("study", "quality_table", "tradeoff"):
        assert run.call(stage) == 0
    (row,) = pd.read_csv(run.study / "tradeoff.csv").to_dict("records")
    last = table(run, "quality.csv").query("against == 'held-out' and progress == 1").iloc[0]
    assert [row[name] for name in METRICS_SHOWN] == [last[name] for name in METRICS_SHOWN]
    assert row["ratio"] == memorized(read_neighbours(run.file("score"))[-1]).mean()
    assert (row["arm"], row["n"], row["runs"], row["unfinished"], row["shared"]) == ("one", run.n, 1, 1, True)
    assert (run.study / "tradeoff.svg").is_file() and (run.study / "tradeoff.png").is_file()


def test_copies_under_other_criteria_are_counted_at_every_snapshot(run):
    rows = table(run, "criteria.csv")
    assert tuple(rows.columns) == ARM_CRITERIA_COLUMNS
    own = rows[(rows["criterion"] == "ratio") & (rows["threshold"].round(3) == 0.333)]
    assert own["memorized"].tolist() == [memorized(near).sum() for near in read_neighbours(run.file("score"))]
    assert own["progress"].tolist() == [0.25, 0.5, 1]
    assert (rows["images"] == 24).all() and rows["memorized"].between(0, 24).all()
    assert run.call("criteria_table") == 0
    judged = pd.read_csv(run.study / "criteria.csv")
    assert tuple(judged.columns) == CRITERIA_COLUMNS
    assert judged["criterion"].tolist() == ["own", *rows["criterion"][: len(rows) // 3]]


def test_a_criterion_that_lacks_a_run_is_left_out(run):
    run.file("sample").unlink()
    for stage in ("quality", "criteria_table"):
        assert run.call(stage) == 0
    assert pd.read_csv(run.study / "criteria.csv")["criterion"].tolist() == ["own"]


def test_without_images_to_compare_the_figure_says_so(run):
    run.file("sample").unlink()
    for stage in ("quality", "study", "quality_table", "tradeoff"):
        assert run.call(stage) == 0
    assert (run.study / "tradeoff.csv").read_text().count("\n") == 1
    assert "No run has enough different images to compare." in (run.study / "tradeoff.svg").read_text()


def test_a_training_of_a_few_steps_is_marked_and_copies_of_the_training_images_are_not(run):
    rows = table(run, "quality.csv")
    assert not rows["trained_to_end"].any()
    assert rows["note"].str.contains("Fréchet distance to the training images").all()
    subset = load_subset(run.file("subset"))
    replaced(run.file("sample"), images=np.stack([np.resize(subset.images, (24, 1, 8, 8))] * 3))
    for stage in ("score", "emm", "quality"):
        assert run.call(stage) == 0
    assert table(run, "quality.csv")["trained_to_end"].all()


def test_without_a_training_log_the_images_alone_decide(run):
    run.file("train", "training.csv").unlink()
    assert run.call("quality") == 0
    assert json.loads(run.record("quality").read_text())["unlogged"] == 1
    notes = table(run, "quality.csv")["note"].fillna("")
    assert not notes.str.contains("held-out loss").any()


def test_several_spaces_of_features_have_rows_of_their_own(made, tmp_path):
    network = tmp_path / "halves.pt"
    torch.jit.script(torch.nn.AvgPool2d(4)).save(str(network))
    shutil.copytree(made.results, tmp_path / "results")
    name = f"torchscript:{network}"
    pipeline = Pipeline(tmp_path / "results", CONTENT | {"quality": {"features": ["pixels", name]}})
    assert pipeline.call("quality") == 0
    rows = table(pipeline, "quality.csv")
    assert rows["features"].tolist() == ["pixels"] * 6 + [name] * 6
    first = rows[rows["features"] == "pixels"].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, table(made, "quality.csv"), check_dtype=False)
    assert (rows[rows["features"] == name]["frechet"].to_numpy() != first["frechet"].to_numpy()).all()
    record = json.loads(pipeline.record("quality").read_text())
    assert record["inputs"]["halves.pt"] == checksums.sha256(network)


def test_a_network_that_fails_is_one_line_and_nothing_is_written(made, tmp_path, capsys):
    network = tmp_path / "large.pt"
    torch.jit.script(torch.nn.AvgPool2d(64)).save(str(network))
    shutil.copytree(made.results, tmp_path / "results")
    pipeline = Pipeline(tmp_path / "results", CONTENT | {"quality": {"features": [f"torchscript:{network}"]}})
    assert pipeline.call("quality") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {network}: fails on images of shape (3, 8, 8)")
    assert not pipeline.folder("quality").exists()
