"""The audit_shard stage finds the two nearest images of one part of the training images, for an audit in parts."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emmeter.command import command
from emmeter.data.audited import Input, Options, configured
from emmeter.data.collection.gather import common_form, gather
from emmeter.data.collection.parts import bounds, part
from emmeter.errors import DataError
from emmeter.files.npz import write_npz
from emmeter.measure.proximity import Search, Training, first_equal
from emmeter.stages.audit import LEAST, OVERHEAD, check, sources_of, split


def audit_shard(
    generated: Input,
    train: Input,
    held_out: Input | None,
    options: Options,
    number: int,
    shards: int,
    output: Path,
) -> None:
    """Compare generated and held-out images with one shard of the training images.

    Args:
        number: of the shard, from 0.
        shards: number of shards of the training images, which are cut in order.
        output: the .npz file to write: `first`, `second` (m,) int64 positions among all training images, -1 for none;
            `squared` (m, 2) int64; `mirrored` (m,) bool, for generated, then held-out images; and the shard's
            `digests`, `mirrored_digests` and `content`, (n, 32) uint8 or empty.
    Raises:
        SettingsError: options contradict each other.
        DataError: images cannot be used, or there are fewer training images than shards; one line per fault.
        OSError: a file cannot be read or written.
    """
    check(options)
    sources = sources_of([generated, train, *([held_out] if held_out else [])], options)
    count = len(sources[1].names)
    if count < shards:
        raise DataError(f"{train.path}: has {count} images, fewer than the {shards} shards")
    form = common_form(sources, options.resize, options.mirrored)
    start, stop = bounds(count, number, shards)
    sources[1] = part(sources[1], start, stop)
    available = max(options.memory - OVERHEAD, LEAST)

    def folder(size: int) -> Path | None:
        return output.parent if size > available else None

    made, trained, *others = gather(sources, options.resize, folder, mirrored=options.mirrored, form=form)
    same = first_equal(trained.digests, trained.mirrored_digests if options.mirrored else None)
    sizes = split([len(each) for each in (made, trained, *others)], trained.store.pixels, available)
    search = Search(Training(trained.store, same, same), sizes, options.mirrored)
    found = [search.two_nearest(each.store) for each in (made, *others)]
    first, second = (np.concatenate([getattr(each, name) for each in found]) for name in ("first", "second"))
    write_npz(
        output,
        first=first + start,
        second=np.where(second < 0, -1, second + start),
        squared=np.concatenate([each.squared for each in found]),
        mirrored=np.concatenate([each.mirrored for each in found]),
        digests=_bytes(trained.digests),
        mirrored_digests=_bytes(trained.mirrored_digests),
        content=_bytes(trained.content),
    )


def _bytes(digests: Sequence[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--audit", required=True, help="the audit as the configuration has it, as JSON")
    parser.add_argument("--shard", type=int, required=True, help="number of the shard, from 0")
    parser.add_argument("--shards", type=int, required=True, help="number of shards")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    audit_shard(*configured(json.loads(args.audit)), args.shard, args.shards, args.output)


if __name__ == "__main__":
    command(main)
