"""The record of a result's circumstances, and the commit that it names."""

import json
import os
import subprocess
import time

import pytest

from emmeter.files import provenance


def test_a_record_has_key_time_versions_and_hardware():
    record = provenance.provenance("abc", time.monotonic() - 2)
    assert record["key"] == "abc"
    assert 2 <= record["seconds"] < 60
    assert record["versions"]["emmeter"]
    assert record["versions"]["torch"]
    assert "cores" in record["hardware"]
    json.dumps(record, allow_nan=False)


# The commit


@pytest.fixture
def project_folder(tmp_path):
    """A project in its own folder, which is in no repository yet."""
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
    answer = subprocess.run(
        ["git", "-C", folder, *identity, *words], env=clean, check=True, capture_output=True, text=True
    )
    return answer.stdout.strip()


def committed(folder, files="."):
    git(folder, "init", "--quiet")
    git(folder, "add", files)
    git(folder, "commit", "--quiet", "--allow-empty", "--message", "all")
    return git(folder, "rev-parse", "HEAD")


def test_a_project_in_its_own_repository_names_its_commit(project_folder):
    commit = committed(project_folder)
    short = provenance.commit(project_folder)
    assert short and len(short) == 12 and commit.startswith(short)
    (project_folder / provenance.OWN_FILE).write_text("# changed\n")
    assert provenance.commit(project_folder) == f"{short}+"


def test_a_project_in_another_repository_has_no_commit(project_folder):
    committed(project_folder.parent)
    assert provenance.commit(project_folder) is None
    git(project_folder.parent, "rm", "-r", "--cached", "--quiet", ".")
    assert provenance.commit(project_folder) is None
    (project_folder / ".git").mkdir()  # damaged: git continues in the folder above
    assert provenance.commit(project_folder) is None
    (project_folder / ".git").rmdir()
    (project_folder / ".git").write_text("gitdir: nowhere\n")
    assert provenance.commit(project_folder) is None


def test_a_project_unpacked_over_another_repository_has_no_commit(project_folder):
    (project_folder / "theirs.txt").write_text("theirs\n")
    committed(project_folder, "theirs.txt")
    assert provenance.commit(project_folder) is None


def test_a_project_in_no_repository_or_without_commits_has_none(project_folder):
    assert provenance.commit(project_folder) is None
    git(project_folder, "init", "--quiet")
    assert provenance.commit(project_folder) is None


def test_variables_of_git_name_no_other_repository(project_folder, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    committed(other)
    commit = committed(project_folder)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))  # as in a hook of the other repository
    monkeypatch.setenv("GIT_WORK_TREE", str(project_folder))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    assert provenance.commit(project_folder) == commit[:12]
    (tmp_path / "bare").mkdir()
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit(tmp_path / "bare") is None


def test_worktrees_and_submodules_of_the_project_are_its_own(project_folder, tmp_path):
    commit = committed(project_folder)
    git(project_folder, "worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert provenance.commit(tmp_path / "tree") == commit[:12]
    host = tmp_path / "host"
    host.mkdir()
    (host / "theirs.txt").write_text("theirs\n")
    committed(host)
    git(host, "submodule", "--quiet", "add", str(project_folder), "emm")
    assert provenance.commit(host / "emm") == commit[:12]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to another user")
def test_a_repository_of_another_user_is_still_the_project_s(project_folder):
    commit = committed(project_folder)
    for path in (project_folder, *project_folder.rglob("*")):
        os.chown(path, 12345, 12345)
    assert provenance.commit(project_folder) == commit[:12]


def test_without_git_there_is_no_commit(project_folder, monkeypatch, tmp_path):
    committed(project_folder)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.commit(project_folder) is None
