"""Atomic writing: whole files or none, readable as the umask allows, and equal bytes for equal content."""

import json
import os

import pytest

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


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / "a"
    with replacing(path) as outer:
        outer.write_text("outer")
        with replacing(path) as inner:
            assert outer != inner
            inner.write_text("inner")
        assert path.read_text() == "inner"
    assert path.read_text() == "outer"
    assert names(tmp_path) == ["a"]


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "a", "σ ≥ 1\n")
    assert (tmp_path / "a").read_bytes() == "σ ≥ 1\n".encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")], {"x": float("nan")}])
def test_json_refuses_values_that_it_cannot_represent(tmp_path, value):
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


def test_undecodable_bytes_of_names_are_written_as_escapes(tmp_path):
    write_text(tmp_path / "a.txt", "≥ caf\udce9")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "≥ caf\\udce9"
    write_csv(tmp_path / "a.csv", ["n"], [{"n": "caf\udce9"}])
    assert (tmp_path / "a.csv").read_bytes() == b"n\ncaf\\udce9\n"
