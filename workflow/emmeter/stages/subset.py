"""The subset stage draws one training subset."""

import time
from collections.abc import Sequence
from pathlib import Path

from emmeter.command import command, end, head, read_settings, stage_parser
from emmeter.data import datasets, images, named
from emmeter.data.subset import draw, save
from emmeter.errors import DataError
from emmeter.files import checksums
from emmeter.files.layout import RECORDS, record_settings
from emmeter.files.provenance import provenance
from emmeter.files.records import SubsetRecord
from emmeter.files.writing import write_json
from emmeter.settings import keys
from emmeter.settings.sections import Setup


def subset(setup: Setup, *, n: int, replicate: int, output: Path, key: str = "") -> None:
    """Draw a training subset and write it, with subset.json beside it.

    Args:
        setup: settings of the run; only `seed` and `data` matter.
        n: number of training images.
        replicate: number of the subset, from 0.
        output: path of subset.npz.
        key: settings key for the record; by default computed from `setup`.
    Raises:
        SettingsError: the data set cannot satisfy a setting, `n` or `replicate`.
        DataError: data are missing or damaged, or all images of the subset are the same.
        OSError: a file cannot be written.
    """
    started = time.monotonic()
    stored = datasets.load(setup.data)
    drawn = draw(setup, n, replicate, stored)
    if not drawn.groups.any():  # refused here, because a training on them could not be scored
        side = "x".join(map(str, drawn.images.shape[2:]))
        what = f"the {n} images of replicate {replicate} are all the same at {side} pixels"
        raise DataError(f"data.source = {setup.data.source!r}: {what}: memorization needs two that differ")
    head("subset", n, replicate, f"{setup.data.source}, labels {setup.data.labels}, seed {setup.seed}")
    settings = record_settings(output.parent, "subset", setup)
    save(output, drawn)
    title, licence = named.identity(setup.data)
    content: SubsetRecord = {
        "n": n,
        "replicate": replicate,
        "seed": setup.seed,
        "data_sha256": images.digest(stored),
        "data_images": len(stored.images) + (0 if stored.second is None else len(stored.second.images)),
        "data_title": title,
        "data_licence": licence,
        **provenance(key or keys.key("subset", setup), started),
    }
    record = output.with_name(RECORDS["subset"])
    write_json(record, content)
    checksums.record(output, record, settings)
    shape = "x".join(map(str, drawn.images.shape[1:]))
    repeated = f", {len(drawn.images)} with repetitions" if len(drawn.images) > n else ""
    end(f"{n} images of {shape} drawn from {len(stored.images)}{repeated}", time.monotonic() - started)


def main(argv: Sequence[str] | None = None) -> None:
    args = stage_parser(__doc__, "--output").parse_args(argv)
    subset(read_settings(args.settings), n=args.n, replicate=args.replicate, output=args.output, key=args.key)


if __name__ == "__main__":
    command(main)
