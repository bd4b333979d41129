"""The figures stage: files, and their bytes."""

import json

import numpy as np
import pytest

from emmeter.errors import StageError
from emmeter.settings.sections import Figures
from emmeter.stages import figures
from tests import made_up


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("study"))


def draw(study, folder):
    images = np.random.default_rng(0).integers(0, 255, (16, 3, 8, 8), dtype=np.uint8)
    gallery = {f"{kind}_{side}": images for kind in ("best", "worst") for side in ("generated", "train")}
    np.savez(study / "gallery.npz", **gallery)
    options = ["--study", json.dumps(made_up.description()), "--style", Figures(dpi=60).model_dump_json()]
    options += ["--emm", f"{study}/emm.csv", "--curves", f"{study}/curves.csv", "--folder", str(folder)]
    figures.main([*options, "--galleries", *[f"{study}/gallery.npz"] * len(made_up.ARMS)])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_figures_show_every_kind_of_arm_and_repeat_their_bytes(study, tmp_path):
    drawn = draw(study, tmp_path / "once")
    assert set(drawn) == {f"{n}.{k}" for n in ("curves", "emm", "progress", "gallery") for k in ("svg", "png")}
    assert drawn == draw(study, tmp_path / "again")


def test_a_damaged_table_is_named(study, tmp_path):
    (tmp_path / "emm.csv").write_text("study,arm\n")
    (tmp_path / "curves.csv").write_bytes((study / "curves.csv").read_bytes())
    with pytest.raises(StageError, match=r"emm\.csv: has other columns than this version writes"):
        draw(tmp_path, tmp_path / "drawn")
