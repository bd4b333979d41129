"""Options of jobs: short ones as they are, long ones by file."""

from pathlib import Path

import pytest

from emmeter.pipeline import options

LONG = "x" * (options.LONGEST + 1)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_short_option_is_itself():
    text = LONG[1:]
    assert options.handed(text) == text
    assert options.handed_files([Path("a"), "b"]) == ["a", "b"]
    assert list(Path().iterdir()) == []


def test_a_long_option_is_a_file_that_its_content_names():
    name = options.handed(LONG)
    assert Path(name.removeprefix("@")).read_text() == f"{LONG}\n"
    assert options.handed(LONG) == name
    assert options.handed(LONG + "y") != name


def test_a_dry_run_writes_nothing():
    assert options.handed(LONG, write=False).startswith("@")
    assert list(Path().iterdir()) == []


def test_many_files_are_a_file_of_lines():
    files = [f"results/{i:04}" for i in range(1000)]
    name = options.handed_files(files)
    assert isinstance(name, str)
    assert Path(name.removeprefix("@")).read_text().splitlines() == files


def test_clearing_keeps_the_cache_of_images():
    options.clear()  # without a folder
    kept = options.FOLDER / "0123456789abcdef.json"
    options.handed(LONG)
    kept.write_text("{}")
    options.clear()
    assert list(options.FOLDER.iterdir()) == [kept]
