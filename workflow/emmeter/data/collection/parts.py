"""Parts of a set of images: some in a row, and a set whose images are read when they are asked for."""

from dataclasses import replace

import numpy as np

from emmeter.data.collection.gather import Form, gather
from emmeter.data.collection.sources import Array, Files, Source
from emmeter.data.collection.store import Store


def bounds(count: int, number: int, shards: int) -> tuple[int, int]:
    """First position of shard `number` of `shards` of `count` images, and that after its last; sizes differ by 1."""
    return count * number // shards, count * (number + 1) // shards


def part(source: Source, start: int, stop: int) -> Source:
    """The images `start` to `stop` of a source, in order."""
    names = source.names[start:stop]
    notes = {name: values[start:stop] for name, values in source.notes.items()}
    if isinstance(source, Files):
        return replace(source, names=names, files=source.files[start:stop], notes=notes)
    if isinstance(source, Array):
        layout = (len(names), *source.layout[1:])
        return replace(source, names=names, notes=notes, layout=layout, skipped=source.skipped + start)
    return replace(source, names=names, notes=notes)


class Distant(Store):
    """Images of a source that are read when they are asked for, so that they need no memory."""

    def __init__(self, source: Source, form: Form):
        """Name the images.

        Args:
            source: where they are.
            form: the form that they are brought to.
        """
        self.shape = form.shape
        self.pixels = int(np.prod(form.shape))
        self._source, self._form = source, form

    def __len__(self) -> int:
        return len(self._source.names)

    def rows(self, part: slice) -> np.ndarray:
        """Images uint8 (m, C, H, W) of a slice without a step.

        Raises:
            DataError: an image has become unreadable.
        """
        start, stop, _ = part.indices(len(self))
        some = _part(self._source, start, stop)
        (read,) = gather([some], self._form.resize, lambda _: None, form=self._form)
        return read.store.rows(slice(None))


_part = part
