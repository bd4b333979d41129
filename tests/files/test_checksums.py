"""Checksums: lists that sha256sum can check, and the refusal of changed files and records."""

import hashlib
import shutil
import subprocess

import pytest

from emmeter.errors import DataError
from emmeter.files import checksums


@pytest.fixture
def folder(tmp_path):
    """Two files with their list."""
    (tmp_path / "b.txt").write_bytes(b"b")
    (tmp_path / "a.json").write_text('{"n": 1}')
    checksums.record(tmp_path / "b.txt", tmp_path / "a.json")
    return tmp_path


def test_the_list_is_sorted_and_complete(folder):
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in ("a.json", "b.txt")}
    assert checksums.recorded(folder) == digests == checksums.of(folder / "a.json", folder / "b.txt")
    assert (folder / checksums.NAME).read_text() == "".join(f"{digest}  {name}\n" for name, digest in digests.items())


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_sha256sum_checks_the_list(folder):
    command = ["sha256sum", "--check", "--strict", "--quiet", checksums.NAME]
    assert subprocess.run(command, cwd=folder, check=False).returncode == 0
    (folder / "b.txt").write_bytes(b"c")
    assert subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 1


def test_each_folder_gets_its_list(tmp_path):
    paths = [tmp_path / name / "file" for name in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text(path.parent.name)
    checksums.record(*paths)
    assert [list(checksums.recorded(path.parent) or ()) for path in paths] == [["file"], ["file"]]


def test_changed_and_unlisted_files_are_refused(folder):
    checksums.check([folder / "a.json", folder / "b.txt"])
    (folder / "b.txt").write_bytes(b"c")
    (folder / "more.txt").write_bytes(b"")
    for name in ("b.txt", "more.txt"):
        with pytest.raises(DataError, match=rf"{name}: has changed since it was written \(SHA256SUMS beside it\)"):
            checksums.check([folder / name])


def test_missing_files_and_folders_without_a_list_are_accepted(folder):
    (folder / "b.txt").unlink()
    checksums.check([folder / "b.txt"])
    (folder / checksums.NAME).unlink()
    (folder / "a.json").write_text("{}")
    checksums.check([folder / "a.json"])
    assert checksums.recorded(folder) is None


@pytest.mark.parametrize("content", [b"", b"no list\n", b"\xff\xfe", b"0" * 64 + b" a.json\n", b"0" * 64 + b"  a/b\n"])
def test_damaged_lists_are_refused(folder, content):
    (folder / checksums.NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"SHA256SUMS: is not a list of checksums; delete .* and run again$"):
        checksums.check([folder / "a.json"])


@pytest.mark.parametrize(("content", "fault"), [("{", r"is not JSON \(.*\)"), ("[1]", "is not a record")])
def test_records_that_are_none_are_refused(folder, content, fault):
    assert checksums.read_json(folder / "a.json") == {"n": 1}
    (folder / "a.json").write_text(content)
    checksums.record(folder / "a.json")
    with pytest.raises(DataError, match=rf"a\.json: {fault}; delete it and run again$"):
        checksums.read_json(folder / "a.json")
