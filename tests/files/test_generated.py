"""Images of a command: those that follow the contract are read, and every other file is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emmeter.errors import StageError
from emmeter.files.generated import read_written

SHAPE = (3, 4, 4)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, *SHAPE), np.uint8)


def read(folder: Path, **arrays: Any):
    path = folder / "samples.npz"
    np.savez(path, **arrays)
    return read_written(path, 5, SHAPE)


def test_images_of_one_snapshot_count_as_the_last(tmp_path):
    written = read(tmp_path, images=IMAGES, images_trained=640, parameters=12)
    assert written.images.shape == (1, 5, *SHAPE)
    assert written.shares.tolist() == [1.0]
    assert written.images_seen.tolist() == [640]
    assert written.reported == {"images_trained": 640, "parameters": 12}


def test_snapshots_have_their_shares_of_the_training(tmp_path):
    written = read(tmp_path, images=np.stack([IMAGES, IMAGES]), images_seen=np.array([160, 640]))
    assert written.shares.tolist() == [0.25, 1.0]


def test_what_a_command_does_not_report_is_absent(tmp_path):
    assert read(tmp_path, images=IMAGES).reported == {}


FLAT = np.full((5, *SHAPE), 7, np.uint8)
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "floats": ({"images": IMAGES / 255}, "are float64 (5, 3, 4, 4): must be uint8 (5, 3, 4, 4)"),
    "not finite": ({"images": np.full((5, *SHAPE), np.nan)}, "hold NaN or infinity"),
    "channels last": ({"images": IMAGES.transpose(0, 2, 3, 1)}, "channels come first"),
    "too few": ({"images": IMAGES[:4]}, "are uint8 (4, 3, 4, 4): must be uint8 (5, 3, 4, 4)"),
    "too many": ({"images": np.concatenate([IMAGES, IMAGES])}, "are uint8 (10, 3, 4, 4)"),
    "none": ({"images": IMAGES[:0]}, "are uint8 (0, 3, 4, 4)"),
    "other size": ({"images": IMAGES[..., :2]}, "are uint8 (5, 3, 4, 2)"),
    "flat": ({"images": IMAGES.reshape(5, -1)}, "are uint8 (5, 48)"),
    "signed": ({"images": IMAGES.astype(np.int64)}, "are int64"),
    "one image": ({"images": FLAT}, "are 5 times the same image"),
    "no structure": (
        {"images": np.broadcast_to(IMAGES[:, :1, :1, :1], IMAGES.shape)},
        "are all of a single grey level",
    ),
    "other name": ({"samples": IMAGES}, "must hold an array 'images'; it holds samples"),
    "pickled": ({"images": np.array([IMAGES, "text"], dtype=object)}, "holds pickled objects"),
    "snapshots unnamed": ({"images": np.stack([IMAGES, IMAGES])}, "must be 2 increasing whole numbers"),
    "falling": ({"images": np.stack([IMAGES] * 2), "images_seen": [640, 160]}, "must be 2 increasing whole numbers"),
    "negative": ({"images": IMAGES, "flops": -1}, "flops in {samples} is -1: must be one number from 0 on"),
    "several": ({"images": IMAGES, "parameters": [1, 2]}, "parameters in {samples} is [1, 2]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_other_files_are_refused_in_one_line(kind, tmp_path):
    arrays, expected = BAD[kind]
    with pytest.raises(StageError) as error:
        read(tmp_path, **arrays)
    assert expected in str(error.value)
    assert str(error.value).startswith("model.command: ")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(StageError, match=r"has ended without writing \{samples\}"):
        read_written(tmp_path / "samples.npz", 5, SHAPE)


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "samples.npz"
    path.write_text("no archive")
    with pytest.raises(StageError, match=r"not an .npz file"):
        read_written(path, 5, SHAPE)
