"""The report stage: ``python -m emmeter.stages.report`` has Snakemake make its own report of the finished results."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from emmeter import project
from emmeter.command import command
from emmeter.errors import StageError
from emmeter.files.writing import replacing

# Of the Snakemake that makes the report: nobody's profile decides about it.
OPTIONS = ("--nolock", "--cores", "1", "--profile", "none", "--workflow-profile", "none")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--config", required=True, help="the configuration in force, as JSON")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("targets", nargs="+")
    args = parser.parse_args(argv)
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as config, replacing(args.output) as page:
        config.write(args.config)
        config.flush()
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", str(project.snakefile()), *OPTIONS]
        # Relative: Snakemake would replace variables in its path.
        command_line = [*snakemake, "--configfile", config.name, "--report", os.path.relpath(page), "--", *args.targets]
        done = subprocess.run(command_line, capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            raise StageError(f"snakemake --report failed: {done.stderr.strip().splitlines()[-1:]}")


if __name__ == "__main__":
    command(main)
