"""The stages of errors by noise level: rows, comparison between runs, files that are gone, table and figure."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from emmeter.data.subset import load as load_subset
from emmeter.files import records
from emmeter.files.layout import run_folder
from emmeter.files.records import EmmRecord
from emmeter.files.tables import DENOISING_COLUMNS
from emmeter.files.writing import write_json
from emmeter.settings import keys
from one_run import CONTENT, Pipeline

LEVELS = [0.1, 1.0, 1000.0]  # the last one is above the range of VE
SETTINGS = CONTENT | {"denoising": {"levels": LEVELS, "images": 8}, "diffusion": {"preconditioning": "ve"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return Pipeline(tmp_path_factory.mktemp("denoising") / "results", SETTINGS).complete()


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made.results, tmp_path / "results")
    return Pipeline(tmp_path / "results", SETTINGS)


def table(run):
    return pd.read_csv(run.file("denoising"))


def with_second_run(run):
    """Let the search have a second run, of another replicate, of the same size."""
    second = Pipeline(run.results, run.content, replicate=1)
    for stage in ("subset", "train"):
        assert second.call(stage) == 0
    record = records.read(run.record("emm"), EmmRecord)
    record["runs"].append(record["runs"][0] | {"replicate": 1})
    run.record("emm").parent.joinpath("SHA256SUMS").unlink()
    write_json(run.record("emm"), record)
    return second


def test_rows_are_snapshots_times_sets_of_images_times_levels_that_the_network_knows(run):
    rows = table(run)
    assert tuple(rows.columns) == DENOISING_COLUMNS
    assert rows["sigma"].unique().tolist() == [0.1, 1.0]
    assert rows["progress"].tolist() == [share for share in (0.25, 0.5, 1.0) for _ in range(4)]
    assert rows["against"].tolist() == [name for name in ("training", "held-out") for _ in range(2)] * 3
    assert (rows["images"] == 8).all() and (rows[["n", "replicate"]] == [20, 0]).all().all()
    assert rows[["other", "in_common", "between"]].isna().all().all()


def test_the_optimum_is_best_on_training_images_and_distances_obey_the_triangle(run):
    rows = table(run)
    train = rows[rows["against"] == "training"]
    assert (train["loss_optimum"] <= train[["loss", "loss_linear"]].min(axis=1)).all()
    roots = np.sqrt(rows[["to_optimum", "to_linear", "apart"]])
    for side in roots:
        assert (roots[side] <= roots.drop(columns=side).sum(axis=1) + 1e-4).all()


def test_the_same_command_gives_the_same_bytes(run):
    before = run.file("denoising").read_bytes()
    assert run.call("denoising") == 0
    assert run.file("denoising").read_bytes() == before


def test_a_training_lowers_the_loss(run):
    rows = table(run).query("against == 'training' and sigma == 1.0").sort_values("progress")
    assert rows["loss"].iloc[-1] < rows["loss"].iloc[0]


def test_runs_of_one_size_are_compared_on_images_that_are_new_to_both(run):
    second = with_second_run(run)
    assert run.call("denoising") == 0
    rows = table(run)
    compared = rows[rows["between"].notna()]
    assert (compared["replicate"] == 1).all() and (compared["other"] == 0).all()
    assert (compared["against"] == "held-out").all() and compared["progress"].tolist() == [1.0, 1.0]
    indices = [set(load_subset(each.file("subset")).indices.tolist()) for each in (run, second)]
    assert compared["in_common"].tolist() == pytest.approx([len(indices[0] & indices[1]) / 20] * 2)
    assert (compared["between"] > 0).all()


def test_a_run_differs_from_itself_by_nothing(run):
    second = with_second_run(run)
    for stage in ("subset", "train"):  # the files of the first run in the place of the second
        for path in second.folder(stage).iterdir():
            path.unlink()
        shutil.copytree(run.folder(stage), second.folder(stage), dirs_exist_ok=True)
    assert run.call("denoising") == 0
    compared = table(run).query("replicate == 1 and progress == 1 and against == 'held-out'")
    assert compared["between"].tolist() == [0.0, 0.0] and compared["in_common"].tolist() == [1.0, 1.0]


def test_labels_of_one_run_alone_are_not_compared_with_another(tmp_path):
    content = SETTINGS | {"data": {"source": "digits", "held_out": 8, "labels": "random-3"}}
    run = Pipeline(tmp_path / "results", content).complete()
    with_second_run(run)
    assert run.call("denoising") == 0
    rows = table(run)
    assert set(rows["replicate"]) == {0, 1} and rows["between"].isna().all()


def test_a_run_whose_snapshots_are_gone_is_counted_and_not_made_again(run):
    run.file("train").unlink()
    assert run.call("denoising") == 0
    assert len(table(run)) == 0
    record = json.loads(run.record("denoising").read_text())
    assert (record["runs"], record["gone"]) == (0, 1)
    for stage in ("study", "denoising_table"):
        assert run.call(stage) == 0
    assert "No run has its snapshots any more." in (run.study / "denoising.svg").read_text()


def test_snapshots_that_have_changed_are_one_line(run, capsys):
    run.file("train").write_bytes(b"changed")
    assert run.call("denoising") == 1
    assert capsys.readouterr().err.startswith(f"error: {run.file('train')}: has changed since it was written")


def test_snapshots_of_other_settings_are_one_line(run, capsys):
    other = Pipeline(run.results, SETTINGS | {"seed": 1})
    for stage in ("subset", "train"):
        assert other.call(stage) == 0
    folder = run_folder(run.results, "train", keys.key("train", run.setup), 20, 0)
    shutil.rmtree(folder)
    shutil.copytree(other.folder("train"), folder)
    capsys.readouterr()
    assert run.call("denoising") == 1
    assert "is not a complete file of snapshots of this run (its settings are others)" in capsys.readouterr().err


def test_the_table_of_a_study_names_its_arms_before_the_cells_of_each(run):
    for stage in ("study", "denoising_table"):
        assert run.call(stage) == 0
    study = (run.study / "denoising.csv").read_text().splitlines()
    arm = run.file("denoising").read_text().splitlines()
    assert study == [f"study,arm,value,{arm[0]}", *(f"faults,one,,{row}" for row in arm[1:])]
    assert (run.study / "denoising.svg").is_file() and (run.study / "denoising.png").is_file()
