"""Arrays in .npz files: equal bytes for equal arrays, and no pickled objects."""

import time

import numpy as np
import pytest

from emmeter.errors import DataError
from emmeter.files.npz import array_header, opened, read_arrays, write_npz

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
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_required_and_optional_arrays_are_read(tmp_path):
    write_npz(tmp_path / "a.npz", **ARRAYS)
    arrays = read_arrays(tmp_path / "a.npz", ["images"], ["number", "labels"])
    assert list(arrays) == ["images", "number"]
    assert np.array_equal(arrays["images"], ARRAYS["images"])
    with pytest.raises(
        DataError, match=r"a\.npz: must hold an array 'labels'; it holds images, number, empty, turned$"
    ):
        read_arrays(tmp_path / "a.npz", ["labels"])


def test_a_header_is_read_without_the_array(tmp_path):
    write_npz(tmp_path / "a.npz", **ARRAYS)
    with opened(tmp_path / "a.npz", ["images"]) as archive:
        assert array_header(tmp_path / "a.npz", archive, "images") == ((2, 3, 4), np.dtype(np.uint8))


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "pickled"])
def test_files_that_cannot_be_read_are_named(tmp_path, damage):
    path = tmp_path / "a.npz"
    write_npz(path, **ARRAYS)
    whole = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "pickled":
        np.savez(path, images=np.array([{}], object))
    else:
        path.write_bytes(whole[: len(whole) // 2 if damage == "truncated" else 0])
    with pytest.raises(DataError, match=r"^.*a\.npz: .*(cannot be read|damaged|pickled objects)"):
        read_arrays(path, ["images"])
