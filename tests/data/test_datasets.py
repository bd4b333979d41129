"""Reading images: every source, and one clear line for everything that can be wrong with them."""

import gzip
import io
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emmeter.data import datasets, defects, feasibility, inventory, named, pictures
from emmeter.errors import DataError, SettingsError
from emmeter.settings.sections import Data

VECTORS = Path(__file__).parents[1] / "vectors"


def pixels(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def npz(path: Path, **arrays) -> Data:
    np.savez(path, **arrays)
    return Data(source=f"npz:{path}")


def folder(path: Path) -> Data:
    return Data(source=f"folder:{path}")


def refused(data: Data, *words: object) -> None:
    """Loading fails with one line that holds all `words`; describing fails alike or, before pixels are read, not."""
    with pytest.raises(DataError) as failure:
        datasets.load(data)
    message = str(failure.value)
    assert "\n" not in message
    for word in words:
        assert str(word) in message


def image_faults(data: Data, inventories: dict[str, inventory.Inventory]) -> list[str]:
    return [str(fault) for fault in defects.image_faults(data, inventories)]


def selected(data: Data) -> list[str]:
    return [str(fault) for fault in feasibility.selection_faults(data, datasets.describe(data))]


# -- digits


def test_digits_equal_the_reference_vectors():
    loaded = datasets.load(Data(source="digits"))
    with np.load(VECTORS / "optimal_digits64.npz") as vectors:
        assert np.array_equal(loaded.images[:64], vectors["train_uint8"])


def test_digits_are_scaled_by_rounding_half_up():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    loaded = datasets.load(Data(source="digits"))
    assert np.array_equal(loaded.images.reshape(1797, 64), np.floor(bunch.data * 255 / 16 + 0.5))
    assert np.array_equal(loaded.labels, bunch.target)
    assert np.array_equal(loaded.indices, np.arange(1797))
    assert loaded.images.dtype == np.uint8 and loaded.labels.dtype == loaded.indices.dtype == np.int64


def test_digits_are_found_when_scikit_learn_moves_its_file(monkeypatch):
    expected = datasets.load(Data(source="digits"))

    def moved(*_: object, **__: object) -> None:
        raise FileNotFoundError

    def load_digits(return_X_y: bool) -> tuple[np.ndarray, np.ndarray]:
        assert return_X_y
        return np.round(expected.images.reshape(-1, 64) * (16 / 255)), expected.labels

    with monkeypatch.context() as patched:
        patched.setattr("emmeter.data.named.gzip.open", moved)
        patched.setattr("sklearn.datasets.load_digits", load_digits)
        assert np.array_equal(datasets.load(Data(source="digits")).images, expected.images)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    refused(Data(source="digits"), "digits", "install scikit-learn")


def test_damaged_digits(monkeypatch):
    monkeypatch.setattr("emmeter.data.named.gzip.open", lambda *_: io.StringIO("1,2\n3,x\n"))
    refused(Data(source="digits"), "digits.csv.gz: damaged", "install scikit-learn again")


@pytest.mark.parametrize("source", ["digits", "glyphs"])
def test_describing_and_reading_embedded_sets_imports_nothing_slow(source):
    code = (
        "import sys; from emmeter.data import datasets; from emmeter.settings.sections import Data; "
        f"d = Data(source='{source}'); "
        "datasets.describe(d); 'fontTools' in sys.modules and sys.exit('describing reads the font'); datasets.load(d); "
        "slow = {'torch', 'torchvision', 'sklearn', 'scipy', 'pandas', 'matplotlib'} & set(sys.modules); "
        f"sys.exit(bool(slow) or ('fontTools' in sys.modules) != ({source!r} == 'glyphs'))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- facts and selection


@pytest.mark.parametrize(
    ("source", "images", "shape", "classes"),
    [
        ("digits", 1797, (1, 8, 8), 10),
        ("glyphs", 5315, (1, 64, 64), 10),
        ("cifar10", 50_000, (3, 32, 32), 10),
        ("cifar100", 50_000, (3, 32, 32), 100),
        ("svhn", 73_257, (3, 32, 32), 10),
        ("fashion_mnist", 60_000, (1, 28, 28), 10),
        ("mnist", 60_000, (1, 28, 28), 10),
    ],
)
def test_facts_of_named_sets(source, images, shape, classes):
    facts = datasets.describe(Data(source=source))
    assert (facts.images, facts.shape, facts.stored_shape) == (images, shape, shape)
    assert facts.class_counts == facts.stored_counts and facts.class_counts is not None
    assert sum(facts.class_counts) == images and len(facts.class_counts) == classes


def test_facts_equal_what_is_loaded():
    data = Data(source="digits", classes=[7, 2], resolution=4)
    facts, loaded = datasets.describe(data), datasets.load(data)
    assert loaded.images.shape == (facts.images, *facts.shape) == (179 + 177, 1, 4, 4)
    assert tuple(np.bincount(loaded.labels)) == facts.class_counts == (179, 177)
    everything = datasets.load(Data(source="digits"))
    assert np.array_equal(everything.labels[loaded.indices], np.array([7, 2])[loaded.labels])
    assert np.array_equal(np.sort(loaded.indices), loaded.indices)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"resolution": 9}, "data.resolution = 9: must be at most 8"),
        ({"classes": [3, 10]}, "data.classes = [3, 10]: must be among 0 to 9"),
        ({"classes": [3, 3]}, "data.classes = [3, 3]: must name at least one class, and none twice"),
        ({"classes": []}, "data.classes = []: must name at least one class"),
    ],
)
def test_impossible_selection(settings, words):
    data = Data(source="digits", **settings)
    assert len(selected(data)) == 1 and words in selected(data)[0]
    with pytest.raises(SettingsError, match="data"):
        datasets.load(data)


