"""Files: atomic, reproducible, and refusing what they cannot hold."""

import json
import os
import subprocess
import time

import numpy as np
import pytest

from emmeter.files import provenance
from emmeter.files.npz import write_npz
from emmeter.files.writing import remove_abandoned, replacing, write_csv, write_json, write_text


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_makes_the_file_and_its_folder(tmp_path):
    path = tmp_path / "a" / "b.txt"
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["b.txt"]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_an_exception_keeps_the_old_file_and_leaves_nothing(tmp_path, error, old):
    path = tmp_path / "b.txt"
    if old:
        path.write_text(old)
    with pytest.raises(error):
        write_half(path, error)
    assert (path.read_text() if path.exists() else None) == old
    assert names(tmp_path) == (["b.txt"] if old else [])


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "b.txt"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["b.txt"]


def test_files_are_readable_as_the_umask_allows(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_only_temporary_files_of_dead_writers_are_removed(tmp_path):
    others = [".RESULTS.md.swp", ".hidden", ".RESULTS.md.", ".RESULTS.md.ABCDEFGH.md"]
    dead = [".RESULTS.md.abc_1234.md", ".b.txt.abcdefgh.txt", ".identity.12345678"]
    for name in (*others, *dead):
        (tmp_path / name).write_text("x")
    with replacing(tmp_path / "RESULTS.md") as living:
        living.write_text("new")
        write_text(tmp_path / "RESULTS.md", "other")
        assert names(tmp_path) == sorted([*others, *dead[1:], living.name, "RESULTS.md"])
        remove_abandoned(tmp_path)
        assert names(tmp_path) == sorted([*others, living.name, "RESULTS.md"])


def test_two_writers_do_not_meet(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as one:
        one.write_text("one")
        with replacing(path) as two:
            assert one != two
            two.write_text("two")
        assert path.read_text() == "two"
    assert path.read_text() == "one"
    assert names(tmp_path) == ["a"]


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a", "σ ≥ 1\n")
    assert (tmp_path / "a").read_bytes() == "σ ≥ 1\n".encode()


ARRAYS = {
    "images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
    "number": np.asarray(3, np.int64),
    "empty": np.zeros((0, 2), np.float32),
    "turned": np.arange(6.0).reshape(2, 3).T,
}


def test_npz_reads_back_and_its_bytes_repeat(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", **ARRAYS)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(1e9))
    monkeypatch.setattr(time, "time", lambda: 1e9)
    write_npz(tmp_path / "b.npz", **{name: array.copy(order="F") for name, array in ARRAYS.items()})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as archive:
        assert archive.files == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert archive[name].dtype == array.dtype
            assert np.array_equal(archive[name], array)


def test_npz_refuses_objects(tmp_path):
    path = tmp_path / "a.npz"
    write_npz(path, **ARRAYS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="allow_pickle"):
        write_npz(path, good=np.arange(3), bad=np.array([{}], object))
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")], {"x": float("nan")}])
def test_json_refuses_what_it_cannot_hold(tmp_path, value):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"value": value})
    assert names(tmp_path) == []


def test_json_reads_back(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"text": "σ", "flag": True}}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == content
    assert list(json.loads((tmp_path / "a.json").read_text())) == ["b", "a"]


def test_csv_has_columns_in_order_and_empty_cells(tmp_path):
    rows = [{"n": 10, "ratio": 1 / 3, "note": 'a, "b"'}, {"note": None, "n": 2, "ratio": 1e-9, "more": 1}]
    write_csv(tmp_path / "a.csv", ["n", "ratio", "note"], rows)
    text = (tmp_path / "a.csv").read_bytes()
    assert text == b'n,ratio,note\n10,0.333333,"a, ""b"""\n2,1e-09,\n'
    with pytest.raises(KeyError):
        write_csv(tmp_path / "a.csv", ["n", "missing"], rows)
    assert (tmp_path / "a.csv").read_bytes() == text


