"""Bad input of every kind at the command line: one line that names it, a status that is not 0, nothing written.

The tests of each module check in more detail what is refused, and why.  These tests check what a user sees.
"""

import copy
import datetime
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from emmeter.data import pictures
from emmeter.errors import SettingsError
from emmeter.pipeline.index import index_of
from emmeter.settings import configuration
from emmeter.settings.sections import Setup
from emmeter.settings.validation import read_setup
from one_run import CONTENT, call, messages

CONFIG = CONTENT | {
    "search": {"n_min": 10, "n_max": 40, "start": 20},
    "execution": {"device": "cpu", "threads": 1},
    "figures": {"dpi": 50},
    "run": ["one"],
    "studies": {
        "one": {
            "title": "One",
            "factor": "data.labels",
            "base": {"sampling.steps": "add 1"},
            "arms": {"none": {}, "random": {"data.labels": "random-2", "search.start": "times 3/2"}},
            "findings": {"more": {"claim": "More", "expect": "more", "arms": ["random", "none"]}},
        }
    },
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A project with a small configuration, as the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "studies.yaml").write_text("")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return tmp_path


def content(folder: Path) -> dict[str, object]:
    """Everything in a folder: files with their bytes, and what else there is."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else path.lstat()
        for path in folder.rglob("*")
        if ".snakemake" not in path.parts  # a cache of image digests
    }


def refused(folder: Path, capfd, arguments: list[str], words: str, status: int = 1) -> None:
    """Check that a command ends with `status` and one line that contains `words`, and writes nothing."""
    before = content(folder)
    capfd.readouterr()
    assert call(*arguments) == status
    printed = capfd.readouterr()
    lines = messages(printed.err)
    if status == 2:  # argparse shows how the command is used, then the one line
        assert lines[0].startswith("usage: ")
        lines = [line for line in lines if ": error: " in line]
    else:
        assert lines[0].startswith("error: "), lines
    assert len(lines) == 1, lines
    assert words in lines[0], lines[0]
    assert printed.out == "" and content(folder).keys() == before.keys()
    for name, value in content(folder).items():
        assert value == before[name] or not isinstance(value, bytes), name


# ---- configurations: an overlay as it is written, and a part of the line

CONFIGURATIONS = [
    ("seed: one", "seed = 'one': must be a valid integer"),
    ("seed: 1.5", "seed = 1.5: must be a valid integer"),
    ("seed: 2147483648", "seed = 2147483648: must be less than 2147483648"),
    ("seed: true", "seed = True: must be a valid integer"),
    ("seed: [1]", "seed = [1]: must be a valid integer"),
    ("data: digits", "data = 'digits': must be a valid dictionary"),
    ("data: {source: 5}", "data.source = 5: must be a valid string"),
    ("data: {source: 'npz:'}", "data.source = 'npz:': must be one of digits"),
    ("data: {source: ''}", "data.source = '': must be one of digits"),
    ("data: {resolution: 0}", "data.resolution = 0: must be greater than or equal to 1"),
    ("data: {held_out: -1}", "data.held_out = -1: must be greater than or equal to 0"),
    ("data: {fit: squash}", "data.fit = 'squash': must be 'crop' or 'pad'"),
    ("data: {fit: true}", "data.fit = True: must be 'crop' or 'pad'"),
    ("data: {classes: [zero]}", "data.classes.0 = 'zero': must be a valid integer"),
    ("data: {classes: [-1]}", "data.classes.0 = -1: must be greater than or equal to 0"),
    ("data: {balanced: maybe}", "data.balanced = 'maybe': must be a valid boolean"),
    ("data: {labels: random-01}", "data.labels = 'random-01': must be none, true, unique, random-K"),
    ("data: {labels: random}", "data.labels = 'random': must be none, true, unique, random-K"),
    ("data: {labels: 'embeddings:'}", "data.labels = 'embeddings:': must be none, true, unique, random-K"),
    ("data: {labels: 'embeddings:x.npy'}", "data.labels = 'embeddings:x.npy': x.npy: cannot be read (No such file"),
    ("data: {embeddings: random}", "data.embeddings = 'random': must be 'image', 'class', 'fixed' or 'shuffled'"),
    ("data: {draw: last}", "data.draw = 'last': must be 'random' or 'first'"),
    ("data: {mixture: digit}", "data.mixture = 'digit': must be one of digits"),
    ("data: {mixture: digits, mixture_share: 1.1}", "data.mixture_share = 1.1: must be less than or equal to 1"),
    ("data: {mixture_share: 0.5}", "data.mixture_share = 0.5: needs a second source"),
    ("network: {channels: 2}", "network.channels = 2: must be greater than or equal to 4"),
    ("network: {multipliers: []}", "network.multipliers = []: list should have at least 1 item"),
    ("network: {multipliers: [1, 1, 1, 1, 1, 1, 1, 1, 1]}", "network.multipliers = [1, 1, 1, 1, 1, 1, 1, 1, 1]: list"),
    ("network: {multipliers: [1, 0]}", "network.multipliers.1 = 0: must be greater than or equal to 1"),
    ("network: {blocks: 65}", "network.blocks = 65: must be less than or equal to 64"),
    ("network: {attention: 16}", "network.attention = 16: must be a valid list"),
    ("network: {attention: [3]}", "network.attention = [3]: no level has resolution 3"),
    ("network: {embedding: sine}", "network.embedding = 'sine': must be 'positional' or 'fourier'"),
    ("network: {skips: [2, 0, 1, 1]}", "network.skips.0 = 2: must be 0 or 1"),
    ("network: {skips: keep 1}", "network.skips = 'keep 1': must be a valid list"),
    ("network: {dropout: 1}", "network.dropout = 1: must be less than 1"),
    ("diffusion: {denoiser: optimal}", "diffusion.denoiser = 'optimal': must be 'network' or 'optimum'; did you mean"),
    ("diffusion: {sigma_data: 0}", "diffusion.sigma_data = 0: must be greater than 0"),
    ("diffusion: {p_mean: .inf}", "diffusion.p_mean = inf: must be a finite number"),
    ("{training: {sigma_min: 0.5}, sampling: {sigma_max: 0.4}}", "training.sigma_min = 0.5: must be below sampling"),
    ("training: {sigma_min: 2}", "training.sigma_min = 2: must be less than or equal to 1"),
    ("training: {label_dropout: 1.5}", "training.label_dropout = 1.5: must be less than or equal to 1"),
    ("sampling: {guidance: -1}", "sampling.guidance = -1: must be greater than or equal to 0"),
    ("sampling: {guidance: 2}", "sampling.guidance = 2: must be 1, unless the network learns to do without labels"),
    ("training: {duration: 0 images}", "training.duration = '0 images': must be a positive number of images or epochs"),
    ("training: {duration: ten epochs}", "training.duration = 'ten epochs': must be a span such as"),
    ("training: {duration: 640}", "training.duration = 640: needs a unit, such as"),
    ("training: {batch_size: 0}", "training.batch_size = 0: must be greater than or equal to 1"),
    ("training: {optimizer: adamw}", "training.optimizer = 'adamw': must be 'adam' or 'sgd'; did you mean 'adam'?"),
    ("training: {learning_rate: -1e-3}", "training.learning_rate = '-1e-3': must be greater than 0"),
    ("training: {momentum: 1}", "training.momentum = 1: must be less than 1"),
    ("training: {weight_decay: .nan}", "training.weight_decay = nan: must be"),
    ("training: {ema_decays: []}", "training.ema_decays = []: list should have at least 1 item"),
    ("training: {ema_decays: [0.5, 0.5]}", "training.ema_decays = [0.5, 0.5]: must not repeat a value"),
    ("training: {ema_decays: [1.0]}", "training.ema_decays.0 = 1.0: must be less than 1"),
    ("training: {snapshots: [1.0, 0.5]}", "training.snapshots = [1.0, 0.5]: must be increasing shares"),
    ("training: {snapshots: [0, 1.0]}", "training.snapshots.0 = 0: must be greater than 0"),
    ("training: {epochs: 5}", "training.epochs: is not a key of training; allowed: duration"),
    ("sampling: {images: 0}", "sampling.images = 0: must be greater than or equal to 1"),
    ("sampling: {steps: 1}", "sampling.steps = 1: must be greater than or equal to 2"),
    ("sampling: {sigma_max: 0.001}", "sampling.sigma_min = 0.002: must be below sigma_max = 0.001"),
    ("scoring: {threshold: 1/0}", "scoring.threshold = '1/0': must be a valid number"),
    ("scoring: {snapshot: first}", "scoring.snapshot = 'first': must be 'last' or 'best'"),
    ("scoring: {distinct: 2}", "scoring.distinct = 2: must be a valid boolean"),
    ("search: {n_min: 1}", "search.n_min = 1: must be greater than or equal to 2"),
    ("search: {locate: 0}", "search.locate = 0: must be greater than or equal to 1"),
    ("search: {rule: binary}", "search.rule = 'binary': must be 'bisection' or 'grid'"),
    ("search: {rule: grid}", "search.grid = []: rule grid needs increasing sizes"),
    ("search: {n_min: 11, n_max: 19, start: 12}", "search.n_max = 19: fewer than two multiples of 10"),
    ("execution: {threads: 0}", "execution.threads = 0: must be greater than or equal to 1"),
    ("execution: {device: tpu}", "execution.device = 'tpu': must be 'auto', 'cpu' or 'cuda'"),
    ("figures: {dpi: 10}", "figures.dpi = 10: must be greater than or equal to 50"),
    ("run: two", "run = 'two': is not a study; "),
    ("studies: {one: {arm: {}}}", "studies.one.arm: is not a key of studies.one; did you mean 'arms'?"),
    ("studies: {one: {arms: {none: 3}}}", "studies.one.arms.none = 3: must be a valid dictionary"),
    ("studies: {one: {arms: {none: {data.label: x}}}}", "studies.one.arms.none: data.label: is not a key of data"),
    ("studies: {one: {arms: {none: {seed: times x}}}}", "studies.one.arms.none: seed = 'times x': must be a valid"),
    ("studies: {one: {base: {sampling: 3}}}", "studies.one.base: sampling: is a section"),
    ("studies: {one: {factor: sampler}}", "studies.one.factor: sampler: is not a section"),
    ("studies: {one: {without: [all]}}", "studies.one.without = 'all': is not an arm of the study"),
    ("studies: {one: {findings: {more: {expect: most}}}}", "studies.one.findings.more.expect = 'most': must be 'more'"),
    ("studies: {two-fold: {arms: {a: {}}}}", "studies.two-fold: its name becomes a target: must be an identifier"),
    ("fit: nowhere.yaml", "fit = 'nowhere.yaml': no such file"),
    ("- seed: 1", "overlay.yaml: must be a mapping of settings"),
    ("seed: 'one", "overlay.yaml: is not YAML ("),
    ("seed: *nowhere", "overlay.yaml: is not YAML (line 1, column 7: found undefined alias 'nowhere'"),
    ("? {a: b}\n: c", "overlay.yaml: is not YAML (line 1, column 3: found unhashable key"),
    ("seed: !!python/object/apply:os.getcwd []", "is not YAML (line 1, column 7: could not determine a constructor"),
    ("seed: \x07", "overlay.yaml: is not YAML ("),
    ("1: 2", "1 = 1: keys should be strings"),
    ('"a\\nb": 2', "a\\nb: is not a key; allowed: seed"),
]


@pytest.mark.parametrize(("text", "words"), CONFIGURATIONS, ids=[text for text, _ in CONFIGURATIONS])
def test_bad_configurations(root, capfd, text, words):
    (root / "overlay.yaml").write_text(text)
    refused(root, capfd, ["emmeter.cli", "check", "overlay.yaml"], words)


def test_several_faults_are_one_line_each(root, capfd):
    (root / "overlay.yaml").write_text("data: {mixture: cifar10, mixture_share: 0.5}")
    capfd.readouterr()
    assert call("emmeter.cli", "check", "overlay.yaml") == 1
    shape, missing = capfd.readouterr().err.splitlines()
    arms = "error: studies.one.arms.none and 1 more: "
    assert shape.startswith(f"{arms}data.mixture = 'cifar10': its images have shape (3, 32, 32)")
    assert missing.startswith(f"{arms}data.source = 'digits': data/cifar-10-batches-py: not found")


def test_the_configuration_of_this_test_is_right(root, capfd):
    assert call("emmeter.cli", "check") == 0
    listed, verdict = capfd.readouterr().out.splitlines()
    assert listed == "one *: none, random"
    assert verdict == "ok: 1 study (marked *) without a fault; tables and page go to results/experiment/"


# ---- data sets, images and archives: a function that makes `x`, and a part of the line beside its name

GREY = np.random.default_rng(0).integers(0, 256, (12, 6, 6), np.uint8)


def savez(**arrays: np.ndarray) -> Callable[[Path], object]:
    return lambda path: np.savez(path, **arrays)


def data(change: Callable[[bytes], bytes], **arrays: np.ndarray) -> Callable[[Path], object]:
    """Write an .npz whose bytes are changed."""

    def write(path: Path) -> None:
        np.savez(path, **arrays or {"images": GREY})
        path.write_bytes(change(path.read_bytes()))

    return write


def members(*names: str, size: int | None = None) -> Callable[[Path], object]:
    """Write a zip archive of equal arrays under these names, or one whose directory claims another size."""

    def write(path: Path) -> None:
        buffer = io.BytesIO()
        np.save(buffer, GREY)
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, buffer.getvalue())
            if size is not None:
                header = io.BytesIO()
                np.lib.format.write_array_header_1_0(
                    header, {"descr": "|u1", "fortran_order": False, "shape": (size // 36, 6, 6)}
                )
                archive.writestr("images.npy", header.getvalue())
                archive.getinfo("images.npy").file_size = len(header.getvalue()) + size // 36 * 36

    return write


def image(mode: str = "RGB", size: tuple[int, int] = (6, 6)) -> Image.Image:
    return Image.effect_noise(size, 50).convert(mode)


def folder(*files: tuple[str, Any]) -> Callable[[Path], object]:
    """Write a folder with a good image `good.png` and others, each an image, bytes or a function of the path."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, what in (("good.png", image()), *files):
            (path / name).parent.mkdir(exist_ok=True)
            if isinstance(what, Image.Image):
                what.save(path / name)
            elif isinstance(what, bytes):
                (path / name).write_bytes(what)
            else:
                what(path / name)

    return write


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def deep_png() -> bytes:
    """6 x 6 pixels of 16-bit colour."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 6, 6, 16, 2, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes(36)) * 6)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bomb() -> bytes:
    """Head of a PNG of 30,000 x 30,000 pixels, in fewer than a hundred bytes."""
    plain = encoded(image("L"), "PNG")
    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + plain[24:29]
    return plain[:12] + header + struct.pack(">I", zlib.crc32(header)) + plain[33:]


def links(path: Path) -> None:
    path.mkdir()
    (path / "a").symlink_to(path)


FRAMES = {"save_all": True, "append_images": [image("L")]}
LABELS = np.arange(12) % 2
SMALL = {  # settings for which two images suffice
    "network": {"attention": [6], "multipliers": [1]},
    "search": {"rule": "grid", "grid": [2], "start": 10},
}

DATA: list[tuple[str, str, Callable[[Path], object], str]] = [
    ("npz", "missing", lambda path: None, "cannot be read (No such file or directory)"),
    ("npz", "a folder", lambda path: path.mkdir(), "cannot be read (Is a directory)"),
    ("npz", "empty", lambda path: path.write_bytes(b""), "damaged, or not an .npz file"),
    ("npz", "text", lambda path: path.write_text("images"), "damaged, or not an .npz file"),
    ("npz", "an .npy file", lambda path: path.write_bytes(GREY.tobytes()), "damaged, or not an .npz file"),
    ("npz", "truncated", data(lambda b: b[: len(b) // 2]), "damaged, or not an .npz file"),
    ("npz", "cut by one byte", data(lambda b: b[:-1]), "damaged"),
    ("npz", "with a flipped bit", data(lambda b: b[:300] + bytes([b[300] ^ 4]) + b[301:]), "damaged"),
    ("npz", "with another array", savez(pictures=GREY), "must hold an array 'images'; it holds pictures"),
    ("npz", "with nothing", savez(), "must hold an array 'images'; it holds nothing"),
    ("npz", "of pickled objects", savez(images=np.array([None, print], object)), "'images' holds pickled objects"),
    ("npz", "with pickled labels", savez(images=GREY, labels=np.array([{}] * 12)), "'labels' holds pickled objects"),
    ("npz", "of floats", savez(images=GREY / 255), "'images' must be uint8"),
    ("npz", "of 16 bits", savez(images=GREY.astype(np.uint16)), "'images' must be uint8"),
    ("npz", "of one image", savez(images=GREY[0]), "'images' must be uint8 (N, H, W)"),
    ("npz", "of no image", savez(images=GREY[:0]), "'images' must be uint8"),
    ("npz", "of five dimensions", savez(images=GREY[None, None]), "'images' must be uint8"),
    ("npz", "not square", savez(images=GREY[:, :5]), "'images' must be square"),
    ("npz", "of two channels", savez(images=np.stack([GREY, GREY], 1)), "'images' must be square with 1 or 3 channels"),
    ("npz", "with too few labels", savez(images=GREY, labels=LABELS[1:]), "'labels' must be integers (12,)"),
    ("npz", "with labels of text", savez(images=GREY, labels=np.array(["a"] * 12)), "'labels' must be integers"),
    ("npz", "with negative labels", savez(images=GREY, labels=LABELS - 1), "'labels' must be 0 .. K-1"),
    ("npz", "with huge labels", savez(images=GREY, labels=LABELS + 2**40), "'labels' must be 0 .. K-1"),
    ("npz", "with a class that is empty", savez(images=GREY, labels=LABELS * 2), "class 1 is empty"),
    ("npz", "that leaves its folder", members("images.npy", "../labels.npy"), "'../labels.npy' would lie outside"),
    ("npz", "with an absolute path", members("/images.npy", "images.npy"), "'/images.npy' would lie outside"),
    ("npz", "with a path of Windows", members("images.npy", "a\\..\\..\\b.npy"), "would lie outside"),
    pytest.param(
        *("npz", "with an array twice", members("images.npy", "images.npy"), "holds two arrays of one name"),
        marks=pytest.mark.filterwarnings("ignore:Duplicate name"),
    ),
    ("npz", "larger than memory", members(size=2**50), "more than this machine's memory"),
    ("npz", "a pipe", lambda path: os.mkfifo(path), "is not a regular file"),
    ("npz", "a link to itself", lambda path: path.symlink_to(path), "(Too many levels of symbolic links)"),
    ("folder", "missing", lambda path: None, "cannot be read as a folder (No such file or directory)"),
    ("folder", "a file", lambda path: path.write_text("x"), "cannot be read as a folder (Not a directory)"),
    ("folder", "empty", lambda path: path.mkdir(), "holds no images"),
    ("folder", "a link to itself", lambda path: path.symlink_to(path), "(Too many levels of symbolic links)"),
    ("folder", "with a link to itself", links, "a class folder must hold images only"),
    ("folder", "of images and classes", folder(("a/1.png", image())), "must hold images or class folders, not both"),
    ("folder", "of another size", folder(("x.png", image(size=(7, 7)))), "x.png: has shape (C, H, W) = (3, 7, 7)"),
    ("folder", "not square", folder(("x.png", image(size=(6, 7)))), "x.png: must be square, found 6 x 7 pixels"),
    ("folder", "of another mode", folder(("x.png", image("L"))), "x.png: has shape (C, H, W) = (1, 6, 6)"),
    ("folder", "with a hole in its palette", folder(("x.png", encoded(image("P"), "PNG", transparency=0))),
     "x.png: must be 8-bit grey or RGB"),
    ("folder", "with transparency", folder(("x.png", image("RGBA"))), "x.png: must be 8-bit grey or RGB"),
    ("folder", "of one bit among colour", folder(("x.png", image("1"))), "x.png: has shape (C, H, W) = (1, 6, 6)"),
    ("folder", "of CMYK", folder(("x.jpg", encoded(image("CMYK"), "JPEG"))), "x.jpg: must be 8-bit grey or RGB"),
    ("folder", "of 16-bit grey", folder(("x.png", image("I;16"))), "found 16 bits per channel"),
    ("folder", "of 16-bit colour", folder(("x.png", deep_png())), "found 16 bits per channel"),
    ("folder", "animated PNG", folder(("x.png", encoded(image(), "PNG", **FRAMES))), "x.png: must be a single image"),
    ("folder", "animated WebP", folder(("x.webp", encoded(image(), "WEBP", **FRAMES))), "must be a single image"),
    ("folder", "animated GIF", folder(("x.gif", encoded(image("P"), "GIF", **FRAMES))), "must be a single image"),
    ("folder", "TIFF of pages", folder(("x.tiff", encoded(image(), "TIFF", **FRAMES))), "must be a single image"),
    ("folder", "16-bit TIFF", folder(("x.tif", image("I;16"))), "x.tif: must be 8-bit grey or RGB"),
    ("folder", "HEIF called JPEG", folder(("x.jpg", b"\0\0\0\x1cftypheic" + bytes(9))), "x.jpg: is a HEIF image"),
    ("folder", "PPM", folder(("x.ppm", image())), "x.ppm: images must be .png"),
    ("folder", "raw photograph", folder(("x.NEF", encoded(image(), "TIFF"))), "x.NEF: images must be .png"),
    ("folder", "grey without a suffix", folder(("x", encoded(image("L"), "PNG"))), "x: has shape (C, H, W) = (1,"),
    ("folder", "of broken names", folder(("x\n.png", b"")), "x\\n.png: is empty"),
    ("folder", "zero bytes", folder(("x.png", b"")), "x.png: is empty"),
    ("folder", "text", folder(("x.png", b"image")), "x.png: is not a .png"),
    ("folder", "truncated", folder(("x.png", encoded(image(), "PNG")[:70])), "x.png: damaged, or cannot be read"),
    ("folder", "truncated JPEG", folder(("x.jpg", encoded(image(), "JPEG")[:-200])), "x.jpg: damaged, or cannot"),
    ("folder", "decompression bomb", folder(("x.png", bomb())), "x.png: has more than"),
    ("folder", "dangling link", folder(("x.png", lambda path: path.symlink_to("gone"))), "x.png: damaged, or cannot"),
    ("folder", "link out of it", folder(("x.png", lambda path: path.symlink_to("/etc/passwd"))), "is not a .png"),
    ("folder", "pipe", folder(("x.png", lambda path: os.mkfifo(path))), "x.png: is not a regular file"),
]  # fmt: skip


def subset(source: str, **options: object) -> list[str]:
    chosen = {"settings": json.dumps({"data": {"source": source}}), "n": 2, "replicate": 0, "output": "out/subset.npz"}
    words = [word for name, value in (chosen | options).items() for word in (f"--{name}", str(value))]
    return ["emmeter.stages.subset", *words]


@pytest.mark.parametrize(("kind", "what", "make", "words"), DATA)
def test_bad_data(root, capfd, kind, what, make, words):
    path = root / ("x.npz" if kind == "npz" else "x")
    make(path)
    refused(root, capfd, subset(f"{kind}:{path.name}"), words)
    if kind == "folder" or what in ("missing", "empty", "of pickled objects", "a pipe", "larger than memory"):
        content = {"data": {"source": f"{kind}:{path.name}", "balanced": False, "held_out": 0}} | SMALL
        (root / "overlay.yaml").write_text(json.dumps(content))
        refused(root, capfd, ["emmeter.cli", "check", "overlay.yaml"], words)


@pytest.mark.parametrize("source", ["cifar10", "cifar100", "svhn", "mnist", "fashion_mnist"])
def test_data_sets_that_are_not_there(root, capfd, source):
    refused(root, capfd, subset(source), "not found; set data.download: true, or put there ")


# ---- command lines

SETTINGS = json.dumps({"data": {"source": "digits"}})
TRAIN = ["emmeter.stages.train", "--settings", SETTINGS, "--n", "10", "--replicate", "0", "--subset", "gone.npz"]
TRAIN += ["--snapshots", "o/s", "--log", "o/l", "--record", "o/r", "--state", "o/state"]
SAMPLE = ["emmeter.stages.sample", "--settings", SETTINGS, "--n", "10", "--replicate", "0", "--subset", "gone.npz"]
SAMPLE += ["--output", "o/s", "--record", "o/r"]
MEASURE = ["emmeter.stages.emm", "--settings", SETTINGS, "--results", "r", "--output", "o/e", "--gallery", "o/g"]

COMMANDS: list[tuple[list[str], int, str]] = [
    (["emmeter.cli"], 2, "the following arguments are required"),
    (["emmeter.cli", "measure"], 2, "invalid choice: 'measure'"),
    (["emmeter.cli", "summary"], 1, "results/experiment: holds no table yet"),
    (["emmeter.cli", "--results", "config.yaml", "summary"], 1, "config.yaml/experiment: holds no table yet"),
    (["emmeter.cli", "summary", "gone"], 1, "results/experiment/gone/emm.csv: is not there; run snakemake first"),
    (["emmeter.cli", "verify"], 1, "results: holds no runs"),
    (["emmeter.cli", "verify", "nowhere"], 1, "nowhere: holds no runs"),
    (["emmeter.cli", "verify", "--scores", "many"], 2, "invalid int value: 'many'"),
    (["emmeter.cli", "check", "nowhere.yaml"], 1, "nowhere.yaml: cannot be read (No such file or directory)"),
    (["emmeter.cli", "check", "config"], 1, "config: cannot be read (Is a directory)"),
    (["emmeter.cli", "plan", "--cores", "0"], 1, "--cores"),
    (["emmeter.cli", "plan", "--throughput", "fast"], 2, "invalid float value: 'fast'"),
    (["emmeter.cli", "schema"], 2, "the following arguments are required: FILE"),
    (["emmeter.cli", "schema", "config"], 1, "Is a directory: 'config'"),
    (["emmeter.cli", "schema", "config.yaml/schema.json"], 1, "config.yaml"),
    (["emmeter.cli", "rescore", "gone.npz"], 1, "gone.npz: is not a neighbours.npz of a scored run"),
    (["emmeter.cli", "rescore", "config.yaml"], 1, "config.yaml: is not a neighbours.npz of a scored run"),
    *(
        (["emmeter.cli", "rescore", "gone.npz", "--threshold", "0.2", text], 2, f"{text!r}: must be a number between")
        for text in ("x", "nan", "1/0", "3/2", "0", "1", "-0.5", "1e999", "1e99999999")
    ),
    (["emmeter.stages.subset"], 2, "the following arguments are required: --settings, --n, --replicate, --output"),
    (subset("digits", n="ten"), 2, "argument --n: invalid int value: 'ten'"),
    (subset("digits", n=0), 1, "n = 0: must be a positive multiple of 10"),
    (subset("digits", n=15), 1, "n = 15: must be a positive multiple of 10"),
    (subset("digits", n=10**9), 1, "n = 1000000000: must be at most 1740"),
    (subset("digits", n=10, replicate=-1), 1, "replicate = -1: must be at least 0"),
    (subset("digits", settings="{"), 1, "--settings: is not JSON"),
    (subset("digits", settings="3"), 1, "configuration = 3: must be a mapping of settings"),
    (subset("digits", settings='{"sed": 1}'), 1, "sed: is not a key; did you mean 'seed'?"),
    (subset("digits", output="config.yaml/subset.npz", n=10), 1, "config.yaml"),
    (TRAIN, 1, "gone.npz: cannot be read (No such file or directory)"),
    ([*TRAIN, "--device", "tpu"], 2, "argument --device: invalid choice: 'tpu'"),
    ([*TRAIN, "--threads", "0"], 2, "argument --threads: must be a whole number from 1 on, not '0'"),
    ([*TRAIN, "--state-seconds", "soon"], 2, "argument --state-seconds: invalid float value: 'soon'"),
    (SAMPLE, 1, "gone.npz: cannot be read (No such file or directory)"),
    ([*SAMPLE, "--batch", "0"], 2, "argument --batch: must be a whole number from 1 on, not '0'"),
    ([*SAMPLE, "--batch", "-5"], 2, "argument --batch: must be a whole number from 1 on, not '-5'"),
    ([*MEASURE, "--sizes", "[10"], 1, "an option is not JSON"),
    ([*MEASURE, "--sizes", "[10, 20]"], 1, "the search is not finished"),
    (["emmeter.stages.study", "--study", "{"], 2, "the following arguments are required"),
]


@pytest.mark.parametrize(("arguments", "status", "words"), COMMANDS)
def test_bad_command_lines(root, capfd, arguments, status, words):
    refused(root, capfd, arguments, words, status)


def photos(root: Path, *wrong: tuple[str, bytes]) -> str:
    """Write images in twelve class folders, some of them wrong, and an overlay for their study; return its name."""
    for index in range(24):
        (root / "photos" / str(index % 12)).mkdir(parents=True, exist_ok=True)
        image(size=(6, 6)).save(root / "photos" / str(index % 12) / f"{index}.png")
    for name, content in wrong:
        (root / "photos" / name).write_bytes(content)
    content = {"data": {"source": "folder:photos", "balanced": False, "held_out": 0}} | SMALL
    (root / "overlay.yaml").write_text(json.dumps(content))
    return "overlay.yaml"


def test_check_shows_what_a_folder_holds(root, capfd):
    assert (
        call("emmeter.cli", "check", photos(root, ("0/a.bak", b"x"), ("README.txt", b"text"), ("3/Thumbs.db", b"y")))
        == 0
    )
    classes = ", ".join(f"{number} {number} (2)" for number in range(12))
    *lines, sigma, _ = capfd.readouterr().out.splitlines()
    assert sigma.startswith("note: folder:photos: diffusion.sigma_data = 0.5 is not theirs, which is 0.")
    assert lines == [
        f"folder:photos: 24 images 6x6x3 in 12 classes: {classes}",
        "folder:photos: ignored 3 files that are no images (README.txt, 0/a.bak, 3/Thumbs.db)",
        "one *: none, random",
    ]


def test_check_names_every_faulty_file_and_every_other_fault(root, capfd):
    wrong = [
        ("0/0.png", b""),
        ("10/c.png", encoded(image("L"), "PNG")),
        ("2/b.png", encoded(image(size=(6, 7)), "PNG")),
    ]
    overlay = photos(root, *wrong)
    assert call("emmeter.cli", "check", overlay) == 1
    lines = capfd.readouterr().err.splitlines()
    arms = "studies.one.arms.none and 1 more: "  # before the fault of the first file, which is found for the arms
    assert [line.removeprefix("error: ").replace(arms, "") for line in lines] == [
        "data.source = 'folder:photos': photos/0/0.png: is empty",
        "data.source = 'folder:photos': photos/2/b.png: must be square, found 6 x 7 pixels; crop it, or set "
        "data.fit: crop (or pad)",
        "data.source = 'folder:photos': photos/10/c.png: has shape (C, H, W) = (1, 6, 6), but others have (3, 6, 6); "
        "convert it",
    ]
    image().save(root / "photos/0/0.png")
    (root / "overlay.yaml").write_text((root / overlay).read_text().replace("[2]", "[2, 99]"))
    assert call("emmeter.cli", "check", overlay) == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 3 and "search.grid = [2, 99]: must be at most 26" in lines[0]


def test_a_folder_is_looked_at_once_for_all_arms(root, monkeypatch):
    looked = []
    heads = pictures.heads
    monkeypatch.setattr(pictures, "heads", lambda paths: looked.append(len(paths)) or heads(paths))
    assert call("emmeter.cli", "check", photos(root)) == 0
    assert looked == [24]


def test_a_stage_names_every_faulty_file(root, capfd):
    photos(root, ("0/0.png", b""), ("10/c.png", b"x"))
    assert call(*subset("folder:photos")) == 1
    assert [line.partition(": is ")[0] for line in capfd.readouterr().err.splitlines()] == [
        "error: photos/0/0.png", "error: photos/10/c.png"
    ]  # fmt: skip


def test_no_line_advises_to_delete_a_file_of_the_user(root, capfd):
    assert call("emmeter.cli", "rescore", "config.yaml") == 1
    assert "delete" not in capfd.readouterr().err


REAL = [
    ["emmeter.cli", "check", "overlay.yaml"],
    ["emmeter.stages.subset", *subset("npz:gone.npz")[1:]],
    TRAIN,
]


def test_a_reader_that_closes_the_output_ends_a_command_silently(root):
    read, write = os.pipe()
    os.close(read)  # as `emm check | head -0`
    done = subprocess.run(
        [sys.executable, "-m", "emmeter.cli", "check"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("arguments", REAL, ids=[words[0] for words in REAL])
def test_real_command_lines(root, arguments):
    (root / "overlay.yaml").write_text("search: {epsilon: 1.5}")
    before = content(root)
    done = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert content(root).keys() == before.keys()


# ---- the configuration, mutated at random

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, -1, 2, 10**6, 10**400, -(10**30)]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        """times 3|times 0|times 1/3|times -1|times 1e9|add 1|add -100|add 1/3|keep 1|keep 1 4|keep 0|keep 99|digits|
        npz:gone|npz:\0|folder:/dev/null|folder:.|cifar10|random-2|random-99999999999999999999|true|unique|1/3|1/0|nan|
        inf|1e400|1e308 epochs|1 images|99999999999999999999 epochs|0.001 images|50 %|100 %|1e300 %|1_0|٣|²|
        10""".replace("\n", "")
        .replace("        ", "")
        .split("|")
    ),
    st.lists(st.one_of(st.integers(-2, 40), st.floats(0, 1), st.text(max_size=3)), max_size=4),
    st.dictionaries(st.text(max_size=4), st.integers() | st.none() | st.text(max_size=3), max_size=3),
)
KEYS = st.one_of(
    st.text(max_size=6),
    st.integers(),
    st.none(),
    st.sampled_from(["seed", "data", "labels", "steps", "data.labels", "network.skips", "network.channels", "data.",
                     "search.n_max", "training.duration", "a.b.c", "arms", "without", "fit", "run"]),
)  # fmt: skip


def nodes(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values of nested mappings."""
    paths = [path]
    if isinstance(node, dict):
        for key, value in node.items():
            paths += nodes(value, (*path, key))
    return paths


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """The valid configuration after one to three changes: a value replaced, an entry added, or one removed."""
    config: Any = copy.deepcopy(CONFIG)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(nodes(config)[1:] or [()]))
        if not path:
            break
        above = config
        for part in path[:-1]:
            above = above[part]
        kind = draw(st.sampled_from(["replace", "replace", "add", "remove"]))
        if kind == "replace":
            above[path[-1]] = draw(JUNK)
        elif kind == "add":
            above[draw(KEYS)] = draw(JUNK)
        else:
            del above[path[-1]]
    return config


