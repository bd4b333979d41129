"""The quality_table stage joins the quality of a study's arms into the tables of the study."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from emmeter.command import command
from emmeter.files.joining import join_arms
from emmeter.files.tables import COPIED_COLUMNS, QUALITY_COLUMNS


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--study", required=True, help="the study and its measured arms as JSON")
    parser.add_argument("--tables", type=Path, nargs="+", required=True, help="quality.csv of every arm, in order")
    parser.add_argument("--quality", type=Path, required=True)
    parser.add_argument("--copied", type=Path, required=True)
    args = parser.parse_args(argv)
    description = json.loads(args.study)
    join_arms(description, args.tables, QUALITY_COLUMNS, args.quality)
    join_arms(description, [path.with_name("copied.csv") for path in args.tables], COPIED_COLUMNS, args.copied)


if __name__ == "__main__":
    command(main)
