"""config/own_images.yaml as it is, with one line edited, on folders of every kind that it promises to work for."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from emmeter.errors import SettingsError
from emmeter.measure.search import ends
from emmeter.pipeline.index import Index, index_of
from emmeter.settings.configuration import load, read

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "config" / "own_images.yaml"


def write(folder: Path, count: int, side: int, channels: int, classes: int) -> None:
    """Images of random pixels, in one folder, or in turn in one folder per class."""
    rng = np.random.default_rng(0)
    for i in range(count):
        target = folder / f"class{i % classes}" if classes else folder
        target.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (side, side, channels)[: 2 + (channels == 3)], dtype=np.uint8)
        Image.fromarray(pixels).save(target / f"{i}.png")


def indexed(folder: Path, images: str = "folder:images") -> Index:
    """The template with its line `source` edited, met with the images in `folder`, which is the working folder."""
    text = TEMPLATE.read_text()
    assert text.count("source: folder:images ") == 1
    (folder / "own.yaml").write_text(text.replace("source: folder:images ", f"source: {images} "))
    return index_of(read(load([folder / "own.yaml"], ROOT)), folder / "results")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "side", "channels", "classes"),
    [
        (60, 8, 1, 0),
        (60, 64, 3, 10),
        (300, 32, 3, 0),
        (300, 33, 1, 7),
        (25, 16, 1, 2),
        (5000, 8, 1, 3),
    ],
)
def test_the_template_works_as_it_is(tmp_path, monkeypatch, count, side, channels, classes):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", count, side, channels, classes)
    index = indexed(tmp_path)
    study = index.study("conditioning")
    assert index.settings.selected == ["conditioning"]
    assert [arm.name for arm in study.arms] == ["unconditional", "random-labels", "unique-labels"]
    for arm in study.arms:
        assert arm.setup.network.attention == [4]
        assert arm.setup.search.n_max == count
        assert ends(arm.setup.search, 1, count) == (4, count)
        assert arm.setup.search.start <= count
        assert 0.05 < arm.setup.diffusion.sigma_data < 1  # of random pixels, which shrinking makes more alike
    notices = [] if side == 8 else [f"folder:images: images of {side}x{side} pixels are used at 8x8"]
    assert index.notices(["conditioning"]) == notices


def test_larger_networks_and_true_labels_work_with_it(tmp_path, monkeypatch):
    """The changes that its comments suggest."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", 60, 32, 3, 4)
    text = yaml.safe_load(TEMPLATE.read_text())
    text["data"] |= {"resolution": None, "balanced": True}
    text["studies"]["conditioning"]["without"] = []
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(text))
    index = index_of(read(load([tmp_path / "own.yaml"], ROOT)), tmp_path / "results")
    runs = [arm.setup for arm in index.study("conditioning").arms]
    assert [setup.data.labels for setup in runs] == ["none", "true", "random-10", "unique"]
    assert {setup.network.attention[0] for setup in runs if setup.network.attention} == {16}
    assert {setup.search.n_max for setup in runs} == {60}
    assert index.notices(["conditioning"]) == []


def test_a_sigma_data_of_other_images_is_a_notice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "images", 60, 8, 1, 0)
    (tmp_path / "own.yaml").write_text(
        "data: {source: folder:images}\nsearch: {n_max: 60}\nrun: [optimum]\ndiffusion: {sigma_data: 0.75}\n"
    )
    (line,) = index_of(read(load([tmp_path / "own.yaml"], ROOT)), tmp_path / "results").notices(["optimum"])[:1]
    assert re.search(r": diffusion\.sigma_data = 0\.75 is not theirs, which is 0\.5[789] \(null measures it\)$", line)


@pytest.mark.slow
def test_a_measured_sigma_data_needs_images_that_are_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match=r"diffusion\.sigma_data = None: cannot be measured before the images are"):
        indexed(tmp_path, "cifar10")
    index = index_of(read(load([tmp_path / "own.yaml"], ROOT)), tmp_path / "results", data_needed=False)  # to plan
    assert index.settings.base.diffusion.sigma_data == 0.5


def test_images_that_are_not_there_are_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError) as error:
        indexed(tmp_path)
    (line,) = str(error.value).splitlines()
    assert "data.source = 'folder:images': images: cannot be read as a folder" in line


@pytest.mark.parametrize("data", [{"source": "folder:~no-one/images"}, {"source": "cifar10", "root": "~no-one/data"}])
def test_an_unknown_home_is_one_line(tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"data": data, "run": ["optimum"]}))
    with pytest.raises(SettingsError) as error:
        index_of(read(load([tmp_path / "own.yaml"], ROOT)), tmp_path / "results")
    (line,) = str(error.value).splitlines()
    assert "the home folder ~no-one is not known on this machine" in line