def assert_valid_or_refused(config: Any) -> None:
    """Check that a configuration is valid and its searches can start, or that each line of its refusal names a key."""
    try:
        settings = configuration.read(config)
        index = index_of(settings, Path("nowhere"))
    except SettingsError as error:
        lines = str(error).splitlines()
        assert lines and all(": " in line for line in lines)
        return
    for key in index.sizes:
        assert index.trail(key)


ODD: list[Any] = [
    None, True, 0, -1, 2, 10**400, -(10**30), 1e308, float("nan"), "times 3", "times 0", "times 1/3", "times -1",
    "add 1", "add -100", "add 1/3", "keep 1", "keep 0", "keep 99", "npz:\0", "folder:\0", "npz:gone", "folder:.",
    "npz:/dev/zero",
    "random-99999999999999999999", "1e400", "1e308 epochs", "99999999999999999999 epochs", "0.001 images", "1e300 %",
    "1/0", "\u0663", "\u00b2", "", "\n", "a\r\u2028b", "x" * 5000, "9" * 5000, "1/" + "9" * 400, "9" * 400 + "/1", b"x",
    "\ud800", (1,), [], [1], [[]], {}, {"a": 1}, {1: 2}, {"\n": 1}, datetime.date(2020, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=[repr(value)[:30] for value in ODD])
def test_odd_values_of_every_key_are_valid_or_refused_line_by_line(value):
    setup = read_setup({key: CONFIG[key] for key in Setup.model_fields if key in CONFIG}).model_dump()
    whole = copy.deepcopy(CONFIG | setup)
    for path in nodes(whole)[1:]:
        config = copy.deepcopy(whole)
        above = config
        for part in path[:-1]:
            above = above[part]
        above[path[-1]] = value
        assert_valid_or_refused(config)


@hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_any_configuration_is_valid_or_refused_line_by_line(config):
    assert_valid_or_refused(config)


@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_text_is_a_configuration_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("text")
    text = bytearray(yaml.safe_dump(CONFIG, sort_keys=False).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(text) - 1))
        change = data.draw(st.binary(max_size=3) | st.sampled_from([b"\n", b":", b"- ", b"*", b"&a ", b"!!", b"{"]))
        text[position : position + data.draw(st.integers(0, 3))] = change
    (folder / "config").mkdir()
    (folder / "config" / "studies.yaml").write_text("")
    (folder / "config.yaml").write_bytes(bytes(text))
    try:
        configuration.read(configuration.load(folder=folder))
    except SettingsError as error:
        assert error.args and all(": " in line for line in str(error).splitlines())  # noqa: PT017
    shutil.rmtree(folder)
