"""Collections for an audit: what is read of folders, arrays, archives and manifests, and what is refused."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emmeter.data.collection import gather as gathering
from emmeter.data.collection.gather import Collection, annotated, gather, grouped
from emmeter.data.collection.manifest import read_manifest
from emmeter.data.collection.sources import find
from emmeter.data.collection.store import Store
from emmeter.errors import DataError

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 6, 6), np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


def folder(path: Path, images: np.ndarray, suffix: str = ".png") -> Path:
    """A folder of images named by their positions."""
    path.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(images):
        picture(image).save(path / f"{index}{suffix}")
    return path


def read(*paths: Path, resize: int | None = None, spool: Path | None = None) -> list[Collection]:
    return gather([find(path) for path in paths], resize, lambda _: spool)


def pixels(collection: Collection) -> np.ndarray:
    return collection.store.rows(slice(0, len(collection)))


def refusal(*paths: Path, resize: int | None = None) -> list[str]:
    with pytest.raises(DataError) as caught:
        read(*paths, resize=resize)
    return caught.value.lines


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_folders_are_read_at_any_depth_in_natural_order(tmp_path, suffix):
    for index in (10, 9, 2):
        (tmp_path / "b").mkdir(exist_ok=True)
        picture(IMAGES[index % 5]).save(tmp_path / "b" / f"{index}{suffix}", lossless=True)
    (tmp_path / "a" / "c").mkdir(parents=True)
    picture(IMAGES[1]).save(tmp_path / "a" / "c" / f"x{suffix}", lossless=True)
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    (collection,) = read(tmp_path)
    assert collection.names == [f"a/c/x{suffix}", f"b/2{suffix}", f"b/9{suffix}", f"b/10{suffix}"]
    np.testing.assert_array_equal(pixels(collection), IMAGES[[1, 2, 4, 0]])
    assert collection.ignored == 1


def test_a_link_to_a_folder_above_ends(tmp_path):
    folder(tmp_path / "in", IMAGES[:2])
    (tmp_path / "in" / "again").symlink_to(tmp_path, target_is_directory=True)
    (collection,) = read(tmp_path)
    assert collection.names == ["in/0.png", "in/1.png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", ["npy", "npz", "arr_0", "only", "last", "floats", "halves"])
def test_arrays_are_read_in_every_layout(tmp_path, kind, channels, monkeypatch):
    monkeypatch.setattr(gathering, "JOB_BYTES", 250)  # several parts
    images = IMAGES[:, :channels]
    stored, name = images.transpose(0, 2, 3, 1), tmp_path / f"a.{'npy' if kind == 'npy' else 'npz'}"
    stored = stored[..., 0] if channels == 1 else stored
    if kind == "npy":
        np.save(name, stored)
    elif kind == "last":  # our own samples: the last of two snapshots
        np.savez_compressed(name, images=np.stack([images[::-1], images]), shares=np.ones(2))
    elif kind in ("floats", "halves"):
        np.savez(name, images=(stored / 255).astype(np.float32 if kind == "floats" else np.float16))
    else:
        np.savez(name, **{{"npz": "images", "arr_0": "arr_0", "only": "pictures"}[kind]: stored})
    (collection,) = read(name)
    np.testing.assert_array_equal(pixels(collection), images)
    assert collection.names == ["0", "1", "2", "3", "4"]


def test_archives_of_edm_are_read_with_their_labels(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for index, image in enumerate(IMAGES):
            content = io.BytesIO()
            picture(image).save(content, "PNG")
            archive.writestr(f"00000/img{index:08d}.png", content.getvalue())
        labels = [[f"00000/img{index:08d}.png", index % 2] for index in range(5)]
        archive.writestr("dataset.json", json.dumps({"labels": labels}))
        archive.writestr("__MACOSX/00000/._img.png", b"")
    (collection,) = read(tmp_path / "set.zip")
    np.testing.assert_array_equal(pixels(collection), IMAGES)
    assert collection.notes == {"label": ["0", "1", "0", "1", "0"]}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_manifests_name_images_beside_them_with_notes(tmp_path, kind):
    folder(tmp_path / "in", IMAGES)
    rows = [{"path": "in/3.png", "group": "p1", "prompt": 'a "b", c'}, {"path": "in/1.png", "group": "", "prompt": "d"}]
    text = 'Path,group,prompt\nin/3.png,p1,"a ""b"", c"\nin/1.png,,d\n'
    path = tmp_path / f"m.{kind}"
    path.write_text(text if kind == "csv" else "\n".join(map(json.dumps, rows)))
    (collection,) = read(path)
    np.testing.assert_array_equal(pixels(collection), IMAGES[[3, 1]])
    assert collection.notes == {"group": ["p1", ""], "prompt": ['a "b", c', "d"]}
    assert grouped(collection, None) == ["p1", ""]


def test_a_manifest_adds_notes_to_a_folder_by_name_or_by_file(tmp_path):
    folder(tmp_path / "in", IMAGES)
    (tmp_path / "m.csv").write_text("path,seed\nin/0.png,7\n1.png,8\n")
    noted = annotated(find(tmp_path / "in"), read_manifest(tmp_path / "m.csv"))
    assert noted.notes == {"seed": ["7", "8", "", "", ""]}


def test_grey_images_among_colours_have_three_equal_channels(tmp_path):
    grey = np.repeat(IMAGES[:1, :1], 3, axis=1)
    folder(tmp_path, IMAGES)
    picture(IMAGES[0, :1]).save(tmp_path / "0.png")
    (collection,) = read(tmp_path)
    np.testing.assert_array_equal(pixels(collection), np.concatenate([grey, IMAGES[1:]]))


def test_a_late_colour_among_grey_images_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "SAMPLE", 2)
    folder(tmp_path, IMAGES[:, :1])
    picture(IMAGES[4]).save(tmp_path / "4.png")
    (collection,) = read(tmp_path)
    expected = np.concatenate([np.repeat(IMAGES[:4, :1], 3, axis=1), IMAGES[4:]])
    np.testing.assert_array_equal(pixels(collection), expected)


def test_resizing_takes_the_middle_square_of_every_size(tmp_path):
    wide = np.zeros((1, 3, 6, 10), np.uint8)
    wide[..., 2:8] = IMAGES[0]
    folder(tmp_path, IMAGES)
    picture(wide[0]).save(tmp_path / "0.png")
    (collection,) = read(tmp_path, resize=6)
    np.testing.assert_array_equal(pixels(collection), IMAGES)
    (small,) = read(tmp_path, resize=4)
    assert small.store.shape == (3, 4, 4)


def test_processes_and_threads_files_and_memory_read_the_same(tmp_path, monkeypatch):
    images = np.random.default_rng(1).integers(0, 256, (90, 3, 5, 7), np.uint8)
    folder(tmp_path / "in", images)
    (threads,) = read(tmp_path / "in")
    monkeypatch.setattr(gathering, "MANY", 1)
    (processes,) = read(tmp_path / "in", spool=tmp_path)
    np.testing.assert_array_equal(pixels(threads), images)
    np.testing.assert_array_equal(pixels(processes), images)
    assert threads.sha256 == processes.sha256 and threads.digests == processes.digests
    assert os.listdir(tmp_path) == ["in"]


def test_the_digest_of_a_set_follows_names_and_bytes(tmp_path):
    (one,), (two,) = read(folder(tmp_path / "a", IMAGES)), read(folder(tmp_path / "b", IMAGES))
    assert one.sha256 == two.sha256
    (tmp_path / "b" / "0.png").rename(tmp_path / "b" / "zero.png")
    assert read(tmp_path / "b")[0].sha256 != one.sha256


def test_a_store_in_a_file_reads_what_was_written(tmp_path):
    store = Store(5, (3, 6, 6), tmp_path)
    store.write(2, IMAGES[2:])
    store.write(0, IMAGES[:2])
    np.testing.assert_array_equal(store.rows(slice(1, 4)), IMAGES[1:4])
    np.testing.assert_array_equal(store.take(np.array([4, 0])), IMAGES[[4, 0]])
    assert store.take(np.array([], np.int64)).shape == (0, 3, 6, 6)


def test_groups_follow_a_pattern(tmp_path):
    folder(tmp_path, IMAGES[:2])
    (tmp_path / "1.png").rename(tmp_path / "patient7_1.png")
    (collection,) = read(tmp_path)
    assert grouped(collection, r"patient(\d+)") == ["", "7"]
    assert grouped(collection, r"patient\d+") == ["", "patient7"]
    assert grouped(collection, None) is None
    with pytest.raises(DataError, match=r"matches no name, such as 0\.png"):
        grouped(collection, "subject")
    with pytest.raises(DataError, match="is not a regular expression"):
        grouped(collection, "(")


def test_sets_of_different_sizes_are_one_fault(tmp_path):
    first, second = folder(tmp_path / "a", IMAGES), folder(tmp_path / "b", IMAGES[..., :4, :5])
    assert refusal(first, second) == [
        f"{second}: its first image has 5 x 4 pixels, that of {first} 6 x 6; give one size, such as --resize 4"
    ]


def test_every_faulty_image_has_a_line_up_to_twenty(tmp_path):
    folder(tmp_path, np.repeat(IMAGES, 6, axis=0))
    for index in range(2, 30):
        (tmp_path / f"{index}.png").write_bytes(b"no image")
    lines = refusal(tmp_path)
    assert len(lines) == 21 and lines[0].startswith(f"{tmp_path}/2.png: ") and lines[-1] == f"{tmp_path}: and 8 more"


def npz(path: Path, **arrays: np.ndarray) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def cut(path: Path) -> None:
    npz(path, images=IMAGES)
    path.write_bytes(path.read_bytes()[:-300])


def zipped(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def png() -> bytes:
    content = io.BytesIO()
    picture(IMAGES[0]).save(content, "PNG")
    return content.getvalue()


def fortran(path: Path) -> None:
    np.save(path, np.asfortranarray(IMAGES))


FAULTS = [
    ("gone", lambda _: None, "no such folder or file"),
    ("empty", lambda path: path.mkdir(), "holds no images"),
    ("a.tar", lambda path: path.write_bytes(b"x"), "must be a folder, an .npz, .npy or .zip file, or a manifest"),
    ("a.png", lambda path: path.write_bytes(png()), "must be a folder, an .npz, .npy or .zip file, or a manifest"),
    ("p.npz", os.mkfifo, "is not a regular file"),
    ("a.npz", lambda path: path.write_bytes(b"x"), "damaged, or not an .npz file"),
    ("a.npz", cut, "damaged"),
    ("a.npz", lambda path: npz(path, a=IMAGES, b=IMAGES), "must hold an array images, samples or arr_0; it holds a, b"),
    ("a.npz", lambda path: npz(path), "it holds nothing"),
    ("a.npz", lambda path: npz(path, images=IMAGES.astype(np.int64)), "must be uint8, or floats from 0 to 1"),
    ("a.npz", lambda path: npz(path, images=IMAGES[0, 0]), "must be uint8, or floats from 0 to 1"),
    ("a.npz", lambda path: npz(path, images=IMAGES[:0]), "holds no images"),
    ("a.npz", lambda path: npz(path, images=IMAGES[:, :2]), "with 1 or 3 channels"),
    ("a.npz", lambda path: npz(path, images=np.zeros((2, 6, 6, 4), np.uint8)), "with 1 or 3 channels"),
    ("a.npz", lambda path: npz(path, images=np.zeros((2, 3, 6, 3), np.uint8)), "as (2, 3, 6, 3) does not tell"),
    ("a.npz", lambda path: npz(path, images=IMAGES / 127.5 - 1), "from -1 to 1; store (images + 1) / 2"),
    ("a.npz", lambda path: npz(path, images=IMAGES.astype(np.float32)), "floats above 1; store grey levels as uint8"),
    ("a.npz", lambda path: npz(path, images=IMAGES * np.nan), "beyond 0 to 1, or no numbers"),
    ("a.npz", lambda path: npz(path, images=np.array([[[None]]])), "pickled objects, which are never loaded"),
    ("a.npy", lambda path: path.write_bytes(b"x"), "damaged, or not an .npy file"),
    ("a.npy", lambda path: np.save(path, np.array([[[None]]])), "pickled objects, which are never loaded"),
    ("a.npy", fortran, "is stored in Fortran's order"),
    ("a.zip", lambda path: path.write_bytes(b"x"), "damaged, or not a ZIP file"),
    ("a.zip", lambda path: zipped(path, {"a.txt": b""}), "holds no images"),
    ("a.zip", lambda path: zipped(path, {"a.png": b"no"}), "a.png: is not a .png"),
    ("a.zip", lambda path: zipped(path, {"a.png": png(), "dataset.json": b"{}"}), "dataset.json: must hold labels"),
    ("a.zip", lambda path: zipped(path, {"a.png": png(), "dataset.json": b"["}), "dataset.json: must hold labels"),
    ("m.csv", lambda path: path.write_text(""), "must have a column path"),
    ("m.csv", lambda path: path.write_text("file\na.png\n"), "must have a column path"),
    ("m.csv", lambda path: path.write_text("path\n"), "has no rows"),
    ("m.csv", lambda path: path.write_text("path,path\na,b\n"), "two columns of one name"),
    ("m.csv", lambda path: path.write_text("path,group\na.png\n"), "line 2 has 1 cells, the header 2"),
    ("m.csv", lambda path: path.write_text('path\n"a\n'), "is not CSV"),
    ("m.csv", lambda path: path.write_text("path\na.png\na.png\n"), "line 3 names a.png again (line 2)"),
    ("m.csv", lambda path: path.write_text("path,group\n,a\n"), "line 2 names no image"),
    ("m.csv", lambda path: path.write_bytes(b"\xff\xfe\x00"), "must be UTF-8 text"),
    ("m.csv", lambda path: path.write_text("path\ngone.png\n"), "gone.png: "),
    ("m.jsonl", lambda path: path.write_text("{"), "line 1 is not JSON"),
    ("m.jsonl", lambda path: path.write_text('\n["a.png"]\n'), "line 2 must be an object"),
    ("m.jsonl", lambda path: path.write_text("[" * 100_000), "line 1 is not JSON"),
    ("m.jsonl", lambda path: path.write_text('{"group": "a"}\n'), "line 1 names no image"),
]


@pytest.mark.parametrize(("name", "make", "words"), FAULTS, ids=[f"{name}: {words}" for name, _, words in FAULTS])
def test_what_cannot_be_read_is_one_line_that_names_it(tmp_path, name, make, words):
    make(tmp_path / name)
    (line,) = refusal(tmp_path / name)
    assert line.startswith(str(tmp_path)) and words in line