def test_two_faults_are_two_lines():
    assert len(selected(Data(source="digits", resolution=64, classes=[11]))) == 2


def test_classes_without_labels(tmp_path):
    data = npz(tmp_path / "a.npz", images=pixels(5, 4, 4)).model_copy(update={"classes": [0]})
    assert "has no labels to select by" in selected(data)[0]


def test_empty_classes(tmp_path):
    data = npz(tmp_path / "a.npz", images=pixels(5, 4, 4), labels=np.array([1, 1, 3, 3, 3]))
    assert datasets.describe(data).class_counts == (0, 2, 0, 3)
    assert "class 0 is empty" in selected(data)[0]
    assert "class 2 is empty" in selected(data.model_copy(update={"classes": [3, 2]}))[0]
    assert selected(data.model_copy(update={"balanced": False})) == []
    loaded = datasets.load(data.model_copy(update={"classes": [3, 1]}))
    assert loaded.labels.tolist() == [1, 1, 0, 0, 0] and loaded.indices.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("channels", [1, 3])
def test_downscaling_is_lanczos_on_each_image(tmp_path, channels):
    images = pixels(3, 12, 12, channels)
    loaded = datasets.load(npz(tmp_path / "a.npz", images=images).model_copy(update={"resolution": 5}))
    for ours, image in zip(loaded.images, images, strict=True):
        expected = np.asarray(Image.fromarray(image.squeeze()).resize((5, 5), Image.Resampling.LANCZOS))
        assert np.array_equal(ours.transpose(1, 2, 0).squeeze(), expected)


# -- torchvision


FILES = {
    "cifar10": "cifar-10-batches-py",
    "cifar100": "cifar-100-python",
    "svhn": "train_32x32.mat",
    "fashion_mnist": "FashionMNIST/raw/train-images-idx3-ubyte",
    "mnist": "MNIST/raw/train-images-idx3-ubyte",
}


@pytest.mark.parametrize("source", FILES)
def test_missing_named_set(tmp_path, source):
    data = Data(source=source, root=str(tmp_path))
    refused(data, tmp_path / FILES[source], "not found", "set data.download: true, or put there")
    assert named.absent(data) is not None
    assert named.absent(data.model_copy(update={"download": True})) is None
    assert named.absent(Data(source="digits")) is None


def idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    path.write_bytes(header + array.tobytes())


@pytest.fixture
def fashion(tmp_path) -> Data:
    """Thirty images in the form of Fashion-MNIST."""
    raw = tmp_path / "FashionMNIST" / "raw"
    for split in ("train", "t10k"):
        idx(raw / f"{split}-images-idx3-ubyte", pixels(30, 28, 28))
        idx(raw / f"{split}-labels-idx1-ubyte", np.arange(30, dtype=np.uint8) % 10)
    return Data(source="fashion_mnist", root=str(tmp_path))


def test_torchvision_set_is_read(fashion, monkeypatch):
    small = named.Named((1, 28, 28), (3,) * 10, "Small", None, "FashionMNIST", FILES["fashion_mnist"])
    monkeypatch.setitem(named.NAMED, "fashion_mnist", small)
    loaded = datasets.load(fashion)
    assert np.array_equal(loaded.images[:, 0], pixels(30, 28, 28))
    assert loaded.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9] * 3


def test_incomplete_torchvision_set(fashion):
    refused(fashion, "train-images-idx3-ubyte", "holds 30 images", "expected the 60000")


def test_truncated_torchvision_set(fashion):
    file = Path(fashion.root) / FILES["fashion_mnist"]
    file.write_bytes(file.read_bytes()[:5000])
    refused(fashion, file, "damaged", "delete it and set data.download: true")


