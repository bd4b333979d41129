"""One image file: turned as its EXIF tag demands, judged by its real mode, read to the bit or refused in one line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emmeter.data import formats, pictures
from emmeter.errors import DataError

SIDES = [(6, 6), (5, 8), (8, 5)]  # (H, W)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def turned(stored: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, ...) as stored, turned as EXIF defines each orientation."""
    t = stored.swapaxes(0, 1)
    return {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: t, 6: t[:, ::-1], 7: t[::-1, ::-1],
        8: t[::-1],
    }[orientation]  # fmt: skip


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def write(path: Path, image: np.ndarray | Image.Image, **options) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def shown(path: Path) -> np.ndarray:
    """(H, W, C) as read, or (H, W) of one channel; its head has the same shape."""
    read = pictures.decode(path)
    assert read.dtype == np.uint8 and read.flags.c_contiguous
    assert pictures.head(path)[0] == read.shape[0]
    return read[0] if len(read) == 1 else read.transpose(1, 2, 0)


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as failure:
        pictures.head(path)
    message = str(failure.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    with pytest.raises(DataError):
        pictures.decode(path)
    return message


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, bits: int, colour: int, rows: bytes, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG of any depth, with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + data + after + chunk(b"IEND", b"")


def tiff(width: int, height: int, photometric: int, bits: tuple[int, ...], data: bytes, **tags: int) -> bytes:
    """An uncompressed TIFF, of kinds that Pillow does not write."""
    entries = {256: width, 257: height, 259: 1, 262: photometric, 277: len(bits), 278: height, 279: len(data)}
    entries |= {int(tag[1:]): value for tag, value in tags.items()}
    end = 8 + len(data)
    extra = struct.pack(f"<{len(bits)}H", *bits)
    body = struct.pack("<H", len(entries) + 2)
    for tag in sorted([*entries, 258, 273]):
        if tag == 258 and len(bits) > 2:
            body += struct.pack("<HHII", tag, 3, len(bits), end)
        elif tag == 258:
            body += struct.pack("<HHI", tag, 3, len(bits)) + extra.ljust(4, b"\0")
        else:
            body += struct.pack("<HHII", tag, 4, 1, 8 if tag == 273 else entries[tag])
    return b"II*\0" + struct.pack("<I", end + len(extra)) + data + extra + body + struct.pack("<I", 0)


def bmp(width: int, height: int, bits: int, palette: list[int], rows: list[bytes], compression: int = 0) -> bytes:
    """A BMP of any depth; `palette` of greys, rows from the bottom."""
    colours = b"".join(bytes([grey] * 3 + [0]) for grey in palette)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F) if compression == 3 else b""
    data = b"".join(row.ljust(-len(row) % 4 + len(row), b"\0") for row in rows)
    offset = 14 + 40 + len(masks) + len(colours)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + head + masks + colours + data


# -- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("shape", SIDES, ids=str)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_orientation_is_applied_to_the_bit(tmp_path, suffix, shape, orientation):
    stored = noise(*shape, 3)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    path = write(tmp_path / f"x.{suffix}", stored, exif=exif(orientation), **options)
    expected = turned(stored, orientation)
    assert np.array_equal(shown(path), expected)
    assert pictures.head(path) == (3, *expected.shape[:2])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shape", SIDES, ids=str)
def test_orientation_of_jpeg(tmp_path, shape, mode, orientation):
    image = Image.fromarray(noise(*shape, 3)).convert(mode)
    plain, tagged = tmp_path / "plain.jpg", tmp_path / "tagged.jpg"
    image.save(plain, quality=90)
    image.save(tagged, quality=90, exif=exif(orientation))
    assert np.array_equal(shown(tagged), turned(shown(plain), orientation))
    assert pictures.head(tagged)[1:] == shown(tagged).shape[:2]


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_orientation_of_compressed_tiff(tmp_path, compression, orientation):
    stored = noise(5, 8)
    path = write(tmp_path / "x.tiff", stored, compression=compression, tiffinfo={0x0112: orientation})
    assert np.array_equal(shown(path), turned(stored, orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["P", "1"])
def test_orientation_of_palettes_and_bits(tmp_path, mode, orientation):
    image = Image.fromarray(noise(5, 8, 3)).convert(mode)
    path = write(tmp_path / "x.png", image, exif=exif(orientation))
    expected = np.asarray(image.convert("L" if mode == "1" else "RGB"))
    assert np.array_equal(shown(path), turned(expected, orientation))


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    stored = noise(6, 6)
    rows = b"".join(b"\0" + row.tobytes() for row in stored)
    late = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "x.png").write_bytes(png(6, 6, 8, 0, rows, after=late))
    assert np.array_equal(shown(tmp_path / "x.png"), turned(stored, 6))


