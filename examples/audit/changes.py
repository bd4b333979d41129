"""Measure which changed copies the criteria of ``emm audit`` find among your images.

    uv run python examples/audit/changes.py TRAIN NEW [--size N] [--resize N]

Some training images are changed in several ways, and compared with all training images.  NEW holds images of the same
kind that are no training images; the criteria should not call them copies.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image, ImageFilter

from emmeter.data.audited import Input, Options, parse_criterion
from emmeter.data.collection.gather import gather
from emmeter.data.collection.sources import find
from emmeter.stages.audit import audit

COPIES = 200  # changed images of each kind
CRITERIA = ("ratio", "calibrated")


def by_picture(change: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """A change of uint8 (n, H, W, 3), from a change of one picture."""
    return lambda images: np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def noise(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda images: np.clip(images + np.random.default_rng(1).normal(0, deviation, images.shape), 0, 255)


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(picture: Image.Image) -> Image.Image:
        content = io.BytesIO()
        picture.save(content, "JPEG", quality=quality)
        return Image.open(content).convert("RGB")

    return change


def crop(picture: Image.Image) -> Image.Image:
    """Cut a sixteenth from each side, and resample to the former size."""
    width, height = picture.size
    box = (width // 16, height // 16, width - width // 16, height - height // 16)
    return picture.crop(box).resize(picture.size, Image.Resampling.LANCZOS)


def corner(images: np.ndarray) -> np.ndarray:
    """Replace the upper left quarter by that of another image."""
    changed, (height, width) = images.copy(), images.shape[1:3]
    changed[:, : height // 2, : width // 2] = np.roll(images, 1, axis=0)[:, : height // 2, : width // 2]
    return changed


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise, standard deviation 8": noise(8),
    "noise, standard deviation 16": noise(16),
    "JPEG, quality 75": by_picture(jpeg(75)),
    "JPEG, quality 30": by_picture(jpeg(30)),
    "blur, radius 1": by_picture(lambda picture: picture.filter(ImageFilter.GaussianBlur(1))),
    "brighter by 10 %": lambda images: np.clip(images * 1.1, 0, 255),
    "brighter by 25 %": lambda images: np.clip(images * 1.25, 0, 255),
    "shifted by 1 pixel": lambda images: np.roll(images, 1, axis=2),
    "shifted by 2 pixels": lambda images: np.roll(images, 2, axis=2),
    "cropped by a sixteenth": by_picture(crop),
    "a quarter replaced": corner,
    "mirrored": lambda images: images[:, :, ::-1],
}


def colours(path: Path, size: int | None) -> np.ndarray:
    """The images of a set as uint8 (n, H, W, 3)."""
    (images,) = gather([find(path)], size, lambda _: None)
    return np.repeat(images.store.rows(slice(None)), 3 // images.store.shape[0], axis=1).transpose(0, 2, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path, metavar="TRAIN")
    parser.add_argument("new", type=Path, metavar="NEW")
    parser.add_argument("--size", type=int, metavar="N", help="resample all images to N x N pixels first")
    parser.add_argument("--resize", type=int, metavar="N", help="resample changed and other images for the comparison")
    args = parser.parse_args()
    train, new = colours(args.train, args.size), colours(args.new, args.size)
    copies = train[np.random.default_rng(0).permutation(len(train))[:COPIES]]
    sets = {name: change(copies).round().astype(np.uint8) for name, change in CHANGES.items()} | {"new images": new}
    with TemporaryDirectory() as folder:
        for name, images in {"train": train, "changed": np.concatenate(list(sets.values()))}.items():
            np.save(Path(folder, f"{name}.npy"), images)
        options = Options(criteria=tuple(map(parse_criterion, CRITERIA)), resize=args.resize)
        audited = audit(Input(Path(folder, "changed.npy")), Input(Path(folder, "train.npy")), options=options)
    print(f"| change | {' | '.join(CRITERIA)} |\n|---|{'---|' * len(CRITERIA)}")
    ends = np.cumsum([len(images) for images in sets.values()])[:-1]
    shares = zip(*(np.split(finding.generated.flags, ends) for finding in audited.result.findings), strict=True)
    for name, flags in zip(sets, shares, strict=True):
        print(f"| {name} | {' | '.join(f'{100 * each.mean():.3g} %' for each in flags)} |")


if __name__ == "__main__":
    main()
