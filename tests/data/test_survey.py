"""The survey: data are read once for all arms, and decide what settings leave to them."""

from pathlib import Path

import numpy as np
import pytest

from emmeter.data import datasets, signature
from emmeter.data.survey import Survey
from emmeter.settings.sections import Setup

SEARCH = {"n_min": 2, "n_max": None, "start": 30}


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """Twenty images of 8x8 pixels, three of them equal."""
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8), np.uint8)
    images[:3] = images[0]
    np.savez(tmp_path / "a.npz", images=images)
    return Setup.model_validate(
        {
            "data": {"source": f"npz:{tmp_path / 'a.npz'}"},
            "network": {"attention": None, "multipliers": [1, 2]},
            "diffusion": {"preconditioning": "edm", "sigma_data": None},
            "search": SEARCH,
        }
    )


def test_null_values_come_from_the_data(setup, tmp_path):
    assessed = Survey(tmp_path / "cache").assess(setup)
    assert assessed.faults == []
    assert assessed.setup.network.attention == [4]
    assert (assessed.setup.search.n_max, assessed.setup.search.start) == (20, 20)
    assert assessed.setup.diffusion.sigma_data == pytest.approx(0.58, abs=0.03)  # uniform pixels


def test_all_arms_share_one_reading(setup, tmp_path, monkeypatch):
    readings = []
    for module, name in ((datasets, "describe"), (signature, "look"), (signature, "sign")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, f=function: readings.append(f.__name__) or f(*args))
    survey = Survey(tmp_path / "cache")
    assert survey.assess(setup).faults == []
    first = list(readings)
    assert {"describe", "look", "sign"} == set(first)
    for seed in range(1, 5):
        assert survey.assess(setup.model_copy(update={"seed": seed})).faults == []
    assert readings == first


def test_a_subset_of_equal_images_is_a_fault_only_after_a_look(setup, tmp_path):
    first = setup.model_copy(update={"data": setup.data.model_copy(update={"draw": "first"})})
    (fault,) = Survey(tmp_path / "cache").assess(first).faults
    assert fault.rule == "replicate 0 would begin with 2 copies of one image; search.n_min from 4 on is large enough"
    assert Survey(tmp_path / "cache", looked=False).assess(first).faults == []


def test_missing_images_are_a_fault_of_the_source(setup, tmp_path):
    path = tmp_path / "a.npz"
    path.unlink()
    survey = Survey(tmp_path / "cache")
    (fault,) = survey.assess(setup).faults
    assert (fault.key, fault.value) == ("data.source", repr(setup.data.source))
    assert fault.rule.startswith(f"{path}: cannot be read")
    assert survey.all_image_faults([setup.data, setup.data]) == [fault]