@pytest.mark.parametrize(
    "tags", [b"Exif\0\0", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nothing", b"Exif\0\0" + b"M" * 99]
)
def test_damaged_exif_is_no_orientation_as_for_viewers(tmp_path, tags):
    path = write(tmp_path / "x.png", noise(6, 6), exif=tags)
    assert np.array_equal(shown(path), noise(6, 6))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_undefined_orientation(tmp_path, orientation):
    path = write(tmp_path / "x.png", noise(6, 6), exif=exif(orientation))
    assert np.array_equal(shown(path), noise(6, 6))


def test_of_several_pictures_of_a_camera_the_first_counts(tmp_path):
    first, second = (Image.fromarray(noise(8, 8, 3, seed=seed)) for seed in (0, 1))
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second], exif=exif(3))
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.format == "MPO"
        stored = np.asarray(image)
    assert np.array_equal(shown(tmp_path / "x.jpg"), turned(stored, 3))


# -- formats and modes


@pytest.mark.parametrize("side", [1, 2, 3, 8, 12, 15, 16, 17, 24, 32, 161, 216])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1"])
@pytest.mark.parametrize("suffix", ["bmp", "png", "tif", "gif"])
def test_every_size_of_every_mode_is_read_to_the_bit(tmp_path, suffix, mode, side):
    image = Image.fromarray(noise(side, side, 3)).convert(mode)
    if suffix == "gif" and mode == "RGB":
        return
    path = write(tmp_path / f"x.{suffix}", image)
    read = pictures.decode(path)
    colour = np.broadcast_to(read, (3, side, side)).transpose(1, 2, 0)
    assert np.array_equal(colour, np.asarray(image.convert("RGB")))
    assert mode == "P" or len(read) == (3 if mode == "RGB" else 1)