def test_corrupt_cifar(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"nothing")
    refused(Data(source="cifar10", root=str(tmp_path)), tmp_path / "cifar-10-batches-py", "damaged")


def test_failing_download(tmp_path, monkeypatch):
    def unreachable(_root: Path, _named: object, download: bool):
        raise RuntimeError("no route to host.\nsecond line" if download else "not found")

    monkeypatch.setattr(named, "_open_torchvision", unreachable)
    refused(Data(source="mnist", root=str(tmp_path), download=True), "download failed (no route to host)", "put there")


# -- npz


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((4, 6, 6), (1, 6, 6)),
        ((4, 6, 6, 1), (1, 6, 6)),
        ((4, 6, 6, 3), (3, 6, 6)),
        ((4, 1, 6, 6), (1, 6, 6)),
        ((4, 3, 6, 6), (3, 6, 6)),
        ((4, 3, 3, 3), (3, 3, 3)),
        ((4, 3, 3, 1), (1, 3, 3)),
        ((4, 1, 3, 3), (1, 3, 3)),
        ((4, 1, 1, 3), (3, 1, 1)),
    ],
)
def test_npz_layouts(tmp_path, stored, shape):
    data = npz(tmp_path / "a.npz", images=pixels(*stored))
    assert datasets.describe(data).shape == shape
    loaded = datasets.load(data)
    assert loaded.images.shape == (4, *shape) and loaded.images.flags.c_contiguous and loaded.labels is None
    last = len(stored) == 4 and stored[1] == stored[2]  # (N, 3, 3, 3) is read as channels last
    plain = pixels(*stored).transpose(0, 3, 1, 2) if last else pixels(*stored)
    assert np.array_equal(loaded.images, plain.reshape(loaded.images.shape))


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.uint64])
def test_npz_labels(tmp_path, dtype):
    np.savez_compressed(tmp_path / "a.npz", images=pixels(3, 4, 4), labels=np.array([1, 0, 1], dtype), other=np.ones(2))
    loaded = datasets.load(Data(source=f"npz:{tmp_path}/a.npz"))
    assert loaded.labels.dtype == np.int64 and loaded.labels.tolist() == [1, 0, 1]


def test_npz_in_fortran_order(tmp_path):
    images = np.asfortranarray(pixels(5, 4, 4, 3))
    assert np.array_equal(
        datasets.load(npz(tmp_path / "a.npz", images=images)).images, pixels(5, 4, 4, 3).transpose(0, 3, 1, 2)
    )


GOOD = pixels(4, 6, 6)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"x": GOOD}, ["must hold an array 'images'; it holds x"]),
        ({}, ["must hold an array 'images'; it holds nothing"]),
        ({"images": GOOD.astype(np.float32)}, ["must be uint8", "float32"]),
        ({"images": GOOD[0]}, ["must be uint8 (N, H, W)", "(6, 6)"]),
        ({"images": GOOD[:0]}, ["must be uint8", "(0, 6, 6)"]),
        ({"images": pixels(4, 0, 0)}, ["(4, 0, 0)"]),
        ({"images": pixels(4, 6, 5)}, ["must be square with 1 or 3 channels", "(4, 6, 5)"]),
        ({"images": pixels(4, 6, 6, 2)}, ["must be square with 1 or 3 channels", "(4, 6, 6, 2)"]),
        ({"images": pixels(32, 32, 3)}, ["must be square", "(32, 32, 3)"]),
        ({"images": np.array([None, {}], object)}, ["'images' holds pickled objects"]),
        ({"images": GOOD, "labels": np.array([0, 1, 2, None])}, ["'labels' holds pickled objects"]),
        ({"images": GOOD, "labels": np.zeros(4)}, ["'labels' must be integers (4,)", "float64"]),
        ({"images": GOOD, "labels": np.zeros(4, bool)}, ["'labels' must be integers (4,)", "bool"]),
        ({"images": GOOD, "labels": np.zeros(3, int)}, ["'labels' must be integers (4,)", "(3,)"]),
        ({"images": GOOD, "labels": np.zeros((4, 1), int)}, ["'labels' must be integers (4,)", "(4, 1)"]),
        ({"images": GOOD, "labels": np.array([0, 1, -1, 2])}, ["'labels' must be 0 .. K-1", "-1 .. 2"]),
        ({"images": GOOD, "labels": np.array([0, 1, 10**12, 2])}, ["'labels' must be 0 .. K-1", str(10**12)]),
    ],
)
def test_npz_refused(tmp_path, arrays, words):
    data = npz(tmp_path / "a.npz", **arrays)
    refused(data, tmp_path / "a.npz", *words)
    with pytest.raises(DataError):
        datasets.describe(data)


