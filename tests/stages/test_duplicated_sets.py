"""Runs on training sets with repeated images: training, the optimum, the criterion, and the tables of copies."""

import numpy as np
import pandas as pd
import pytest
import torch

from emmeter.commands.showing import changed
from emmeter.data.subset import Subset, draw
from emmeter.data.subset import load as load_subset
from emmeter.diffusion.sampling import draws
from emmeter.files.scores import read_samples
from emmeter.files.tables import COPIED_COLUMNS
from emmeter.measure.copied import copied
from emmeter.measure.criterion import memorized
from emmeter.measure.quality.features import pixels
from emmeter.measure.quality.floors import against_train
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.stages.sample import from_optimum
from emmeter.stages.score import nearest_images
from emmeter.training.schedule import budget
from emmeter.training.trainer import Trainer, build
from one_run import CONTENT, Pipeline, replaced

REPEATED = {"share": 0.25, "times": 4}  # 5 of 20 images, 35 entries


def content(duplicates, **sections):
    return CONTENT | {"data": CONTENT["data"] | {"duplicates": duplicates}} | sections


def table(pipeline, name):
    return pd.read_csv(pipeline.file("quality", name))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run whose samples are replaced: three copies of a repeated image in the middle; six, and two of another."""
    pipeline = Pipeline(tmp_path_factory.mktemp("made") / "results", content(REPEATED))
    for stage in ("subset", "train", "sample"):
        assert pipeline.call(stage) == 0
    subset = load_subset(pipeline.file("subset"))
    repeated, once = subset.groups[-1], single(subset)
    samples = np.full((3, 24, 1, 8, 8), 128, np.uint8)
    samples[1, :3], samples[2, :6], samples[2, 6:8] = subset.images[[repeated, repeated, once]][:, None]
    replaced(pipeline.file("sample"), images=samples)
    for stage in ("score", "emm", "quality"):
        assert pipeline.call(stage) == 0
    return pipeline


def single(subset):
    """Position of the first image that stands once in the training set."""
    return int(np.argmax(np.bincount(subset.groups) == 1))


def test_a_pass_of_training_shows_each_image_as_often_as_it_stands_in_the_set():
    setup = read_setup(content({"share": 0.2, "times": 6}, training=CONTENT["training"] | {"batch_size": 20}))
    drawn = draw(setup, 10, 0)
    trainer = Trainer(setup, 10, 1, build(setup, (1, 8, 8), 0), drawn, torch.device("cpu"))
    for _ in range(2):
        images = ((trainer._draw()[0] + 1) * 127.5).round().to(torch.uint8).numpy()
        shown = [sum(np.array_equal(image, each) for each in images) for image in drawn.images[:10]]
        assert shown == np.bincount(drawn.groups).tolist()
        assert sorted(shown) == [1] * 8 + [6] * 2


def test_the_length_of_a_run_in_epochs_counts_different_images():
    training = CONTENT["training"] | {"duration": "32 epochs"}
    lengths = {budget(read_setup(content(given, training=training)), 20).images for given in (None, REPEATED)}
    assert lengths == {640}


def test_the_optimum_on_a_set_with_repeated_images_scores_1():
    setup = read_setup(content({"share": 0.5, "times": 9}, diffusion={"denoiser": "optimum"}, sampling={"steps": 18}))
    drawn = draw(setup, 20, 0)
    cpu = torch.device("cpu")
    generated = from_optimum(setup, drawn, draws(400, (1, 8, 8), None, 0), 400, cpu).images[0].numpy()
    (near,) = nearest_images(generated[None], drawn, setup)
    flags = memorized(near)
    assert flags.all()
    result = copied(near.indices[:, 0], flags, drawn.groups)
    assert (result.train, result.repeated.images, result.once.images) == (20, 10, 10)
    assert result.repeated.copies is not None
    weight = result.repeated.copies * 10 / 400  # share of the generated images that copy a repeated one
    assert weight == pytest.approx(0.9, abs=4 * (0.9 * 0.1 / 400) ** 0.5)
    # The paper's rule is blind to copies of repeated images.
    assert memorized(near, distinct=False).mean() == pytest.approx(1 - weight)


def test_the_optimum_of_a_class_weighs_its_repeated_images():
    """Of two images of a class, one of which stands three times, it makes copies 3 to 1; classes are drawn alike."""
    images = np.zeros((3, 1, 8, 8), np.uint8)
    images[1], images[2] = 120, 240
    entries = np.array([0, 1, 2, 0, 0])
    labels = np.array([0, 0, 1])[entries]
    drawn = Subset(images[entries], labels, 2, entries, entries, images[:0], labels[:0])
    setup = read_setup({"diffusion": {"denoiser": "optimum"}, "sampling": {"steps": 18}})
    chosen = draws(800, (1, 8, 8), torch.arange(2), 0)
    generated = from_optimum(setup, drawn, chosen, 800, torch.device("cpu")).images[0].numpy()[:, 0, 0, 0]
    assert chosen.labels is not None
    assert np.array_equal(generated == 240, chosen.labels.numpy() == 1)
    assert (generated == 0).sum() / (generated < 200).sum() == pytest.approx(0.75, abs=0.09)


def test_tables_count_repeated_images_and_say_how_often_each_stands_in_the_set(made):
    subset = load_subset(made.file("subset"))
    assert len(subset.images) == 35
    shares, images = table(made, "copied.csv"), table(made, "copied_images.csv")
    assert tuple(shares.columns) == COPIED_COLUMNS
    assert shares["train"].tolist() == [20] * 3 and shares["repeated"].tolist() == [5] * 3
    assert shares["repeated_share"].tolist() == pytest.approx([0, 1 / 5, 1 / 5], rel=1e-4)
    assert shares["repeated_copies"].tolist() == pytest.approx([0, 3 / 5, 6 / 5], rel=1e-4)
    assert shares["once_share"].tolist() == pytest.approx([0, 0, 1 / 15], rel=1e-4)
    assert shares["once_copies"].tolist() == pytest.approx([0, 0, 2 / 15], rel=1e-4)
    assert images["position"].tolist() == [subset.groups[-1], single(subset)]
    assert images["times"].tolist() == [4, 1]
    assert images["copies"].tolist() == [6, 2]


def test_without_repeated_images_their_columns_are_empty(tmp_path):
    pipeline = Pipeline(tmp_path / "results").complete()
    shares = table(pipeline, "copied.csv")
    assert shares["repeated"].tolist() == [0] * 3
    assert np.isnan(shares[["repeated_share", "repeated_copies"]].to_numpy(float)).all()
    assert shares["once_share"].tolist() == pytest.approx(shares["share"].tolist(), abs=1e-6)


def test_quality_compares_with_each_training_image_once(made):
    subset = load_subset(made.file("subset"))
    generated = read_samples(made.file("sample"))["images"]
    expected = against_train(
        list(map(pixels, generated)), pixels(subset.images[:20]), pixels(subset.held_out), k=5, most=1000, draws=10
    )
    assert expected is not None
    rows = table(made, "quality.csv").query("against == 'training'")
    assert rows["coverage"].tolist() == pytest.approx([row.generated.coverage for row in expected], rel=1e-4)
    assert rows["frechet"].tolist() == pytest.approx([row.generated.frechet for row in expected], rel=1e-4)


def test_settings_of_repeated_images_are_shown_one_by_one():
    assert changed(Setup(), read_setup({"data": {"duplicates": REPEATED}})) == {
        "data.duplicates.share": 0.25,
        "data.duplicates.times": 4,
    }
