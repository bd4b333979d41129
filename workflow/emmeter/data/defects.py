"""Images of the user's that cannot be used: unreadable ones, and those whose shape differs from the others'."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from emmeter.data import pictures
from emmeter.data.images import parts
from emmeter.data.inventory import Inventory, inventory
from emmeter.data.own import folder_files, used_positions
from emmeter.data.pictures import Shape
from emmeter.errors import DataError, Fault, lines
from emmeter.settings.sections import Data
from emmeter.settings.sources import is_own, own_path

_FAULTS_SHOWN = 20


def damaged(data: Data) -> list[str]:
    """One line per image of folders that cannot be used.  Images with a sound head are decoded."""
    messages = []
    for part in parts(data):
        if not part.source.startswith("folder:"):
            continue
        try:
            files, labels = folder_files(own_path(part.source))
        except DataError as error:
            messages += error.lines
            continue
        paths = [files[i] for i in used_positions(labels, part) or range(len(files))]
        faults = _head_faults(paths, pictures.heads(paths), part)
        for index in set(range(len(paths))) - set(faults):
            try:
                pictures.decode(paths[index])
            except DataError as error:
                faults[index] = str(error)
        messages += _first(part.source, faults)
    return messages


def image_faults(data: Data, inventories: dict[str, Inventory]) -> list[Fault]:
    """One fault of data.source or data.mixture per image of the user's that `data` cannot use.

    Args:
        inventories: the sources listed so far, by their names.  A source that is missing here is listed and added.
    """
    faults = []
    for key, part in zip(("data.source", "data.mixture"), parts(data), strict=False):
        if not is_own(part.source):
            continue
        try:
            held = inventories.get(part.source) or inventory(part.source)
        except (DataError, OSError) as error:
            messages = lines(error)
        else:
            inventories[part.source] = held
            chosen = used_positions(held.labels, part) or range(len(held.files))
            files, heads = [held.files[i] for i in chosen], [held.heads[i] for i in chosen]
            messages = _first(part.source, _head_faults(files, heads, part))
        faults += [Fault(key, repr(part.source), message) for message in messages]
    return faults


def _head_faults(files: Sequence[Path], heads: Sequence[Shape | DataError], data: Data) -> dict[int, str]:
    """Faults that the heads show, by the position of the image; at -1, a fault of all images together."""
    faults: dict[int, str] = {}
    squares: dict[int, Shape] = {}
    for index, (path, head) in enumerate(zip(files, heads, strict=True)):
        try:
            if isinstance(head, DataError):
                raise head
            squares[index] = pictures.square(path, head, data.fit)
        except DataError as error:
            faults[index] = str(error)
    if not squares:
        return faults
    sides = {side for _, side, _ in squares.values()}
    if data.fit is not None and data.resolution is None and len(sides) > 1:
        sizes = f"holds squares with sides of {min(sides)} to {max(sides)} pixels"
        faults[-1] = f"{data.source}: {sizes}; set data.resolution"
        data = data.model_copy(update={"resolution": min(sides)})  # one line about sizes is enough
    usual = Counter(shared_shape(shape, data) for shape in squares.values()).most_common(1)[0][0]
    for index in squares:
        try:
            compare(files[index], heads[index], usual, data)  # type: ignore[arg-type]
        except DataError as error:
            faults[index] = str(error)
    return faults


def shared_shape(shape: Shape, data: Data) -> Shape:
    """(C, H, W) that all images of a data set must share with a square image of this shape."""
    if data.fit is not None and data.resolution is not None:
        return shape[0], data.resolution, data.resolution
    return shape


def compare(path: Path, shape: Shape, usual: Shape, data: Data) -> None:
    """Compare an image of `shape` (C, H, W), as stored, with `usual`, the `shared_shape` of the other images.

    Raises:
        DataError: the image has another shape, or is too small for data.resolution.
    """
    square = pictures.square(path, shape, data.fit)
    if shared_shape(square, data) != usual:
        cure = "convert it" if square[0] != usual[0] else "set data.resolution" if data.fit else ""
        cure = cure or "set data.resolution and data.fit: crop (or pad)"
        raise DataError(f"{path}: has shape (C, H, W) = {square}, but others have {usual}; {cure}")
    if data.fit is not None and data.resolution is not None and square[1] < data.resolution:
        _, height, width = shape
        raise DataError(f"{path}: has {width} x {height} pixels, too few for data.resolution = {data.resolution}")


def _first(source: str, faults: dict[int, str]) -> list[str]:
    """The first faults in the order of the images, and the number of further ones."""
    messages = [faults[index] for index in sorted(faults)]
    more = len(messages) - _FAULTS_SHOWN
    return messages if more <= 0 else [*messages[:_FAULTS_SHOWN], f"{source}: and {more} more"]
