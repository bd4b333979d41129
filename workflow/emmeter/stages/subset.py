"""The subset stage draws one training subset."""

import time

from emmeter.command import arguments, command, read_settings
from emmeter.data import datasets, images
from emmeter.data.subset import draw, save
from emmeter.errors import DataError
from emmeter.files import checksums
from emmeter.files.layout import RECORDS, record_settings
from emmeter.files.provenance import provenance
from emmeter.files.writing import write_json
from emmeter.settings.keys import key


def main() -> None:
    args = arguments(__doc__, "--output").parse_args()
    started = time.monotonic()
    setup = read_settings(args.settings)
    stored = datasets.load(setup.data)
    subset = draw(setup, args.n, args.replicate, stored)
    if not subset.groups.any():  # before a training whose images could not be scored
        side = "x".join(map(str, subset.images.shape[2:]))
        what = f"the {args.n} images of replicate {args.replicate} are all the same at {side} pixels"
        raise DataError(f"data.source = {setup.data.source!r}: {what}: memorization needs two that differ")
    settings = record_settings(args.output.parent, args.settings)
    save(args.output, subset)
    record = args.output.with_name(RECORDS["subset"])
    place = {"n": args.n, "replicate": args.replicate, "seed": setup.seed, "data_sha256": images.digest(stored)}
    write_json(record, place | provenance(args.key or key("subset", setup), started))
    checksums.record(args.output, record, settings)


if __name__ == "__main__":
    command(main)
