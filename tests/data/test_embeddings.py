"""Labels from the user's embeddings: which row an image has, what a file may hold, and what notices a change."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emmeter.data import datasets, embeddings, subset
from emmeter.data.images import digest
from emmeter.data.survey import Survey
from emmeter.errors import DataError, SettingsError
from emmeter.pipeline.verify import verify
from emmeter.settings.sections import Setup
from one_run import CONTENT, Pipeline, call

COUNT = 30
IMAGES = np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8), np.uint8)
CLASSES = np.arange(COUNT) % 3
ROWS = np.random.default_rng(1).normal(size=(COUNT, 5))


def written(folder: Path, rows: np.ndarray = ROWS, classes: bool = True) -> Path:
    """Write images and embeddings into a folder."""
    saved(images=IMAGES, **({"labels": CLASSES} if classes else {}))(folder / "images.npz")
    np.save(folder / "rows.npy", rows)
    return folder


def setup(folder: Path, mode: str = "image", **data: Any) -> Setup:
    content = {"source": f"npz:{folder / 'images.npz'}", "labels": f"embeddings:{folder / 'rows.npy'}", "held_out": 6}
    return Setup.model_validate(
        {
            "data": content | {"embeddings": mode} | data,
            "network": {"attention": [4]},
            "search": {"n_min": 3, "n_max": 24, "start": 6},
        }
    )


def table_of(drawn: subset.Subset) -> np.ndarray:
    """The row of each label."""
    assert drawn.label_vectors is not None
    return drawn.label_vectors


def rows_of(drawn: subset.Subset) -> np.ndarray:
    """The row of each training image."""
    return table_of(drawn)[drawn.labels]


def test_each_image_has_its_own_row(tmp_path):
    drawn = subset.draw(setup(written(tmp_path)), 12, 0)
    scaled = ROWS / np.sqrt(np.square(ROWS).mean())
    assert np.allclose(rows_of(drawn), scaled[drawn.indices], atol=1e-6)
    assert drawn.labels.tolist() == list(range(12))  # in the order of the images, as unique labels are
    assert drawn.label_count == 18 and table_of(drawn).shape == (18, 5)  # with those of six held-out images
    assert table_of(drawn).dtype == np.float32
    assert drawn.held_out_labels.tolist() == list(range(12, 18))


def test_images_of_equal_rows_share_a_label(tmp_path):
    rows = np.repeat(ROWS[:15], 2, axis=0)
    drawn = subset.draw(setup(written(tmp_path, rows)), 24, 0)
    same = drawn.indices[:, None] // 2 == drawn.indices // 2
    assert np.array_equal(drawn.labels[:, None] == drawn.labels, same)
    assert drawn.label_count == 15


def test_the_scale_of_the_numbers_does_not_matter(tmp_path):
    drawn = subset.draw(setup(written(tmp_path)), 12, 0)
    for factor in (1e-300, 1e300):
        other = subset.draw(setup(written(tmp_path, ROWS * factor)), 12, 0)
        assert np.allclose(table_of(other), table_of(drawn), rtol=1e-6)


def test_images_of_a_class_share_the_mean_row_of_the_whole_class(tmp_path):
    drawn = subset.draw(setup(written(tmp_path), "class"), 12, 0)
    scaled = ROWS / np.sqrt(np.square(ROWS).mean())
    means = np.stack([scaled[label == CLASSES].mean(axis=0) for label in range(3)])
    assert drawn.label_count == 3
    assert np.allclose(rows_of(drawn), means[CLASSES[drawn.indices]], atol=1e-6)


def test_a_fixed_row_is_one_label(tmp_path):
    drawn = subset.draw(setup(written(tmp_path), "fixed"), 12, 0)
    assert drawn.label_count == 1 and not drawn.labels.any() and not drawn.held_out_labels.any()
    assert np.allclose(table_of(drawn)[0], (ROWS / np.sqrt(np.square(ROWS).mean())).mean(axis=0), atol=1e-6)


def test_shuffled_rows_are_the_rows_of_other_images_which_an_image_keeps(tmp_path):
    whole = setup(written(tmp_path), "shuffled", held_out=0, balanced=False)
    everything = subset.draw(whole, COUNT, 0)
    own = subset.draw(setup(tmp_path, held_out=0, balanced=False), COUNT, 0)
    assert np.array_equal(np.sort(rows_of(everything), axis=0), np.sort(rows_of(own), axis=0))
    assert (rows_of(everything) != rows_of(own)).any(axis=1).sum() > COUNT / 2
    small = subset.draw(whole, 12, 0)
    assert np.array_equal(rows_of(small), rows_of(everything)[:12])
    other = subset.draw(whole, COUNT, 1)
    order = np.argsort(other.indices)[everything.indices.argsort().argsort()]
    assert not np.array_equal(rows_of(other)[order], rows_of(everything))


def test_rows_belong_to_images_as_stored_whatever_classes_are_used(tmp_path):
    drawn = subset.draw(setup(written(tmp_path), classes=[2, 0]), 6, 0)
    rows = ROWS[np.isin(CLASSES, [0, 2])]
    scaled = ROWS / np.sqrt(np.square(rows).mean())
    assert set(CLASSES[drawn.indices]) == {0, 2}
    assert np.allclose(rows_of(drawn), scaled[drawn.indices], atol=1e-6)


def test_a_subset_with_rows_is_saved_and_loaded_and_others_have_no_such_array(tmp_path):
    drawn = subset.draw(setup(written(tmp_path)), 12, 0)
    subset.save(tmp_path / "subset.npz", drawn)
    loaded = subset.load(tmp_path / "subset.npz")
    assert all(np.array_equal(value, getattr(loaded, name)) for name, value in vars(drawn).items())
    subset.save(tmp_path / "plain.npz", subset.draw(setup(tmp_path, labels="unique"), 12, 0))
    with np.load(tmp_path / "plain.npz") as plain:
        assert set(plain) == set(vars(drawn)) - {"label_vectors"}
    for damaged in (table_of(drawn)[:-1], table_of(drawn).astype(float), table_of(drawn)[:, 0]):
        saved(**(vars(drawn) | {"label_vectors": damaged}))(tmp_path / "subset.npz")
        with pytest.raises(DataError, match=r"'label_vectors' is .*, not of a subset"):
            subset.load(tmp_path / "subset.npz")


def saved(**arrays: np.ndarray) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        with open(path, "wb") as file:  # numpy.savez would append a suffix to a name
            np.savez(file, allow_pickle=True, **arrays)

    return write


def array(rows: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.save(path, rows)


def holed() -> np.ndarray:
    rows = ROWS.copy()
    rows[4, 1] = np.nan
    return rows


BAD: list[tuple[Callable[[Path], object], str]] = [
    (lambda path: None, "cannot be read (No such file or directory)"),
    (lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    (lambda path: os.mkfifo(path), "is not a regular file"),
    (lambda path: path.write_text("1,2\n"), "must be an .npz or .npy file"),
    (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "damaged, or not an .npz file"),
    (lambda path: path.write_bytes(b"\x93NUMPY and no more"), "damaged, or not an .npy file"),
    (array(ROWS.astype(object)), "the array holds pickled objects, which are never loaded"),
    (saved(embeddings=ROWS.astype(object)), "'embeddings' holds pickled objects, which are never loaded"),
    (array(ROWS.astype(int)), "the array must be floats of shape (images, values), not int64 (30, 5)"),
    (array(ROWS[:, 0]), "the array must be floats of shape (images, values), not float64 (30,)"),
    (array(ROWS[:, :0]), "the array must be floats of shape (images, values), not float64 (30, 0)"),
    (saved(a=ROWS, b=ROWS), "must hold one array, or one named 'embeddings'; it holds a, b"),
    (array(ROWS[1:]), "must have one row per image of the data set, 30 rows, not 29"),
    (array(holed()), "must hold finite numbers; row 4 (counted from 0) has others"),
    (array(np.ones((COUNT, 5))), "has the same row for every image"),
]


@pytest.mark.parametrize(("make", "words"), BAD)
def test_a_bad_file_is_one_line_before_any_work(tmp_path, capfd, make, words):
    (written(tmp_path) / "rows.npy").unlink()
    make(tmp_path / "rows.npy")
    bad = setup(tmp_path)
    [fault] = Survey(tmp_path / "cache").assess(bad).faults
    assert str(fault).startswith(f"data.labels = '{bad.data.labels}': {tmp_path / 'rows.npy'}: ")
    assert words in fault.rule
    options = ["--settings", bad.model_dump_json(), "--n", "12", "--replicate", "0"]
    assert call("emmeter.stages.subset", *options, "--output", str(tmp_path / "out" / "subset.npz")) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and words in line
    assert not (tmp_path / "out").exists()


def test_several_arrays_are_told_apart_by_name(tmp_path):
    np.savez(tmp_path / "two.npz", other=ROWS[:3], embeddings=ROWS)
    np.savez_compressed(tmp_path / "one.npz", text=ROWS)
    assert np.array_equal(embeddings.read(tmp_path / "two.npz", COUNT), ROWS)
    assert np.array_equal(embeddings.read(tmp_path / "one.npz", COUNT), ROWS)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({"embeddings": "class"}, "data.embeddings = 'class': npz:images.npz has no classes; use image, fixed or"),
        ({"mixture": "npz:images.npz", "mixture_share": 0.5}, "data.labels = 'embeddings:rows.npy': a mixture has"),
    ],
)
def test_what_the_data_make_impossible_is_one_line(tmp_path, monkeypatch, data, line):
    monkeypatch.chdir(written(tmp_path, classes=False))
    impossible = setup(Path(), **data)
    faults = Survey(tmp_path / "cache").assess(impossible).faults
    assert len(faults) == 1 and str(faults[0]).startswith(line)
    with pytest.raises(SettingsError) as caught:
        subset.draw(impossible, 12, 0)
    assert caught.value.lines == [str(fault) for fault in faults]


def test_a_signature_follows_the_content_alone(tmp_path):
    def signatures() -> tuple[str, str]:
        data = setup(tmp_path).data
        return Survey(tmp_path / "cache").embeddings(data), digest(datasets.load(data))

    written(tmp_path)
    before = signatures()
    os.utime(tmp_path / "rows.npy", (0, 0))
    assert signatures() == before
    with open(tmp_path / "rows.npy", "wb") as file:  # by content, not by suffix
        np.savez_compressed(file, rows=ROWS)
    assert signatures() == before
    written(tmp_path, ROWS + 1e-9)
    assert not set(signatures()) & set(before)


@pytest.mark.parametrize("mode", ["image", "class"])
def test_a_run_on_embeddings_passes_all_stages(tmp_path, mode):
    rows = np.random.default_rng(0).normal(size=(1797, 12)).astype(np.float16)
    file = tmp_path / "rows.npz"
    np.savez(file, rows=rows)
    data = CONTENT["data"] | {"labels": f"embeddings:{file}", "embeddings": mode}
    run = Pipeline(tmp_path / "results", CONTENT | {"data": data}).complete()
    with np.load(run.file("sample")) as samples:
        assert set(samples["labels"]) <= set(range(20 if mode == "image" else 10))
        assert len(set(samples["labels"])) > 5
    assert json.loads(run.record("score").read_text())["snapshots"]
    with open(run.file("denoising"), newline="") as table:
        distances = [float(row["to_optimum"]) for row in csv.DictReader(table) if row["against"] == "held-out"]
    assert distances and np.isfinite(distances).all()  # also of rows that no training image has
    assert verify(run.results).mismatches == []
    np.savez(file, rows=-rows)
    line, other = verify(run.results).mismatches
    assert other.endswith("subset.npz: is not the subset that its settings draw")
    assert line.startswith(f"data.source = 'digits' or data.labels = 'embeddings:{file}': has changed since ")
    file.unlink()
    assert verify(run.results).mismatches == []  # the data are elsewhere
