"""The section `model`: which commands are allowed, how settings are filled in, and what enters the keys."""

from pathlib import Path
from typing import Any

import pytest

from emmeter.errors import SettingsError
from emmeter.settings import invocation
from emmeter.settings.configuration import read
from emmeter.settings.keys import key, stage_settings
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup

NEEDED = "{subset} {samples}"


def setup(command: str, **sections: Any) -> Setup:
    return read_setup({"model": {"command": command}} | sections)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("", "must name a program"),
        ("train {subset} 'x", "must be one line as a shell splits it (no closing quotation)"),
        ("train {samples}", "must have {subset}"),
        ("train {subset}", "must have {samples}"),
        (f"train {NEEDED} {{replicate}}", "has {replicate}; allowed: {subset}, {samples}"),
        ("train {{subset}} {samples}", "must have {subset}"),
        (5, "must be a valid string"),
    ],
)
def test_wrong_commands_are_refused(command, expected):
    with pytest.raises(SettingsError) as error:
        read_setup({"model": {"command": command}})
    assert f"model.command = {command!r}: " in str(error.value)
    assert expected in str(error.value)


def test_the_optimum_is_no_model_of_a_command():
    with pytest.raises(SettingsError, match=r"diffusion.denoiser = 'optimum': must be network, because model.command"):
        setup(f"train {NEEDED}", diffusion={"denoiser": "optimum"})


def test_settings_are_filled_in():
    command = f"train {NEEDED} --batch {{training.batch_size}} --labels {{data.labels}}"
    filled = invocation.command(setup(command, training={"batch_size": 64}))
    assert filled.endswith("--batch 64 --labels none")
    assert "'{subset}'" in filled


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(SettingsError, match=r"model.command: has \{training.batch\}; .*did you mean 'batch_size'"):
        invocation.command(setup(f"train {NEEDED} {{training.batch}}"))


def test_values_with_spaces_and_braces_stay_one_word():
    made = setup(f"train {NEEDED} {{data.source}}", data={"source": "folder:my {new} images"})
    places = dict.fromkeys(("subset", "samples"), "a b")
    assert invocation.words(invocation.resolved(made), places) == ["train", "a b", "a b", "folder:my {new} images"]


def test_settings_of_a_stage_read_back_give_the_same_key():
    made = invocation.resolved(setup(f"train {NEEDED} {{training.batch_size}} {{{{x}}}}", training={"batch_size": 64}))
    for stage in ("train", "sample", "score", "emm", "quality"):
        assert key(stage, read_setup(stage_settings(stage, made))) == key(stage, made)


def test_spellings_of_one_command_share_their_keys():
    first, second = setup(f"train  {NEEDED} 'x'"), setup(f'train {NEEDED} "x"')
    assert key("sample", first) == key("sample", second)


def test_a_setting_that_the_command_asks_for_changes_its_key():
    command = f"train {NEEDED} {{training.batch_size}}"
    assert key("sample", setup(command)) != key("sample", setup(command, training={"batch_size": 64}))


def test_digests_follow_the_content_of_files_and_folders(tmp_path):
    code = tmp_path / "code"
    (code / "parts").mkdir(parents=True)
    (code / "parts" / "a.py").write_text("a")
    (tmp_path / "single.py").write_text("a")
    before = [invocation.digest(str(path)) for path in (code, tmp_path / "single.py")]
    (code / "__pycache__").mkdir()
    (code / "__pycache__" / "a.pyc").write_text("compiled")
    assert invocation.digest(str(code)) == before[0]
    (code / "parts" / "a.py").rename(code / "parts" / "b.py")
    assert invocation.digest(str(code)) != before[0]
    (tmp_path / "single.py").write_text("b")
    assert invocation.digest(str(tmp_path / "single.py")) != before[1]


def test_changed_and_missing_files_are_named(tmp_path):
    names = [str(tmp_path / name) for name in ("kept", "edited", "gone")]
    for name in names:
        Path(name).write_text("x")
    made = read_setup({"model": {"command": f"train {NEEDED}", "files": names}})
    made = invocation.resolved(made)
    assert invocation.changed(made) == []
    Path(names[1]).write_text("y")
    Path(names[2]).unlink()
    assert invocation.changed(made) == names[1:]


def test_a_missing_file_is_a_fault_of_its_arm_alone(tmp_path):
    model = {"model.command": f"train {NEEDED}", "model.files": [str(tmp_path / "gone.py")]}
    studies = {"own": {"arms": {"mine": model}}, "other": {"arms": {"one": {}}}}
    with pytest.raises(
        SettingsError, match=r"studies.own.arms.mine: model.files = '.*gone.py': cannot be read \(No such"
    ):
        read({"studies": studies})
    assert [study.name for study in read({"studies": studies}, asked=["other"]).studies] == ["own", "other"]


def test_arms_that_differ_in_nothing_that_the_command_asks_for_are_a_fault():
    def arms(command: str) -> dict[str, Any]:
        return {"small": {"model.command": command}, "large": {"model.command": command, "training.batch_size": 64}}

    fault = r"studies.own.arms.large: model.command: has no \{training.batch_size\}, so the arm is the same as small"
    with pytest.raises(SettingsError, match=fault):
        read({"studies": {"own": {"arms": arms(f"train {NEEDED}")}}})
    asked = f"train {NEEDED} {{training.batch_size}}"
    assert len(read({"studies": {"own": {"arms": arms(asked)}}}).studies[0].arms) == 2
