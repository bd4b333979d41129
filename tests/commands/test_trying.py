"""``emm try``: what it says of commands that keep the contract, and of those that break it."""

from pathlib import Path

import pytest

import trainers
from emmeter.commands.trying import try_arm
from emmeter.errors import StageError
from project import Project

RESULTS = Path("results")


@pytest.fixture
def folder(empty: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(empty.folder)
    return empty


def arm(project: Project, text: str = trainers.COPIER, options: str = trainers.OPTIONS) -> None:
    """Give the project an arm ``own/mine`` with this program."""
    program = trainers.write(project.folder, text)
    project.change("studies.own", {"arms": {"mine": {"model.command": trainers.command(program, options)}}})


def test_a_command_that_keeps_the_contract_is_said_to(folder, capsys):
    arm(folder, options=trainers.OPTIONS + " --steps 60")
    try_arm(RESULTS, "own/mine")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok: 10 images of type uint8 and shape (1, 10, 1, 8, 8), in ")
    assert lines[1] == "ok: another seed gives other images"
    assert lines[2].startswith("ok: ended by SIGTERM, it went on with 1 files in {state}: the same images, in ")
    assert lines[3] == "ok: nothing was written to the folder of the project"
    assert not RESULTS.exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("default_rng(int(a.seed))", "default_rng(0)", "another {seed} gives the same images"),
        ("with np.load", "open('leak.txt', 'w').write(a.seed)\nwith np.load", "writes elsewhere, to leak.txt"),
        (".astype(np.uint8)", "", "images in {samples} are float64 (10, 1, 8, 8): must be uint8"),
        ("with np.load", "raise SystemExit('no GPU here')\nwith np.load", "has ended with status 1: begins at step 0"),
        ("print(", "if done: raise SystemExit('bad state')\nprint(", "does not go on after SIGTERM"),
    ],
)
def test_a_broken_promise_is_one_line(folder, old, new, expected):
    assert old in trainers.COPIER
    arm(folder, trainers.COPIER.replace(old, new, 1), trainers.OPTIONS + " --steps 60")
    with pytest.raises(StageError) as error:
        try_arm(RESULTS, "own/mine")
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels/none", "labels/none: has no model.command"),
        ("own", "own: must name one arm, such as own/mine"),
        ("own/other", "own/other: is not an arm of the study"),
    ],
)
def test_arms_without_a_command_are_named(folder, text, expected):
    arm(folder)
    with pytest.raises(StageError, match=expected):
        try_arm(RESULTS, text)