def test_npz_that_is_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    data = Data(source=f"npz:{path}")
    refused(data, path, "cannot be read (No such file or directory)")
    path.write_bytes(b"")
    refused(data, path, "damaged, or not an .npz file")
    with open(path, "wb") as file:
        np.save(file, GOOD)
    refused(data, path, "damaged, or not an .npz file")
    refused(Data(source=f"npz:{tmp_path}"), tmp_path, "cannot be read (Is a directory)")


def test_npz_truncated_or_flipped(tmp_path):
    path = tmp_path / "a.npz"
    data = npz(path, images=pixels(50, 8, 8), labels=np.arange(50) % 5)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused(data, path, "damaged")
    path.write_bytes(whole[:500] + bytes([whole[500] ^ 1]) + whole[501:])  # a pixel: only the checksum can tell
    refused(data, path, "damaged", "CRC")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255), st.booleans())
def test_no_damage_escapes_as_another_error(tmp_path_factory, position, value, compressed):
    path = tmp_path_factory.mktemp("fuzz") / "a.npz"
    arrays = {"images": pixels(6, 4, 4), "labels": np.arange(6) % 2}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    try:
        loaded = datasets.load(Data(source=f"npz:{path}"))
    except (DataError, SettingsError):
        return
    assert np.array_equal(loaded.images[:, 0], arrays["images"])


def test_npz_whose_header_lies(tmp_path):
    path = tmp_path / "a.npz"
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6, 10**6)}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", buffer.getvalue() + b"few")
    refused(Data(source=f"npz:{path}"), path, "damaged", "'images' has 3 bytes")


def test_describing_npz_does_not_read_pixels(tmp_path):
    path = tmp_path / "a.npz"
    data = npz(path, images=pixels(50, 32, 32), labels=np.arange(50) % 5)
    whole = path.read_bytes()
    path.write_bytes(whole[:40_000] + bytes([whole[40_000] ^ 1]) + whole[40_001:])
    refused(data, path, "damaged", "CRC")
    assert datasets.describe(data).class_counts == (10,) * 5


# -- folder


