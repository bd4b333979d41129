"""Signatures of the user's own images: changed by every change of content, and by nothing else."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emmeter.data import signature
from emmeter.errors import DataError
from emmeter.settings import sources
from emmeter.settings.sections import Data


def write(path: Path, value: int, side: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path, format="BMP")  # all files have one size


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of two images, so old that the cache may trust their times."""
    folder = tmp_path / "photos"
    for i, name in enumerate(("a/0.bmp", "a/1.bmp", "b/0.bmp", "b/1.bmp")):
        write(folder / name, 10 * i)
    return folder


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file has been there for long."""
    monkeypatch.setattr(signature, "RACY", -3600.0)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def of(folder: Path, cache: Path) -> str:
    return signature.sign(f"folder:{folder}", cache).signature


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of which digests are made from now on."""
    read: list[str] = []
    real = signature.hashlib.file_digest

    def noted(file, kind):  # type: ignore[no-untyped-def]
        read.append(Path(file.name).name)
        return real(file, kind)

    monkeypatch.setattr(signature.hashlib, "file_digest", noted)
    return read


def test_times_and_copies_change_nothing(photos, cache, tmp_path):
    before = of(photos, cache)
    for file in photos.rglob("*.bmp"):
        os.utime(file, (2e9, 4e9))  # in the future
    assert of(photos, cache) == before
    shutil.copytree(photos, tmp_path / "elsewhere" / "photos", copy_function=shutil.copyfile)
    assert of(tmp_path / "elsewhere" / "photos", cache) == before
    (photos / "notes.txt").write_text("not an image")
    assert of(photos, cache) == before


def rename(folder: Path) -> None:
    (folder / "b/1.bmp").rename(folder / "b/2.bmp")


def move(folder: Path) -> None:
    (folder / "b/1.bmp").rename(folder / "a/2.bmp")


def exchange(folder: Path) -> None:
    (folder / "a/0.bmp").rename(folder / "t")
    (folder / "b/1.bmp").rename(folder / "a/0.bmp")
    (folder / "t").rename(folder / "b/1.bmp")


def replace(folder: Path) -> None:
    """Another image of the same size with the old one's times, as ``cp -p`` and ``rsync -t`` leave it."""
    old = os.stat(folder / "a/0.bmp")
    write(folder / "new.bmp", 99)
    os.utime(folder / "new.bmp", ns=(old.st_atime_ns, old.st_mtime_ns))
    (folder / "new.bmp").rename(folder / "a/0.bmp")


def overwrite(folder: Path) -> None:
    """The same in place: the inode stays."""
    old = os.stat(folder / "a/0.bmp")
    time.sleep(0.02)  # longer than the clock of the file system takes to tick
    write(folder / "a/0.bmp", 99)
    os.utime(folder / "a/0.bmp", ns=(old.st_atime_ns, old.st_mtime_ns))


def add(folder: Path) -> None:
    write(folder / "b/9.bmp", 9)


def remove(folder: Path) -> None:
    (folder / "b/1.bmp").unlink()


@pytest.mark.parametrize("change", [rename, move, exchange, replace, overwrite, add, remove])
@pytest.mark.usefixtures("settled")
def test_every_change_of_content_is_noticed(photos, cache, change):
    before = of(photos, cache)
    change(photos)
    changed = of(photos, cache)
    assert changed != before
    assert of(photos, cache.with_name("none")) == changed  # as without a cache


@pytest.mark.usefixtures("settled")
def test_only_changed_files_are_read_again(photos, cache, monkeypatch):
    before = of(photos, cache)
    read = reads(monkeypatch)
    assert of(photos, cache) == before
    assert read == []
    overwrite(photos)
    of(photos, cache)
    assert read == ["0.bmp"]


def test_a_file_that_has_just_been_written_is_not_trusted(photos, cache, monkeypatch):
    """It may change again without a new time, where a file system's clock is coarse."""
    of(photos, cache)
    read = reads(monkeypatch)
    of(photos, cache)
    assert len(read) == 4


@pytest.mark.parametrize("damage", ["", "{}", "not JSON", "0" * 64 + "\n{}", None])
@pytest.mark.usefixtures("settled")
def test_a_damaged_cache_is_none(photos, cache, damage):
    before = of(photos, cache)
    (file,) = cache.iterdir()
    if damage is None:  # a digest that a failing disk has changed, in JSON that is still right
        text = file.read_text()
        digest = json.loads(text.partition("\n")[2])["files"]["a/0.bmp"][-1]
        file.write_text(text.replace(digest, digest[::-1]))
    else:
        file.write_text(damage)
    assert of(photos, cache) == before


