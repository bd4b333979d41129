"""The figures stage: files, and their bytes."""

import json

import pytest

from emmeter.errors import StageError
from emmeter.files.npz import write_npz
from emmeter.settings.sections import Figures
from emmeter.stages import figures
from tests import made_up


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return made_up.write(tmp_path_factory.mktemp("study"))


def draw(study, folder):
    write_npz(study / "gallery.npz", **made_up.gallery())
    options = ["--study", json.dumps(made_up.description()), "--style", Figures(dpi=60).model_dump_json()]
    options += [text for name in ("emm", "curves", "contrasts") for text in (f"--{name}", f"{study}/{name}.csv")]
    options += ["--folder", str(folder)]
    figures.main([*options, "--galleries", *[f"{study}/gallery.npz"] * len(made_up.ARMS)])
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_figures_show_every_kind_of_arm_and_repeat_their_bytes(study, tmp_path):
    drawn = draw(study, tmp_path / "once")
    assert set(drawn) == {f"{n}.{k}" for n in ("curves", "emm", "gallery") for k in ("svg", "png")}
    assert drawn == draw(study, tmp_path / "again")


def test_a_damaged_table_is_named(study, tmp_path):
    (tmp_path / "emm.csv").write_text("study,arm\n")
    for name in ("curves.csv", "contrasts.csv"):
        (tmp_path / name).write_bytes((study / name).read_bytes())
    with pytest.raises(StageError, match=r"emm\.csv: has other columns than this version writes"):
        draw(tmp_path, tmp_path / "drawn")