def write(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def test_folder_of_classes(tmp_path):
    for name, seed in (("b/2.png", 2), ("b/10.PNG", 3), ("a/x.bmp", 1), ("c/w.webp", 4)):
        options = {"lossless": True} if name.endswith("webp") else {}
        write(tmp_path / name, pixels(6, 6, 3, seed=seed), **options)
    write(tmp_path / "a" / ".hidden.png", pixels(9, 9))
    write(tmp_path / ".git" / "x.png", pixels(9, 9))
    (tmp_path / "README.md").write_text("ignored")
    (tmp_path / "a" / "labels.csv").write_text("ignored")
    facts, loaded = datasets.describe(folder(tmp_path)), datasets.load(folder(tmp_path))
    assert facts.class_counts == (1, 2, 1) and facts.shape == (3, 6, 6) and facts.images == 4
    assert loaded.labels.tolist() == [0, 1, 1, 2]
    for image, seed in zip(loaded.images, (1, 2, 3, 4), strict=True):
        assert np.array_equal(image, pixels(6, 6, 3, seed=seed).transpose(2, 0, 1))


def test_folder_classes_are_chosen_before_decoding(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / name / "1.png", pixels(8, 8, seed=ord(name)))
    (tmp_path / "b" / "1.png").write_bytes(b"not an image")
    loaded = datasets.load(folder(tmp_path).model_copy(update={"classes": [2, 0], "resolution": 4}))
    assert (
        loaded.labels.tolist() == [1, 0] and loaded.indices.tolist() == [0, 2] and loaded.images.shape == (2, 1, 4, 4)
    )


def test_flat_folder(tmp_path):
    for name in ("b.jpg", "a.jpeg"):
        write(tmp_path / name, pixels(6, 6))
    loaded = datasets.load(folder(tmp_path))
    assert loaded.labels is None and loaded.images.shape == (2, 1, 6, 6)
    assert datasets.describe(folder(tmp_path)).class_counts is None


def image_of(mode: str) -> Image.Image:
    return Image.fromarray(pixels(6, 6, 3)).convert(mode)


def png16() -> bytes:
    """A 6 x 6 PNG of 16-bit colour, which Pillow can read but not write."""
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(36) for _ in range(6))
    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def bomb(path: Path) -> None:
    write(path, Image.new("L", (14_000, 14_000)))


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("x.png", lambda p: write(p, image_of("P"), transparency=3), "found mode P with transparency"),
        ("x.png", lambda p: write(p, image_of("RGBA")), "found mode RGBA"),
        ("x.tif", lambda p: write(p, image_of("F")), "found 32 bits per channel"),
        ("x.tif", lambda p: write(p, image_of("LAB")), "found mode LAB"),
        ("x.png", lambda p: write(p, image_of("LA")), "found mode LA"),
        ("x.png", lambda p: write(p, image_of("RGB"), transparency=(1, 2, 3)), "mode RGB with transparency"),
        ("x.png", lambda p: write(p, pixels(6, 6).astype(np.uint16)), "found 16 bits per channel"),
        ("x.png", lambda p: p.write_bytes(png16()), "found 16 bits per channel"),
        ("x.jpg", lambda p: write(p, image_of("CMYK")), "found mode CMYK"),
        ("x.png", lambda p: write(p, image_of("L")), "has shape (C, H, W) = (1, 6, 6), but others have (3, 6, 6)"),
        ("x.png", lambda p: write(p, pixels(7, 7, 3)), "has shape (C, H, W) = (3, 7, 7)"),
        ("x.png", lambda p: write(p, pixels(6, 7, 3)), "must be square, found 7 x 6 pixels"),
        ("x.png", lambda p: write(p, image_of("RGB"), save_all=True, append_images=[image_of("L")]), "2 frames"),
        ("x.webp", lambda p: write(p, image_of("RGB"), save_all=True, append_images=[image_of("L")]), "2 frames"),
        ("x.png", lambda p: p.write_bytes(b""), "is empty"),
        ("x.png", lambda p: p.write_text("hello"), "is not a .png"),
        ("x.png", lambda p: p.write_bytes(b"\0\0\0\x1cftypheic" + bytes(99)), "is a HEIF image; images must be .png"),
        ("x.png", lambda p: write(p, image_of("RGB"), format="JPEG2000"), "is a JPEG 2000 image"),
        ("x.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(99)), "damaged, or a PNG image of a kind"),
        ("x.png", bomb, "pixels"),
        ("x.png", lambda p: p.symlink_to("gone.png"), "cannot be read"),
        ("x.gif", lambda p: write(p, image_of("P"), save_all=True, append_images=[image_of("L")]), "2 frames"),
        ("x.tif", lambda p: write(p, image_of("RGB"), save_all=True, append_images=[image_of("L")]), "2 frames"),
        ("x.ppm", lambda p: write(p, image_of("RGB")), "images must be .png"),
        ("x.dng", lambda p: write(p, image_of("RGB"), format="TIFF"), "images must be .png"),
    ],
)
@pytest.mark.parametrize("first", [False, True], ids=["later", "first"])
def test_image_refused(tmp_path, name, make, words, first):
    write(tmp_path / "g.png", pixels(6, 6, 3))
    path = tmp_path / (name if not first else f"a{name}")
    make(path)
    if first and "has shape" in words:  # then the other image is the one that differs
        refused(folder(tmp_path), tmp_path / "g.png", "has shape")
        return
    refused(folder(tmp_path), path, words)
    if first:
        with pytest.raises(DataError, match=path.name):
            datasets.describe(folder(tmp_path))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_truncated_image(tmp_path, suffix):
    path = write(tmp_path / f"x.{suffix}", pixels(32, 32, 3))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    refused(folder(tmp_path), path, "damaged, or cannot be read")


def test_flipped_bit_in_png(tmp_path):
    path = write(tmp_path / "x.png", pixels(32, 32, 3))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(folder(tmp_path), path, "damaged, or cannot be read")


def test_folder_layouts_refused(tmp_path):
    refused(folder(tmp_path / "none"), tmp_path / "none", "cannot be read as a folder (No such file or directory)")
    (tmp_path / "file").write_text("x")
    refused(folder(tmp_path / "file"), "cannot be read as a folder (Not a directory)")
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    refused(folder(root), root / "a", "holds no images (.png", "remove it if it is not a class")
    write(root / "a" / "1.png", pixels(4, 4))
    write(root / "1.png", pixels(4, 4))
    refused(folder(root), root, "images or class folders, not both (1.png, a/)")
    (root / "1.png").unlink()
    (root / "a" / "deeper").mkdir()
    refused(folder(root), root / "a" / "deeper", "a class folder must hold images only")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(folder(empty), empty, "holds no images (.png", "and no class folders")


def test_links_in_a_circle(tmp_path):
    write(tmp_path / "a" / "1.png", pixels(4, 4))
    (tmp_path / "a" / "self").symlink_to("self")  # neither a folder nor an image
    assert datasets.load(folder(tmp_path)).images.shape == (1, 1, 4, 4)
    (tmp_path / "b").symlink_to(tmp_path)
    refused(folder(tmp_path), "a class folder must hold images only")


