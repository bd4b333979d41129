"""The audit_target stage writes the results of an audit, whole or from the shards of its training images."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.command import command
from emmeter.data.audited import Audited, Input, Options, configured
from emmeter.data.collection.gather import Collection, common_form, gather, grouped, input_digest
from emmeter.data.collection.parts import Distant
from emmeter.data.collection.sources import Source
from emmeter.errors import DataError, printable
from emmeter.files.npz import read_arrays
from emmeter.measure.proximity import Nearest, Training, first_equal, merged, numbered
from emmeter.presentation.audit_words import lines
from emmeter.stages.audit import LEAST, OVERHEAD, audit, check, compared, sources_of, split, write

ARRAYS = ("first", "second", "squared", "mirrored", "digests", "mirrored_digests", "content")


def joined(
    generated: Input,
    train: Input,
    held_out: Input | None,
    options: Options,
    shards: Sequence[Path],
    *,
    spool: Path = Path(),
) -> Audited:
    """Join the shards of an audit: the result is that of `emmeter.stages.audit.audit` on all training images.

    The memory does not hold the training images, but 0.31 kB for each image of an array, and the names of image files.

    Args:
        shards: the files of `emmeter.stages.audit_shard.audit_shard`, in order.
        spool: folder of a temporary file, for images that exceed the memory.
    Raises:
        SettingsError: options contradict each other.
        DataError: images or shards cannot be used, or training images have groups; one line per fault.
        OSError: a file cannot be read or written.
    """
    check(options)
    sources = sources_of([generated, train, *([held_out] if held_out else [])], options)
    form = common_form(sources, options.resize, options.mirrored)
    available = max(options.memory - OVERHEAD, LEAST)
    others = [sources[0], *sources[2:]]

    def folder(size: int) -> Path | None:
        return spool if size > available else None

    sets = gather(others, options.resize, folder, mirrored=options.mirrored, form=form, whole=True)
    arrays = [read_arrays(path, ARRAYS) for path in shards]
    trained = _collection(sources[1], Distant(sources[1], form), arrays)
    if grouped(trained, options.group_pattern) is not None:
        raise DataError(f"{train.path}: its images have groups, which need shards: 1")
    count = sum(map(len, sets))
    if len(trained.digests) != len(trained) or any(len(part["first"]) != count for part in arrays):
        raise DataError(f"{shards[0].parent}: the images have changed since they were compared; delete this folder")
    same = first_equal(trained.digests, trained.mirrored_digests if options.mirrored else None)
    training = Training(trained.store, same, numbered(None, same))
    if len(training.distinct) < 2:
        raise DataError(f"{train.path}: has fewer than two distinct images, so no image has a second neighbour")
    parts = [Nearest(part["first"], part["second"], part["squared"], part["mirrored"]) for part in arrays]
    everything = merged(parts, same)
    cut = len(sets[0])
    known = [_rows(everything, slice(0, cut)), *([_rows(everything, slice(cut, None))] if held_out else [])]
    held = sets[1] if held_out else None
    sizes = split([len(each) for each in sets], trained.store.pixels, available)
    result = compared(sets[0], training, held, options, sizes, known=known)
    return Audited(result, options, sets[0], trained, held, None)


def _collection(source: Source, store: Distant, arrays: Sequence[dict[str, np.ndarray]]) -> Collection:
    digests, mirrored, content = ([row.tobytes() for part in arrays for row in part[name]] for name in ARRAYS[4:])
    sha = input_digest(source, content)
    return Collection(source.path, source.names, source.notes, store, digests, mirrored, sha, source.ignored, content)


def _rows(nearest: Nearest, rows: slice) -> Nearest:
    return Nearest(nearest.first[rows], nearest.second[rows], nearest.squared[rows], nearest.mirrored[rows])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--audit", required=True, help="the audit as the configuration has it, as JSON")
    parser.add_argument("--shards", type=Path, nargs="*", default=[], help="files of all shards, in order")
    parser.add_argument("--folder", type=Path, required=True, help="folder of the results")
    args = parser.parse_args(argv)
    content = json.loads(args.audit)
    asked = configured(content)
    args.folder.mkdir(parents=True, exist_ok=True)
    audited = joined(*asked, args.shards, spool=args.folder) if args.shards else audit(*asked, spool=args.folder)
    write(audited, args.folder, redact=content["redact"])
    print("\n".join(map(printable, lines(audited, content["redact"]))))


if __name__ == "__main__":
    command(main)