def test_a_palette_of_greys_is_grey(tmp_path):
    image = Image.fromarray(noise(6, 6) % 4, "P")
    image.putpalette([value for grey in (7, 0, 255, 90) for value in [grey] * 3])
    for suffix in ("png", "bmp", "gif", "tif"):
        path = write(tmp_path / f"x.{suffix}", image)
        assert np.array_equal(shown(path), np.array([7, 0, 255, 90], np.uint8)[noise(6, 6) % 4])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_png_of_few_bits_spans_all_of_8(tmp_path, bits):
    (tmp_path / "x.png").write_bytes(png(8 // bits, 1, bits, 0, b"\0" + bytes([0b11010010])))
    top = 2**bits - 1
    values = [(0b11010010 >> (8 - bits - i * bits)) & top for i in range(8 // bits)]
    assert shown(tmp_path / "x.png").tolist() == [[value * 255 // top for value in values]]


def test_bmp_of_16_bits_a_pixel_has_less_than_8_a_channel(tmp_path):
    row = struct.pack("<4H", 0, 0xFFFF, 0x001F, 0x07E0)
    (tmp_path / "x.bmp").write_bytes(bmp(4, 1, 16, [], [row], compression=3))
    assert shown(tmp_path / "x.bmp").tolist() == [[[0, 0, 0], [255, 255, 255], [0, 0, 255], [0, 255, 0]]]


@pytest.mark.parametrize("bits", [4, 8])
def test_bmp_that_pillow_would_misread(tmp_path, bits):
    rows = [bytes(16 * bits // 8)] * 16
    path = tmp_path / "x.bmp"
    path.write_bytes(bmp(16, 16, bits, [0, 255], rows))
    assert f"found {bits} bits per pixel with few greys" in refusal(path)


def test_white_may_be_zero(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff(2, 2, 0, (8,), bytes([0, 255, 1, 2])))
    assert shown(tmp_path / "x.tif").tolist() == [[255, 0], [254, 253]]
    (tmp_path / "x.tif").write_bytes(tiff(2, 2, 1, (8,), bytes([0, 255, 1, 2])))
    assert shown(tmp_path / "x.tif").tolist() == [[0, 255], [1, 2]]


DEEP = Image.fromarray(noise(6, 6).astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("grey.png", DEEP, "16 bits per channel"),
        ("colour.png", png(6, 6, 16, 2, (b"\0" + bytes(36)) * 6), "16 bits per channel"),
        ("alpha.png", png(6, 6, 16, 6, (b"\0" + bytes(48)) * 6), "16 bits per channel"),
        ("grey.tif", DEEP, "16 bits per channel"),
        ("colour.tif", tiff(6, 6, 2, (16,) * 3, bytes(216)), "16 bits per channel"),
        ("float.tif", Image.fromarray(noise(6, 6) / np.float32(255)), "32 bits per channel"),
        ("signed.tif", tiff(6, 6, 1, (8,), bytes(36), t339=2), "samples that are no unsigned integers"),
        ("unspecified.tif", tiff(6, 6, 2, (8,) * 4, bytes(144), t338=0), "4 samples per pixel"),
        ("preview.tif", tiff(6, 6, 2, (8,) * 3, bytes(108), t254=1), "a preview of a larger one"),
        ("cmyk.tif", Image.new("CMYK", (6, 6)), "mode CMYK"),
        ("cmyk.jpg", Image.new("CMYK", (6, 6)), "mode CMYK"),
        ("alpha.tif", Image.new("RGBA", (6, 6)), "mode RGBA"),
        ("alpha.webp", Image.new("RGBA", (6, 6), (1, 2, 3, 4)), "mode RGBA"),
        ("alpha.png", Image.new("LA", (6, 6)), "mode LA"),
    ],
)
def test_images_that_8_bits_cannot_hold_are_refused(tmp_path, name, content, words):
    path = tmp_path / name
    if isinstance(content, Image.Image):
        content.save(path)
    else:
        path.write_bytes(content)
    assert f"must be 8-bit grey or RGB without transparency, found {words}; convert it" in refusal(path)


def test_helpers_of_these_tests_write_what_pillow_reads(tmp_path):
    (tmp_path / "x.tif").write_bytes(tiff(6, 6, 2, (8,) * 3, noise(6, 6, 3).tobytes()))
    assert np.array_equal(shown(tmp_path / "x.tif"), noise(6, 6, 3))
    (tmp_path / "x.bmp").write_bytes(bmp(6, 6, 8, list(range(256)), [row.tobytes() for row in noise(6, 6)[::-1]]))
    assert np.array_equal(shown(tmp_path / "x.bmp"), noise(6, 6))


def test_a_still_gif_that_leaves_a_part_of_itself_empty(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise(6, 6)).save(buffer, "GIF")
    content = bytearray(buffer.getvalue())
    content[6:10] = struct.pack("<HH", 9, 9)  # the screen, larger than the frame
    (tmp_path / "x.gif").write_bytes(content)
    assert "found a frame that leaves a part of it empty" in refusal(tmp_path / "x.gif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif", "jp2"])
@pytest.mark.parametrize("name", ["x", "x.bak", "x.txt", "x.JPG.old", "x.png~", "x."])
def test_pictures_are_known_by_their_first_bytes(tmp_path, name, suffix):
    write(tmp_path / f"y.{suffix}", noise(6, 6)).rename(tmp_path / name)
    assert formats.is_picture(tmp_path / name)
    if suffix == "jp2":
        assert "is a JPEG 2000 image; images must be .png" in refusal(tmp_path / name)
    else:
        assert pictures.head(tmp_path / name)[1:] == (6, 6)


def test_a_jpeg_of_12_bits_is_no_damaged_file_alone(tmp_path):
    path = write(tmp_path / "x.jpg", noise(8, 8))
    content = bytearray(path.read_bytes())
    content[content.index(b"\xff\xc0") + 4] = 12
    path.write_bytes(content)
    assert "damaged, or a JPEG image of a kind that cannot be read; convert it" in refusal(path)


def test_heads_are_read_in_order_and_faults_are_among_them(tmp_path):
    paths = [write(tmp_path / f"{side}.png", noise(side, side)) for side in range(1, 40)]
    paths[7].write_bytes(b"")
    heads = pictures.heads(paths)
    assert [head if isinstance(head, tuple) else str(head) for head in heads] == [
        (1, side, side) if side != 8 else f"{paths[7]}: is empty" for side in range(1, 40)
    ]
    assert pictures.heads([]) == []


# -- squares


@pytest.mark.parametrize(("height", "width", "middle"), [(3, 6, slice(1, 4)), (3, 8, slice(2, 5)), (3, 4, slice(0, 3))])
def test_crop_keeps_the_middle(height, width, middle):
    image = noise(3, height, width)
    assert np.array_equal(pictures.squared(image, "crop"), image[:, :, middle])
    tall = image.swapaxes(1, 2)
    assert np.array_equal(pictures.squared(tall, "crop"), tall[:, middle])


def test_pad_adds_black():
    image = noise(2, 3, 3, 6)
    padded = pictures.squared(image, "pad")
    assert padded.shape == (2, 3, 6, 6) and padded[..., 1:4, :].tobytes() == image.tobytes()
    assert not padded[..., 0, :].any() and not padded[..., 4:, :].any()
    assert np.array_equal(pictures.squared(image.swapaxes(2, 3), "pad"), padded.swapaxes(2, 3))


@pytest.mark.parametrize("fit", ["crop", "pad", None])
def test_squares_stay(fit):
    assert pictures.squared(noise(3, 5, 5), fit).tobytes() == noise(3, 5, 5).tobytes()
    assert pictures.square(Path("x"), (3, 5, 5), fit) == (3, 5, 5)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(["crop", "pad"]))
def test_the_shape_of_a_square_is_known_before_its_pixels(height, width, fit):
    assert pictures.square(Path("x"), (1, height, width), fit) == pictures.squared(noise(1, height, width), fit).shape