def test_numbered_class_folders_are_counted_not_spelt(tmp_path):
    for number in range(12):
        write(tmp_path / str(number) / "x.png", np.full((4, 4), number, np.uint8))
    loaded = datasets.load(folder(tmp_path))
    assert loaded.images[:, 0, 0, 0].tolist() == loaded.labels.tolist() == list(range(12))
    chosen = datasets.load(folder(tmp_path).model_copy(update={"classes": [10, 2]}))
    assert chosen.images[:, 0, 0, 0].tolist() == [2, 10] and chosen.labels.tolist() == [1, 0]


def test_no_image_is_dropped_for_its_suffix(tmp_path):
    names = ["a.jpg", "b.jfif", "c.jpe", "d.JPG.bak", "e.PNG", "f", "g.tif", "h.gif", "i.txt", "j.dib", "k.TIFF"]
    formats = {"b": "JPEG", "c": "JPEG", "d": "JPEG", "f": "PNG", "i": "PNG", "j": "BMP"}
    for directory in ("one", "two"):
        for name in names:
            options = {"format": formats[name[0]]} if name[0] in formats else {}
            write(tmp_path / directory / name, pixels(8, 8), **options)
        (tmp_path / directory / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(99))
    (tmp_path / "README.txt").write_text("BM are two letters")
    (tmp_path / ".DS_Store").write_bytes(bytes(9))
    source = f"folder:{tmp_path}"
    assert datasets.describe(Data(source=source)).class_counts == (11, 11)
    assert datasets.load(Data(source=source)).images.shape == (22, 1, 8, 8)
    assert inventory.portrait(inventory.inventory(source)) == [
        f"{source}: 22 images 8x8x1 in 2 classes: 0 one (11), 1 two (11)",
        f"{source}: used 6 files that are images by their first bytes (one/d.JPG.bak, one/f, one/i.txt and 3 more)",
        f"{source}: ignored 3 files that are no images (README.txt, one/Thumbs.db, two/Thumbs.db)",
    ]


def test_portrait_of_many_classes(tmp_path):
    for number in range(30):
        write(tmp_path / f"class {number}" / "x.png", pixels(4, 4, 3))
    (line,) = inventory.portrait(inventory.inventory(f"folder:{tmp_path}"))
    assert "30 images 4x4x3 in 30 classes: 0 class 0 (1), 1 class 1 (1), 2 class 2 (1)," in line
    assert line.endswith("9 class 9 (1), ..., 29 class 29 (1)")


def test_portrait_of_odd_names_and_sizes(tmp_path):
    write(tmp_path / "a\nb" / "x.png", pixels(4, 8, 3))
    write(tmp_path / os.fsdecode(b"\xff") / "x.png", pixels(6, 6))
    (line,) = inventory.portrait(inventory.inventory(f"folder:{tmp_path}"))
    assert line.endswith(r": 2 images of 2 sizes from 8x4x3 to 6x6x1 in 2 classes: 0 a\nb (1), 1 \udcff (1)")
    assert line.isprintable()


def test_portrait_of_npz(tmp_path):
    source = npz(tmp_path / "a.npz", images=pixels(5, 4, 4, 3), y=np.zeros(5), label=np.zeros(5)).source
    assert inventory.portrait(inventory.inventory(source)) == [
        f"{source}: 5 images 4x4x3",
        f"{source}: ignored 2 arrays (y, label)",
    ]
    source = npz(tmp_path / "b.npz", images=pixels(3, 4, 4), labels=np.array([1, 1, 0], ">i8")).source
    assert inventory.portrait(inventory.inventory(source)) == [f"{source}: 3 images 4x4x1 in 2 classes: 0 (1), 1 (2)"]


FAULTY = {
    "03.png": lambda p: p.write_bytes(b""),
    "04.png": lambda p: p.write_text("hello"),
    "05.png": lambda p: write(p, pixels(6, 6)),
    "06.png": lambda p: write(p, pixels(7, 7, 3)),
    "07.png": lambda p: write(p, pixels(6, 7, 3)),
    "08.heic": lambda p: p.write_bytes(b"x"),
}


@pytest.mark.parametrize("first", [0, 1, 3, 6, 9])
def test_all_faulty_images_are_named_at_once_whichever_is_first(tmp_path, first):
    makers = [*FAULTY.items()]
    makers = makers[first % 6 :] + makers[: first % 6] if first else makers
    for index, (name, make) in enumerate(makers):
        make(tmp_path / f"{index + 10 * (first > 0)}{name}")
    for index in range(5):
        write(tmp_path / f"{index + (not first) * 20:02}.png", pixels(6, 6, 3, seed=index))
    lines = image_faults(folder(tmp_path), {})
    assert len(lines) == 6 and all(line.startswith(f"data.source = 'folder:{tmp_path}': {tmp_path}/") for line in lines)
    with pytest.raises(DataError) as failure:
        datasets.load(folder(tmp_path))
    assert str(failure.value).splitlines() == [line.partition("': ")[2] for line in lines]
    for words in ("is empty", "is not a .png", "(1, 6, 6), but others have (3, 6, 6)", "(3, 7, 7), but others"):
        assert sum(words in line for line in lines) == 1
    assert sum("must be square, found 7 x 6 pixels; crop it, or set data.fit" in line for line in lines) == 1
    assert sum("08.heic: images must be" in line for line in lines) == 1


