"""The experiment stage records what all EMMs of an experiment have in common, beside its tables."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from emmeter.command import command
from emmeter.files.writing import write_json


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--meaning", required=True, help="`emmeter.pipeline.experiment.meaning` as JSON")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args(argv)
    write_json(args.output, json.loads(args.meaning))


if __name__ == "__main__":
    command(main)