def test_a_cache_that_cannot_be_written_is_none(photos, tmp_path):
    (tmp_path / "cache").write_text("a file in its place")
    assert of(photos, tmp_path / "cache") == of(photos, tmp_path / "another")


def test_names_that_are_no_text(tmp_path, cache):
    for name in (b"\xff\xfe.bmp", b"{000}.bmp", b"$HOME `ls`.bmp", "Ä ö.bmp".encode(), b"new\nline.bmp"):
        write(tmp_path / "photos" / os.fsdecode(name), len(name))
    first = of(tmp_path / "photos", cache)
    assert of(tmp_path / "photos", cache) == first
    write(tmp_path / "photos" / os.fsdecode(b"\xff\xfe.bmp"), 77)
    assert of(tmp_path / "photos", cache) != first


# One .npz file


def test_an_npz_file_is_followed_by_its_arrays(tmp_path, cache):
    images = np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"

    def of_npz(path: Path) -> str:
        return signature.sign(f"npz:{path}", cache).signature

    np.savez(first, images=images)
    np.savez_compressed(second, images=images, notes=np.zeros(3))
    assert of_npz(first) == of_npz(second)  # however it is packed, and whatever else is in it
    np.savez(second, images=images[::-1])
    assert of_npz(first) != of_npz(second)
    np.savez(second, images=images, labels=np.arange(4))
    labelled = of_npz(second)
    assert labelled != of_npz(first)
    many = {f"other{i:05}": np.zeros(1) for i in range(2000)}  # whose directory is longer than 64 KB
    np.savez(first, images=images, **many)
    before = of_npz(first)
    np.savez(first, images=images[::-1], **many)
    assert of_npz(first) != before


def test_a_file_that_is_no_npz_is_named(tmp_path, cache):
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(DataError, match=r"text\.npz: damaged, or not an \.npz file"):
        signature.sign(f"npz:{tmp_path / 'text.npz'}", cache)


# Unknown home folders


@pytest.mark.parametrize("text", ["~nobody-of-that-name/photos", "~nobody-of-that-name"])
def test_an_unknown_home_is_one_line(text):
    with pytest.raises(DataError, match=r"^~nobody-of-that-name.*: the home folder ~nobody-of-that-name is not known"):
        sources.own_path(f"folder:{text}")


def test_a_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert sources.own_path("folder:~/photos") == Path("/home/someone/photos")
    assert sources.own_path("npz:a~b.npz") == Path("a~b.npz")


# A look at the pixels


def test_a_look_is_remembered_with_the_content(photos, cache, monkeypatch):
    data = Data(source=f"folder:{photos}")
    look = signature.look(data, "one", cache)
    values = np.repeat([0.0, 10.0, 20.0, 30.0], 16)
    assert look.sigma_data == float(f"{values.std() / 127.5:.2g}")
    assert look.copies is None
    monkeypatch.setattr(signature.datasets, "load", None)
    assert signature.look(data, "one", cache) == look
    assert signature.look(data.model_copy(update={"classes": [1]}), "one", cache) == look  # of all images
    with pytest.raises(TypeError):
        signature.look(data, "two", cache)


def test_a_look_finds_copies_at_the_size_at_which_images_are_used(tmp_path, cache):
    images = np.zeros((3, 4, 4), np.uint8)
    images[0, ::2], images[1, 1::2] = 200, 200  # one as the other at two pixels less
    path = tmp_path / "images.npz"
    np.savez(path, images=images, labels=[0, 1, 1])
    data = Data(source=f"npz:{path}")
    assert signature.look(data, "s", cache).copies is None
    for _ in range(2):  # made, remembered
        copies = signature.look(data.model_copy(update={"resolution": 1}), "s", cache).copies
        assert copies is not None
        assert copies.same.tolist() == [0, 0, 2]
        assert copies.labels is not None and copies.labels.tolist() == [0, 1, 1]


def test_sigma_data_of_many_and_of_one_colour():
    images = np.random.default_rng(0).integers(0, 256, (2500, 1, 3, 3), dtype=np.uint8)
    assert signature.sigma_data(images) == float(f"{(images / 127.5 - 1).std():.2g}")
    assert signature.sigma_data(np.full((5, 1, 2, 2), 9, np.uint8)) == 0.01