def test_damage_behind_the_head_is_named_with_all_other_faults(tmp_path):
    for index in range(4):
        path = write(tmp_path / f"{index}.png", pixels(32, 32, 3))
        if index in (1, 3):
            path.write_bytes(path.read_bytes()[:2000])
    write(tmp_path / "2.png", pixels(32, 32))
    assert len(image_faults(folder(tmp_path), {})) == 1
    with pytest.raises(DataError) as failure:
        datasets.load(folder(tmp_path))
    lines = str(failure.value).splitlines()
    assert [line.removeprefix(f"{tmp_path}/")[:14] for line in lines] == [
        "1.png: damaged",
        "2.png: has sha",
        "3.png: damaged",
    ]


def test_of_very_many_faulty_images_the_first_are_named(tmp_path):
    for index in range(50):
        write(tmp_path / f"{index}.png", pixels(6, 6, 1 if index % 2 else 3).squeeze())
    write(tmp_path / "x.png", pixels(6, 6))
    lines = image_faults(folder(tmp_path), {})
    assert len(lines) == 21 and "/0.png: has shape (C, H, W) = (3, 6, 6), but others have (1, 6, 6)" in lines[0]
    assert lines[-1].endswith(": and 5 more")


def test_a_folder_is_looked_at_once_and_unused_classes_may_be_faulty(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        write(tmp_path / name / "1.png", pixels(8, 8))
    (tmp_path / "b" / "1.png").write_bytes(b"not an image")
    looked: dict[str, inventory.Inventory] = {}
    assert len(image_faults(folder(tmp_path), looked)) == 1
    monkeypatch.setattr(pictures, "heads", None)
    assert image_faults(folder(tmp_path).model_copy(update={"classes": [2, 0]}), looked) == []
    assert datasets.load(folder(tmp_path).model_copy(update={"classes": [2, 0]})).labels.tolist() == [1, 0]


def test_what_is_known_of_a_folder_is_known_of_its_used_classes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"not an image")
    write(tmp_path / "b" / "1.png", pixels(8, 8, 3))
    write(tmp_path / "c" / "1.png", pixels(4, 4))
    for label, shape in ((1, (3, 8, 8)), (2, (1, 4, 4))):
        data = folder(tmp_path).model_copy(update={"classes": [label]})
        assert datasets.describe(data).shape == datasets.load(data).images.shape[1:] == shape


def test_both_sources_of_a_mixture_are_looked_at(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name / "a.png", pixels(8, 8))
        write(tmp_path / name / "b", pixels(8, 8), format="PNG")
        (tmp_path / name / "c.png").write_bytes(b"")
    data = folder(tmp_path / "one").model_copy(
        update={"mixture": f"folder:{tmp_path / 'two'}", "mixture_share": 0.5, "held_out": 0}
    )
    looked: dict[str, inventory.Inventory] = {}
    assert [line.partition(" = ")[0] for line in image_faults(data, looked)] == [
        "data.source",
        "data.mixture",
    ]
    assert [held.unnamed for held in looked.values()] == [["b"], ["b"]]
    assert image_faults(data.model_copy(update={"mixture": "folder:gone"}), looked)[1].startswith(
        "data.mixture = 'folder:gone': gone: cannot be read as a folder"
    )


# -- squares of one size


