"""Experiments: one folder per name, images and criterion."""

import json

import pytest

from emmeter.errors import SettingsError
from emmeter.files.layout import EXPERIMENT
from emmeter.files.writing import write_json
from emmeter.pipeline.experiment import folder, meaning, notice, others
from emmeter.settings.configuration import read
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from emmeter.settings.written import FOLDERS


def base(**changes) -> Setup:
    """Digits at 8x8, with changes written section__key."""
    content = {"data": {"source": "digits", "resolution": 8}}
    for name, value in changes.items():
        section, _, key = name.partition("__")
        content.setdefault(section, {})[key] = value
    return read_setup(content)


def record(results, name: str, setup: Setup) -> None:
    write_json(results / name / EXPERIMENT, meaning(setup))


def test_an_experiment_has_the_folder_of_its_name(tmp_path):
    assert folder(tmp_path, "mine", base()) == tmp_path / "mine"
    record(tmp_path, "mine", base())
    assert folder(tmp_path, "mine", base()) == tmp_path / "mine"
    assert notice(tmp_path / "mine", "mine") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"training__duration": "500 images"},
        {"search__confirm": 6},
        {"seed": 3},
        {"network__channels": 8},
        {"data__held_out": 9},
    ],
)
def test_more_runs_or_another_training_stay_in_the_folder(tmp_path, changes):
    record(tmp_path, "mine", base())
    setup = base(**changes) if "seed" not in changes else base().model_copy(update=changes)
    assert folder(tmp_path, "mine", setup) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"search__epsilon": 0.2}, "mine-epsilon-0.2"),
        ({"scoring__threshold": "1/4"}, "mine-threshold-0.25"),
        ({"data__source": "cifar10"}, "mine-cifar10"),
        ({"data__source": "npz:some where/my photos.npz"}, "mine-my-photos"),
        ({"data__source": "folder:data/dogs", "data__resolution": 16}, "mine-dogs-16x16"),
        ({"data__resolution": None}, "mine-full-size"),
        ({"data__classes": [0, 5]}, "mine-classes-0-5"),
        ({"scoring__mirrored": True, "scoring__snapshot": "best"}, "mine-mirrored-True-snapshot-best"),
    ],
)
def test_other_images_or_another_criterion_get_a_folder_that_tells_them(tmp_path, changes, name):
    record(tmp_path, "mine", base())
    chosen = folder(tmp_path, "mine", base(**changes))
    assert chosen == tmp_path / name
    record(tmp_path, chosen.name, base(**changes))
    assert folder(tmp_path, "mine", base(**changes)) == chosen
    assert folder(tmp_path, "mine", base()) == tmp_path / "mine"
    line = notice(chosen, "mine")
    assert line is not None and str(chosen) in line and str(tmp_path / "mine") in line
    assert others(tmp_path, chosen) == ["mine"]


def test_names_that_tell_the_same_are_numbered(tmp_path):
    """Two sources of one name, after the first experiment has been replaced."""
    record(tmp_path, "mine", base())
    record(tmp_path, "mine-photos", base(data__source="npz:a/photos.npz"))
    record(tmp_path, "mine-photos-2", base(data__source="npz:b/photos.npz"))
    assert folder(tmp_path, "mine", base(data__source="npz:b/photos.npz")).name == "mine-photos-2"
    assert folder(tmp_path, "mine", base(data__source="npz:c/photos.npz")).name == "mine-photos-3"


@pytest.mark.parametrize("content", ["", "[]", "{", "3"])
def test_a_damaged_record_is_none(tmp_path, content):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / EXPERIMENT).write_text(content)
    assert folder(tmp_path, "mine", base(search__epsilon=0.2)) == tmp_path / "mine"


def test_the_meaning_is_json_that_reads_back(tmp_path):
    setup = base(scoring__threshold="1/3", data__classes=[1, 2])
    assert json.loads(json.dumps(meaning(setup))) == meaning(setup)
    assert meaning(setup)["scoring.threshold"] == 1 / 3


def config(name: object) -> dict:
    return {"name": name, "data": {"source": "digits"}, "studies": {"s": {"arms": {"a": {}}}}}


@pytest.mark.parametrize("name", ["digits", "My-photos_2.v1", "2026"])
def test_names_of_experiments(name):
    assert read(config(name)).name == name
    assert read(config(2026)).name == "2026"  # as YAML reads it


@pytest.mark.parametrize(
    "name", [*sorted(FOLDERS), "", "..", "a/b", "-x", ".hidden", "with blank", "x" * 61, None, True, ["a"]]
)
def test_names_that_would_not_be_a_folder_of_their_own(name):
    with pytest.raises(SettingsError, match=r"^name"):
        read(config(name))