def test_provenance_says_what_made_a_result():
    found = provenance.provenance("abc", time.monotonic() - 2)
    assert found["key"] == "abc"
    assert 2 <= found["seconds"] < 60
    assert found["versions"]["emmeter"]
    assert found["versions"]["torch"]
    assert "cores" in found["hardware"]
    json.dumps(found, allow_nan=False)


# The commit that a record names


@pytest.fixture
def project_folder(tmp_path):
    """A project in a folder of its own, which is in no repository yet."""
    root = tmp_path / "outer" / "project é $x"
    (root / provenance.OWN_FILE).parent.mkdir(parents=True)
    (root / provenance.OWN_FILE).write_text("# the module\n")
    return root


def git(folder, *words):
    identity = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=b@c",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "protocol.file.allow=always",
    ]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-C", folder, *identity, *words], env=clean, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def committed(folder, what="."):
    git(folder, "init", "--quiet")
    git(folder, "add", what)
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def test_a_project_in_its_own_repository_names_its_commit(project_folder):
    commit = committed(project_folder)
    named = provenance.commit_of(project_folder)
    assert named and len(named) == 12 and commit.startswith(named)
    (project_folder / provenance.OWN_FILE).write_text("# changed\n")
    assert provenance.commit_of(project_folder) == f"{named}+"


def test_a_project_in_another_repository_has_no_commit(project_folder):
    committed(project_folder.parent)
    assert provenance.commit_of(project_folder) is None
    git(project_folder.parent, "rm", "-r", "--cached", "--quiet", ".")
    assert provenance.commit_of(project_folder) is None
    (project_folder / ".git").mkdir()  # damaged: git goes on to the folder above
    assert provenance.commit_of(project_folder) is None
    (project_folder / ".git").rmdir()
    (project_folder / ".git").write_text("gitdir: nowhere\n")
    assert provenance.commit_of(project_folder) is None


def test_a_project_unpacked_over_another_repository_has_no_commit(project_folder):
    (project_folder / "theirs.txt").write_text("theirs\n")
    committed(project_folder, "theirs.txt")
    assert provenance.commit_of(project_folder) is None


def test_a_project_in_no_repository_or_without_commits_has_none(project_folder):
    assert provenance.commit_of(project_folder) is None
    git(project_folder, "init", "--quiet")
    assert provenance.commit_of(project_folder) is None


def test_variables_of_git_name_no_other_repository(project_folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    committed(other)
    commit = committed(project_folder)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as in one of its hooks
    monkeypatch.setenv("GIT_WORK_TREE", str(project_folder))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert provenance.commit_of(project_folder) == commit[:12]
    (tmp_path / "bare").mkdir()
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit_of(tmp_path / "bare") is None


def test_worktrees_and_submodules_of_the_project_are_its_own(project_folder, tmp_path):
    commit = committed(project_folder)
    git(project_folder, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert provenance.commit_of(tmp_path / "tree") == commit[:12]
    host = tmp_path / "host"
    host.mkdir()
    (host / "theirs.txt").write_text("theirs\n")
    committed(host)
    git(host, "submodule", "--quiet", "add", str(project_folder), "emm")
    assert provenance.commit_of(host / "emm") == commit[:12]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_repository_of_another_user_is_still_the_project_s(project_folder):
    commit = committed(project_folder)
    for path in (project_folder, *project_folder.rglob("*")):
        os.chown(path, 12345, 12345)
    assert provenance.commit_of(project_folder) == commit[:12]


def test_without_git_there_is_no_commit(project_folder, monkeypatch, tmp_path):
    committed(project_folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit_of(project_folder) is None


# Text that no encoding holds


def test_bytes_of_names_that_are_no_text_are_written_as_escapes(tmp_path):
    write_text(tmp_path / "a.txt", "≥ caf\udce9")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "≥ caf\\udce9"
    write_csv(tmp_path / "a.csv", ["n"], [{"n": "caf\udce9"}])
    assert (tmp_path / "a.csv").read_bytes() == b"n\ncaf\\udce9\n"