def fitted(path: Path, **settings) -> Data:
    return folder(path).model_copy(update=settings)


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_pictures_of_any_size_are_made_square_then_downscaled(tmp_path, fit):
    shapes = [(12, 20, 3), (33, 15, 3), (10, 10, 3), (11, 13, 3)]
    for index, shape in enumerate(shapes):
        write(tmp_path / f"{index}.png", pixels(*shape, seed=index))
    data = fitted(tmp_path, fit=fit, resolution=8)
    facts, loaded = datasets.describe(data), datasets.load(data)
    assert selected(data) == [] and image_faults(data, {}) == []
    assert loaded.images.shape == (4, *facts.shape) == (4, 3, 8, 8)
    for index, ((height, width, _), square) in enumerate(zip(shapes, loaded.images, strict=True)):
        image = Image.fromarray(pixels(*shapes[index], seed=index))
        side = min(height, width) if fit == "crop" else max(height, width)
        left, top = (width - side) // 2, (height - side) // 2
        if fit == "pad":
            left, top = -((side - width) // 2), -((side - height) // 2)
        box = image.crop((left, top, left + side, top + side))  # black outside
        assert np.array_equal(square.transpose(1, 2, 0), np.asarray(box.resize((8, 8), Image.Resampling.LANCZOS)))


def test_turned_pictures_are_made_square_as_they_are_shown(tmp_path):
    upright = pixels(9, 7, 3)
    tags = Image.Exif()
    tags[0x0112] = 6
    write(tmp_path / "a.png", upright)
    write(tmp_path / "b.png", np.rot90(upright).copy(), exif=tags)
    for chosen in ({"fit": "crop"}, {"fit": "pad"}, {"fit": "crop", "resolution": 5}):
        first, second = datasets.load(fitted(tmp_path, **chosen)).images
        assert np.array_equal(first, second)


def test_sizes_that_differ_need_a_resolution(tmp_path):
    for index, shape in enumerate([(12, 20, 3), (33, 15, 3), (10, 10, 3)]):
        write(tmp_path / f"{index}.png", pixels(*shape))
    (line,) = image_faults(fitted(tmp_path, fit="crop"), {})
    assert line.endswith("holds squares with sides of 10 to 15 pixels; set data.resolution")
    refused(fitted(tmp_path, fit="pad"), "holds squares with sides of 10 to 33 pixels; set data.resolution")
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").unlink()
    assert datasets.load(fitted(tmp_path, fit="crop")).images.shape == (1, 3, 12, 12)


@pytest.mark.parametrize("order", [1, -1])
def test_pictures_that_are_too_small_are_named(tmp_path, order):
    for index, shape in enumerate([(12, 20, 3), (33, 7, 3), (10, 10, 3), (4, 4, 3)][::order]):
        write(tmp_path / f"{index}.png", pixels(*shape))
    data = fitted(tmp_path, fit="crop", resolution=8)
    lines = image_faults(data, {})
    assert selected(data) == [] and len(lines) == 2
    assert any("has 7 x 33 pixels, too few for data.resolution = 8" in line for line in lines)
    assert any("has 4 x 4 pixels, too few" in line for line in lines)
    with pytest.raises(DataError) as failure:
        datasets.load(data)
    assert len(str(failure.value).splitlines()) == 2
    assert len(image_faults(data.model_copy(update={"fit": "pad"}), {})) == 1


@pytest.mark.parametrize("stored", [(4, 6, 9), (4, 6, 9, 3), (4, 3, 6, 9), (4, 6, 9, 1), (4, 1, 9, 6), (4, 9, 6, 3)])
def test_arrays_are_made_square_too(tmp_path, stored):
    data = npz(tmp_path / "a.npz", images=pixels(*stored))
    refused(data, "'images' must be square with 1 or 3 channels")
    for fit, side in (("crop", 6), ("pad", 9)):
        framed = data.model_copy(update={"fit": fit})
        loaded = datasets.load(framed)
        assert loaded.images.shape == (4, *datasets.describe(framed).shape) and loaded.images.shape[2:] == (side, side)
    small = datasets.load(data.model_copy(update={"fit": "crop", "resolution": 3}))
    assert small.images.shape[2:] == (3, 3)
    assert "must be at most 6" in selected(data.model_copy(update={"fit": "crop", "resolution": 8}))[0]


@pytest.mark.parametrize("stored", [(4, 3, 5, 3), (4, 1, 5, 3), (4, 3, 5, 1)])
def test_arrays_of_two_meanings_are_refused(tmp_path, stored):
    data = npz(tmp_path / "a.npz", images=pixels(*stored)).model_copy(update={"fit": "crop"})
    refused(data, "may be (N, H, W, C) or (N, C, H, W)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(tmp_path):
    path = write(tmp_path / "x.png", pixels(4, 4))
    path.chmod(0)
    refused(folder(tmp_path), path, "Permission denied")


def test_gzip_is_no_npz(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(gzip.compress(b"x" * 1000))
    refused(Data(source=f"npz:{path}"), path, "not an .npz file")


@pytest.mark.parametrize(
    ("settings", "title", "licence"),
    [
        ({"source": "fashion_mnist"}, "Fashion-MNIST (Xiao et al.), training set", "MIT"),
        ({"source": "cifar10"}, "CIFAR-10 (Krizhevsky), training set", None),
        ({"source": "folder:a/holiday photos"}, "holiday photos", None),
        (
            {"source": "fashion_mnist", "mixture": "npz:b/own.npz", "mixture_share": 0.5},
            "Fashion-MNIST (Xiao et al.), training set + own.npz",
            None,
        ),
    ],
)
def test_a_data_set_has_a_title_and_the_licence_of_all_its_sources(settings, title, licence):
    assert named.identity(Data(**settings)) == (title, licence)
