"""An audit as it is asked for, and with the images that it compared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from emmeter.data.collection.gather import Collection
from emmeter.measure.audit import THRESHOLDS, Audit, Criterion

SMALLEST_MEMORY = 1_500_000_000  # bytes, of which the program itself needs most


@dataclass(frozen=True)
class Input:
    """A set of images: a path, and the name of an array if it is an .npz file with several."""

    path: Path
    array: str | None = None


@dataclass(frozen=True)
class Options:
    """Choices of an audit."""

    criteria: tuple[Criterion, ...] = (Criterion("ratio", THRESHOLDS["ratio"]),)
    features: Path | None = None
    """TorchScript file of the network for the criterion `cosine`."""
    mirrored: bool = False
    """Whether mirror images of training images count."""
    resize: int | None = None
    """Side to which the middle square of every image is resampled (Lanczos)."""
    group_pattern: str | None = None
    """Regular expression for the group of a training image in its name."""
    manifest: Path | None = None
    """CSV or JSONL file with groups, labels, prompts and seeds of images."""
    limit: float = 0.01
    """Highest rate of copies that is accepted."""
    memory: int = 4_000_000_000
    """Bytes that the audit may use."""


@dataclass(frozen=True)
class Audited:
    """An audit with the images that it compared."""

    result: Audit
    options: Options
    generated: Collection
    train: Collection
    held_out: Collection | None
    groups: list[str] | None = field(default=None)
    """Group of each training image, empty for an image without one; None without groups."""


def configured(content: Mapping[str, Any]) -> tuple[Input, Input, Input | None, Options]:
    """Generated, training and held-out images, and the options, of an audit as `pipeline.audits` hands it over.

    Raises:
        ValueError: a criterion or the memory is none.
    """
    held_out, features, manifest = content["held_out"], content["features"], content["manifest"]
    options = Options(
        criteria=tuple(map(parse_criterion, content["criteria"])),
        features=None if features is None else Path(features),
        mirrored=content["mirrored"],
        resize=content["resize"],
        group_pattern=content["group_pattern"],
        manifest=None if manifest is None else Path(manifest),
        limit=content["fail_above"],
        memory=parse_memory(content["memory"]),
    )
    generated, train = Input(Path(content["generated"])), Input(Path(content["train"]))
    array = content.get("held_out_array")
    return generated, train, None if held_out is None else Input(Path(held_out), array), options


def parse_criterion(text: str) -> Criterion:
    """Read a criterion such as `ratio` or `calibrated=0.4`.

    Raises:
        ValueError: there is no such criterion, or the threshold is not between 0 and 1.
    """
    name, equals, number = text.partition("=")
    if name not in THRESHOLDS:
        raise ValueError(f"{text!r}: must be one of {', '.join(THRESHOLDS)}, or one with its threshold (ratio=1/4)")
    if not equals:
        return Criterion(name, THRESHOLDS[name])
    try:
        threshold = Fraction(number).limit_denominator(1_000_000)
    except (ValueError, ZeroDivisionError):
        threshold = Fraction(0)
    if not 0 < threshold < 1:
        raise ValueError(f"{text!r}: the threshold must be between 0 and 1, such as 0.25 or 1/3")
    return Criterion(name, threshold)


def parse_memory(text: str) -> int:
    """Read a size such as 4GB, 800MB or 2GiB, in bytes.

    Raises:
        ValueError: it is no size, or less than `SMALLEST_MEMORY`.
    """
    units = {"gib": 2**30, "mib": 2**20, "gb": 10**9, "mb": 10**6, "g": 10**9, "m": 10**6}
    lower = text.strip().lower()
    unit = next((unit for unit in units if lower.endswith(unit)), None)
    try:
        size = int(float(lower.removesuffix(unit or "")) * units[unit or ""])
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{text!r}: must be a size such as 4GB or 1500MB") from None
    if size < SMALLEST_MEMORY:
        raise ValueError(f"{text!r}: must be at least 1500MB, of which the program itself needs most")
    return size
